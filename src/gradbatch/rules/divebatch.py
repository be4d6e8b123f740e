"""DiveBatch: a batch size in proportion to the diversity of an epoch's gradients."""

import math
from dataclasses import dataclass
from typing import TypedDict

from gradbatch._types import Decision, Progress, Rule, Statistics
from gradbatch.estimators import Ema
from gradbatch.rules._check import check_at_least, check_positive
from gradbatch.rules._sizes import hold, largest_size, measured

__all__ = ["DiveBatch", "DiveBatchState"]


class DiveBatchState(TypedDict):
    """Means over the samples measured so far in an epoch, and the size of the first batch (``None`` before it)."""

    epoch: int
    samples: int
    sample_sqnorm: float
    grad_sqnorm: float
    initial_batch_size: int | None


@dataclass(frozen=True, kw_only=True)
class DiveBatch(Rule[DiveBatchState]):
    r"""Grow the batch at an epoch's end to a part of the data set times the diversity of its gradients.

    With the gradients $g_i$ of the $n$ samples of an epoch,

    $$ \Delta = \frac{\sum_i\|g_i\|^2}{\|\sum_i g_i\|^2}, \qquad
       m' = \min\big(\lfloor\max(\delta\,n\,\Delta,\,m)\rfloor,\,m_\max\big), $$

    so that the size never falls. Every $T$-th epoch is measured while $m<m_\max$, and the others cost nothing.
    Where $\Delta$ is not finite the size is the largest.

    Source: Chen, Wang and Sundaram 2025 (arXiv:2509.16173) and its authors' code, with the defaults of their CIFAR
    experiments. Deviation: the authors add up the gradient *vectors* of the epoch while the parameters move, which a
    rule cannot see. Here each batch of $B$ samples estimates both parts of
    $n\Delta=\frac1n\sum_i\|g_i\|^2\big/\|\frac1n\sum_i g_i\|^2$,

    $$ \frac1B\sum_i\|g_i\|^2 \quad\text{and}\quad
       \|\bar g\|^2-\operatorname{tr}\hat\Sigma\Big(\frac1B-\frac1n\Big), $$

    the second without bias at fixed parameters, for a batch drawn from the $n$ without replacement; both are averaged
    over the epoch, weighted by $B$. The numerator is the authors'. The denominator is the mean over the epoch of
    the full gradient's squared norm instead of the squared norm of its mean over the epoch: in expectation the same at
    fixed parameters, and larger with moving ones, so that the size is smaller. A batch of one sample is left out.

    Attributes:
        delta: $\delta>0$, part of the data set.
        interval: $T$, in epochs.
        max_batch_size: $m_\max$, in samples; the data set is a bound as well.
        scale_lr: Multiply the learning rate whenever the batch size is multiplied, by the same factor.
    """

    delta: float = 0.1
    interval: int = 20
    max_batch_size: int = 2048
    scale_lr: bool = False

    def __post_init__(self) -> None:
        check_positive("delta", self.delta)
        check_at_least("interval", self.interval, 1)
        check_at_least("max_batch_size", self.max_batch_size, 1)

    def requires(self, progress: Progress) -> frozenset[str]:
        """The moments and the variance, in epochs that are measured."""
        if not self._is_measured(progress.samples_seen, progress):
            return frozenset()
        return frozenset({"sample_sqnorm", "grad_sqnorm", "grad_variance"})

    def init(self) -> DiveBatchState:
        """Nothing measured yet."""
        return DiveBatchState(epoch=0, samples=0, sample_sqnorm=0.0, grad_sqnorm=0.0, initial_batch_size=None)

    def update(
        self, statistics: Statistics, progress: Progress, state: DiveBatchState
    ) -> tuple[Decision, DiveBatchState]:
        """Measure in the epochs for it, and resize at their ends; see the class."""
        if not statistics.is_finite:
            return hold("divebatch", progress, "this batch's numbers are not finite"), state
        initial = state["initial_batch_size"] or progress.batch_size
        state = {**state, "initial_batch_size": initial}
        size, reason = progress.batch_size, "divebatch: as before"
        numbers: dict[str, float] = {}
        begin = progress.samples_seen - statistics.num_samples
        is_measured = self._is_measured(begin, progress)
        # An epoch whose last batch could not be measured is over with the batch after it, which is none of its own.
        is_late = state["samples"] > 0 and begin // progress.dataset_size > state["epoch"]
        if is_measured and not is_late:
            state = _averaged(statistics, progress, state)
        if state["samples"] and progress.samples_seen // progress.dataset_size > state["epoch"]:
            numbers = {"sample_sqnorm": state["sample_sqnorm"], "grad_sqnorm": state["grad_sqnorm"]}
            size = self._grown(progress, state)
            reason = f"divebatch: n*diversity = {state['sample_sqnorm']:.4g}/{state['grad_sqnorm']:.4g}"
            state = {**self.init(), "initial_batch_size": initial}
        if is_measured and is_late:
            state = _averaged(statistics, progress, state)
        scale = progress.batch_size / initial if self.scale_lr else 1.0
        return Decision(batch_size=size, lr_scale=scale, reason=reason, numbers=numbers), state

    def _is_measured(self, begin: int, progress: Progress) -> bool:
        """Whether a batch that begins after so many samples is measured."""
        is_due = (begin // progress.dataset_size + 1) % self.interval == 0
        return is_due and progress.batch_size < largest_size(self.max_batch_size, progress)

    def _grown(self, progress: Progress, state: DiveBatchState) -> int:
        """The size after an epoch with these means."""
        signal = state["grad_sqnorm"]
        asked = self.delta * state["sample_sqnorm"] / signal if signal > 0 else math.inf
        return math.floor(min(max(asked, progress.batch_size), largest_size(self.max_batch_size, progress)))


def _averaged(statistics: Statistics, progress: Progress, state: DiveBatchState) -> DiveBatchState:
    """The epoch's means with one more batch in them."""
    sample_sqnorm, grad_sqnorm, variance = measured(statistics, "sample_sqnorm", "grad_sqnorm", "grad_variance")
    signal = grad_sqnorm - variance * (1 / statistics.num_samples - 1 / progress.dataset_size)
    samples = state["samples"] + statistics.num_samples
    mean = Ema(decay=state["samples"] / samples)
    return DiveBatchState(
        epoch=(progress.samples_seen - statistics.num_samples) // progress.dataset_size,
        samples=samples,
        sample_sqnorm=mean.update(state["sample_sqnorm"], sample_sqnorm),
        grad_sqnorm=mean.update(state["grad_sqnorm"], signal),
        initial_batch_size=state["initial_batch_size"],
    )
