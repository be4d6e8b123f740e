"""How far several runs are, on the terminal or in plain lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

__all__ = ["RunsBars", "RunsLines", "runs_display"]


def runs_display(titles: Sequence[str], totals: Sequence[int], file: TextIO | None = None) -> RunsBars | RunsLines:
    """Bars where the output is a terminal, else lines.

    Args:
        titles: A short name for each run.
        totals: Samples of each run.
        file: Where to write; standard output by default.

    Returns:
        A display, to be closed in the end.
    """
    file = file or sys.stdout
    return RunsBars(titles, totals, file) if file.isatty() else RunsLines(titles, totals, file)


class RunsLines:
    """A line where a run begins, where it ends, and about five between.

    Args:
        titles: A short name for each run.
        totals: Samples of each run.
        file: Where to write.
    """

    def __init__(self, titles: Sequence[str], totals: Sequence[int], file: TextIO) -> None:
        self._titles, self._totals, self._file = titles, totals, file
        self._texts = [""] * len(titles)
        self._next = [total / 5 for total in totals]
        self._num_ended = 0
        self._samples = [0] * len(titles)
        self._started = time.monotonic()

    def begin(self, run: int) -> None:
        """Say so."""
        self._write(run, "begins")

    def advance(self, run: int, samples: int, text: str) -> None:
        """Say so, if a fifth of the run has passed."""
        self._texts[run], self._samples[run] = text, samples
        total = self._totals[run]
        if self._next[run] <= samples < total:
            self._next[run] = samples + total / 5
            self._write(run, f"{samples:,}/{total:,} samples  {text}")

    def say(self, run: int, text: str) -> None:
        """Pass it on."""
        self._write(run, text)

    def end(self, run: int, failure: str | None) -> None:
        """Say so, with the last that was known of it."""
        self._num_ended += 1
        self._samples[run] = self._totals[run]
        outcome = f"done  {self._texts[run]}" if failure is None else f"failed: {failure}"
        self._write(run, f"{outcome}  ({self._num_ended} of {len(self._titles)} runs{self._time_left()})")

    def _time_left(self) -> str:
        """A guess, as if a sample took as long in every run."""
        done, total = sum(self._samples), sum(self._totals)
        if not 0 < done < total:
            return ""
        seconds = (time.monotonic() - self._started) * (total - done) / done
        return f", about {seconds / 60:.0f} min left" if seconds >= 90 else f", about {seconds:.0f} s left"

    def close(self) -> None:
        """Nothing is open here."""

    def _write(self, run: int, text: str) -> None:
        self._file.write(f"{self._titles[run]}  {text.rstrip()}\n")
        self._file.flush()


class RunsBars:
    """A bar for each run under way and one for all; a run that is over leaves a line above them.

    Args:
        titles: A short name for each run.
        totals: Samples of each run.
        file: Where to write, a terminal.

    Raises:
        ModuleNotFoundError: If rich is not installed.
    """

    def __init__(self, titles: Sequence[str], totals: Sequence[int], file: TextIO) -> None:
        self._titles, self._totals = titles, totals
        self._bars = _bars(file)
        self._tasks: dict[int, TaskID] = {}
        self._texts = [""] * len(titles)
        self._num_ended = 0
        self._samples = [0] * len(titles)
        self._all = self._bars.add_task("all runs", total=sum(totals), text=self._count())
        self._bars.start()

    def begin(self, run: int) -> None:
        """Make its bar."""
        self._tasks[run] = self._bars.add_task(_escaped(self._titles[run]), total=self._totals[run], text="starting")

    def advance(self, run: int, samples: int, text: str) -> None:
        """Move its bar, and that of all."""
        self._samples[run], self._texts[run] = samples, text
        self._bars.update(self._tasks[run], completed=samples, text=_escaped(text))
        self._bars.update(self._all, completed=sum(self._samples))

    def say(self, run: int, text: str) -> None:
        """Write it above the bars."""
        self._bars.console.print(f"{self._titles[run]}  {text}", markup=False, highlight=False)

    def end(self, run: int, failure: str | None) -> None:
        """Replace its bar by a line."""
        self._num_ended += 1
        self._samples[run] = self._totals[run]
        self._bars.remove_task(self._tasks.pop(run))
        self._bars.update(self._all, completed=sum(self._samples), text=self._count())
        self.say(run, f"done  {self._texts[run]}" if failure is None else f"failed: {failure}")

    def close(self) -> None:
        """Give the terminal back."""
        self._bars.stop()

    def _count(self) -> str:
        return f"{self._num_ended} of {len(self._titles)} done"


def _escaped(text: str) -> str:
    """Text that rich takes for no markup."""
    return text.replace("[", r"\[")


def _bars(file: TextIO) -> RichProgress:
    """Empty bars with their columns."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[text]}"),
        console=Console(file=file),
        refresh_per_second=5,
    )
