"""AdaScale: a learning rate for a large batch, from how much more such a batch is worth."""

from dataclasses import dataclass
from typing import TypedDict

from gradbatch._types import Decision, Progress, Rule, Statistics
from gradbatch.rules._check import check_at_least, check_positive
from gradbatch.rules._moments import Moments, average_as_adascale, gain_of, has_moments, no_moments
from gradbatch.rules._sizes import hold

__all__ = ["AdaScale", "AdaScaleState"]


class AdaScaleState(TypedDict):
    """Averages of the gradient's moments, and the scale-invariant progress."""

    moments: Moments
    progress: float


@dataclass(frozen=True, kw_only=True)
class AdaScale(Rule[AdaScaleState]):
    r"""AdaScale SGD: the learning rate of a small batch, times what the large batch gains on it.

    The batch size stays. With the variance $\operatorname{tr}\Sigma$ of per-sample gradients, the squared norm
    $\|G\|^2$ of the true gradient, base batch size $b$ and a batch of $B=Sb$ samples,

    $$ r_t = \frac{\sigma^2+\mu^2}{\sigma^2/S+\mu^2},\quad \sigma^2=\frac{\operatorname{tr}\Sigma}{b},\quad
       \mu^2=\|G\|^2;\qquad \eta_t=r_t\,\eta(\tau_t),\quad \tau_{t+1}=\tau_t+r_t. $$

    The gain $r_t$ is ``lr_scale``, from 1 (no noise: a larger batch is worth nothing) to $S$ (all noise). The
    scale-invariant progress $\tau$ counts updates with the base batch size that the training so far is worth; it is in
    `Decision.numbers` as ``"progress"``, the part of this update included. The schedule of the learning rate and the
    end of training are to be read off at $\tau$: that is for the loop to do, with ``record.numbers["progress"]``.

    Source: Johnson et al. 2020 (arXiv:2007.05105). They estimate from $S$ gradients of $b$ samples each,
    $\sigma^2=\frac1{S-1}\sum_i\|g_i\|^2-\frac S{S-1}\|\bar g\|^2$ and $\mu^2=\|\bar g\|^2-\sigma^2/S$. Here each of the
    $B$ samples is such a group: the same formulas with $B$ for $S$ give $\operatorname{tr}\hat\Sigma$ and
    $\|\bar g\|^2-\operatorname{tr}\hat\Sigma/B$, of the same expectations and much less spread, and $S$ need be neither
    whole nor above 1. Both are averaged with decay $\theta=\max(1-S/1000,0)$, and by the plain mean for the first
    $1/(1-\theta)$ updates (appendix B.3). Choices of our own: an average below 0 counts as 0, and where both are 0 the
    gain is 1; single estimates may be negative (FairScale floors each at 1e-6 and 0, which biases both). The base
    batch size has no default in the paper. For SGD, with momentum or without.

    A short batch at an epoch's end has a smaller $S$. A batch of one sample is not measured: the controller keeps the
    last gain for its rate, and its progress is left out.

    Attributes:
        base_batch_size: $b$, the batch size that the learning rate is meant for, in samples.
        window: What $S$ is divided by in the decay, in updates.
    """

    base_batch_size: int = 32
    window: float = 1000.0

    def __post_init__(self) -> None:
        check_at_least("base_batch_size", self.base_batch_size, 1)
        check_positive("window", self.window)

    def requires(self, progress: Progress) -> frozenset[str]:
        """Variance and squared norm."""
        return frozenset({"grad_variance", "grad_sqnorm"})

    def init(self) -> AdaScaleState:
        """Nothing averaged, no progress."""
        return AdaScaleState(moments=no_moments(), progress=0.0)

    def update(
        self, statistics: Statistics, progress: Progress, state: AdaScaleState
    ) -> tuple[Decision, AdaScaleState]:
        """The requested size, and the gain of the batch at hand; see the class."""
        if not has_moments(statistics):
            return hold("adascale", progress, "this batch has no finite variance"), state
        moments = average_as_adascale(state["moments"], statistics, self.base_batch_size, self.window)
        gain = gain_of(moments, base_batch_size=self.base_batch_size, batch_size=statistics.num_samples)
        total = state["progress"] + gain
        scale = statistics.num_samples / self.base_batch_size
        reason = f"adascale: gain {gain:.4g} of {scale:.4g}, progress {total:.6g}"
        numbers = {
            "gain": gain,
            "progress": total,
            "variance": moments["variance"]["mean"],
            "grad_sqnorm": moments["signal"]["mean"],
        }
        decision = Decision(batch_size=progress.batch_size, lr_scale=gain, reason=reason, numbers=numbers)
        return decision, AdaScaleState(moments=moments, progress=total)
