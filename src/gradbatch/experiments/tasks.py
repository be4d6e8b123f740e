"""What can be trained on: data with a fixed test set, models, and defaults."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gradbatch.errors import InvalidInputError, MissingDataError
from gradbatch.experiments.idx import read_labelled_images

__all__ = ["TASKS", "Dataset", "Split", "Task"]


class Split(NamedTuple):
    """Samples and their classes.

    Attributes:
        inputs: Floats in [0, 1], [N, ...].
        targets: Class numbers, [N].
    """

    inputs: Tensor
    targets: Tensor

    def to(self, device: str) -> "Split":
        """The same samples on a device."""
        return Split(self.inputs.to(device), self.targets.to(device))


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The splits of a task.

    Attributes:
        train: Trained on.
        test: Only ever evaluated on.
        validation: Taken out of the training set when asked for; for choosing between runs.
    """

    train: Split
    test: Split
    validation: Split | None = None

    def to(self, device: str) -> "Dataset":
        """The same splits on a device."""
        validation = None if self.validation is None else self.validation.to(device)
        return Dataset(train=self.train.to(device), test=self.test.to(device), validation=validation)

    def with_validation(self, fraction: float, *, seed: int) -> "Dataset":
        """Hold a random part of the training set out.

        Args:
            fraction: Share of the training set, in [0, 1); 0 holds nothing out.
            seed: Of the choice.

        Returns:
            The data set with ``validation``, and a training set without its samples.

        Raises:
            InvalidInputError: If the fraction leaves either side without a sample.
        """
        if fraction == 0:
            return self
        num_train = len(self.train.targets)
        num_held_out = round(fraction * num_train)
        if not 0 < num_held_out < num_train:
            raise InvalidInputError(
                f"`validation` {fraction:g} would hold out {num_held_out} of {num_train} training samples: "
                "name a fraction that leaves samples on both sides"
            )
        order = torch.randperm(num_train, generator=torch.Generator().manual_seed(seed))
        held_out, kept = order[:num_held_out], order[num_held_out:].sort().values
        return replace(
            self,
            train=Split(self.train.inputs[kept], self.train.targets[kept]),
            validation=Split(self.train.inputs[held_out], self.train.targets[held_out]),
        )


@dataclass(frozen=True, kw_only=True)
class Task:
    """Something to train on, with the defaults that the command line takes from it.

    Attributes:
        name: What the command line calls it.
        summary: One line for `gradbatch list`.
        models: Names of the models that suit it, the default first.
        num_classes: Number of classes.
        lr: Default learning rate of SGD.
        momentum: Default momentum of SGD.
        epochs: Default budget.
        load: Reads the data below a folder.
    """

    name: str
    summary: str
    models: tuple[str, ...]
    num_classes: int = 10
    lr: float
    momentum: float = 0.0
    epochs: int
    load: Callable[[Path | None], Dataset]


def _load_digits(root: Path | None) -> Dataset:
    """Scikit-learn's bundled digits: 1797 images of 8x8 pixels, as vectors."""
    from sklearn.datasets import load_digits

    inputs, targets = load_digits(return_X_y=True)
    # The split is part of the task: 1437 to train, 360 (a fifth) to test, drawn once with seed 0 whatever the
    # seed of a run, so that all runs are tested on the same images.
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    pixels, classes = torch.from_numpy(inputs).float()[order] / 16, torch.from_numpy(targets).long()[order]
    return Dataset(train=Split(pixels[:1437], classes[:1437]), test=Split(pixels[1437:], classes[1437:]))


def _image_loader(task: str, folder: str) -> Callable[[Path | None], Dataset]:
    """A reader of 60000 + 10000 grey images of 28x28 pixels in torchvision's layout."""

    def load(root: Path | None) -> Dataset:
        root = root or _default_root(task, folder)
        train = _image_split(root / folder / "raw", "train", 60_000)
        return Dataset(train=train, test=_image_split(root / folder / "raw", "t10k", 10_000))

    return load


def _image_split(folder: Path, prefix: str, num_samples: int) -> Split:
    images, labels = read_labelled_images(folder, prefix, num_samples=num_samples, num_classes=10)
    pixels = torch.from_numpy(images.astype(np.float32)).unsqueeze(1) / 255
    return Split(pixels, torch.from_numpy(labels.astype(np.int64)))


def _default_root(task: str, folder: str) -> Path:
    """The folder named by the environment."""
    root = os.environ.get("GRADBATCH_DATA")
    if not root:
        raise MissingDataError(
            f'the task "{task}" reads its images from disk and was not told where: name a folder with '
            "--data-dir or GRADBATCH_DATA, and put the four original idx files (.gz or unpacked) into "
            f"{folder}/raw below it"
        )
    return Path(root)


_ALL_TASKS = (
    Task(
        name="digits",
        summary="scikit-learn's handwritten digits, 8x8 pixels, 1437 + 360 images, no download",
        models=("mlp",),
        lr=0.5,
        epochs=20,
        load=_load_digits,
    ),
    Task(
        name="mnist",
        summary="handwritten digits, 28x28 pixels, 60000 + 10000 images from --data-dir",
        models=("mlp", "cnn"),
        lr=0.1,
        epochs=10,
        load=_image_loader("mnist", "MNIST"),
    ),
    Task(
        name="fashion-mnist",
        summary="clothing, 28x28 pixels, 60000 + 10000 images from --data-dir",
        models=("cnn", "mlp"),
        # With the three-conv network's small initialisation plain SGD stays at chance for many epochs.
        lr=0.02,
        momentum=0.9,
        epochs=10,
        load=_image_loader("fashion-mnist", "FashionMNIST"),
    ),
)

TASKS: dict[str, Task] = {task.name: task for task in _ALL_TASKS}
"""The tasks by name."""
