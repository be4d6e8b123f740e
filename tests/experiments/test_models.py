import pytest
import torch

from gradbatch.experiments.models import MODELS, mlp, three_conv


def count(model):
    return sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize(("num_features", "expected"), [(64, 4_810), (784, 50_890)])
def test_the_perceptron_has_one_hidden_layer_of_64(num_features, expected):
    model = mlp(num_features, 10)
    assert count(model) == expected
    assert model(torch.zeros(3, num_features)).shape == (3, 10)


def test_the_three_conv_network_is_the_authors():
    torch.manual_seed(0)
    model = three_conv(784, 10)
    assert count(model) == 818_698
    sizes = []
    for layer in model:
        layer.register_forward_hook(lambda layer, args, out: sizes.append(tuple(out.shape[1:])))
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert [size[1] for size in sizes if len(size) == 3] == [30, 30, 15, 13, 13, 7, 5, 5, 3]
    assert (1152,) in sizes
    assert (625,) in sizes
    weights = torch.cat([weight.flatten() for weight in model.parameters()])
    assert weights.mean().item() == pytest.approx(0, abs=5e-5)
    assert weights.std().item() == pytest.approx(0.01, rel=0.01)


def test_a_seed_fixes_the_weights():
    def weights(name):
        torch.manual_seed(5)
        return torch.cat([weight.flatten() for weight in MODELS[name](784, 10).parameters()])

    assert all(torch.equal(weights(name), weights(name)) for name in MODELS)
