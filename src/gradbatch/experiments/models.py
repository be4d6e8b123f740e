"""The models of the experiments, by name."""

from collections.abc import Callable
from functools import partial

from torch import nn

from gradbatch.experiments.data import InputSpec
from gradbatch.experiments.deep_models import alexnet, resnet20, vgg19_bn
from gradbatch.experiments.image_models import cabs_cifar10, cabs_mnist, mlp, small_cnn, three_conv
from gradbatch.experiments.text_models import bilstm, transformer

__all__ = ["MODELS"]

MODELS: dict[str, Callable[[InputSpec, int], nn.Module]] = {
    "alexnet": alexnet,
    "bilstm": bilstm,
    "cabs-cifar10": cabs_cifar10,
    "cabs-mnist": cabs_mnist,
    "cnn": three_conv,
    "mlp": mlp,
    "resnet20": resnet20,
    "small-bilstm": partial(bilstm, units=50),
    "small-cnn": small_cnn,
    "small-transformer": partial(transformer, width=64),
    "transformer": transformer,
    "vgg19-bn": vgg19_bn,
}
"""What makes a model for inputs and a number of classes, by the name that the command line calls it.

The small ones are ours, for experiments of many runs on few cores.
"""
