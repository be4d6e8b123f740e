"""Progress on the terminal, counted in samples."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

from gradbatch._types import Record
from gradbatch.errors import InvalidInputError

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

__all__ = ["ProgressBar"]

_SPEED_SECONDS = 5.0
"""The speed shown is that of the last one to two such spans."""


class ProgressBar:
    """A bar that counts samples, with batch size, learning rate, loss and speed beside.

    Steps would mislead: they slow down when the batch grows. Where the output is not a terminal (a file, a
    pipe, a batch job) there is no bar but a plain line at the end of an epoch, at most about twenty in all.

    Args:
        total_samples: Samples at which the bar is full; ``None`` where they are not known in advance.
        title: Short text before the bar.
        file: Where to write; standard output by default.

    Raises:
        InvalidInputError: If ``total_samples`` is not positive.
        ModuleNotFoundError: If rich is not installed and the output is a terminal.
    """

    def __init__(
        self, total_samples: int | None = None, *, title: str = "training", file: TextIO | None = None
    ) -> None:
        if total_samples is not None and total_samples < 1:
            raise InvalidInputError(f"`total_samples` must be at least 1, got {total_samples}")
        self._total = total_samples
        self._title = title
        self._file = file or sys.stdout
        self._bar = _rich_bar(self._file) if self._file.isatty() else None
        self._task = None if self._bar is None else self._bar.add_task(title, total=total_samples, numbers="")
        self._older: Record | None = None
        self._newer: Record | None = None
        self._batch_size = 0
        self._note = ""
        self._next_line = 0.0
        self._line_is_open = False

    def log(self, record: Record) -> None:
        """Show where training stands after one update."""
        self._look_at(record)
        if self._bar is not None and self._task is not None:
            self._bar.start()
            # Two lines, so that an ordinary terminal has room for the bar.
            text = f"{self._speed(record)}\n{self._state(record)}  {self._note}"
            self._bar.update(self._task, completed=record.samples_seen, numbers=text)
            return
        self._end_line()
        if self._is_due(record):
            place = f"{self._title}  epoch {record.epoch:.4g}  {self._speed(record)}"
            self._file.write(f"{place}  {self._state(record)}")
            self._line_is_open = True

    def note(self, text: str) -> None:
        """Show a short text, such as an accuracy, beside the numbers until the next."""
        self._note = text
        if self._line_is_open:
            self._file.write(f"  {text}")
            self._end_line()

    def close(self) -> None:
        """Leave the last state standing and give the terminal back; closing twice is harmless."""
        self._end_line()
        if self._bar is not None:
            self._bar.stop()

    def _look_at(self, record: Record) -> None:
        """Keep what the speed is measured from, and the batch size."""
        self._older, self._newer = self._older or record, self._newer or record
        if record.seconds - self._newer.seconds >= _SPEED_SECONDS:
            self._older, self._newer = self._newer, record
        # The remainder at an epoch's end says nothing of the rule; before any other batch it is all there is.
        if record.batch_size >= record.requested or self._batch_size == 0:
            self._batch_size = record.batch_size

    def _is_due(self, record: Record) -> bool:
        """Whether a plain line is due: at an epoch's end, a twentieth of the run after the last."""
        at_end = self._total is not None and record.samples_seen >= self._total
        if not at_end and (not record.epoch.is_integer() or record.samples_seen < self._next_line):
            return False
        self._next_line = record.samples_seen + (self._total or 0) / 20
        return True

    def _end_line(self) -> None:
        if self._line_is_open:
            self._file.write("\n")
            self._file.flush()
            self._line_is_open = False

    def _speed(self, record: Record) -> str:
        """How far, and how fast of late."""
        assert self._older is not None
        seconds = record.seconds - self._older.seconds
        total = "" if self._total is None else f"/{self._total:,}"
        text = f"{record.samples_seen:,}{total} samples"
        if seconds <= 0:
            return text
        return f"{text}  {(record.samples_seen - self._older.samples_seen) / seconds:,.0f} samples/s"

    def _state(self, record: Record) -> str:
        """The numbers of one update."""
        return f"batch {self._batch_size}  lr {record.lr * record.lr_scale:.3g}  loss {record.loss:.4g}"


def _rich_bar(file: TextIO) -> RichProgress:
    """An empty bar with its columns."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the progress bar needs rich, which is not installed: pip install 'gradbatch[cli]'",
            name=error.name,
        ) from None
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[numbers]}"),
        console=Console(file=file),
        refresh_per_second=5,
    )
