"""Averages of the gradient's variance and squared norm, from which gains and noise scales are computed."""

import math
from typing import TypedDict

from gradbatch._types import Statistics
from gradbatch.estimators import Ema, adascale_gain

__all__ = ["Moments", "average", "average_as_adascale", "gain_of", "has_moments", "no_moments"]


class Moments(TypedDict):
    """Averages, of estimates that do not depend on the batch size.

    Their ratio is formed of the averages; each estimate by itself is unbiased and may be below 0.
    """

    weight: float
    variance: float
    grad_sqnorm: float


def no_moments() -> Moments:
    """Averages over nothing, of no weight."""
    return Moments(weight=0.0, variance=0.0, grad_sqnorm=0.0)


def has_moments(statistics: Statistics) -> bool:
    """Whether the batch has a finite variance and squared norm."""
    values = (statistics.grad_variance, statistics.grad_sqnorm)
    return all(value is not None and math.isfinite(value) for value in values)


def average(moments: Moments, statistics: Statistics, decay: float) -> Moments:
    r"""Averages with this batch in them, the past decayed, without the bias of their start.

    That is $x_t=\sum_k w_kx_k/\sum_k w_k$, where each new $w_t=1-\beta_t$ follows on $w_k\leftarrow\beta_tw_k$.

    Returns:
        The averages.
    """
    weight = decay * moments["weight"] + (1 - decay)
    return _mixed(moments, statistics, weight, (1 - decay) / weight)


def average_as_adascale(moments: Moments, statistics: Statistics, base_batch_size: int, window: float) -> Moments:
    r"""Averages with this batch in them, of the decay and the start that AdaScale's authors advise.

    The decay is $\theta=\max(1-S/1000,0)$ with $S$ the size of the batch over the base size and the window 1000; for
    the first $1/(1-\theta)$ batches it is the plain mean.

    Returns:
        The averages; their weight is the number of batches.
    """
    count = moments["weight"] + 1
    share = max(1 / count, min(statistics.num_samples / base_batch_size / window, 1.0))
    return _mixed(moments, statistics, count, share)


def gain_of(moments: Moments, *, base_batch_size: float, batch_size: float) -> float:
    """AdaScale's gain; 1 before the first measurement."""
    return adascale_gain(
        moments["variance"], moments["grad_sqnorm"], base_batch_size=base_batch_size, batch_size=batch_size
    )


def _mixed(moments: Moments, statistics: Statistics, weight: float, share: float) -> Moments:
    """The averages in which this batch has a share."""
    assert statistics.grad_variance is not None
    assert statistics.grad_sqnorm is not None
    # The mean gradient carries noise of its own, tr(Sigma)/B.
    noise = statistics.grad_variance / statistics.num_samples
    ema = Ema(decay=1 - share)
    return Moments(
        weight=weight,
        variance=ema.update(moments["variance"], statistics.grad_variance),
        grad_sqnorm=ema.update(moments["grad_sqnorm"], statistics.grad_sqnorm - noise),
    )
