"""Curves out of run logs: smoothed, thinned, and the noise scale from logged moments."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gradbatch._types import Statistics
from gradbatch.estimators import Ema, corrected_grad_sqnorm, grad_variance

__all__ = ["Floats", "Points", "column", "noise_scale_points", "smooth", "thin"]

Floats = npt.NDArray[np.float64]
"""A column of numbers."""


class Points(NamedTuple):
    """A curve.

    Attributes:
        x: Places, growing.
        y: Values; nan leaves a gap.
    """

    x: Floats
    y: Floats


def column(lines: Sequence[Mapping[str, Any]], name: str) -> Floats:
    """One number of each line of a log.

    Args:
        lines: From `gradbatch.sinks.read_jsonl`.
        name: Which.

    Returns:
        The numbers, nan where a line has none.
    """
    values = (line.get(name) for line in lines)
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def smooth(values: Floats, batch_sizes: Floats, window: float) -> Floats:
    r"""The mean over about the last ``window`` samples, with exponentially fading weights.

    $$ \bar x_t = \frac{\sum_{s\le t} w_s B_s x_s}{\sum_{s\le t} w_s B_s},\qquad
       w_s = e^{-(n_t-n_s)/\text{window}}, $$

    with $n$ the samples seen. Counted in samples, it smooths runs with different batch sizes alike.

    Args:
        values: One per update; nan is left out.
        batch_sizes: Samples per update.
        window: In samples.

    Returns:
        One mean per update; nan before the first value.
    """
    weighted = total = 0.0
    means = np.full(len(values), math.nan)
    for index, (value, size) in enumerate(zip(values, batch_sizes, strict=True)):
        fade = math.exp(-size / window)
        weighted, total = weighted * fade, total * fade
        if math.isfinite(value):
            weighted, total = weighted + size * value, total + size
        means[index] = weighted / total if total else math.nan
    return means


def thin(points: Points, *, max_points: int = 500) -> Points:
    """The same curve to the eye with fewer points: stretches keep their extremes.

    Args:
        points: Any curve.
        max_points: About how many to keep.

    Returns:
        At most about ``max_points`` of the points, the first and the last among them.
    """
    num_points = len(points.x)
    if num_points <= max_points:
        return points
    edges = [int(edge) for edge in np.linspace(0, num_points, max_points // 2 + 1)]
    kept = {0, num_points - 1}
    for start, stop in itertools.pairwise(edges):
        stretch = points.y[start:stop]
        if np.isnan(stretch).all():
            kept.add(start)  # a gap stays a gap
        else:
            kept |= {int(start + np.nanargmin(stretch)), int(start + np.nanargmax(stretch))}
    indices = sorted(kept)
    return Points(points.x[indices], points.y[indices])


def noise_scale_points(lines: Sequence[Mapping[str, Any]], axis: str, *, window: float = 20) -> Points | None:
    r"""The gradient noise scale, $\operatorname{tr}\Sigma$ over $\|G\|^2$, along a run.

    Both parts are averaged before dividing, since the ratio of one batch is far too noisy and biased. The
    averages begin at 0 with equal weights, so that this beginning cancels in the ratio.

    Args:
        lines: The run log.
        axis: Name of the number that the places are taken from.
        window: Updates that both exponential means reach back.

    Returns:
        The curve in samples, nan where the averaged $\|G\|^2$ is not positive; ``None`` where the run
        logged no moments.
    """
    ema = Ema(decay=1 - 1 / window)
    variance = signal = 0.0
    x: list[float] = []
    y: list[float] = []
    for line in lines:
        moments = (line.get("grad_sqnorm"), _sample_sqnorm(line))
        if None in moments or line["batch_size"] < 2:
            continue
        stats = Statistics(
            num_samples=line["batch_size"],
            loss=math.nan,
            grad_sqnorm=moments[0],
            sample_sqnorm=moments[1],
        )
        variance = ema.update(variance, grad_variance(stats))
        signal = ema.update(signal, corrected_grad_sqnorm(stats))
        x.append(line[axis])
        y.append(variance / signal if signal > 0 else math.nan)
    return Points(np.array(x, dtype=np.float64), np.array(y, dtype=np.float64)) if x else None


def _sample_sqnorm(line: Mapping[str, Any]) -> float | None:
    """As it was logged, or from the variance that was; ``None`` where neither was."""
    logged, norm, variance = (line.get(name) for name in ("sample_sqnorm", "grad_sqnorm", "grad_variance"))
    if logged is not None or norm is None or variance is None:
        return logged
    return norm + variance * (line["batch_size"] - 1) / line["batch_size"]
