"""Checkpoints: whole or not there, whatever stops the writing; and sentences for what cannot be read."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gradbatch import checkpoint
from gradbatch.checkpoint import load_checkpoint, save_checkpoint
from gradbatch.errors import InvalidInputError, MissingDataError, OutputError

OLD = {"step": 1, "weight": torch.arange(5.0)}
TENSOR = torch.arange(1000.0)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A checkpoint that is there already."""
    save_checkpoint(tmp_path / "last.pt", OLD)
    return tmp_path / "last.pt"


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "controller": {"rule": "CABS", "rule_state": {"variances": [0.1], "loss": 0.5}, "pair": (1, True)},
        "rng": torch.get_rng_state(),
    }
    save_checkpoint(tmp_path / "all.pt", state)
    loaded = load_checkpoint(tmp_path / "all.pt")
    assert loaded["controller"] == state["controller"]
    assert torch.equal(loaded["rng"], state["rng"])
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded["model"][name], tensor)
    resumed = torch.optim.Adam(model.parameters())
    resumed.load_state_dict(loaded["optimizer"])
    assert torch.equal(resumed.state[model.weight]["exp_avg"], optimizer.state[model.weight]["exp_avg"])
    # The path as text, and nothing but the checkpoint in the folder.
    save_checkpoint(str(tmp_path / "all.pt"), OLD)
    assert load_checkpoint(str(tmp_path / "all.pt"))["step"] == 1
    assert names(tmp_path) == ["all.pt"]


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, ("was-run",)


def test_no_code_of_the_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"step": Bomb()}, "bomb.pt")
    with pytest.raises(InvalidInputError, match=r"bomb\.pt is not a readable checkpoint"):
        load_checkpoint("bomb.pt")
    assert names(tmp_path) == ["bomb.pt"]
    # The bomb is a real one.
    torch.load("bomb.pt", weights_only=False)
    assert names(tmp_path) == ["bomb.pt", "was-run"]


FAILURES = [
    OSError(28, "No space left on device"),
    RuntimeError("unexpected pos"),
    pickle.PicklingError("lambda"),
]


@pytest.mark.parametrize("failure", [*FAILURES, KeyboardInterrupt()], ids=repr)
def test_a_failure_half_way_leaves_the_old_file_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def half(state: Any, file: Any) -> None:
        file.write(b"half of a checkpoint")
        file.flush()
        raise failure

    monkeypatch.setattr(checkpoint.torch, "save", half)
    with pytest.raises(OutputError if isinstance(failure, OSError) else BaseException):
        save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path)["step"] == 1
    assert names(path.parent) == ["last.pt"]


FULL_DISK = """
import resource, sys, torch
from gradbatch.checkpoint import save_checkpoint
from gradbatch.errors import OutputError

resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))  # Python ignores the signal and sees an OSError
try:
    save_checkpoint(sys.argv[1], {"step": 2, "weight": torch.zeros(100_000)})
except OutputError as error:
    print(error)
"""


def test_a_full_disk_is_an_output_error(path: Path) -> None:
    pytest.importorskip("resource", reason="the limit on a file's size is POSIX")
    ended = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=False)
    assert load_checkpoint(path)["step"] == 1
    assert f"the checkpoint {path} cannot be written" in ended.stdout, ended.stderr
    assert names(path.parent) == ["last.pt"]


SAVE_IN_A_LOOP = """
import itertools, sys, torch
from gradbatch.checkpoint import save_checkpoint

for step in itertools.count(2):
    save_checkpoint(sys.argv[1], {"step": step, "weight": torch.full((200_000,), float(step))})
    if step == 3:
        print("saving", flush=True)
"""


def test_a_killed_process_leaves_a_whole_file(path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", SAVE_IN_A_LOOP, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "saving\n"
        time.sleep(0.05)
        # While it saves over and over the file that can be seen is a whole one at any time, too.
        steps = [load_checkpoint(path)["step"] for _ in range(30)]
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert steps == sorted(steps)
    assert steps[0] < steps[-1]
    loaded = load_checkpoint(path)
    assert loaded["step"] >= steps[-1]
    assert torch.equal(loaded["weight"], torch.full((200_000,), float(loaded["step"])))


@pytest.mark.parametrize("place", ["missing/last.pt", "file/last.pt", "folder"])
def test_where_nothing_can_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("a regular file")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").touch()
    with pytest.raises(OutputError, match=rf"the checkpoint .*{place} cannot be written \(.+\): .*another folder"):
        save_checkpoint(tmp_path / place, OLD)
    assert names(tmp_path) == ["file", "folder"]


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"there is no checkpoint at .*none\.pt: name one that exists"):
        load_checkpoint(tmp_path / "none.pt")


def damaged_files() -> dict[str, Callable[[bytes], bytes]]:
    """Ways to damage the bytes of a checkpoint with `TENSOR` in it."""
    raw = TENSOR.numpy().tobytes()
    return {
        "empty": lambda _: b"",
        "text": lambda _: b"{}\n",
        "zeros": lambda whole: bytes(len(whole)),
        "a pickle": lambda _: pickle.dumps({"step": 1}),
        "cut in the middle": lambda whole: whole[: len(whole) // 2],
        "cut by a byte": lambda whole: whole[:-1],
        "without its beginning": lambda whole: whole[100:],
        "a changed number": lambda whole: whole.replace(raw, raw[:80] + b"\xff" + raw[81:]),
    }


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("damage", damaged_files().values(), ids=damaged_files())
def test_a_damaged_file(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "damaged.pt"
    save_checkpoint(path, {"weight": TENSOR})
    whole = path.read_bytes()
    assert damage(whole) != whole
    path.write_bytes(damage(whole))
    with pytest.raises(
        InvalidInputError, match=r"(?s)damaged\.pt is not a readable checkpoint \(.+\): use an older one"
    ):
        load_checkpoint(path)


def test_the_complaint_does_not_advise_to_run_the_code_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "text.pt"
    path.write_text("not a checkpoint")
    with pytest.raises(InvalidInputError) as caught:
        load_checkpoint(path)
    assert "weights_only" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="is not a readable checkpoint"):
        load_checkpoint(tmp_path)
