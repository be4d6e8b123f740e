"""SimiGrad: a batch so large that its two halves agree on the gradient."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypedDict

from gradbatch._types import Decision, Progress, Rule, Statistics, Strides
from gradbatch.errors import InvalidInputError
from gradbatch.estimators import grown
from gradbatch.rules._check import check_above, check_below, check_between, check_bounds, check_from
from gradbatch.rules._sizes import hold, largest_size

__all__ = ["SimiGrad", "SimiGradState"]


class SimiGradState(TypedDict):
    """The batch size that the first batch was asked for with; 0 before."""

    original: int


@dataclass(frozen=True, kw_only=True)
class SimiGrad(Rule[SimiGradState]):
    r"""SimiGrad: hold the cosine between the gradients of the batch's two halves at a target.

    With the mean gradients $\bar g_1,\bar g_2$ of the first and the second half of the batch and
    $c=\bar g_1\cdot\bar g_2/(\|\bar g_1\|\|\bar g_2\|)$,

    $$ B_{t+1} = \begin{cases}\max(B+1,\lfloor1.1B\rfloor) & c<c^*\\ \min(B-1,\lfloor0.9B\rfloor) & c>c^*\\
       B & c=c^*,\end{cases} \qquad \text{learning rate}\times1+f(\sqrt{B/B_0}-1) $$

    with target $c^*$, damping $f$ and the first batch size $B_0$; then the bounds, and the data set, are kept. The
    expected cosine is about $\|G\|^2/(\|G\|^2+2\operatorname{tr}\Sigma/B)$, so that the size settles near
    $2c^*/(1-c^*)$ times the noise scale.

    Source: Qin et al. 2021 (NeurIPS), as in the authors' code, which takes even and odd ranks for the halves and
    leaves the target to the user: 0.2 is the upper end of what it uses for CIFAR-10; 0.8 is for BERT. Its smoothing of
    the size is left out (`Hysteresis` is one way to have it). Choices of our own: the halves are strides of
    consecutive samples, of which the first has one more where the size is odd; a batch that an epoch's end cut is used
    if its halves still differ by at most a tenth or one sample, and else holds the size; so does a half whose gradient
    is zero. The rate is scaled by the samples really behind the update, held or not. A batch of one sample has no
    halves and never shrinks below the bound of 2; where one was asked for, 2 are asked for next.

    Attributes:
        target: $c^*$, above -1 and below 1.
        min_batch_size: Smallest size, at least 2, in samples.
        max_batch_size: Largest size, in samples; ``None`` for the data set's.
        growth: What the size is multiplied by where the halves agree too little, above 1.
        shrinkage: The same where they agree too well, in [0, 1).
        lr_damping: $f$ in [0, 1]; 1 for the full square root, 0 to leave the learning rate alone.
    """

    target: float = 0.2
    min_batch_size: int = 2
    max_batch_size: int | None = None
    growth: float = 1.1
    shrinkage: float = 0.9
    lr_damping: float = 1.0

    def __post_init__(self) -> None:
        check_between("target", self.target, -1, 1)
        check_bounds(self.min_batch_size, self.max_batch_size)
        if self.min_batch_size < 2:
            raise InvalidInputError(
                f"`min_batch_size` must be at least 2, one for each half, got {self.min_batch_size}"
            )
        check_above("growth", self.growth, 1)
        check_below("shrinkage", self.shrinkage, 0, 1)
        check_from("lr_damping", self.lr_damping, 0, 1)

    def requires(self, progress: Progress) -> frozenset[str]:
        """Products of the two halves' gradients; nothing for a batch that has no halves."""
        half = (progress.batch_size + 1) // 2
        return frozenset({f"stride_gram:{half}"} if progress.batch_size > 1 else ())

    def init(self) -> SimiGradState:
        """No batch yet."""
        return SimiGradState(original=0)

    def update(
        self, statistics: Statistics, progress: Progress, state: SimiGradState
    ) -> tuple[Decision, SimiGradState]:
        """Grow or shrink; see the class."""
        if not math.isfinite(statistics.loss):
            return hold("simigrad", progress, "the loss of this batch is not finite"), state
        state = SimiGradState(original=state["original"] or progress.batch_size)
        lr_scale = 1 + self.lr_damping * (math.sqrt(statistics.num_samples / state["original"]) - 1)
        cosine = _cosine_of_halves(statistics.strides or {})
        if cosine is None:
            held = hold("simigrad", progress, "this batch has no two comparable halves with a gradient")
            return replace(held, batch_size=max(progress.batch_size, 2), lr_scale=lr_scale), state
        # The lower bound wins over a data set smaller than it.
        size = max(
            self.min_batch_size,
            min(self._moved(progress.batch_size, cosine), largest_size(self.max_batch_size, progress)),
        )
        reason = f"simigrad: cosine of the halves {cosine:.4g}, target {self.target:g}"
        return Decision(batch_size=size, lr_scale=lr_scale, reason=reason, numbers={"cosine": cosine}), state

    def _moved(self, size: int, cosine: float) -> int:
        """The next size, before the bounds."""
        if cosine < self.target:
            return grown(size, self.growth)
        return min(size - 1, int(self.shrinkage * size)) if cosine > self.target else size


def _cosine_of_halves(strides: Mapping[str, Strides]) -> float | None:
    """The cosine between the two strides' gradients over all parameters; ``None`` where there is none."""
    grams = [own.gram for own in strides.values() if own.gram is not None]
    counts = next((own.counts for own in strides.values()), ())
    if not grams or len(counts) != 2 or abs(counts[0] - counts[1]) > max(1, max(counts) / 10):
        return None
    # The sums over the strides have the cosine of their means.
    first, product, second = (sum(gram[i][j] for gram in grams) for i, j in ((0, 0), (0, 1), (1, 1)))
    norms = math.sqrt(max(first, 0.0)) * math.sqrt(max(second, 0.0))
    if not (norms > 0 and math.isfinite(norms) and math.isfinite(product)):
        return None
    return max(-1.0, min(product / norms, 1.0))
