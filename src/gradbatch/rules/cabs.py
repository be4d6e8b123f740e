"""CABS: a batch size coupled to the learning rate, the gradient variance and the loss."""

import math
from dataclasses import dataclass
from typing import Literal, TypedDict

from gradbatch._types import Decision, LayerStatistics, Progress, Rule, Statistics
from gradbatch.errors import InvalidInputError
from gradbatch.estimators import Ema, biased_grad_variance
from gradbatch.rules._check import check_bounds, check_choice, check_decay, check_from, check_positive
from gradbatch.rules._groups import averages_of, parts_of, with_groups, with_rates
from gradbatch.rules._sizes import hold, largest_size

__all__ = ["CABS", "CABSState"]


class CABSState(TypedDict):
    """Running averages: the gradient variance of each parameter group, and the loss."""

    variances: list[float]
    loss: float


@dataclass(frozen=True, kw_only=True)
class CABS(Rule[CABSState]):
    r"""Coupled Adaptive Batch Size: batch size = learning rate x gradient variance / loss.

    With the biased variance $\xi_t = \frac1B\sum_i\|g_i\|^2-\|\bar g\|^2$ and mean loss $F_t$ of the batch,
    running averages $\bar\xi\leftarrow\mu\bar\xi+(1-\mu)\xi_t$ from 0 and
    $\bar F\leftarrow\mu\bar F+(1-\mu)F_t$ from 1, and learning rate $\alpha$,

    $$ B_{t+1} = \operatorname{clip}\big(\operatorname{round}(c\,\alpha\,\bar\xi/(\bar F+\epsilon)),
       B_\min, B_\max\big), $$

    which keeps the variance of the update proportional to the loss. The loss stands for its distance to the
    optimum: it should be able to approach 0 and must not be negative. The averages start as in the authors'
    code, without bias correction, so that the size stays at its minimum for the first tens of steps.

    Source: Balles, Romero and Hennig 2017 (arXiv:1612.05086), as in the authors' code. Deviations and options:

    - With several parameter groups the sum over groups of $\alpha_g\bar\xi_g$ takes the place of $\alpha\bar\xi$,
      which the paper leaves open.
    - The size is bounded by the data set too, and a batch whose loss or variance is not finite changes nothing.
    - ``moment="exact"`` takes the per-sample gradients' own second moment. The authors' code leaves out the products
      between the positions of convolutions, and ``"position"`` does so too: the same for perceptrons; for convolutions
      it may fall below $\|\bar g\|^2$ and leave a negative $\xi_t$.
    - ``unbiased=True`` divides the variance by $B-1$, so that its expectation does not fall with the batch size that it
      controls (a batch of one sample is then left out of the averages).
    - Momentum is undefined in the paper and plays no part, unless ``with_momentum=True`` takes $\alpha/(1-\rho)$, the
      rate at which heavy-ball momentum $\rho$ moves in the long run, for $\alpha$.

    Attributes:
        decay: $\mu$, of both averages, in [0, 1).
        min_batch_size: $B_\min$, in samples.
        max_batch_size: $B_\max$, in samples.
        scale: $c > 0$; the authors advise to leave it at 1.
        eps: $\epsilon\ge0$, in units of the loss.
        moment: ``"exact"`` or ``"position"``, see above.
        with_momentum: See above.
        unbiased: Divide the variance by $B-1$ instead of $B$.
    """

    decay: float = 0.95
    min_batch_size: int = 16
    max_batch_size: int = 2048
    scale: float = 1.0
    eps: float = 0.0
    unbiased: bool = False
    moment: Literal["exact", "position"] = "exact"
    with_momentum: bool = False

    def __post_init__(self) -> None:
        check_decay(self.decay)
        check_choice("moment", self.moment, tuple(_MOMENTS))
        check_bounds(self.min_batch_size, self.max_batch_size)
        check_positive("scale", self.scale)
        check_from("eps", self.eps, 0)

    def requires(self, progress: Progress) -> frozenset[str]:
        """Both moments, per parameter group where there are several; a momentum that never fades is refused."""
        if self.with_momentum and not progress.momentum < 1:
            raise InvalidInputError(
                f"CABS(with_momentum=True) needs a momentum below 1, got {progress.momentum}: leave `with_momentum` out"
            )
        return with_groups(frozenset({_MOMENTS[self.moment], "grad_sqnorm"}), progress)

    def init(self) -> CABSState:
        """Averages of 0 (variance) and 1 (loss)."""
        return CABSState(variances=[], loss=1.0)

    def update(self, statistics: Statistics, progress: Progress, state: CABSState) -> tuple[Decision, CABSState]:
        """Average this batch in, then apply the rule; see the class."""
        variances = self._variances(statistics, progress)
        if not all(map(math.isfinite, (statistics.loss, *variances))):
            return hold("cabs", progress, "this batch has no finite loss and variance"), state
        state = self._average(variances, statistics.loss, state)
        pace = 1 / (1 - progress.momentum) if self.with_momentum else 1.0
        numerator = self.scale * pace * with_rates(state["variances"], progress)
        denominator = state["loss"] + self.eps
        size = self._clip(numerator, denominator, progress)
        reason = f"cabs: lr*variance/loss = {numerator:.4g}/{denominator:.4g}"
        numbers = {"variance": sum(state["variances"]), "loss": state["loss"]}
        return Decision(batch_size=size, reason=reason, numbers=numbers), state

    def _variances(self, statistics: Statistics, progress: Progress) -> list[float]:
        """The batch's gradient variance in each parameter group; nan if it has none."""
        biased = [self._biased(part) for part in parts_of(statistics, progress)]
        if not self.unbiased:
            return biased
        size = statistics.num_samples
        return [size / (size - 1) * variance if size > 1 else math.nan for variance in biased]

    def _biased(self, part: Statistics | LayerStatistics) -> float:
        """The biased variance, from the second moment of the rule's choice."""
        if self.moment == "exact":
            return biased_grad_variance(part)
        assert part.position_sqnorm is not None
        assert part.grad_sqnorm is not None
        return part.position_sqnorm - part.grad_sqnorm

    def _average(self, variances: list[float], loss: float, state: CABSState) -> CABSState:
        """The running averages with this batch in them."""
        ema = Ema(decay=self.decay)
        old = averages_of("CABS", state["variances"], len(variances), 0.0)
        return CABSState(
            variances=[ema.update(a, b) for a, b in zip(old, variances, strict=True)],
            loss=ema.update(state["loss"], loss),
        )

    def _clip(self, numerator: float, denominator: float, progress: Progress) -> int:
        """Round half to even, then clip, as the authors do."""
        largest = largest_size(self.max_batch_size, progress)
        if denominator == 0:
            return largest if numerator > 0 else self.min_batch_size
        # The floor wins over a data set smaller than it: the stream cuts such a batch at the epoch's end.
        return round(max(self.min_batch_size, min(numerator / denominator, largest)))


_MOMENTS = {"exact": "sample_sqnorm", "position": "position_sqnorm"}
