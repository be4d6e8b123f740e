"""Save and load without ever leaving half a file behind."""

import contextlib
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from gradbatch.errors import InvalidInputError, MissingDataError, OutputError

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Write a checkpoint atomically: a crash leaves the old file or the new one, whole.

    Args:
        path: Where to write. The folder must exist.
        state: Tensors, numbers, strings and containers of them: what ``torch.load(weights_only=True)`` reads.

    Raises:
        OutputError: If the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        # torch's zip writer hides the OSError of a full disk behind a RuntimeError of its own.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise OutputError(
            f"the checkpoint {path} cannot be written ({cause.strerror}): free space or name another folder"
        ) from error


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, onto the CPU, without running code in it.

    Args:
        path: The file.

    Returns:
        The state that was saved.

    Raises:
        MissingDataError: If there is no such file.
        InvalidInputError: If the file is no checkpoint or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not compare the checksums
            damaged = archive.testzip()
        state = torch.load(path, map_location="cpu", weights_only=True) if damaged is None else None
    except FileNotFoundError:
        raise MissingDataError(f"there is no checkpoint at {path}: name one that exists") from None
    except Exception as error:
        kind = type(error).__name__
        raise InvalidInputError(f"{path} is not a readable checkpoint ({kind}): use an older one") from error
    if state is None:
        raise InvalidInputError(f"{path} is not a readable checkpoint (bad checksum of {damaged}): use an older one")
    return state


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where folders can be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
