"""What a report shows of its runs: six figures, each against samples and against time."""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradbatch.experiments.curves import Floats, Points, column, noise_scale_points, smooth
from gradbatch.experiments.figures import Curve, Panel
from gradbatch.experiments.metrics import ACCURACY
from gradbatch.experiments.run import Run

__all__ = ["AXES", "FIGURES", "FigureText"]

AXES = {"samples_seen": "samples seen", "seconds": "seconds of training"}
"""What lies along the bottom: the name in the log, and the words for it."""

_LOG_SPAN = 20
"""A loss that shrinks by more than this factor is drawn on a logarithmic axis."""

_FEW = 4
"""Runs. Of more, the single batches would hide all else, and lines may lie on one another."""


@dataclass(frozen=True, kw_only=True)
class FigureText:
    """A figure before it is drawn.

    Attributes:
        title: Its heading.
        caption: What one has to know to read it, as HTML.
        panel: What to draw; ``None`` where no run has anything to show.
    """

    title: str
    caption: str
    panel: Panel | None


def _points(run: Run, axis: str, name: str) -> Points:
    return Points(column(run.steps, axis), column(run.steps, name))


def _is_skipped(run: Run) -> npt.NDArray[np.bool_]:
    """Which updates left the weights as they were."""
    return np.array([bool(line.get("skipped")) for line in run.steps])


def _loss(runs: Sequence[Run], names: Sequence[str], axis: str) -> FigureText:
    raw: list[Curve] = []
    smoothed: list[Curve] = []
    for number, run in enumerate(runs):
        points = _points(run, axis, "loss")
        window = run.steps[-1]["samples_seen"] / 50
        values = np.where(_is_skipped(run), np.nan, points.y)
        mean = smooth(values, column(run.steps, "batch_size"), window)
        mean[np.isnan(values)] = np.nan  # both lines break where an update was skipped
        points = Points(points.x, values)
        if len(runs) <= _FEW:
            raw.append(Curve(run=number, points=points, style="raw"))
        smoothed.append(Curve(run=number, points=Points(points.x, mean)))
    means = np.concatenate([curve.points.y for curve in smoothed])
    means = means[np.isfinite(means) & (means > 0)]
    is_log = len(means) > 0 and means.max() > _LOG_SPAN * means.min()
    title = "Training loss"
    panel = Panel(
        title=title,
        x_label=AXES[axis],
        curves=[*raw, *smoothed],
        scale="log" if is_log else "linear",
        # Single batches may reach 0; the axis follows the means.
        y_limits=(means.min() / 3, means.max() * 2) if is_log else None,
        overlap=len(runs) > _FEW,
    )
    caption = f"Mean over about a fiftieth of the run’s samples{'; faint, each batch' if raw else ''}."
    if len(runs) > _FEW:
        caption += " Where lines coincide, here and below, each lies on a wider one."
    return FigureText(title=title, caption=caption, panel=panel)


def _score(runs: Sequence[Run], names: Sequence[str], axis: str) -> FigureText:
    # Runs of several tasks are all drawn by what all have.
    is_one = len({run.metric.name for run in runs}) == 1
    metric, field = (runs[0].metric, "score") if is_one else (ACCURACY, "accuracy")
    curves: list[Curve] = []
    later: list[Floats] = []
    for number, run in enumerate(runs):
        x = column(run.evaluations, axis)
        for split, style in (("test", "line"), ("validation", "dashed")):
            y = column(run.evaluations, f"{split}_{field}")
            if np.isfinite(y).any():
                curves.append(Curve(run=number, points=Points(x, y), style=style))
                later.append(y[len(y) // 10 :])
    has_validation = any(curve.style == "dashed" for curve in curves)
    title = f"Test and validation {metric.name}" if has_validation else f"Test {metric.name}"
    caption = "Solid, the test set; dashed, the validation set." if has_validation else "After each epoch."
    if not curves:
        return FigureText(title=title, caption="No run has been evaluated yet.", panel=None)
    limits = _share_limits(np.concatenate(later)) if metric.is_share else None
    if limits is not None and limits[0] > 0:
        caption += f" The axis begins at {limits[0]:.1%}."
    panel = Panel(
        title=title,
        x_label=AXES[axis],
        curves=curves,
        percent=metric.is_share,
        y_limits=limits,
        overlap=len(runs) > _FEW,
    )
    return FigureText(title=title, caption=caption, panel=panel)


def _share_limits(later: Floats) -> tuple[float, float]:
    """From 0 to 1, or closer where all but the first tenth is high up."""
    lowest, highest = float(np.nanmin(later)), float(np.nanmax(later))
    floor = max(0.0, lowest - 0.25 * (highest - lowest) - 0.002)
    return (floor, min(1.0, highest + 0.25 * (1 - floor))) if floor > 0.5 else (0.0, 1.0)


def _batch_size(runs: Sequence[Run], names: Sequence[str], axis: str) -> FigureText:
    curves = [Curve(run=n, points=_points(run, axis, "requested"), style="steps") for n, run in enumerate(runs)]
    sizes = np.concatenate([curve.points.y for curve in curves])
    scale = "log2" if np.nanmax(sizes) >= 4 * np.nanmin(sizes) else "linear"
    limits = None if scale == "log2" else (0.0, 1.15 * float(np.nanmax(sizes)))
    overlap = len(runs) > _FEW
    panel = Panel(title="Batch size", x_label=AXES[axis], curves=curves, scale=scale, y_limits=limits, overlap=overlap)
    caption = "In samples, as the rule requested; at an epoch’s end batches may be shorter."
    return FigureText(title="Batch size", caption=caption, panel=panel)


def _learning_rate(runs: Sequence[Run], names: Sequence[str], axis: str) -> FigureText:
    curves = []
    for number, run in enumerate(runs):
        used = column(run.steps, "lr") * column(run.steps, "lr_scale")
        points = Points(column(run.steps, axis), used)
        curves.append(Curve(run=number, points=points, style="steps"))
    rates = np.concatenate([curve.points.y for curve in curves])
    limits = (0.0, 1.15 * float(np.nanmax(rates)) or 1.0)
    panel = Panel(title="Learning rate", x_label=AXES[axis], curves=curves, y_limits=limits, overlap=True)
    caption = "With the rule’s scale on it."
    if len(runs) > 1:
        caption += " Where lines coincide, each lies on a wider one."
    return FigureText(title="Learning rate", caption=caption, panel=panel)


def _noise_scale(runs: Sequence[Run], names: Sequence[str], axis: str) -> FigureText:
    curves: list[Curve] = []
    absent: list[str] = []
    for number, run in enumerate(runs):
        points = noise_scale_points(run.steps, axis, window=max(20, len(run.steps) / 30))
        if points is None or not np.isfinite(points.y).any():
            absent.append(names[number])
        else:
            curves.append(Curve(run=number, points=points))
    caption = (
        "tr Σ / ‖G‖² in samples: the batch size at which noise and signal are equal. "
        "Both are averaged over a thirtieth of the run’s updates; a gap is where noise hides the signal."
    )
    if absent:
        caption += (
            f" Not shown, since no gradient statistics were logged: {html.escape(', '.join(dict.fromkeys(absent)))}."
        )
    panel = Panel(title="Gradient noise scale", x_label=AXES[axis], curves=curves, scale="log") if curves else None
    return FigureText(title="Gradient noise scale", caption=caption, panel=panel)


def _updates(runs: Sequence[Run], names: Sequence[str], axis: str) -> FigureText:
    curves = [
        Curve(run=number, points=Points(column(run.steps, axis), np.cumsum(~_is_skipped(run)).astype(np.float64)))
        for number, run in enumerate(runs)
    ]
    panel = Panel(title="Updates", x_label=AXES[axis], curves=curves, overlap=len(runs) > _FEW)
    caption = "Steps of the optimizer so far, without skipped ones. A larger batch takes fewer for the same samples."
    return FigureText(title="Updates", caption=caption, panel=panel)


FIGURES: dict[str, Callable[[Sequence[Run], Sequence[str], str], FigureText]] = {
    "loss": _loss,
    "score": _score,
    "batch-size": _batch_size,
    "noise-scale": _noise_scale,
    "learning-rate": _learning_rate,
    "updates": _updates,
}
"""The figures of a report, in order: runs, their names and an axis in, a figure out."""
