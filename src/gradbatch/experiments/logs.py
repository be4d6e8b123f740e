"""The logs of a run and its progress, as one sink that is opened when the run begins."""

from collections.abc import Mapping
from typing import Protocol

from gradbatch._types import Record
from gradbatch.experiments.metrics import Metric
from gradbatch.experiments.run import RunFolder
from gradbatch.sinks.jsonl import JsonlSink

__all__ = ["RunLogs", "RunProgress"]


class RunProgress(Protocol):
    """What shows how far a run is, such as `gradbatch.sinks.console.ProgressBar`."""

    def log(self, record: Record) -> None:
        """Take the record of one update."""

    def note(self, text: str) -> None:
        """Take a short text, such as an accuracy."""

    def close(self) -> None:
        """The run is over; closing twice is harmless."""


class RunLogs:
    """Where the records and evaluations of a run go.

    A controller wants its sinks when it is made, and a run's folder is made only after a controller accepted
    all settings; so no file is touched before `open`.

    Args:
        folder: The run's folder.
        progress: What shows the records on the terminal.
        metric: What is noted of an evaluation.
    """

    def __init__(self, folder: RunFolder, progress: RunProgress, metric: Metric) -> None:
        self._folder = folder
        self._progress = progress
        self._metric = metric
        self._steps: JsonlSink | None = None
        self._evaluations: JsonlSink | None = None

    def open(self, *, append: bool) -> None:
        """Open the files; with ``append`` they go on."""
        self._steps = JsonlSink(self._folder.steps, append=append)
        self._evaluations = JsonlSink(self._folder.evaluations, append=append)

    def log(self, record: Record) -> None:
        """Take the record of one update."""
        assert self._steps is not None
        self._steps.log(record)
        self._progress.log(record)

    def evaluation(self, record: Record, results: Mapping[str, float | None]) -> None:
        """Take an evaluation that followed the update of ``record``."""
        assert self._evaluations is not None
        place = {
            "step": record.step + 1,  # updates before it
            "samples_seen": record.samples_seen,
            "epoch": record.epoch,
            "seconds": record.seconds,
        }
        self._evaluations.write(place | dict(results))
        score = results["test_score"]
        text = "not finite" if score is None else self._metric.write(score)
        self._progress.note(f"test {self._metric.name} {text}")

    def close(self) -> None:
        """Close the files and leave the last progress standing; closing twice is harmless."""
        for sink in (self._steps, self._evaluations, self._progress):
            if sink is not None:
                sink.close()
