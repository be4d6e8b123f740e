"""The run log: one flat JSON line per update, safe line by line."""

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gradbatch._types import Record
from gradbatch.errors import InvalidInputError, MissingDataError, OutputError

__all__ = ["JsonlSink", "read_jsonl", "truncate_jsonl"]

_logger = logging.getLogger(__name__)


class JsonlSink:
    """Write every record as one line of JSON.

    Each line reaches the operating system whole before `log` returns, so a crash costs at most the line being
    written; `read_jsonl` tolerates that one.

    Args:
        path: The log file. Missing folders are made.
        append: Go on with an existing file. Without it an existing file is refused, so that no log is lost. After
            going back to an earlier checkpoint, first drop what was logged since, with `truncate_jsonl`.

    Raises:
        OutputError: If the file exists (without ``append``) or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], *, append: bool = False) -> None:
        self._path = Path(path)
        if not append and self._path.exists():
            raise OutputError(f"{self._path} already exists: name another file, or go on with this one (append=True)")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if append and self._path.is_file():  # a device has no end to look at
                _drop_partial_line(self._path)
            # Unbuffered: a line is one write, and a failed one leaves nothing behind for `close` to fail on.
            self._file = self._path.open("ab" if append else "xb", buffering=0)
        except OSError as error:
            raise OutputError(_cannot_write(self._path, error)) from error

    def log(self, record: Record) -> None:
        """Write one record."""
        self.write(record.to_dict())

    def write(self, values: Mapping[str, Any]) -> None:
        """Write one line that is not a record, such as an evaluation.

        Args:
            values: A flat, JSON-ready dictionary without nan or infinities.

        Raises:
            OutputError: If the line cannot be written.
        """
        line = (json.dumps(values, allow_nan=False) + "\n").encode()
        try:
            while line:  # once, but where the disk fills up half-way
                line = line[self._file.write(line) :]
        except OSError as error:
            raise OutputError(_cannot_write(self._path, error)) from error

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        self._file.close()


def read_jsonl(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a log, in order.

    A last line that is cut short (the run was killed while writing it) is left out with a logged warning.
    A missing file is a `MissingDataError`; a broken line before the last is an `InvalidInputError`.

    Args:
        path: The log file.

    Returns:
        One dictionary per line.
    """
    return [line.values for line in _lines(Path(path))]


def truncate_jsonl(path: str | os.PathLike[str], step: int) -> None:
    """Cut the lines from ``step`` on, so that a resumed run writes them once.

    The file is replaced atomically; the lines that stay keep their bytes. A missing file stays missing.

    Args:
        path: The log file.
        step: The first step to cut.

    Raises:
        OutputError: If the shortened file cannot be written.
    """
    path = Path(path)
    if not path.exists():
        return
    kept = b"".join(line.raw for line in _lines(path) if line.values.get("step", 0) < step)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(kept)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise OutputError(_cannot_write(path, error)) from error


class _Line(NamedTuple):
    raw: bytes
    values: dict[str, Any]


def _lines(path: Path) -> Iterator[_Line]:
    """The whole lines of a log; only a broken last one is forgiven, with a warning."""
    try:
        rows = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        raise MissingDataError(f"there is no log at {path}: name a file that exists") from None
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read ({error.strerror}): name a log file") from error
    for number, raw in enumerate(rows, start=1):
        try:
            values = json.loads(raw)
            if not isinstance(values, dict):
                raise TypeError("a log line is a JSON object")
        except (ValueError, TypeError) as error:
            if number < len(rows):
                raise InvalidInputError(
                    f"{path}, line {number} is not a line of a log ({error}): mend or delete that line"
                ) from None
            _logger.warning("%s, line %d is cut short and was left out", path, number)
        else:
            yield _Line(raw if raw.endswith(b"\n") else raw + b"\n", values)


def _drop_partial_line(path: Path) -> None:
    """Cut what a killed run left behind the last line break, lest the next line continue it."""
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
        _logger.warning("%s ended in a line that was cut short; it was left out", path)


def _cannot_write(path: Path, error: OSError) -> str:
    return f"{path} cannot be written ({error.strerror}): free space or name another folder"
