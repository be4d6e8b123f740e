"""LossRatio: a batch size in inverse proportion to what is left of the loss (AdaDamp)."""

import math
from dataclasses import dataclass
from typing import TypedDict

from gradbatch._types import Decision, Progress, Rule, Statistics
from gradbatch.estimators import DebiasedEma, RunningMean
from gradbatch.rules._check import check_at_least, check_decay, check_finite
from gradbatch.rules._sizes import bounded, hold, largest_size

__all__ = ["LossRatio", "LossRatioState"]


class LossRatioState(TypedDict):
    """The first batch's size and loss, the averaged loss, updates so far, and the size asked for without a bound."""

    initial_batch_size: int
    initial_loss: float
    loss: RunningMean
    updates: int
    asked: float


@dataclass(frozen=True, kw_only=True)
class LossRatio(Rule[LossRatioState]):
    r"""Keep batch size times the distance of the loss from its optimum constant, as AdaDamp does.

    With the size $B_0$ and loss $F_0$ of the first batch, the averaged loss $\bar F$ (see `DebiasedEma`) and the
    smallest loss that can be reached, $F^\star$,

    $$ B = \Big\lceil B_0\,\frac{F_0-F^\star}{\bar F-F^\star}\Big\rceil, $$

    computed after every ``dwell`` updates. A loss that rises shrinks the batch. Beyond $B_\max$ the batch has $B_\max$
    samples and the learning rate is multiplied by $B_\max/B$. It is `CABS` with a constant variance.

    Source: AdaDamp in the code of Sievert (stsievert/adadamp), whose dwell is the default. Deviations: $F$ is there the
    loss over the whole data set, or a tenth of it, and here a mean over batches, with a memory of about as many updates
    as the batch size dwells; $B$ is at least 1; a loss that is not above $F^\star$ has no ratio, and the size is held:
    at once, until a first loss above it defines $F_0$, and later at what was asked for last. The factor on the
    rate is the requested size over the one asked for, so that it makes up for the bounds of a wrapper too.

    Attributes:
        optimum: $F^\star$, in units of the loss.
        dwell: Updates between two changes of the size.
        decay: Of the averaged loss, in [0, 1).
        max_batch_size: $B_\max$, in samples; ``None`` for the size of the data set, which is a bound in any case.
    """

    optimum: float = 0.0
    dwell: int = 20
    decay: float = 0.95
    max_batch_size: int | None = None

    def __post_init__(self) -> None:
        check_finite("optimum", self.optimum)
        check_at_least("dwell", self.dwell, 1)
        check_decay(self.decay)
        if self.max_batch_size is not None:
            check_at_least("max_batch_size", self.max_batch_size, 1)

    def requires(self, progress: Progress) -> frozenset[str]:
        """Nothing; the loss is always there."""
        return frozenset()

    def init(self) -> LossRatioState:
        """No loss yet."""
        mean = DebiasedEma(decay=self.decay).init()
        return LossRatioState(initial_batch_size=0, initial_loss=0.0, loss=mean, updates=0, asked=0.0)

    def update(
        self, statistics: Statistics, progress: Progress, state: LossRatioState
    ) -> tuple[Decision, LossRatioState]:
        """Average this loss in, and apply the rule if it is time; see the class."""
        if not statistics.is_finite:
            return hold("loss-ratio", progress, "this batch's numbers are not finite"), state
        if state["updates"] == 0 and statistics.loss <= self.optimum:
            return hold("loss-ratio", progress, "no loss above `optimum` yet"), state
        state = self._observed(statistics.loss, progress, state)
        # The batch at hand was asked for before its own loss was known.
        scale = min(1.0, progress.batch_size / state["asked"])
        note = f"dwells for {self.dwell} updates"
        if state["updates"] % self.dwell == 0:
            state, note = self._asked(state)
        decision = Decision(
            batch_size=bounded(state["asked"], 1, largest_size(self.max_batch_size, progress)),
            lr_scale=scale,
            reason=f"loss-ratio: {state['asked']:.6g} asked for, {note}",
            numbers={"loss": state["loss"]["mean"], "asked": state["asked"]},
        )
        return decision, state

    def _observed(self, loss: float, progress: Progress, state: LossRatioState) -> LossRatioState:
        """The state with one more update in it."""
        is_first = state["updates"] == 0
        return LossRatioState(
            initial_batch_size=progress.batch_size if is_first else state["initial_batch_size"],
            initial_loss=loss if is_first else state["initial_loss"],
            loss=DebiasedEma(decay=self.decay).update(state["loss"], loss),
            updates=state["updates"] + 1,
            asked=float(progress.batch_size) if is_first else state["asked"],
        )

    def _asked(self, state: LossRatioState) -> tuple[LossRatioState, str]:
        """The state with the size that the averaged loss asks for, and what to say of it."""
        left, first = state["loss"]["mean"] - self.optimum, state["initial_loss"] - self.optimum
        asked = state["initial_batch_size"] * (first / left) if left > 0 else math.inf
        if not math.isfinite(asked):
            return state, "held, the averaged loss is not above `optimum`"
        return {**state, "asked": float(max(1, math.ceil(asked)))}, f"loss left {left:.4g} of {first:.4g}"
