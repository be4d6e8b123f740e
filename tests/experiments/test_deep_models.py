import pytest
import torch
from torch import nn

from gradbatch.errors import InvalidInputError
from gradbatch.experiments.data import InputSpec
from gradbatch.experiments.deep_models import alexnet, resnet20, vgg19_bn

SPEC = InputSpec((3, 32, 32))


# The counts that the collection publishes: 0.27, 20.04 and 2.47 million; that of the residual network is the 269,722
# of 16, 32 and 64 filters with parameterless shortcuts, and two of 1x1 convolutions with BatchNorm.
@pytest.mark.parametrize(
    ("make", "expected", "num_layers"),
    [(resnet20, 269_722 + 16 * 32 + 64 + 32 * 64 + 128, 22), (vgg19_bn, 20_040_522, 17), (alexnet, 2_472_266, 6)],
)
def test_sizes_are_the_published_ones(make, expected, num_layers):
    model = make(SPEC, 10)
    assert sum(weight.numel() for weight in model.parameters()) == expected
    assert sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in model.modules()) == num_layers
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("make", [resnet20, vgg19_bn])
def test_convolutions_are_drawn_by_the_size_of_their_output(make):
    model = make(SPEC, 10)
    drawn = torch.cat(
        [
            layer.weight.flatten() * (layer.kernel_size[0] ** 2 * layer.out_channels / 2) ** 0.5
            for layer in model.modules()
            if isinstance(layer, nn.Conv2d)
        ]
    )
    assert drawn.std().item() == pytest.approx(1, rel=0.01)


def test_a_block_without_its_branch_is_its_shortcut():
    model = resnet20(SPEC, 10)
    block = model[3]
    nn.init.zeros_(block.branch[4].weight)
    images = torch.rand(2, 16, 8, 8)
    assert torch.equal(block(images), images)
    halving = model[6]
    assert halving(images).shape == (2, 32, 4, 4)


@pytest.mark.parametrize("make", [resnet20, vgg19_bn, alexnet])
def test_images_it_is_not_made_for_are_refused(make):
    with pytest.raises(InvalidInputError, match="takes inputs of shape 3x32x32, got 1x28x28"):
        make(InputSpec((1, 28, 28)), 10)
