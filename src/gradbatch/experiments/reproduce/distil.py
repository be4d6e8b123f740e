"""A run's logs in one line: what the tables and figures are drawn from."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gradbatch.errors import NonFiniteError
from gradbatch.experiments.curves import Floats, column
from gradbatch.experiments.logs import RunProgress
from gradbatch.experiments.loop import train
from gradbatch.experiments.run import Run, read_run
from gradbatch.experiments.settings import TrainSettings

__all__ = ["distil", "train_and_distil"]

_NUM_BINS = 24
"""Points of the course of batch sizes."""

_NUM_EVALUATIONS = 30
"""Evaluations that are kept, beside the best ones."""

_DIGITS = 5
"""Significant digits that are kept; the log is to stay small."""


def train_and_distil(settings: TrainSettings, progress: RunProgress) -> dict[str, Any]:
    """Train and keep what counts. A run that diverged is a result as well.

    Args:
        settings: Resolved.
        progress: What shows how far it is.

    Returns:
        See `distil`; with ``"diverged"``, the sentence with which training was stopped, where it was.
    """
    try:
        train(settings, progress)
    except NonFiniteError as error:
        return distil(read_run(settings.folder)) | {"diverged": str(error)}
    return distil(read_run(settings.folder))


def distil(run: Run) -> dict[str, Any]:
    """The numbers of a run that its tables and figures need.

    Args:
        run: From `read_run`.

    Returns:
        Ready for JSON: totals; ``evaluations``, a column for each number that was evaluated, with the mean batch loss
        and size since the evaluation before, thinned to about 30 with the largest and smallest of every number among
        them; ``course``, batch sizes over the run in at most 24 stretches of equal numbers of updates; ``numbers``,
        means over the run of what the rule said, and the last.
    """
    sizes, losses = column(run.steps, "batch_size"), column(run.steps, "loss")
    last = run.steps[-1]
    return {
        "updates": len(run.steps),
        "samples": last["samples_seen"],
        "seconds": _short(last["seconds"]),
        "skipped": sum(bool(line.get("skipped")) for line in run.steps),
        "parameters": run.manifest["model"].get("num_parameters"),
        "train_samples": run.manifest["task"].get("train_samples"),
        "evaluations": _evaluations(run.evaluations, sizes, losses),
        "course": _course(column(run.steps, "samples_seen"), sizes),
        "numbers": _numbers(run.steps),
    }


def _evaluations(lines: Sequence[Mapping[str, Any]], sizes: Floats, losses: Floats) -> dict[str, list[Any]]:
    """The evaluations' log by columns."""
    names = [name for name in (lines[0] if lines else {}) if name != "epoch" and not name.endswith("_accuracy")]
    columns = {name: column(lines, name) for name in names}
    edges = [0, *(line["step"] for line in lines)]
    stretches = [slice(start, stop) for start, stop in itertools.pairwise(edges)]
    columns["batch_loss"] = np.array(
        [(losses[stretch] * sizes[stretch]).sum() / sizes[stretch].sum() for stretch in stretches]
    )
    columns["batch_size"] = np.array([sizes[stretch].mean() for stretch in stretches])
    kept = _kept(columns, len(lines))
    return {name: [_short(values[index]) for index in kept] for name, values in columns.items()}


def _kept(columns: Mapping[str, Floats], num_lines: int) -> list[int]:
    """The evaluations to keep: evenly spread ones, the last, and the first largest and smallest of every number."""
    if num_lines == 0:
        return []
    kept = {int(index) for index in np.linspace(0, num_lines - 1, min(num_lines, _NUM_EVALUATIONS))}
    for values in columns.values():
        if np.isfinite(values).any():
            kept |= {int(np.nanargmax(values)), int(np.nanargmin(values))}
    return sorted(kept)


def _course(samples: Floats, sizes: Floats) -> dict[str, list[Any]]:
    """Batch sizes along the run."""
    edges = np.unique(np.linspace(0, len(sizes), _NUM_BINS + 1).astype(int))
    parts = [sizes[start:stop] for start, stop in itertools.pairwise(edges)]
    return {
        "updates": [int(edge) for edge in edges[1:]],
        "samples": [int(samples[edge - 1]) for edge in edges[1:]],
        "mean": [_short(part.mean()) for part in parts],
        "largest": [int(part.max()) for part in parts],
    }


def _numbers(lines: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Means of the numbers behind the rule's decisions, and the last of each."""
    names = dict.fromkeys(name for line in lines for name in line if name.startswith("numbers."))
    found: dict[str, float | None] = {}
    for name in names:
        values = column(lines, name)
        finite = values[np.isfinite(values)]
        short = name.removeprefix("numbers.")
        found[short] = _short(finite.mean()) if len(finite) else None
        found[f"last_{short}"] = _short(finite[-1]) if len(finite) else None
    return found


def _short(value: Any) -> Any:
    """A number with few digits; whole ones stay whole, and what is not finite becomes null."""
    if value is None or not math.isfinite(value):
        return None
    number = float(value)
    return int(number) if number.is_integer() else float(f"{number:.{_DIGITS}g}")
