import pytest
import torch
from torch.nn import functional as F

import gradbatch as gb
from gradbatch.errors import InvalidInputError
from gradbatch.experiments.data import InputSpec
from gradbatch.experiments.image_models import cabs_cifar10, cabs_mnist, mlp, small_cnn, three_conv

GREY, COLOUR, CROP = InputSpec((1, 28, 28)), InputSpec((3, 32, 32)), InputSpec((3, 24, 24))


def count(model):
    return sum(weight.numel() for weight in model.parameters())


def sizes_of(model, spec):
    """The sizes after each layer, without the axis of the samples."""
    sizes, images = [], torch.zeros(2, *spec.shape)
    for layer in model:
        images = layer(images)
        sizes.append(tuple(images.shape[1:]))
    return sizes


@pytest.mark.parametrize(("shape", "expected"), [((64,), 4_810), ((1, 28, 28), 50_890)])
def test_the_perceptron_has_one_hidden_layer_of_64(shape, expected):
    model = mlp(InputSpec(shape), 10)
    assert count(model) == expected
    assert model(torch.zeros(3, *shape)).shape == (3, 10)


def test_the_three_conv_network_is_the_authors():
    model = three_conv(GREY, 10)
    assert count(model) == 818_698
    sizes = sizes_of(model, GREY)
    assert [size[1] for size in sizes if len(size) == 3] == [30, 30, 15, 13, 13, 7, 5, 5, 3]
    assert (1152,) in sizes
    assert (625,) in sizes
    weights = torch.cat([weight.flatten() for weight in model.parameters()])
    assert weights.mean().item() == pytest.approx(0, abs=5e-5)
    assert weights.std().item() == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize(("spec", "features"), [(GREY, 288), (COLOUR, 512)])
def test_the_small_network_takes_images_of_any_size(spec, features):
    model = small_cnn(spec, 7)
    sizes = sizes_of(model, spec)
    assert sizes[0] == (spec.shape[0], spec.shape[1] // 2, spec.shape[2] // 2)
    assert (features,) in sizes
    assert sizes[-1] == (7,)


def test_the_cabs_network_for_mnist_is_the_authors():
    model = cabs_mnist(GREY, 10)
    assert [size[1] for size in sizes_of(model, GREY) if len(size) == 3] == [28, 28, 14, 14, 14, 7]
    assert count(model) == 832 + 51_264 + 3_212_288 + 10_250
    assert all((bias == 0.05).all() for name, bias in model.named_parameters() if name.endswith("bias"))
    weights = torch.cat([weight.flatten() for name, weight in model.named_parameters() if name.endswith("weight")])
    assert weights.abs().max() <= 0.02
    # A normal distribution cut off at two deviations has 0.8796 of its deviation.
    assert weights.std().item() == pytest.approx(0.008796, rel=0.01)


def test_the_cabs_network_for_cifar10_is_the_authors():
    model = cabs_cifar10(CROP, 10)
    sizes = sizes_of(model, CROP)
    assert [size[1] for size in sizes if len(size) == 3] == [24, 24, 12, 12, 12, 6]
    assert [size[0] for size in sizes if len(size) == 1] == [2304, 384, 384, 192, 192, 10]
    layers = [layer for layer in model if list(layer.parameters())]
    assert [layer.bias.unique().item() for layer in layers] == pytest.approx([0, 0.1, 0.1, 0.1, 0])
    for layer, std in zip(layers, [0.05, 0.05, 0.04, 0.04, 1 / 192], strict=True):
        assert layer.weight.abs().max() <= 2 * std + 1e-7
        assert layer.weight.std().item() == pytest.approx(0.8796 * std, rel=0.05)


def test_pooling_pads_at_the_end_as_tensorflow_s():
    pool = cabs_cifar10(CROP, 10)[2]
    row = torch.arange(24.0).expand(1, 1, 24, 24)
    # Windows of three from every second place; the last has only the columns 22 and 23.
    assert pool(row)[0, 0, 0].tolist() == [*range(2, 24, 2), 23]


@pytest.mark.parametrize(
    ("make", "spec", "message"),
    [
        (three_conv, COLOUR, '"cnn" takes inputs of shape 1x28x28, got 3x32x32'),
        (cabs_mnist, COLOUR, '"cabs-mnist" takes inputs of shape 1x28x28, got 3x32x32'),
        (cabs_cifar10, COLOUR, '"cabs-cifar10" takes inputs of shape 3x24x24, got 3x32x32'),
        (small_cnn, InputSpec((64,)), "images of at least 8x8 pixels, got inputs of shape 64"),
        (small_cnn, InputSpec((1, 4, 9)), "got inputs of shape 1x4x9"),
    ],
)
def test_images_it_is_not_made_for_are_refused(make, spec, message):
    with pytest.raises(InvalidInputError, match=message):
        make(spec, 10)


@pytest.mark.parametrize(
    ("make", "spec"), [(small_cnn, GREY), (small_cnn, COLOUR), (cabs_mnist, GREY), (cabs_cifar10, CROP)]
)
def test_statistics_are_exact(make, spec):
    batch = torch.randn(3, *spec.shape), torch.randint(10, (3,))
    comparison = gb.check(make(spec, 10), batch, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]))
    assert comparison.estimator == "layers"
    assert comparison.is_exact
