"""Goodput: the batch size at which training makes most progress per second."""

import math
from dataclasses import dataclass
from typing import TypedDict

from gradbatch._types import Decision, Progress, Rule, Statistics
from gradbatch.rules._check import check_above, check_at_least, check_decay, check_from
from gradbatch.rules._moments import (
    Moments,
    average,
    gain_of,
    has_moments,
    no_moments,
    quantities,
    seen_by_optimizer,
)
from gradbatch.rules._sizes import hold, largest_size
from gradbatch.rules._step_times import StepTimes, TimeFit, fit, no_times, observe

__all__ = ["Goodput", "GoodputState"]

_FAR = 2**53
"""A batch size beyond any bound."""


class GoodputState(TypedDict):
    """The base batch size (0 before the first batch), averages of the gradient's moments, and the step times."""

    base: int
    moments: Moments
    times: StepTimes


@dataclass(frozen=True, kw_only=True)
class Goodput(Rule[GoodputState]):
    r"""Goodput of Pollux: samples per second, times how much a sample is worth in a batch of that size.

    With the noise scale $\varphi=\operatorname{tr}\Sigma/\|G\|^2$, base batch size $M_0$ and the time
    $T(M)=a+bM$ of an update with $M$ samples, in seconds,

    $$ \text{goodput}(M) = \frac M{T(M)}\cdot\frac{\varphi+M_0}{\varphi+M}, \qquad M_0\le M\le M_\max, $$

    which is largest at $M^*=\sqrt{\varphi a/b}$ or the bound next to it. The size moves there if that improves the
    goodput by more than 5 %. The learning rate is multiplied by $r^p$ with AdaScale's gain
    $r=M/M_0\cdot(\varphi+M_0)/(\varphi+M)$ of the batch at hand: $p=1$ for SGD, $p=\frac12$ for Adam (AdamScale).

    $a,b\ge0$ are fitted in the state by least squares of the relative error, $\sum_k((a+b\bar M_k)/T_k-1)^2$ over all
    updates $k$ so far, with $T_k$ the difference of `Progress.seconds` since the last asking, per update, and
    $\bar M_k$ the samples per update. A pause, which makes one $T_k$ large, weighs next to nothing. The first batch,
    which warms things up, is not timed. The clock is in the log (`Record.seconds`), so that a replay gives the same
    sizes.

    Source: Qiao et al. 2021 (Pollux, OSDI, arXiv:2008.12260) and its library AdaptDL. Deviations: one process, so that
    there is no term for the network; micro-batches are not chosen here. AdaptDL tries 50 sizes between the bounds,
    for which the optimum in closed form stands here; fits by L-BFGS the logarithm of the time, every 30 s; and changes
    at epochs' starts, where this rule may at each update. Where one size alone has been seen AdaptDL takes half
    of its time for $a$, which is optimistic about larger sizes and so explores; here $a=b\bar M$ counts as one
    observation among the others, which is the same at first and fades as sizes differ. Choices of our own: the
    size is at most doubled beyond the largest one timed so far; the time is that of the whole update, measuring
    included; nothing in the fit is forgotten. $\operatorname{tr}\Sigma$ and $\|G\|^2$ are averaged
    with decay $0.999^{M/M_0}$, without the bias of the start, from per-sample gradients; an average below 0 counts as
    0: without a signal the largest size is best, without noise $M_0$, and with neither $M_0$ at a gain of 1.

    Attributes:
        base_batch_size: $M_0$, the batch size that the learning rate is meant for, and the smallest one; ``None`` for
            the size of the first batch.
        max_batch_size: $M_\max$, in samples; ``None`` for 32 $M_0$, which the paper calls safe as a rule. The data set
            is a bound, too.
        improvement: Goodput must improve by more than this factor for the size to move; at least 1.
        lr_power: $p\ge0$; 0 leaves the learning rate alone.
        decay: Of the averages, per $M_0$ samples, in [0, 1).
        growth: How far beyond the largest size that was timed, as a factor above 1.
        preconditioned: Take variance and gradient as Adam's preconditioner $P$ leaves them,
            $\operatorname{tr}(P\Sigma P)$ and $\|PG\|^2$, as the source does; for SGD $P=I$.
    """

    base_batch_size: int | None = None
    max_batch_size: int | None = None
    improvement: float = 1.05
    lr_power: float = 1.0
    decay: float = 0.999
    growth: float = 2.0
    preconditioned: bool = False

    def __post_init__(self) -> None:
        if self.base_batch_size is not None:
            check_at_least("base_batch_size", self.base_batch_size, 1)
        if self.max_batch_size is not None:
            check_at_least("max_batch_size", self.max_batch_size, self.base_batch_size or 1)
        check_from("improvement", self.improvement, 1)
        check_from("lr_power", self.lr_power, 0)
        check_decay(self.decay)
        check_above("growth", self.growth, 1)

    def requires(self, progress: Progress) -> frozenset[str]:
        """Variance and squared norm."""
        return quantities(preconditioned=self.preconditioned)

    def init(self) -> GoodputState:
        """Nothing seen."""
        return GoodputState(base=0, moments=no_moments(), times=no_times())

    def update(self, statistics: Statistics, progress: Progress, state: GoodputState) -> tuple[Decision, GoodputState]:
        """Time the update, average the moments, and move to a better size; see the class."""
        if self.preconditioned:
            statistics = seen_by_optimizer(statistics)
        if not has_moments(statistics):
            return hold("goodput", progress, "this batch has no finite variance"), state
        base = state["base"] or self.base_batch_size or progress.batch_size
        moments = average(state["moments"], statistics, self.decay ** (statistics.num_samples / base))
        state = GoodputState(base=base, moments=moments, times=observe(state["times"], progress))
        gain = gain_of(moments, base_batch_size=base, batch_size=statistics.num_samples)
        numbers = {"gain": gain, "variance": moments["variance"]["mean"]}
        numbers["grad_sqnorm"] = moments["signal"]["mean"]
        times = fit(state["times"])
        if times is None:
            size, reason = progress.batch_size, "goodput: held, no update has been timed yet"
        else:
            size, reason = self._choose(times, progress, state)
            numbers |= {"seconds": times.constant, "seconds_per_sample": times.per_sample}
        decision = Decision(batch_size=size, lr_scale=gain**self.lr_power, reason=reason, numbers=numbers)
        return decision, state

    def _choose(self, times: TimeFit, progress: Progress, state: GoodputState) -> tuple[int, str]:
        """The size, and why."""
        base, moments = state["base"], state["moments"]
        largest = self._largest(progress, state)
        present = max(base, min(progress.batch_size, largest))
        best = max(base, min(_optimum(times, moments, base), int(self.growth * state["times"]["largest"]), largest))
        ratio = _goodput(best, times, moments, base) / _goodput(present, times, moments, base)
        size = best if ratio > self.improvement else present
        if size == progress.batch_size:
            return size, f"goodput: stays, {best} is {ratio:.4g} times as good"
        return size, f"goodput: {best} is {ratio:.4g} times as good as {present}"

    def _largest(self, progress: Progress, state: GoodputState) -> int:
        """The largest size allowed; the base size wins over it."""
        largest = 32 * state["base"] if self.max_batch_size is None else self.max_batch_size
        return max(state["base"], largest_size(largest, progress))


def _goodput(size: int, times: TimeFit, moments: Moments, base: int) -> float:
    """Progress per second, in base batches: M/T times efficiency is M0 r/T, and M0 is common to all."""
    return gain_of(moments, base_batch_size=base, batch_size=size) / times.predict(size)


def _optimum(times: TimeFit, moments: Moments, base: int) -> int:
    r"""Where the goodput is largest without bounds: the zero of its derivative, $\sqrt{\varphi a/b}$."""
    noise, signal = max(moments["variance"]["mean"], 0.0), max(moments["signal"]["mean"], 0.0)
    if noise == 0:
        return base
    if signal == 0 or times.per_sample == 0:
        return _FAR
    optimum = math.sqrt(noise / signal) * math.sqrt(times.constant / times.per_sample)
    return round(min(optimum, _FAR))
