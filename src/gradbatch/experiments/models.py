"""The models of the experiments."""

from collections.abc import Callable

from torch import nn

__all__ = ["MODELS", "mlp", "three_conv"]


def mlp(num_features: int, num_classes: int) -> nn.Module:
    """A perceptron with one hidden layer of 64 units, in PyTorch's own initialisation.

    Source: Simionescu, Stoica and Herscovici 2022 (DBA), experiments section, as 784-64-10 on MNIST.

    Args:
        num_features: Numbers in one input, of whatever shape.
        num_classes: Number of outputs.

    Returns:
        The model, from [B, ...] to [B, num_classes].
    """
    hidden = nn.Linear(num_features, 64)
    return nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), nn.Linear(64, num_classes))


def three_conv(num_features: int, num_classes: int) -> nn.Module:
    r"""The network of BA-Momentum's Fashion-MNIST experiment, as in the authors' code.

    Three 3x3 convolutions of 32, 64 and 128 filters, each with ReLU and 2x2 max-pooling: 28 -> 30 ('full'
    padding) -> 15 -> 13 -> 7 (rounded up) -> 5 -> 3 (rounded up), then 1152 -> 625 -> classes. No biases
    anywhere: 818,698 weights for ten classes, all drawn from $N(0, 0.01^2)$. The paper mentions dropout, the
    code has none.

    Args:
        num_features: Pixels of one image; 784.
        num_classes: Number of outputs.

    Returns:
        The model, from [B, 1, 28, 28] to [B, num_classes].
    """
    assert num_features == 784, "the network is made for 28x28 pixels"
    model = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=2, bias=False), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)),
        *(nn.Conv2d(64, 128, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)),
        *(nn.Flatten(), nn.Linear(1152, 625, bias=False), nn.ReLU()),
        nn.Linear(625, num_classes, bias=False),
    )
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.01)
    return model


MODELS: dict[str, Callable[[int, int], nn.Module]] = {"cnn": three_conv, "mlp": mlp}
"""The models by the name that the command line calls them."""
