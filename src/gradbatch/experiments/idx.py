"""Images and labels in MNIST's idx format, plain or gzipped, read with numpy alone.

An idx file is a magic number (two zero bytes, a type code, the number of dimensions), the length of each
dimension as a big-endian 32-bit number, and the values in row-major order. Here they are unsigned bytes.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gradbatch.errors import InvalidInputError, MissingDataError

__all__ = ["read_idx", "read_labelled_images"]

_UNSIGNED_BYTE = 8


def read_labelled_images(
    folder: Path, prefix: str, *, num_samples: int, num_classes: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """The images [N, 28, 28] and labels [N] of one split, checked against each other.

    Args:
        folder: Holds ``<prefix>-images-idx3-ubyte`` and ``<prefix>-labels-idx1-ubyte``, each with or without
            ``.gz``.
        prefix: ``"train"`` or ``"t10k"``.
        num_samples: How many there must be.
        num_classes: Labels lie below it.

    Returns:
        Images and labels.

    Raises:
        InvalidInputError: If a file is damaged or holds something else.
    """
    images_path = _find(folder, f"{prefix}-images-idx3-ubyte")
    labels_path = _find(folder, f"{prefix}-labels-idx1-ubyte")
    images = read_idx(images_path, num_dimensions=3)
    labels = read_idx(labels_path, num_dimensions=1)
    if images.shape != (num_samples, 28, 28):
        shape = "x".join(map(str, images.shape))
        raise InvalidInputError(
            f"{images_path} holds images of shape {shape}, expected {num_samples}x28x28: "
            "replace it by the original file"
        )
    if len(labels) != num_samples:
        raise InvalidInputError(
            f"{labels_path} holds {len(labels)} labels, expected {num_samples}: replace it by the original file"
        )
    if labels.max() >= num_classes:
        raise InvalidInputError(
            f"{labels_path} holds the label {labels.max()}, expected labels from 0 to {num_classes - 1}: "
            "replace it by the original file"
        )
    return images, labels


def read_idx(path: Path, *, num_dimensions: int) -> npt.NDArray[np.uint8]:
    """The array in an idx file of unsigned bytes.

    Args:
        path: The file; gzipped if its name ends in ``.gz``.
        num_dimensions: How many dimensions it must have.

    Returns:
        The array, in the file's shape.

    Raises:
        InvalidInputError: If the file cannot be unpacked, is no such idx file or has the wrong length.
    """
    content = _content(path)
    magic = bytes((0, 0, _UNSIGNED_BYTE, num_dimensions))
    if content[:4] != magic:
        found = f"begins with {content[:4].hex(' ')}" if content else "is empty"
        noun = "dimension" if num_dimensions == 1 else "dimensions"
        raise InvalidInputError(
            f"{path} {found}, but an idx file of {num_dimensions} {noun} begins with {magic.hex(' ')}: "
            "replace it by the original file"
        )
    header = 4 + 4 * num_dimensions
    shape = tuple(int(n) for n in np.frombuffer(content[4:header].ljust(header - 4, b"\0"), dtype=">u4"))
    if len(content) != header + math.prod(shape):
        raise InvalidInputError(
            f"{path} holds {len(content)} bytes, its header promises {header + math.prod(shape)}: "
            "replace it by the original file"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def _find(folder: Path, name: str) -> Path:
    """The file, gzipped or not."""
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise MissingDataError(
        f"{folder / name}.gz is not there: put the four original files of the data set (images and labels of "
        f'"train" and "t10k", .gz or unpacked) into {folder}'
    )


def _content(path: Path) -> bytes:
    """The bytes of a file, unpacked."""
    try:
        packed = path.read_bytes()
        return gzip.decompress(packed) if path.suffix == ".gz" else packed
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidInputError(
            f"{path} cannot be unpacked ({error}): it is damaged; replace it by the original file"
        ) from error
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read ({error.strerror}): make it readable") from error
