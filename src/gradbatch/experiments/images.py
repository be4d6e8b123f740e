"""Data sets of images, and what is done to images before and while they are trained on."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gradbatch.experiments.cifar10 import NEEDS, NUM_TRAIN, read_cifar10
from gradbatch.experiments.data import Dataset, Split, data_root
from gradbatch.experiments.idx import read_labelled_images

__all__ = ["crop_and_flip", "idx_loader", "load_cifar10", "load_cifar10_crop", "load_digits", "standardised"]

_CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
_CIFAR10_STD = (0.2023, 0.1994, 0.2010)
"""Of the three channels, as github.com/bearpaw/pytorch-classification and many others have them. The second row are the
means of the single images' deviations; over all pixels of the training set these would be 0.247, 0.243 and 0.262."""

_MARGIN = 4
"""Pixels by which a random crop may be off the middle."""


def load_digits(root: Path | None) -> Dataset:
    """Scikit-learn's bundled digits: 1797 images of 8x8 pixels, as vectors.

    Args:
        root: Not needed; they come with scikit-learn.

    Returns:
        1437 images to train, 360 to test.
    """
    del root
    from sklearn.datasets import load_digits as load

    inputs, targets = load(return_X_y=True)
    # The split is part of the task: 1437 to train, 360 (a fifth) to test, drawn once with seed 0 whatever the
    # seed of a run, so that all runs are tested on the same images.
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    pixels, classes = torch.from_numpy(inputs).float()[order] / 16, torch.from_numpy(targets).long()[order]
    return Dataset(train=Split(pixels[:1437], classes[:1437]), test=Split(pixels[1437:], classes[1437:]))


def idx_loader(task: str, folder: str) -> Callable[[Path | None], Dataset]:
    """A reader of 60000 + 10000 grey images of 28x28 pixels in torchvision's layout.

    Args:
        task: Whose images they are.
        folder: Where they lie below the folder of the data sets, in ``raw``.

    Returns:
        A function from that folder to the data: pixels in [0, 1], [N, 1, 28, 28].
    """

    def load(root: Path | None) -> Dataset:
        needs = f"the four original idx files (.gz or unpacked) into {folder}/raw"
        return _read_idx_images(data_root(root, task=task, needs=needs) / folder / "raw")

    return load


# One process trains many runs, and reading may take longer than a run. The tensors are shared: nobody writes to them.
@lru_cache(maxsize=2)
def _read_idx_images(folder: Path) -> Dataset:
    return Dataset(train=_idx_split(folder, "train", 60_000), test=_idx_split(folder, "t10k", 10_000))


def _idx_split(folder: Path, prefix: str, num_samples: int) -> Split:
    images, labels = read_labelled_images(folder, prefix, num_samples=num_samples, num_classes=10)
    pixels = torch.from_numpy(images.astype(np.float32)).unsqueeze(1) / 255
    return Split(pixels, torch.from_numpy(labels.astype(np.int64)))


def load_cifar10(root: Path | None) -> Dataset:
    """CIFAR-10, each channel less its mean over the training set and divided by a deviation, the usual constants.

    Args:
        root: The folder of the data sets; see `read_cifar10` for what may be in it.

    Returns:
        50000 images to train and 10000 to test, [N, 3, 32, 32].
    """
    return _read_cifar10(data_root(root, task="cifar10", needs=NEEDS))


@lru_cache(maxsize=1)
def _read_cifar10(root: Path) -> Dataset:
    images = read_cifar10(root)
    pixels = torch.from_numpy(images.pixels).float().div_(255)  # in place from here on: 700 megabytes
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (_CIFAR10_MEAN, _CIFAR10_STD))
    return _cifar10_splits(pixels.sub_(mean).div_(std), images.labels)


def load_cifar10_crop(root: Path | None) -> Dataset:
    """CIFAR-10 as the CABS authors feed it: the middle 24x24 pixels of each image, standardised by themselves.

    Source: the CIFAR-10 example of github.com/MethodsOfMachineLearning/cabs, which takes the evaluation branch of
    TensorFlow's tutorial for training, too.

    Args:
        root: The folder of the data sets; see `read_cifar10` for what may be in it.

    Returns:
        50000 images to train and 10000 to test, [N, 3, 24, 24].
    """
    return _read_cifar10_crop(data_root(root, task="cifar10-crop", needs=NEEDS))


@lru_cache(maxsize=1)
def _read_cifar10_crop(root: Path) -> Dataset:
    images = read_cifar10(root)
    middle = torch.from_numpy(images.pixels[:, :, 4:28, 4:28].astype(np.float32))
    return _cifar10_splits(standardised(middle), images.labels)


def _cifar10_splits(pixels: Tensor, labels: np.ndarray) -> Dataset:
    classes = torch.from_numpy(labels.astype(np.int64))
    train = Split(pixels[:NUM_TRAIN], classes[:NUM_TRAIN])
    return Dataset(train=train, test=Split(pixels[NUM_TRAIN:], classes[NUM_TRAIN:]))


def standardised(images: Tensor) -> Tensor:
    r"""Each image with mean 0 and deviation 1 over all of its numbers.

    With $x$ the $n$ numbers of an image, all channels together, $(x - \bar x) / \max(\sigma_x, 1/\sqrt n)$: the lower
    bound keeps an image of one colour finite. Source: TensorFlow's ``per_image_standardization``; $\sigma_x$ divides by
    $n$.

    Args:
        images: [N, C, H, W].

    Returns:
        The same shape.
    """
    axes = (1, 2, 3)
    floor = images[0].numel() ** -0.5
    std = images.std(dim=axes, correction=0, keepdim=True).clamp(min=floor)
    return (images - images.mean(dim=axes, keepdim=True)) / std


def crop_and_flip(images: Tensor) -> Tensor:
    """Each image moved by up to four pixels either way, and mirrored or not, by chance.

    The usual augmentation of CIFAR-10 (He et al. 2016, section 4.2): a random crop of the image in a margin of four
    zeros, and a horizontal flip with probability 1/2.

    Args:
        images: [B, C, H, W].

    Returns:
        The same shape, a new tensor.
    """
    num_images, _, height, width = images.shape
    # Drawn on the CPU, so that a seed means the same on every device.
    down, right = torch.randint(2 * _MARGIN + 1, (2, num_images, 1))
    is_mirrored = torch.rand(num_images, 1) < 0.5
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    columns = torch.where(is_mirrored, columns.flip(1), columns)
    which = torch.arange(num_images).view(-1, 1, 1)
    places = [index.to(images.device) for index in (which, rows.unsqueeze(2), columns.unsqueeze(1))]
    padded = F.pad(images, (_MARGIN,) * 4).movedim(1, 3)  # channels last: whole pixels are picked
    return padded[tuple(places)].movedim(3, 1).contiguous()
