"""The learning rate of a batch, by its size, around any rule."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict

from gradbatch._types import Decision, Progress, Rule, Statistics
from gradbatch.rules._check import check_at_least, check_choice, check_held
from gradbatch.rules._moments import Moments, average_as_adascale, gain_of, has_moments, no_moments

__all__ = ["ScaleLR", "ScaleLRState"]

_WINDOW = 1000.0


class ScaleLRState(TypedDict):
    """Averages for the gain of AdaScale, and the held rule's own state."""

    moments: Moments
    held: Any


@dataclass(frozen=True, kw_only=True)
class ScaleLR(Rule[ScaleLRState]):
    r"""Scale the learning rate of each update by the size of the batch behind it.

    With $S=B/b$, the samples $B$ of this batch over the base batch size $b$, the scale of the held rule's decision is
    multiplied by

    $$ S\ \text{(linear)},\qquad \sqrt S\ \text{(sqrt)},\qquad
       \frac{\sigma^2+\mu^2}{\sigma^2/S+\mu^2}\ \text{(adascale)}, $$

    the last with $\sigma^2$ and $\mu^2$ measured and averaged as by `AdaScale`; that average needs no correction when
    the size changes, since it is of the per-sample variance. A smaller batch than the base gets a smaller rate.

    The rule held goes on reading the learning rate without the scale, as every rule does: a batch size that follows
    the rate and a rate that follows the batch size would feed each other. Do not hold a rule that scales the rate by
    itself, unless both are meant.

    Source: linear, Goyal et al. 2017 (arXiv:1706.02677), for SGD; square root, Krizhevsky 2014 (arXiv:1404.5997), and
    usual for Adam; AdaScale, Johnson et al. 2020 (arXiv:2007.05105). Choices of our own: the size is that of the
    samples really behind the update, also where an epoch's end cuts the batch. Where the controller does not ask,
    because the batch lacks a quantity that was required (one sample has no variance), the last factor is kept.

    Attributes:
        rule: The rule held; not one that decides within a step.
        base_batch_size: $b$, the batch size that the learning rate is meant for, in samples.
        method: ``"linear"``, ``"sqrt"`` or ``"adascale"``.
    """

    rule: Rule[Any]
    base_batch_size: int
    method: Literal["linear", "sqrt", "adascale"] = "linear"

    def __post_init__(self) -> None:
        check_held(self, self.rule)
        check_at_least("base_batch_size", self.base_batch_size, 1)
        check_choice("method", self.method, ("linear", "sqrt", "adascale"))

    def requires(self, progress: Progress) -> frozenset[str]:
        """What the held rule requires, and for the gain of AdaScale variance and squared norm."""
        own = {"grad_variance", "grad_sqnorm"} if self.method == "adascale" else frozenset()
        return self.rule.requires(progress) | own

    def init(self) -> ScaleLRState:
        """Nothing averaged."""
        return ScaleLRState(moments=no_moments(), held=self.rule.init())

    def update(self, statistics: Statistics, progress: Progress, state: ScaleLRState) -> tuple[Decision, ScaleLRState]:
        """The held rule's decision, its learning-rate scale multiplied; see the class."""
        decision, held = self.rule.update(statistics, progress, state["held"])
        moments = state["moments"]
        if self.method == "adascale" and has_moments(statistics):
            moments = average_as_adascale(moments, statistics, self.base_batch_size, _WINDOW)
        factor = self._factor(statistics.num_samples, moments)
        decision = replace(
            decision,
            lr_scale=decision.lr_scale * factor,
            reason=f"{decision.reason}; learning rate x {factor:.4g} ({self.method})",
            numbers={**decision.numbers, "lr_factor": factor},
        )
        return decision, ScaleLRState(moments=moments, held=held)

    def _factor(self, num_samples: int, moments: Moments) -> float:
        """What the size of the batch makes of the learning rate."""
        if self.method == "adascale":
            return gain_of(moments, base_batch_size=self.base_batch_size, batch_size=num_samples)
        scale = num_samples / self.base_batch_size
        return scale if self.method == "linear" else math.sqrt(scale)
