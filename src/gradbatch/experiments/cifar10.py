"""CIFAR-10 as it lies on disk: the original binary files, arrays, or packed without loss."""

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gradbatch.errors import InvalidInputError, MissingDataError, OutputError

__all__ = ["NEEDS", "NUM_TRAIN", "Images", "read_cifar10"]

NUM_TRAIN = 50_000
"""The first images train, the last 10,000 test."""

NEEDS = (
    "the original binary files data_batch_1.bin to data_batch_5.bin and test_batch.bin into cifar-10-batches-bin, or "
    "images.npy and labels.npy into cifar10,"
)
"""What belongs where, for a sentence that begins with "put"."""

_NUM_IMAGES = 60_000
_SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32
"""Bytes: the label, and the image channel by channel."""

_BINARIES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")

_logger = logging.getLogger("gradbatch")


class Images(NamedTuple):
    """All images of CIFAR-10, the training set first.

    Attributes:
        pixels: Bytes, [60000, 3, 32, 32].
        labels: From 0 to 9, [60000].
    """

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]


def read_cifar10(root: Path) -> Images:
    """The images below a folder, in whichever form they are there.

    They may be the original ``cifar-10-batches-bin``, or ``cifar10/images.npy`` with ``labels.npy``, or
    ``cifar10/cifar10.imgpack.npz`` beside which the folder holds the program ``imgpack.py`` that unpacks it; that is
    run once and its result kept in ``$XDG_CACHE_HOME/gradbatch/cifar10``, or below ``~/.cache``.

    Args:
        root: The folder of the data sets.

    Returns:
        The images, checked to be 6000 of each class.

    Raises:
        MissingDataError: If they are there in none of the forms.
    """
    binaries, arrays = root / "cifar-10-batches-bin", root / "cifar10"
    packed, program = arrays / "cifar10.imgpack.npz", root / "imgpack.py"
    if binaries.is_dir():
        return _checked(_read_binaries(binaries), binaries)
    if (arrays / "images.npy").is_file():
        return _checked(_read_arrays(arrays), arrays)
    if packed.is_file() and program.is_file():
        unpacked = _unpacked(packed, program)
        return _checked(_read_arrays(unpacked), unpacked)
    raise MissingDataError(f"CIFAR-10 is not in {root}: put {NEEDS} below it")


def _read_binaries(folder: Path) -> Images:
    """The original files: records of a label and an image."""
    records = np.concatenate([_read_binary(folder / name) for name in _BINARIES])
    return Images(records[:, 1:].reshape(-1, *_SHAPE), records[:, 0])


def _read_binary(path: Path) -> npt.NDArray[np.uint8]:
    if not path.is_file():
        raise MissingDataError(f"{path} is not there: put all six original binary files of CIFAR-10 into {path.parent}")
    content = np.fromfile(path, dtype=np.uint8)
    if len(content) != 10_000 * _RECORD:
        raise InvalidInputError(
            f"{path} holds {len(content)} bytes, expected {10_000 * _RECORD}: replace it by the original file"
        )
    return content.reshape(-1, _RECORD)


def _read_arrays(folder: Path) -> Images:
    return Images(_read_array(folder / "images.npy"), _read_array(folder / "labels.npy"))


def _read_array(path: Path) -> npt.NDArray[np.uint8]:
    try:
        return np.load(path)
    except FileNotFoundError:
        raise MissingDataError(f"{path} is not there: put images.npy and labels.npy into {path.parent}") from None
    except (ValueError, EOFError, OSError) as error:
        raise InvalidInputError(f"{path} cannot be read ({error}): it is damaged; delete or replace it") from error


def _unpacked(packed: Path, program: Path) -> Path:
    """The folder of the arrays, made by the program if it is not there yet."""
    target = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gradbatch" / "cifar10"
    if (target / "images.npy").is_file():
        return target
    _logger.warning("unpacking CIFAR-10 into %s, once; it takes about half a minute", target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".cifar10-") as folder:
            fresh = Path(folder) / "cifar10"
            _run(program, packed, fresh)
            _move(fresh, target)
    except OSError as error:
        raise OutputError(
            f"CIFAR-10 cannot be unpacked into {target} ({error.strerror}): make room there, delete what is in its "
            "place, or name another folder with XDG_CACHE_HOME"
        ) from error
    return target


def _run(program: Path, packed: Path, folder: Path) -> None:
    """Unpack into a folder; the program makes it."""
    done = subprocess.run([sys.executable, program, packed, folder], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InvalidInputError(f"{program} could not unpack {packed} ({reason}): replace both by the original files")


def _move(fresh: Path, target: Path) -> None:
    """Put the folder in its place; another process that was quicker has put the same there."""
    try:
        fresh.rename(target)
    except OSError:
        if not (target / "images.npy").is_file():
            raise


def _checked(images: Images, folder: Path) -> Images:
    pixels, labels = images
    if pixels.shape != (_NUM_IMAGES, *_SHAPE) or pixels.dtype != np.uint8:
        found = f"{pixels.dtype} of shape {'x'.join(map(str, pixels.shape))}"
        raise InvalidInputError(f"{folder} holds images as {found}, expected uint8 of 60000x3x32x32: replace them")
    if labels.shape != (_NUM_IMAGES,) or labels.dtype != np.uint8:
        found = f"{labels.dtype} of shape {'x'.join(map(str, labels.shape))}"
        raise InvalidInputError(f"{folder} holds labels as {found}, expected 60000 of uint8: replace them")
    for name, part, expected in (("training", labels[:NUM_TRAIN], 5000), ("test", labels[NUM_TRAIN:], 1000)):
        counts = np.bincount(part)
        if counts.tolist() != [expected] * 10:
            raise InvalidInputError(
                f"{folder} holds {counts.tolist()} {name} images of the classes, expected {expected} of each of ten: "
                "replace the files by the original ones"
            )
    return images
