"""Models of images."""

from torch import Tensor, nn

from gradbatch.errors import InvalidInputError
from gradbatch.experiments.data import InputSpec

__all__ = ["cabs_cifar10", "cabs_mnist", "mlp", "small_cnn", "three_conv"]


def mlp(inputs: InputSpec, num_classes: int) -> nn.Module:
    """A perceptron with one hidden layer of 64 units, in PyTorch's own initialisation.

    Source: Simionescu, Stoica and Herscovici 2022 (DBA), experiments section, as 784-64-10 on MNIST.

    Args:
        inputs: Of any shape.
        num_classes: Number of outputs.

    Returns:
        The model, from [B, ...] to [B, num_classes].
    """
    hidden = nn.Linear(inputs.num_features, 64)
    return nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), nn.Linear(64, num_classes))


def three_conv(inputs: InputSpec, num_classes: int) -> nn.Module:
    r"""The network of BA-Momentum's Fashion-MNIST experiment, as in the authors' code.

    Three 3x3 convolutions of 32, 64 and 128 filters, each with ReLU and 2x2 max-pooling: 28 -> 30 ('full'
    padding) -> 15 -> 13 -> 7 (rounded up) -> 5 -> 3 (rounded up), then 1152 -> 625 -> classes. No biases
    anywhere: 818,698 weights for ten classes, all drawn from $N(0, 0.01^2)$. The paper mentions dropout, the
    code has none.

    Args:
        inputs: Of shape 1x28x28.
        num_classes: Number of outputs.

    Returns:
        The model, from [B, 1, 28, 28] to [B, num_classes].
    """
    require_shape("cnn", inputs, (1, 28, 28))
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


def small_cnn(inputs: InputSpec, num_classes: int) -> nn.Module:
    """Two 3x3 convolutions of 16 and 32 filters on the image at half its size, in PyTorch's own initialisation.

    Ours, for experiments of many runs on few cores.

    Args:
        inputs: Images of shape [channels, height, width], at least 8x8.
        num_classes: Number of outputs.

    Returns:
        The model, from [B, channels, height, width] to [B, num_classes].

    Raises:
        InvalidInputError: If the inputs are no images of that size.
    """
    if len(inputs.shape) != 3 or min(inputs.shape[1:]) < 8:
        raise InvalidInputError(
            f'the model "small-cnn" takes images of at least 8x8 pixels, got inputs of shape {_shape(inputs)}: '
            "choose another model"
        )
    channels, height, width = inputs.shape
    return nn.Sequential(
        nn.AvgPool2d(2),
        *(nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * (height // 8) * (width // 8), 64), nn.ReLU()),
        nn.Linear(64, num_classes),
    )


def cabs_mnist(inputs: InputSpec, num_classes: int) -> nn.Module:
    """The network of the CABS authors' MNIST example.

    Two 5x5 convolutions of 32 and 64 filters that keep the size (TensorFlow's SAME), each with ReLU and 2x2
    max-pooling, then 3136 -> 1024 -> classes. Weights from a normal distribution of deviation 0.01 cut off at two
    deviations, all biases 0.05.

    Source: the MNIST example of github.com/MethodsOfMachineLearning/cabs.

    Args:
        inputs: Of shape 1x28x28.
        num_classes: Number of outputs.

    Returns:
        The model, from [B, 1, 28, 28] to [B, num_classes].
    """
    require_shape("cabs-mnist", inputs, (1, 28, 28))
    model = nn.Sequential(
        *(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(3136, 1024), nn.ReLU()),
        nn.Linear(1024, num_classes),
    )
    for index in (0, 3, 7, 9):
        _init(model[index], std=0.01, bias=0.05)
    return model


def cabs_cifar10(inputs: InputSpec, num_classes: int) -> nn.Module:
    """The network of the CABS authors' CIFAR-10 example: that of TensorFlow's tutorial without its normalisation.

    Two 5x5 convolutions of 64 filters that keep the size, each with ReLU and 3x3 max-pooling of stride 2 (24 -> 12 ->
    6: TensorFlow's SAME pads one row and column at the end, as rounding up does here), then 2304 -> 384 -> 192 ->
    classes. Weights from normal distributions cut off at two deviations, which are 0.05 for the convolutions, 0.04 for
    the hidden layers and 1/192 for the last; biases 0, 0.1, 0.1, 0.1, 0.

    Source: the CIFAR-10 example of github.com/MethodsOfMachineLearning/cabs.

    Args:
        inputs: Of shape 3x24x24.
        num_classes: Number of outputs.

    Returns:
        The model, from [B, 3, 24, 24] to [B, num_classes].
    """
    require_shape("cabs-cifar10", inputs, (3, 24, 24))
    model = nn.Sequential(
        *(nn.Conv2d(3, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2, ceil_mode=True)),
        *(nn.Conv2d(64, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2, ceil_mode=True)),
        *(nn.Flatten(), nn.Linear(2304, 384), nn.ReLU()),
        *(nn.Linear(384, 192), nn.ReLU()),
        nn.Linear(192, num_classes),
    )
    for index, std, bias in ((0, 0.05, 0), (3, 0.05, 0.1), (7, 0.04, 0.1), (9, 0.04, 0.1), (11, 1 / 192, 0)):
        _init(model[index], std=std, bias=bias)
    return model


def require_shape(name: str, inputs: InputSpec, shape: tuple[int, ...]) -> None:
    """Refuse inputs that a model was not made for.

    Args:
        name: What the command line calls the model.
        inputs: What it shall take.
        shape: What it can take.

    Raises:
        InvalidInputError: If the inputs have another shape.
    """
    if inputs.shape != shape:
        wanted = "x".join(map(str, shape))
        raise InvalidInputError(
            f'the model "{name}" takes inputs of shape {wanted}, got {_shape(inputs)}: choose another model'
        )


def _shape(inputs: InputSpec) -> str:
    return "x".join(map(str, inputs.shape))


def _init(layer: nn.Module, *, std: float, bias: float) -> None:
    """TensorFlow's truncated normal, and a constant bias."""
    assert isinstance(layer.weight, Tensor)
    assert isinstance(layer.bias, Tensor)
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    nn.init.constant_(layer.bias, bias)
