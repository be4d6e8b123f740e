"""Averages of the gradient's variance and squared norm, from which gains and noise scales are computed."""

import math
from dataclasses import replace
from typing import TypedDict

from gradbatch._types import Statistics
from gradbatch.estimators import DebiasedEma, Ema, RunningMean, adascale_gain

__all__ = [
    "Moments",
    "average",
    "average_as_adascale",
    "gain_of",
    "has_moments",
    "no_moments",
    "quantities",
    "seen_by_optimizer",
]


class Moments(TypedDict):
    r"""Averages of $\operatorname{tr}\hat\Sigma$ and of the corrected $\|G\|^2$, which do not depend on the batch size.

    Their ratio is formed of the averages; each estimate by itself is unbiased and may be below 0.
    """

    variance: RunningMean
    signal: RunningMean


def quantities(*, preconditioned: bool) -> frozenset[str]:
    """What the averages are of, as the optimizer's preconditioner leaves it or as it is."""
    kind = "preconditioned" if preconditioned else "grad"
    return frozenset({f"{kind}_variance", f"{kind}_sqnorm"})


def seen_by_optimizer(statistics: Statistics) -> Statistics:
    """The statistics with the preconditioned moments in place of the plain ones."""
    return replace(
        statistics, grad_variance=statistics.preconditioned_variance, grad_sqnorm=statistics.preconditioned_sqnorm
    )


def no_moments() -> Moments:
    """Averages over nothing, of no weight."""
    nothing = RunningMean(mean=0.0, weight=0.0)
    return Moments(variance=nothing, signal=nothing.copy())


def has_moments(statistics: Statistics) -> bool:
    """Whether the batch has a finite variance and squared norm."""
    values = (statistics.grad_variance, statistics.grad_sqnorm)
    return all(value is not None and math.isfinite(value) for value in values)


def average(moments: Moments, statistics: Statistics, decay: float) -> Moments:
    """Averages with this batch in them, the past decayed, without the bias of their start."""
    variance, signal = _estimates(statistics)
    ema = DebiasedEma(decay=decay)
    return Moments(variance=ema.update(moments["variance"], variance), signal=ema.update(moments["signal"], signal))


def average_as_adascale(moments: Moments, statistics: Statistics, base_batch_size: int, window: float) -> Moments:
    r"""Averages with this batch in them, of the decay and the start that AdaScale's authors advise.

    The decay is $\theta=\max(1-S/1000,0)$ with $S$ the size of the batch over the base size and the window 1000; for
    the first $1/(1-\theta)$ batches it is the plain mean.

    Returns:
        The averages; their weight is the number of batches.
    """
    variance, signal = _estimates(statistics)
    count = moments["variance"]["weight"] + 1
    ema = Ema(decay=1 - max(1 / count, min(statistics.num_samples / base_batch_size / window, 1.0)))
    return Moments(
        variance=RunningMean(mean=ema.update(moments["variance"]["mean"], variance), weight=count),
        signal=RunningMean(mean=ema.update(moments["signal"]["mean"], signal), weight=count),
    )


def gain_of(moments: Moments, *, base_batch_size: float, batch_size: float) -> float:
    """AdaScale's gain; 1 before the first measurement."""
    variance, signal = moments["variance"]["mean"], moments["signal"]["mean"]
    return adascale_gain(variance, signal, base_batch_size=base_batch_size, batch_size=batch_size)


def _estimates(statistics: Statistics) -> tuple[float, float]:
    """The batch's variance, and its squared norm without the noise that the mean gradient carries."""
    assert statistics.grad_variance is not None
    assert statistics.grad_sqnorm is not None
    return statistics.grad_variance, statistics.grad_sqnorm - statistics.grad_variance / statistics.num_samples
