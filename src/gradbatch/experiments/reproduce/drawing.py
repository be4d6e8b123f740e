"""Curves from outcomes."""

from collections.abc import Sequence

import numpy as np

from gradbatch.experiments.curves import Points
from gradbatch.experiments.figures import Curve, Panel
from gradbatch.experiments.reproduce.results import Outcome

__all__ = ["accuracy_panel", "batch_loss_panel", "course_curve", "curves_of", "mean_curve"]


def mean_curve(outcomes: Sequence[Outcome], name: str, *, along: str = "samples_seen") -> Points | None:
    """The mean over seeds of a number's evaluations, between which straight lines are drawn, as far as all seeds go.

    Args:
        outcomes: Of one variant.
        name: The number.
        along: The number along the bottom.

    Returns:
        The curve; ``None`` where nothing was run or measured.
    """
    curves = [(outcome.curve(along), outcome.curve(name)) for outcome in outcomes]
    if not curves or any(not x or not y for x, y in curves):
        return None
    end = min(x[-1] for x, _ in curves)
    places = np.unique(np.concatenate([[place for place in x if place <= end] for x, _ in curves]))
    return Points(places, np.mean([np.interp(places, x, y) for x, y in curves], axis=0))


def course_curve(outcome: Outcome, *, along: str = "samples", name: str = "mean") -> Points:
    """The batch sizes along a run.

    Args:
        outcome: Of the run.
        along: ``"samples"`` or ``"updates"``.
        name: ``"mean"`` or ``"largest"`` of each stretch.

    Returns:
        The curve.
    """
    course = outcome.values["course"]
    return Points(np.array(course[along], dtype=np.float64), np.array(course[name], dtype=np.float64))


def curves_of(points: Sequence[Points | None], *, style: str = "line") -> list[Curve]:
    """Curves whose colours are their places.

    Args:
        points: In the order of the legend; ``None`` leaves its colour out.
        style: See `Curve`.

    Returns:
        The curves.
    """
    return [Curve(run=n, points=one, style=style) for n, one in enumerate(points) if one is not None]  # pyrefly: ignore


def accuracy_panel(title: str, rows: Sequence[Sequence[Outcome]]) -> Panel:
    """The test accuracy against samples.

    Args:
        title: Of the panel.
        rows: The outcomes of each variant, in the order of the legend.

    Returns:
        A curve for each variant that was run.
    """
    curves = curves_of([mean_curve(found, "test_score") for found in rows])
    return Panel(title=title, x_label="samples", curves=curves, percent=True)


def batch_loss_panel(rows: Sequence[Sequence[Outcome]], title: str = "training loss") -> Panel:
    """The mean loss of the batches since the evaluation before, against samples.

    Args:
        rows: The outcomes of each variant, in the order of the legend.
        title: Of the panel.

    Returns:
        A curve for each variant that was run.
    """
    curves = curves_of([mean_curve(found, "batch_loss") for found in rows])
    return Panel(title=title, x_label="samples", curves=curves, scale="log")
