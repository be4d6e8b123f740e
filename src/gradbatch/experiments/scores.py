"""Rules in numbers: what each took to a target and where it ended, over its seeds."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np

from gradbatch.experiments.curves import column, smooth
from gradbatch.experiments.metrics import Metric
from gradbatch.experiments.run import Run
from gradbatch.experiments.summary import summary_of

__all__ = ["Column", "Score", "Spread", "columns_of", "common_target", "score_of", "spread_of"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """One run in numbers. What it did not reach or measure is ``None``.

    Attributes:
        samples: Samples seen at the first evaluation that reached the target.
        updates: Updates before it.
        seconds: Seconds of training before it.
        best_score: The best on the test set, of the task's metric.
        final_loss: The training loss in the end, a mean over about the last fiftieth of the samples.
        mean_batch_size: Samples per update.
    """

    samples: float | None
    updates: float | None
    seconds: float | None
    best_score: float | None
    final_loss: float | None
    mean_batch_size: float


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A number over seeds.

    Attributes:
        values: Those of the runs that have it.
        num_runs: How many runs there are, those that failed among them.
    """

    values: tuple[float, ...]
    num_runs: int

    def text(self, column: "Column") -> str:
        """Mean, standard deviation over seeds, and how many runs are behind it where not all are.

        Args:
            column: Where it will stand.

        Returns:
            As ``"1,200 ± 34 (2 of 3)"``; a dash where no run has it.
        """
        if not self.values:
            return "–"
        text = column.write(mean(self.values))
        if len(self.values) > 1:
            text += f" ± {column.write(stdev(self.values))}"
        text += column.unit
        return text if len(self.values) == self.num_runs else f"{text} ({len(self.values)} of {self.num_runs})"


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the comparison's table.

    Attributes:
        title: Its heading; ``{target}`` stands for the target.
        name: The field of `Score`.
        write: Writes one number.
        unit: Stands behind it.
    """

    title: str
    name: str
    write: Callable[[float], str]
    unit: str = ""


def columns_of(metric: Metric) -> tuple[Column, ...]:
    """The table's columns behind the rule.

    Args:
        metric: What the models are judged by.

    Returns:
        From left to right.
    """
    factor, digits, unit = (100, 2, " %") if metric.is_share else (1, 3, "")
    return (
        Column(title="Samples to {target}", name="samples", write=lambda value: f"{value:,.0f}"),
        Column(title="Updates to it", name="updates", write=lambda value: f"{value:,.0f}"),
        Column(title="Seconds to it", name="seconds", write=lambda value: f"{value:.1f}"),
        Column(
            title=f"Best {metric.name}",
            name="best_score",
            write=lambda value: f"{factor * value:.{digits}f}",
            unit=unit,
        ),
        Column(title="Final loss", name="final_loss", write=lambda value: f"{value:.3g}"),
        Column(title="Mean batch", name="mean_batch_size", write=lambda value: f"{value:,.1f}"),
    )


def common_target(runs: Sequence[Run]) -> float | None:
    """The score that every run reached: the worst of their best scores. Runs without a score do not count.

    Args:
        runs: Complete ones, of one task.

    Returns:
        The score; ``None`` where none was evaluated.
    """
    best = [score for run in runs if (score := summary_of(run).best_score) is not None]
    return runs[0].metric.worst(best) if runs else None


def score_of(run: Run, target: float | None) -> Score:
    """A run in numbers.

    Args:
        run: From `read_run`.
        target: Score on the test set to be reached; ``None`` for what no run reaches.

    Returns:
        Its score.
    """
    summary = summary_of(run)
    reached = {} if target is None else _first_reaching(run, target)
    return Score(
        samples=reached.get("samples_seen"),
        updates=reached.get("step"),
        seconds=reached.get("seconds"),
        best_score=summary.best_score,
        final_loss=_final_loss(run),
        mean_batch_size=summary.mean_batch_size,
    )


def _first_reaching(run: Run, target: float) -> Mapping[str, float]:
    """The first evaluation with a score as good as the target; nothing where there is none."""
    for line in run.evaluations:
        score = line.get("test_score")
        if score is not None and run.metric.reaches(score, target):
            return line
    return {}


def spread_of(scores: Sequence[Score], name: str, num_runs: int) -> Spread:
    """One number of several runs.

    Args:
        scores: Of a rule's complete runs.
        name: The field.
        num_runs: How many runs the rule has.

    Returns:
        The number over the runs.
    """
    values = (getattr(score, name) for score in scores)
    return Spread(values=tuple(value for value in values if value is not None), num_runs=num_runs)


def _final_loss(run: Run) -> float | None:
    """The last of the smoothed training loss, as the report draws it."""
    losses = column(run.steps, "loss")
    losses[[bool(line.get("skipped")) for line in run.steps]] = np.nan
    loss = float(smooth(losses, column(run.steps, "batch_size"), run.steps[-1]["samples_seen"] / 50)[-1])
    return loss if math.isfinite(loss) else None
