"""What can be trained on: data with a fixed test set, models, and defaults."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from gradbatch.experiments.data import Dataset
from gradbatch.experiments.images import crop_and_flip, idx_loader, load_cifar10, load_cifar10_crop, load_digits
from gradbatch.experiments.metrics import ACCURACY, BITS_PER_CHARACTER, MACRO_F1, Metric
from gradbatch.experiments.text import RELATION_CLASSES, load_semeval, load_shakespeare

__all__ = ["TASKS", "Task"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """Something to train on, with the defaults that the command line takes from it.

    Attributes:
        name: What the command line calls it.
        summary: One line for `gradbatch list`.
        models: Names of the models that suit it, the default first.
        train_samples: Samples to train on, before any are held out.
        num_classes: Number of classes.
        metric: What its models are judged by.
        lr: Default learning rate of SGD.
        momentum: Default momentum of SGD.
        epochs: Default budget.
        load: Reads the data below a folder.
        augment: Changes the inputs of a batch by chance, for training alone; ``None`` where they stay as they are.
    """

    name: str
    summary: str
    models: tuple[str, ...]
    train_samples: int
    num_classes: int = 10
    metric: Metric = ACCURACY
    lr: float
    momentum: float = 0.0
    epochs: int
    load: Callable[[Path | None], Dataset]
    augment: Callable[[Tensor], Tensor] | None = None


_ALL_TASKS = (
    Task(
        name="digits",
        summary="scikit-learn's handwritten digits, 8x8 pixels, 1437 + 360 images, no download",
        models=("mlp",),
        train_samples=1437,
        lr=0.5,
        epochs=20,
        load=load_digits,
    ),
    Task(
        name="mnist",
        summary="handwritten digits, 28x28 pixels, 60000 + 10000 images from --data-dir",
        models=("mlp", "cnn", "small-cnn", "cabs-mnist"),
        train_samples=60_000,
        lr=0.1,
        epochs=10,
        load=idx_loader("mnist", "MNIST"),
    ),
    Task(
        name="fashion-mnist",
        summary="clothing, 28x28 pixels, 60000 + 10000 images from --data-dir",
        models=("cnn", "mlp", "small-cnn", "cabs-mnist"),
        train_samples=60_000,
        # With the three-conv network's small initialisation plain SGD stays at chance for many epochs.
        lr=0.02,
        momentum=0.9,
        epochs=10,
        load=idx_loader("fashion-mnist", "FashionMNIST"),
    ),
    Task(
        name="cifar10",
        summary="photographs of ten things, 32x32 pixels, 50000 + 10000 images from --data-dir",
        models=("small-cnn", "resnet20", "vgg19-bn", "alexnet"),
        train_samples=50_000,
        lr=0.01,
        momentum=0.9,
        epochs=30,
        load=load_cifar10,
        augment=crop_and_flip,
    ),
    Task(
        name="cifar10-crop",
        summary="the middle 24x24 pixels of cifar10, each image standardised, as in the CABS authors' example",
        models=("cabs-cifar10",),
        train_samples=50_000,
        lr=0.1,
        epochs=30,
        load=load_cifar10_crop,
    ),
    Task(
        name="semeval",
        summary="relations between two words of a sentence, SemEval-2010 task 8, 8000 + 2717 from --data-dir",
        models=("bilstm", "small-bilstm"),
        train_samples=8000,
        num_classes=len(RELATION_CLASSES),
        metric=MACRO_F1,
        lr=0.03,
        momentum=0.9,
        epochs=20,
        load=load_semeval,
    ),
    Task(
        name="shakespeare",
        summary="the next character, 15685 + 1742 windows of 64 from --data-dir",
        models=("transformer", "small-transformer"),
        train_samples=15_685,
        num_classes=65,
        metric=BITS_PER_CHARACTER,
        lr=0.03,
        momentum=0.9,
        epochs=10,
        load=load_shakespeare,
    ),
)

TASKS: dict[str, Task] = {task.name: task for task in _ALL_TASKS}
"""The tasks by name."""
