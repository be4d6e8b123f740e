"""The inner-product test: a batch large enough that its gradient points downhill with high probability."""

from dataclasses import dataclass

from gradbatch._types import Decision, Progress, Rule, Statistics
from gradbatch.rules._check import check_bounds, check_positive
from gradbatch.rules._sizes import after_test, hold, measured, ratio

__all__ = ["InnerProductTest"]


@dataclass(frozen=True, kw_only=True)
class InnerProductTest(Rule[None]):
    r"""Grow the batch until the noise along its mean gradient is small; with ``nu``, the noise across it as well.

    With the mean gradient $\bar g$ of $B$ samples and unbiased variances over them, the inner-product test is

    $$ \operatorname{Var}_i(g_i\cdot\bar g)/B \le \theta^2\|\bar g\|^4, $$

    and the augmented test asks in addition that the part of the variance orthogonal to $\bar g$ be small,

    $$ \frac1B\,\frac1{B-1}\sum_i\Big\|g_i-\frac{g_i\cdot\bar g}{\|\bar g\|^2}\bar g\Big\|^2
       = \frac1B\Big(\operatorname{tr}\hat\Sigma - \frac{\operatorname{Var}_i(g_i\cdot\bar g)}{\|\bar g\|^2}\Big)
       \le \nu^2\|\bar g\|^2. $$

    The next batch has the least number of samples with which all conditions hold, or as many as were requested for this
    one where those are more; ``monotone=False`` lets it shrink. A zero gradient has no direction: the inner-product
    test then holds as $0\le0$, and with ``nu`` all variance counts as orthogonal, so that the size is the largest.

    Source: Bollapragada, Byrd and Nocedal 2017 (arXiv:1710.11258); defaults, largest size and the size that never falls
    are those of AdAdaGrad, Lau, Liu and Kolar 2024 (arXiv:2402.11215). Their code adds up the variances of each
    parameter tensor's own inner product; here it is the variance of the total one, as written. The
    original's average of gradients over steps, for where noise dominates, is left out.

    Attributes:
        theta: $\theta>0$: the noise allowed along the gradient, relative to it.
        nu: $\nu>0$, the same across it; ``None`` for the inner-product test alone.
        monotone: Never shrink, but to meet a bound.
        min_batch_size: In samples.
        max_batch_size: In samples; the data set is a bound as well.
    """

    theta: float = 0.1
    nu: float | None = None
    monotone: bool = True
    min_batch_size: int = 1
    max_batch_size: int = 50_000

    def __post_init__(self) -> None:
        check_positive("theta", self.theta)
        if self.nu is not None:
            check_positive("nu", self.nu)
        check_bounds(self.min_batch_size, self.max_batch_size)

    def requires(self, progress: Progress) -> frozenset[str]:
        """The variance of the projections and the mean gradient's squared norm; with ``nu`` the variance too."""
        projections = frozenset({"projection_variance", "grad_sqnorm"})
        return projections if self.nu is None else projections | {"grad_variance"}

    def init(self) -> None:
        """No state."""
        return

    def update(self, statistics: Statistics, progress: Progress, state: None) -> tuple[Decision, None]:
        """Test this batch; see the class."""
        if not statistics.is_finite:
            return hold("inner-product-test", progress, "this batch's numbers are not finite"), None
        projections, sqnorm = measured(statistics, "projection_variance", "grad_sqnorm")
        # In squared gradient units; the total variance is this and the orthogonal part.
        along = projections / sqnorm if sqnorm > 0 else 0.0
        asked = ratio(along, self.theta * self.theta * sqnorm)
        if self.nu is not None:
            (variance,) = measured(statistics, "grad_variance")
            asked = max(asked, ratio(variance - along, self.nu * self.nu * sqnorm))
        decision = after_test(
            "inner-product-test",
            asked,
            statistics,
            progress,
            monotone=self.monotone,
            min_batch_size=self.min_batch_size,
            max_batch_size=self.max_batch_size,
            numbers={"projection_variance": projections, "grad_sqnorm": sqnorm},
        )
        return decision, None
