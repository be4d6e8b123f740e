"""AdaBatch: a batch size that grows at fixed epochs, with the learning rate of a fixed-batch baseline."""

import math
from dataclasses import dataclass
from typing import TypedDict

from gradbatch._types import Decision, Progress, Rule, Statistics
from gradbatch.errors import InvalidInputError
from gradbatch.rules._check import check_above, check_at_least, check_at_most
from gradbatch.rules._sizes import largest_size

__all__ = ["AdaBatch", "AdaBatchState"]


class AdaBatchState(TypedDict):
    """The size of the first batch, in samples; ``None`` before it."""

    initial_batch_size: int | None


@dataclass(frozen=True, kw_only=True)
class AdaBatch(Rule[AdaBatchState]):
    r"""Multiply the batch size at fixed epochs and keep learning rate over batch size on a baseline's schedule.

    A baseline trains with the first batch's size $r_0$ throughout and multiplies its learning rate by $d$ after every
    $T$ epochs. Here the batch grows at those epochs, $r_{k+1}=\min(\lfloor\beta r_k\rfloor, r_\max)$, and after $k$
    intervals the rate is

    $$ \alpha_k = \alpha_0\,d^k\,r_k/r_0, \qquad\text{so that } \alpha_k/r_k = \alpha_0 d^k/r_0 $$

    is the baseline's at every epoch. Where nothing is rounded or bounded, the rate is multiplied by $d\beta$ when the
    batch is multiplied by $\beta$; what a bound or the rounding keeps from the batch comes out of the rate. The
    optimizer's own rate stays at $\alpha_0$: the factor is the decision's ``lr_scale``. A scheduler of the user's that
    decays it already calls for ``lr_decay=1``.

    Warm-up, for a first batch that is large beside a baseline of $r_b$ samples: over the first $W$ epochs
    $e=0,\dots,W-1$ the rate is multiplied by $1+(r_0/r_b-1)\,e/(W-1)$, and by $r_0/r_b$ from there on.

    It measures nothing. $r_0$ is the size that was requested for the first batch this rule sees, and $\beta=5$,
    $d=1/5$, $r_\max=N/10$ for $N$ samples is the schedule of Smith et al. 2018 (arXiv:1711.00489) with equal intervals:
    a growing batch at a constant rate, then a decaying rate at a constant batch. $\beta=2$, $d=1/2$, $T=5$ is GeoDamp.

    Source: Devarakonda, Naumov and Garland 2017 (arXiv:1712.02029) and its authors' code. The defaults are those of the
    CIFAR experiments (rates 0.75 against 0.375 each 20 epochs, first batch 128 or 256). Deviations: the rate
    follows the size in use whatever has changed it, where the authors' code makes up for the bound by the data set
    only, and not for the rounding; the last batch of an epoch is used though it is short, at the same rate; the factors
    of warm-up and growth are multiplied where they overlap, where the code adds to the grown rate.

    Attributes:
        growth: $\beta>1$.
        interval: $T$, in epochs.
        lr_decay: $d$, in (0, 1].
        max_batch_size: $r_\max$, in samples; ``None`` for the size of the data set, which is a bound in any case.
        warmup_epochs: $W$, at least 2; 0 for no warm-up.
        baseline_batch_size: $r_b$, in samples; given with a warm-up and not otherwise.
    """

    growth: float = 2.0
    interval: int = 20
    lr_decay: float = 0.375
    max_batch_size: int | None = None
    warmup_epochs: int = 0
    baseline_batch_size: int | None = None

    def __post_init__(self) -> None:
        check_above("growth", self.growth, 1)
        check_at_least("interval", self.interval, 1)
        check_at_most("lr_decay", self.lr_decay, 1)
        if self.max_batch_size is not None:
            check_at_least("max_batch_size", self.max_batch_size, 1)
        if self.warmup_epochs != 0:
            check_at_least("warmup_epochs", self.warmup_epochs, 2)
        if self.baseline_batch_size is not None:
            check_at_least("baseline_batch_size", self.baseline_batch_size, 1)
        if (self.baseline_batch_size is None) != (self.warmup_epochs == 0):
            raise InvalidInputError(
                "`warmup_epochs` and `baseline_batch_size` must be given together, got "
                f"{self.warmup_epochs} and {self.baseline_batch_size}"
            )

    def requires(self, progress: Progress) -> frozenset[str]:
        """Nothing."""
        return frozenset()

    def init(self) -> AdaBatchState:
        """The first batch is still to come."""
        return AdaBatchState(initial_batch_size=None)

    def update(
        self, statistics: Statistics, progress: Progress, state: AdaBatchState
    ) -> tuple[Decision, AdaBatchState]:
        """The size planned for the next batch, and the rate that this batch's size goes with."""
        initial = state["initial_batch_size"] or progress.batch_size
        # The batch at hand still belongs to the epoch in which it began; the next one may not.
        epoch = (progress.samples_seen - statistics.num_samples) // progress.dataset_size
        scale = self.lr_decay ** (epoch // self.interval) * progress.batch_size / initial
        intervals = progress.samples_seen // progress.dataset_size // self.interval
        size = self._size_after(intervals, initial, largest_size(self.max_batch_size, progress))
        decision = Decision(
            batch_size=size,
            lr_scale=scale * self._warmup(epoch, initial),
            reason=f"adabatch: {size} after {intervals} intervals of {self.interval} epochs",
            numbers={"intervals": intervals},
        )
        return decision, AdaBatchState(initial_batch_size=initial)

    def _size_after(self, intervals: int, initial: int, largest: int) -> int:
        """$r_k$, rounded down at every growth as in the authors' code."""
        size = min(initial, largest)
        for _ in range(intervals):
            grown = math.floor(min(size * self.growth, largest))
            if grown == size:
                break
            size = grown
        return size

    def _warmup(self, epoch: int, initial: int) -> float:
        """The warm-up's factor on the rate in an epoch; 1 without one."""
        if self.baseline_batch_size is None:
            return 1.0
        part = min(1.0, epoch / (self.warmup_epochs - 1))
        return 1 + (initial / self.baseline_batch_size - 1) * part
