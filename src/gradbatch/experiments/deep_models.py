"""Deep models of 3x32x32 images, as the papers on CIFAR-10 use them.

All three are those of github.com/bearpaw/pytorch-classification (models/cifar), the collection that AdaBatch's
experiments are built on.
"""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from gradbatch.experiments.data import InputSpec
from gradbatch.experiments.image_models import require_shape

__all__ = ["alexnet", "resnet20", "vgg19_bn"]

_SHAPE = (3, 32, 32)

_VGG19 = (64, 64, 0, 128, 128, 0, *(256,) * 4, 0, *(512,) * 4, 0, *(512,) * 4, 0)
"""Filters of VGG's configuration E; 0 is a max-pooling."""


def resnet20(inputs: InputSpec, num_classes: int) -> nn.Module:
    r"""A residual network of 20 layers: a convolution, three times three blocks of two, and a dense layer.

    Stages of 16, 32 and 64 filters; where a stage halves the image, the shortcut is a 1x1 convolution with a
    BatchNorm ("option B"), so it has 272,474 weights for ten classes; the 269,722 of the paper's own shortcuts are
    without these. Convolutions have no biases and are drawn from $N(0, 2/(k^2 n))$, with $n$ filters of $k\times k$.

    Source: He et al. 2016 (arXiv:1512.03385), section 4.2; see the module for the code.

    Args:
        inputs: Of shape 3x32x32.
        num_classes: Number of outputs.

    Returns:
        The model, from [B, 3, 32, 32] to [B, num_classes].
    """
    require_shape("resnet20", inputs, _SHAPE)
    stages = [Block(16, 16, stride=1), Block(16, 16, stride=1), Block(16, 16, stride=1)]
    for width in (32, 64):
        stages += [Block(width // 2, width, stride=2), Block(width, width, stride=1), Block(width, width, stride=1)]
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *stages,
        *(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(64, num_classes)),
    )
    _init_convolutions(model)
    return model


def vgg19_bn(inputs: InputSpec, num_classes: int) -> nn.Module:
    r"""VGG's configuration E with BatchNorm and one dense layer: sixteen 3x3 convolutions and 512 -> classes.

    20,040,522 weights for ten classes. Convolutions are drawn from $N(0, 2/(k^2 n))$, with $n$ filters of
    $k\times k$, the dense layer from $N(0, 0.01^2)$; their biases are 0.

    Source: Simonyan and Zisserman 2015 (arXiv:1409.1556), table 1; see the module for the code.

    Args:
        inputs: Of shape 3x32x32.
        num_classes: Number of outputs.

    Returns:
        The model, from [B, 3, 32, 32] to [B, num_classes].
    """
    require_shape("vgg19-bn", inputs, _SHAPE)
    layers: list[nn.Module] = []
    channels = 3
    for width in _VGG19:
        if width == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    classifier = nn.Linear(512, num_classes)
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
    model = nn.Sequential(*layers, nn.Flatten(), classifier)
    _init_convolutions(model)
    return model


def alexnet(inputs: InputSpec, num_classes: int) -> nn.Module:
    """AlexNet cut down to small images: five convolutions and 256 -> classes, in PyTorch's own initialisation.

    2,472,266 weights for ten classes. The image is 8x8 after the first convolution and halved three times.

    Source: Krizhevsky 2014 (arXiv:1404.5997) for the filters; see the module for the code.

    Args:
        inputs: Of shape 3x32x32.
        num_classes: Number of outputs.

    Returns:
        The model, from [B, 3, 32, 32] to [B, num_classes].
    """
    require_shape("alexnet", inputs, _SHAPE)
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, stride=4, padding=5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(256, num_classes)),
    )


class Block(nn.Module):
    """Two 3x3 convolutions with BatchNorm beside a shortcut, from [B, channels, H, W] to [B, width, ...]."""

    def __init__(self, channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *(nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)),
        )
        is_same = channels == width and stride == 1
        self.shortcut = (
            nn.Identity()
            if is_same
            else nn.Sequential(nn.Conv2d(channels, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))
        )

    # `typing.override` needs Python 3.12.
    def forward(self, images: Tensor) -> Tensor:  # pyrefly: ignore[missing-override-decorator]
        """Add the branch to the shortcut."""
        return F.relu(self.branch(images) + self.shortcut(images))


def _init_convolutions(model: nn.Module) -> None:
    """He's initialisation by the size of the output."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=math.sqrt(2 / (layer.kernel_size[0] ** 2 * layer.out_channels)))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
