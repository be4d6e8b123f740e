import gzip
import struct

import numpy as np
import pytest

from gradbatch.errors import InvalidInputError, MissingDataError
from gradbatch.experiments.idx import read_idx, read_labelled_images


def idx(array):
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    images = np.arange(5 * 28 * 28).reshape(5, 28, 28).astype(np.uint8)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.array([0, 1, 2, 9, 4], np.uint8)))
    return tmp_path


def read(folder):
    return read_labelled_images(folder, "train", num_samples=5, num_classes=10)


def test_packed_and_unpacked_files_are_read(folder):
    images, labels = read(folder)
    assert images.shape == (5, 28, 28)
    assert images[1, 0, :3].tolist() == [16, 17, 18]
    assert labels.tolist() == [0, 1, 2, 9, 4]


def test_a_missing_file_is_named_with_what_to_put_where(folder):
    (folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(MissingDataError, match=r"train-labels-idx1-ubyte\.gz is not there: put the four"):
        read(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(np.zeros(4, np.uint8)), "holds 4 labels, expected 5"),
        (idx(np.full(5, 11, np.uint8)), "holds the label 11"),
        (idx(np.zeros(5, np.uint8))[:-1], "holds 12 bytes, its header promises 13"),
        (idx(np.zeros(5, np.uint8)) + b"x", "holds 14 bytes, its header promises 13"),
        (idx(np.zeros((5, 1), np.uint8)), "begins with 00 00 08 02"),
        (b"\0\0\x08\x01\0", "holds 5 bytes, its header promises 8"),
        (b"", "is empty, but an idx file of 1 dimension begins with"),
    ],
)
def test_a_damaged_file_is_named(folder, content, message):
    (folder / "train-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(InvalidInputError, match=f"train-labels-idx1-ubyte {message}"):
        read(folder)


@pytest.mark.parametrize("cut", [5, 30, -4])
def test_a_truncated_archive_is_named(folder, cut):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InvalidInputError, match=r"train-images-idx3-ubyte\.gz cannot be unpacked"):
        read(folder)


def test_a_wrong_shape_is_named(folder):
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros((5, 2, 2), np.uint8))))
    with pytest.raises(InvalidInputError, match="of shape 5x2x2, expected 5x28x28"):
        read(folder)


def test_something_that_is_no_archive_is_named(tmp_path):
    (tmp_path / "x.gz").write_bytes(b"plain text")
    with pytest.raises(InvalidInputError, match="cannot be unpacked"):
        read_idx(tmp_path / "x.gz", num_dimensions=1)
