"""Pure formulas from measured sums to the numbers that rules read."""

import math
from dataclasses import dataclass
from typing import TypedDict

from gradbatch._types import LayerStatistics, Statistics
from gradbatch.errors import InvalidInputError

__all__ = [
    "DebiasedEma",
    "Ema",
    "RunningMean",
    "adascale_gain",
    "biased_grad_variance",
    "corrected_grad_sqnorm",
    "grad_variance",
    "grown",
    "noise_scale",
]


def biased_grad_variance(stats: Statistics | LayerStatistics) -> float:
    r"""Mean squared distance of the per-sample gradients from their mean.

    $$ \xi = \frac1B\sum_i\|g_i-\bar g\|^2 = \frac1B\sum_i\|g_i\|^2 - \|\bar g\|^2. $$

    Source: Balles, Romero and Hennig 2017 (arXiv:1612.05086), the estimator of the authors' code.

    Args:
        stats: Statistics of one batch with ``sample_sqnorm`` and ``grad_sqnorm``.

    Returns:
        $\xi$ in squared gradient units; 0 for one sample.

    Raises:
        InvalidInputError: If a moment was not measured.

    Example:
        >>> biased_grad_variance(Statistics(num_samples=4, loss=1.0, grad_sqnorm=1.0, sample_sqnorm=4.0))
        3.0
    """
    if stats.sample_sqnorm is None or stats.grad_sqnorm is None:
        raise InvalidInputError(
            "the variance needs `sample_sqnorm` and `grad_sqnorm`, which were not measured: name both in the "
            "rule's `requires` or in the probe's `quantities`"
        )
    return stats.sample_sqnorm - stats.grad_sqnorm


def grad_variance(stats: Statistics | LayerStatistics) -> float:
    r"""Unbiased estimate of the total variance of the per-sample gradients.

    $$ \operatorname{tr}\hat\Sigma = \frac{B}{B-1}\Big(\frac1B\sum_i\|g_i\|^2 - \|\bar g\|^2\Big). $$

    Unlike `biased_grad_variance`, its expectation does not depend on the batch size being adapted.

    Args:
        stats: Statistics of one batch with ``sample_sqnorm`` and ``grad_sqnorm``. Needs ``num_samples >= 2``.

    Returns:
        The trace of the covariance, in squared gradient units, summed over all parameters.

    Raises:
        InvalidInputError: If fewer than two samples were drawn or a moment was not measured.

    Example:
        >>> grad_variance(Statistics(num_samples=4, loss=1.0, grad_sqnorm=1.0, sample_sqnorm=4.0))
        4.0
    """
    if stats.num_samples < 2:
        raise InvalidInputError(
            f"an unbiased variance needs at least 2 samples, got {stats.num_samples}: draw a larger batch"
        )
    return stats.num_samples / (stats.num_samples - 1) * biased_grad_variance(stats)


def corrected_grad_sqnorm(stats: Statistics | LayerStatistics) -> float:
    r"""Unbiased estimate of $\|G\|^2$, the squared norm of the true gradient.

    The mean over $B$ samples carries the noise of its average, $E\|\bar g\|^2=\|G\|^2+\operatorname{tr}\Sigma/B$:

    $$ \widehat{\|G\|^2} = \|\bar g\|^2 - \operatorname{tr}\hat\Sigma/B. $$

    Source: McCandlish et al. 2018 (arXiv:1812.06162), appendix A.1 with a small batch of one sample.

    Args:
        stats: Statistics of one batch with ``sample_sqnorm`` and ``grad_sqnorm``. Needs ``num_samples >= 2``.

    Returns:
        The estimate, in squared gradient units. It may be negative where noise dominates.

    Raises:
        InvalidInputError: If fewer than two samples were drawn or a moment was not measured.

    Example:
        >>> corrected_grad_sqnorm(Statistics(num_samples=4, loss=1.0, grad_sqnorm=1.5, sample_sqnorm=3.0))
        1.0
    """
    variance = grad_variance(stats)
    assert stats.grad_sqnorm is not None
    return stats.grad_sqnorm - variance / stats.num_samples


def noise_scale(stats: Statistics | LayerStatistics) -> float | None:
    r"""Simple gradient noise scale: the batch size at which noise and signal are equally large.

    $$ B_\text{simple} = \operatorname{tr}\hat\Sigma \big/ \widehat{\|G\|^2}. $$

    Both parts are unbiased, their ratio is not; smooth them apart before dividing where that matters.

    Source: McCandlish et al. 2018 (arXiv:1812.06162), section 2.2.

    Args:
        stats: Statistics of one batch with ``sample_sqnorm`` and ``grad_sqnorm``. Needs ``num_samples >= 2``.

    Returns:
        The noise scale in samples, or ``None`` where the corrected $\|G\|^2$ is not positive.

    Raises:
        InvalidInputError: If fewer than two samples were drawn or a moment was not measured.

    Example:
        >>> noise_scale(Statistics(num_samples=4, loss=1.0, grad_sqnorm=1.5, sample_sqnorm=3.0))
        2.0
    """
    signal = corrected_grad_sqnorm(stats)
    return grad_variance(stats) / signal if signal > 0 else None


def adascale_gain(variance: float, grad_sqnorm: float, *, base_batch_size: float, batch_size: float) -> float:
    r"""How many updates with the base batch size one update with this batch size is worth.

    With the variance $\operatorname{tr}\Sigma$ of per-sample gradients, the squared norm $\|G\|^2$ of the true
    gradient, base batch size $b$ and batch size $B$, $S=B/b$ times as large,

    $$ r = \frac{\operatorname{tr}\Sigma/b+\|G\|^2}{\operatorname{tr}\Sigma/B+\|G\|^2}
         = S\,\frac{B_\text{simple}+b}{B_\text{simple}+B}, $$

    which is $(\sigma^2+\mu^2)/(\sigma^2/S+\mu^2)$ with $\sigma^2=\operatorname{tr}\Sigma/b$, the variance of a
    gradient over $b$ samples. It lies between 1 and $S$; $r/S$ is the statistical efficiency of Pollux.

    Source: Johnson et al. 2020 (arXiv:2007.05105), the gain ratio of AdaScale.

    Args:
        variance: $\operatorname{tr}\Sigma$, an estimate; below 0 it counts as 0.
        grad_sqnorm: $\|G\|^2$, an estimate; below 0 it counts as 0.
        base_batch_size: $b>0$, in samples.
        batch_size: $B>0$, in samples.

    Returns:
        The gain; 1 where both estimates are 0 and say nothing.

    Example:
        >>> adascale_gain(64.0, 1.0, base_batch_size=32, batch_size=64)
        1.5
    """
    largest = max(variance, grad_sqnorm)
    if not largest > 0:
        return 1.0
    # In units of the larger, so that no sum overflows.
    noise, signal = max(variance, 0.0) / largest, max(grad_sqnorm, 0.0) / largest
    return (noise / base_batch_size + signal) / (noise / batch_size + signal)


def grown(batch_size: int, factor: float) -> int:
    """The batch size times a factor above 1, rounded down, but one sample more at least."""
    return max(batch_size + 1, int(factor * batch_size))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ema:
    r"""Running mean $\bar x \leftarrow \beta\bar x + (1-\beta)x$, without bias correction.

    The mean itself is a plain float that its owner keeps; nothing non-finite ever enters it.

    Attributes:
        decay: $\beta$, the coefficient of the past, in [0, 1).

    Example:
        >>> Ema(decay=0.75).update(0.0, 4.0)
        1.0
    """

    decay: float

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise InvalidInputError(f"`decay` must be at least 0 and below 1, got {self.decay}")

    def update(self, mean: float, value: float) -> float:
        """The mean after one more observation; unchanged if the observation is nan or infinite."""
        return self.decay * mean + (1 - self.decay) * value if math.isfinite(value) else mean


class RunningMean(TypedDict):
    """A mean, and the weight of the observations in it."""

    mean: float
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DebiasedEma:
    r"""Running mean of `Ema` from 0, divided by the weight of its observations: without the bias of the start.

    That is $\bar x=\sum_kw_kx_k/W$ with $W=\sum_kw_k$, where each new $w_t=1-\beta$ follows on
    $w_k\leftarrow\beta w_k$, kept in the form that needs no division afterwards and never leaves the range of what was
    observed:

    $$ W \leftarrow \beta W + (1-\beta), \qquad \bar x \leftarrow (1-a)\,\bar x + a\,x, \quad a = (1-\beta)/W. $$

    The first observation is the first mean; while there are fewer than some $1/(1-\beta)$ it is nearly the plain mean.
    The decay may differ from one observation to the next.

    Attributes:
        decay: $\beta$, the coefficient of the past, in [0, 1).

    Example:
        >>> ema = DebiasedEma(decay=0.5)
        >>> ema.update(ema.update(ema.init(), 3.0), 6.0)
        {'mean': 5.0, 'weight': 0.75}
    """

    decay: float

    def __post_init__(self) -> None:
        Ema(decay=self.decay)

    def init(self) -> RunningMean:
        """No observation yet."""
        return RunningMean(mean=0.0, weight=0.0)

    def update(self, state: RunningMean, value: float) -> RunningMean:
        """The mean after one more observation; unchanged if the observation is nan or infinite."""
        if not math.isfinite(value):
            return state
        weight = self.decay * state["weight"] + (1 - self.decay)
        share = (1 - self.decay) / weight
        return RunningMean(mean=(1 - share) * state["mean"] + share * value, weight=weight)
