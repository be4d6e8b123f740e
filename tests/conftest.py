"""What every test stands on: one torch thread, a fixed seed, the default dtype, and the data sets."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from gradbatch.errors import MissingDataError
from gradbatch.experiments.data import Dataset
from gradbatch.experiments.tasks import TASKS

_MNIST = [
    f"{stem}-ubyte" for stem in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
]


def pytest_configure() -> None:
    """In each process, pytest-xdist's workers included: they must not fight over the cores, and know Ctrl-C.

    A shell that starts a job in the background has it ignore Ctrl-C, and all that the job starts; the tests of what
    Ctrl-C does would then wait for ever.
    """
    torch.set_num_threads(1)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _fresh_torch() -> Iterator[None]:
    """A fixed seed before each test, and the default dtype back after it."""
    dtype = torch.get_default_dtype()
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(dtype)


@pytest.fixture
def data_dir() -> Path:
    """The folder of the image data sets; without one the test is skipped, or fails if data is required."""
    folder = Path(os.environ.get("GRADBATCH_DATA") or "GRADBATCH_DATA is not set")
    raw = folder / "MNIST" / "raw"
    if not all((raw / name).is_file() or (raw / f"{name}.gz").is_file() for name in _MNIST):
        _do_without(
            "set GRADBATCH_DATA to a folder with the four files of MNIST in MNIST/raw; looked for "
            f"{_MNIST[0]}(.gz) and its like in {raw}"
        )
    return folder


@pytest.fixture
def load_task(data_dir: Path) -> Callable[[str], Dataset]:
    """What reads a task's data; where it is not in the folder the test is skipped, or fails if data is required."""

    def load(name: str) -> Dataset:
        try:
            return TASKS[name].load(data_dir)
        except MissingDataError as error:
            _do_without(str(error))

    return load


def _do_without(reason: str) -> NoReturn:
    if os.environ.get("GRADBATCH_REQUIRE_DATA") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
