import logging

import numpy as np
import pytest

from gradbatch.errors import InvalidInputError, MissingDataError, OutputError
from gradbatch.experiments.cifar10 import read_cifar10

NUM_IMAGES = 60_000


@pytest.fixture(scope="module")
def labels():
    rng = np.random.default_rng(0)
    parts = [rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), count)) for count in (5000, 1000)]
    return np.concatenate(parts)


@pytest.fixture(scope="module")
def pixels():
    """Each image has its place in its first bytes and its channels' numbers in its last."""
    pixels = np.zeros((NUM_IMAGES, 3, 32, 32), np.uint8)
    pixels[:, 0, 0, :2] = np.arange(NUM_IMAGES, dtype="<u2").view(np.uint8).reshape(-1, 2)
    pixels[:, :, 31, 31] = (1, 2, 3)
    return pixels


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gradbatch"


def write_arrays(folder, pixels, labels):
    folder.mkdir(exist_ok=True)
    np.save(folder / "images.npy", pixels)
    np.save(folder / "labels.npy", labels)


def write_packed(root, program):
    (root / "cifar10").mkdir()
    (root / "cifar10" / "cifar10.imgpack.npz").write_text("packed")
    (root / "imgpack.py").write_text(program)


def test_the_original_files_are_read(tmp_path, pixels, labels):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    records = np.concatenate([labels[:, None], pixels.reshape(NUM_IMAGES, -1)], axis=1)
    for name, part in zip([f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"], np.split(records, 6), strict=True):
        (folder / f"{name}.bin").write_bytes(part.tobytes())
    images = read_cifar10(tmp_path)
    assert np.array_equal(images.pixels, pixels)
    assert np.array_equal(images.labels, labels)
    (folder / "data_batch_3.bin").write_bytes(b"short")
    with pytest.raises(InvalidInputError, match=r"data_batch_3\.bin holds 5 bytes, expected 30730000"):
        read_cifar10(tmp_path)
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(MissingDataError, match=r"data_batch_3\.bin is not there: put all six"):
        read_cifar10(tmp_path)


def test_arrays_are_read_and_checked(tmp_path, pixels, labels):
    folder = tmp_path / "cifar10"
    write_arrays(folder, pixels, labels)
    assert np.array_equal(read_cifar10(tmp_path).pixels, pixels)
    moved = np.concatenate([(labels[:1] + 1) % 10, labels[1:]])
    for wrong, message in (
        (labels[:-1], "labels as uint8 of shape 59999, expected 60000 of uint8"),
        (labels.astype(np.int64), "labels as int64"),
        (moved, r"training images of the classes, expected 5000"),
        (np.zeros_like(labels), r"\[50000\] training images"),
    ):
        np.save(folder / "labels.npy", wrong)
        with pytest.raises(InvalidInputError, match=message):
            read_cifar10(tmp_path)
    (folder / "labels.npy").write_bytes(b"no array")
    with pytest.raises(InvalidInputError, match=r"labels\.npy cannot be read .* damaged"):
        read_cifar10(tmp_path)
    (folder / "labels.npy").unlink()
    with pytest.raises(MissingDataError, match=r"labels\.npy is not there: put images\.npy and labels\.npy into"):
        read_cifar10(tmp_path)


def test_images_of_another_shape_are_refused(tmp_path, labels):
    write_arrays(tmp_path / "cifar10", np.zeros((4, 32, 32, 3), np.uint8), labels)
    with pytest.raises(InvalidInputError, match="uint8 of shape 4x32x32x3, expected uint8 of 60000x3x32x32"):
        read_cifar10(tmp_path)


UNPACKER = """
import pathlib, shutil, sys
assert pathlib.Path(sys.argv[1]).read_text() == "packed"
shutil.copytree({source!r}, sys.argv[2])
"""


def test_packed_images_are_unpacked_once(tmp_path, pixels, labels, cache, caplog):
    write_arrays(tmp_path / "source", pixels, labels)
    root = tmp_path / "root"
    root.mkdir()
    write_packed(root, UNPACKER.format(source=str(tmp_path / "source")))
    with caplog.at_level(logging.WARNING, logger="gradbatch"):
        assert np.array_equal(read_cifar10(root).labels, labels)
        assert len(caplog.messages) == 1
        (root / "imgpack.py").write_text("raise SystemExit('it must not run again')")
        assert np.array_equal(read_cifar10(root).pixels, pixels)
    assert len(caplog.messages) == 1
    assert [path.name for path in cache.iterdir()] == ["cifar10"]


def test_a_process_that_was_slower_takes_what_is_there(tmp_path, pixels, labels, cache):
    write_arrays(tmp_path / "source", pixels, labels)
    root = tmp_path / "root"
    root.mkdir()
    # While it unpacks, another process finishes.
    other = f"shutil.copytree({str(tmp_path / 'source')!r}, {str(cache / 'cifar10')!r})\n"
    write_packed(root, UNPACKER.format(source=str(tmp_path / "source")) + other)
    assert np.array_equal(read_cifar10(root).labels, labels)
    assert [path.name for path in cache.iterdir()] == ["cifar10"]


def test_a_failure_to_unpack_leaves_nothing_behind(tmp_path, cache):
    write_packed(tmp_path, "raise ValueError('sha256 differs')")
    with pytest.raises(InvalidInputError, match="could not unpack .*ValueError: sha256 differs"):
        read_cifar10(tmp_path)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path, cache):
    write_packed(tmp_path, "")
    cache.parent.write_text("a file in its place")
    with pytest.raises(OutputError, match="cannot be unpacked into .*cache/gradbatch/cifar10"):
        read_cifar10(tmp_path)


def test_nothing_at_all_says_what_to_put_where(tmp_path):
    with pytest.raises(MissingDataError, match=r"CIFAR-10 is not in .*: put .*cifar-10-batches-bin, or images\.npy"):
        read_cifar10(tmp_path)
