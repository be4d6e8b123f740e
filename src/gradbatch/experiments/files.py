"""Results that are written whole or not at all."""

import contextlib
import os
from pathlib import Path

from gradbatch.errors import OutputError

__all__ = ["write_whole"]


def write_whole(path: Path, text: str, *, what: str, flag: str) -> None:
    """Write a file, or leave the one that is there as it is.

    Args:
        path: The file; replaced if it is there. A device, such as ``/dev/stdout``, is written to.
        text: What it shall hold.
        what: What it is, for the message.
        flag: The flag that names another place.

    Raises:
        OutputError: If it cannot be written.
    """
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        if path.exists() and not path.is_file():  # a folder refuses this
            path.write_text(text, encoding="utf-8")
            return
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise OutputError(
            f"the {what} {path} cannot be written ({error.strerror}): name another place with {flag}"
        ) from error
