"""Rules against each other: `gradbatch compare`."""

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from gradbatch.experiments.budget import Budget
from gradbatch.experiments.build import load_dataset
from gradbatch.experiments.comparison import Comparison
from gradbatch.experiments.metrics import Metric
from gradbatch.experiments.processes import train_all
from gradbatch.experiments.run import Run, read_run
from gradbatch.experiments.runs_display import runs_display
from gradbatch.experiments.scores import Column, Score, columns_of, common_target, score_of, spread_of
from gradbatch.experiments.tasks import TASKS

__all__ = ["Results", "Row", "compare", "read_results"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A rule's line in the table.

    Attributes:
        label: The rule.
        scores: Of its complete runs.
        failures: Why the others are not complete, by the names of the runs.
    """

    label: str
    scores: Sequence[Score]
    failures: Mapping[str, str]

    def cells(self, columns: Sequence[Column]) -> list[str]:
        """Its numbers.

        Args:
            columns: See `columns_of`.

        Returns:
            As many texts.
        """
        if not self.scores:
            return ["failed", *("" for _ in columns[1:])]
        num_runs = len(self.scores) + len(self.failures)
        return [spread_of(self.scores, column.name, num_runs).text(column) for column in columns]


@dataclass(frozen=True, kw_only=True)
class Results:
    """What came out of a comparison.

    Attributes:
        folder: Of the comparison.
        rows: A line for each rule.
        metric: What the models are judged by.
        target: The score on the test set that the first columns are about; ``None`` where no run was evaluated.
        is_own_target: Whether the target is the best score of the worst run.
        seeds: Runs of each rule.
        runs: The complete runs.
        contenders: For each of these, the number of its rule.
        names: And its name.
    """

    folder: Path
    rows: Sequence[Row]
    metric: Metric
    target: float | None
    is_own_target: bool
    seeds: int
    runs: Sequence[Run]
    contenders: Sequence[int]
    names: Sequence[str]

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns behind the rule's."""
        return columns_of(self.metric)

    @property
    def titles(self) -> list[str]:
        """Their headings."""
        return [column.title.format(target=self._target_text) for column in self.columns]

    @property
    def _target_text(self) -> str:
        """The target as the reader knows it."""
        if self.target is None:
            return "target"
        return f"{100 * self.target:.4g} %" if self.metric.is_share else f"{self.target:.4g} {self.metric.name}"

    @property
    def failures(self) -> dict[str, str]:
        """Why runs are not complete, by their names; those of a rule with one reason stand together."""
        together: dict[str, str] = {}
        for row in self.rows:
            for why in dict.fromkeys(row.failures.values()):
                names = [name for name, reason in row.failures.items() if reason == why]
                together[", ".join(names)] = why
        return together

    @property
    def notes(self) -> list[str]:
        """What one has to know to read the table, in sentences."""
        notes = [
            "Samples, updates and seconds are those to the first evaluation, at an epoch’s end, with a score as good "
            "as that.",
            "Runs may have shared the machine, so that seconds compare roughly.",
        ]
        if self.is_own_target and self.target is not None:
            notes.insert(
                0,
                f"{self._target_text} is the best test score of the worst run, so that all reach it.",
            )
        if self.seeds > 1:
            notes.append(f"Mean ± standard deviation over {self.seeds} seeds.")
        return notes

    def table(self) -> str:
        """The table for a terminal."""
        rows = [["rule", *self.titles], *([row.label, *row.cells(self.columns)] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(row[1:], widths[1:], strict=True))]
            ).rstrip()
            for row in rows
        ]
        failed = [f"{name} failed: {why}" for name, why in self.failures.items()]
        return "\n".join([*lines, "", *self.notes, *failed])


def compare(comparison: Comparison, *, resume: bool, jobs: int | None) -> Results:
    """Train every rule and read what came out.

    Args:
        comparison: What to compare.
        resume: Whether to go on with what was begun.
        jobs: Most runs at a time; ``None`` for as many as there are cores, or one on a GPU.

    Returns:
        The results.
    """
    settings = comparison.runs()[0].settings
    data = load_dataset(settings)  # what is missing is said once and at once, not by every run
    dataset_size = len(data.train.targets)
    device = settings.device
    del data
    runs = comparison.go_on() if resume else comparison.begin()
    failures: list[str | None] = []
    if runs:
        totals = [Budget.of(run.settings, dataset_size).samples or 0 for run in runs]
        jobs = jobs or ((os.cpu_count() or 1) if device == "cpu" else 1)
        with closing(runs_display([run.name for run in runs], totals)) as display:
            failures = train_all([run.settings for run in runs], jobs=jobs, display=display)
    sentences = {run.name: why for run, why in zip(runs, failures, strict=True) if why is not None}
    return read_results(comparison, sentences)


def read_results(comparison: Comparison, failures: Mapping[str, str]) -> Results:
    """The table's numbers, from the logs of the runs.

    Args:
        comparison: Whose runs have ended.
        failures: Why some are not complete, by their names.

    Returns:
        The results.
    """
    runs = comparison.runs()
    complete = [run for run in runs if run.name not in failures]
    logs = [read_run(run.settings.folder) for run in complete]
    target = common_target(logs) if comparison.target is None else comparison.target
    rows = []
    for number, contender in enumerate(comparison.contenders):
        pairs = zip(complete, logs, strict=True)
        scores = [score_of(log, target) for run, log in pairs if run.contender == number]
        own = {run.name for run in runs if run.contender == number}
        reasons = {name: why for name, why in failures.items() if name in own}
        rows.append(Row(label=contender.label, scores=scores, failures=reasons))
    order = sorted(range(len(complete)), key=lambda index: complete[index].contender)
    ordered = [complete[index] for index in order]
    return Results(
        folder=comparison.folder,
        rows=rows,
        metric=TASKS[runs[0].settings.task].metric,
        target=target,
        is_own_target=comparison.target is None,
        seeds=comparison.seeds,
        runs=[logs[index] for index in order],
        contenders=[run.contender for run in ordered],
        names=[run.name for run in ordered],
    )
