"""NoiseScale: a batch size in proportion to the gradient noise scale."""

from dataclasses import dataclass

from gradbatch._types import Decision, Progress, Rule, Statistics
from gradbatch.rules._check import check_at_most, check_bounds, check_decay, check_positive
from gradbatch.rules._moments import Moments, average, no_moments, quantities, seen_by_optimizer
from gradbatch.rules._sizes import bounded, hold, largest_size, measured, ratio

__all__ = ["NoiseScale"]


@dataclass(frozen=True, kw_only=True)
class NoiseScale(Rule[Moments]):
    r"""Follow the simple noise scale, the batch size at which noise and signal of the gradient are equally large.

    With the unbiased variance $\operatorname{tr}\hat\Sigma$ and $\widehat{\|G\|^2}=\|\bar g\|^2-
    \operatorname{tr}\hat\Sigma/B$ of each batch, averaged apart ($\langle\cdot\rangle$, see `DebiasedEma`), since their
    ratio is biased and they are not,

    $$ B_\text{simple} = \langle\operatorname{tr}\hat\Sigma\rangle \big/ \langle\widehat{\|G\|^2}\rangle, \qquad
       B_{t+1} = \lceil c\,B_\text{simple}^{\,p}\rceil, $$

    within bounds. A batch of $B_\text{simple}$ samples takes twice the steps of the shortest training and
    twice the samples of the cheapest; $p=1/2$ is the paper's adaptive batch size, $B\propto\sqrt{B_\text{simple}}$.

    Where the averaged $\|G\|^2$ is not positive, noise hides the gradient and the size is the largest: it is what
    $B_\text{simple}$ grows to as $\|G\|^2$ falls to 0, so that the size does not jump as the average changes its sign,
    and large batches are what brings the gradient out. Where the averaged variance is not positive the size is the
    smallest, whatever the gradient. The first few estimates are as noisy as the gradients: hold the rule in `Warmup`.

    Source: McCandlish et al. 2018 (arXiv:1812.06162), section 2.2, appendix A.1 with a small batch of one sample, and
    the experiments on adaptive batch sizes. They fix no constants: the decay is that of GPT-NeoX, with its correction
    of the start, $c=1$ and rounding up are ours. A batch of one sample has no variance and is left out.

    Attributes:
        decay: Of both averages, in [0, 1).
        scale: $c>0$, in samples to the power $1-p$.
        power: $p$, in (0, 1].
        min_batch_size: In samples.
        max_batch_size: In samples; ``None`` for the size of the data set, which is a bound in any case.
        preconditioned: Take variance and gradient as Adam's preconditioner $P$ leaves them,
            $\operatorname{tr}(P\Sigma P)$ and $\|PG\|^2$; Pollux' form, not of this source.
    """

    decay: float = 0.99
    scale: float = 1.0
    power: float = 1.0
    min_batch_size: int = 1
    max_batch_size: int | None = None
    preconditioned: bool = False

    def __post_init__(self) -> None:
        check_decay(self.decay)
        check_positive("scale", self.scale)
        check_at_most("power", self.power, 1)
        check_bounds(self.min_batch_size, self.max_batch_size)

    def requires(self, progress: Progress) -> frozenset[str]:
        """The variance and the mean gradient's squared norm."""
        return quantities(preconditioned=self.preconditioned)

    def init(self) -> Moments:
        """Nothing averaged yet."""
        return no_moments()

    def update(self, statistics: Statistics, progress: Progress, state: Moments) -> tuple[Decision, Moments]:
        """Average this batch in, then apply the rule; see the class."""
        if not statistics.is_finite:
            return hold("noise-scale", progress, "this batch's numbers are not finite"), state
        if self.preconditioned:
            statistics = seen_by_optimizer(statistics)
        measured(statistics, "grad_variance", "grad_sqnorm")
        state = average(state, statistics, self.decay)
        noise, signal = state["variance"]["mean"], state["signal"]["mean"]
        size = self.scale * ratio(noise, signal) ** self.power
        decision = Decision(
            batch_size=bounded(size, self.min_batch_size, largest_size(self.max_batch_size, progress)),
            reason=f"noise-scale: variance/signal = {noise:.4g}/{signal:.4g}",
            numbers={"variance": noise, "signal": signal},
        )
        return decision, state
