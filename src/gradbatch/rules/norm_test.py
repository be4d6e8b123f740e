"""The norm test: a batch large enough that its gradient's noise stays below a part of the gradient."""

from dataclasses import dataclass

from gradbatch._types import Decision, Progress, Rule, Statistics
from gradbatch.rules._check import check_between, check_bounds
from gradbatch.rules._sizes import after_test, hold, measured, ratio

__all__ = ["NormTest"]


@dataclass(frozen=True, kw_only=True)
class NormTest(Rule[None]):
    r"""Grow the batch until the variance of its mean gradient is below a part of the gradient's squared norm.

    With the unbiased variance $\operatorname{tr}\hat\Sigma=\|\operatorname{Var}\|_1$ and the mean gradient $\bar g$ of
    $B$ samples, the test is

    $$ \operatorname{tr}\hat\Sigma / B \le \theta^2\|\bar g\|^2, \qquad\text{and}\qquad
       \Big\lceil\frac{\operatorname{tr}\hat\Sigma}{\theta^2\|\bar g\|^2}\Big\rceil $$

    samples are the least with which it holds. The next batch has as many, or as many as were requested for this one
    where those are more; ``monotone=False`` lets it shrink. A variance of zero (or below, by rounding) passes at any
    size; with variance and no gradient none does, and the size is the largest.

    Source: Byrd, Chin, Nocedal and Wu 2012 (Mathematical Programming 134), with $\theta$ in (0, 1) and without their
    factor $(N-B)/(N-1)$ for finite data sets; defaults, largest size and the size that never falls are those of
    AdAdaGrad, Lau, Liu and Kolar 2024 (arXiv:2402.11215), whose $\eta$ is this $\theta$. The size is not rounded to
    their micro-batches. With the estimator ``chunks`` the variance comes from means over pieces of the batch, as in
    their DDP-Norm (arXiv:2412.21124); to test every few steps, hold the rule in `Every`.

    Attributes:
        theta: $\theta$, in (0, 1): the noise allowed, relative to the gradient.
        monotone: Never shrink, but to meet a bound.
        min_batch_size: In samples.
        max_batch_size: In samples; the data set is a bound as well.
    """

    theta: float = 0.1
    monotone: bool = True
    min_batch_size: int = 1
    max_batch_size: int = 50_000

    def __post_init__(self) -> None:
        check_between("theta", self.theta, 0, 1)
        check_bounds(self.min_batch_size, self.max_batch_size)

    def requires(self, progress: Progress) -> frozenset[str]:
        """The variance and the mean gradient's squared norm."""
        return frozenset({"grad_variance", "grad_sqnorm"})

    def init(self) -> None:
        """No state."""
        return

    def update(self, statistics: Statistics, progress: Progress, state: None) -> tuple[Decision, None]:
        """Test this batch; see the class."""
        if not statistics.is_finite:
            return hold("norm-test", progress, "this batch's numbers are not finite"), None
        variance, sqnorm = measured(statistics, "grad_variance", "grad_sqnorm")
        asked = ratio(variance, self.theta * self.theta * sqnorm)
        decision = after_test(
            "norm-test",
            asked,
            statistics,
            progress,
            monotone=self.monotone,
            min_batch_size=self.min_batch_size,
            max_batch_size=self.max_batch_size,
            numbers={"variance": variance, "grad_sqnorm": sqnorm},
        )
        return decision, None
