"""Greedy selection among strides of a batch: two searches, and the metrics that guide them.

Nothing here loops over large tensors more than it must: norms and traces come from the strides' Gram matrix, one
number for each pair, and the norm of the elementwise variance from running sums, at one pass over the layer for each
candidate.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from gradbatch._types import Floats, Strides

__all__ = ["Distance", "Metric", "bottom_up", "metric_of", "top_down"]

Distance = Callable[[float], float]
"""How far a metric's value is from where it should be."""


class Metric(ABC):
    """A metric of the gradients of the strides that are selected, none at first.

    Args:
        counts: Gradients $n_j$ in each stride.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts = counts
        self.selected = [False] * len(counts)
        self.num_selected = 0

    def value_if_flipped(self, stride: int) -> float:
        """The metric with one stride more, if it is not selected, or one less, if it is."""
        return self._with(stride, -1 if self.selected[stride] else 1)

    def flip(self, stride: int) -> None:
        """Select a stride, or take it out."""
        sign = -1 if self.selected[stride] else 1
        self._take(stride, sign)
        self.selected[stride] = not self.selected[stride]
        self.num_selected += sign * self.counts[stride]

    @abstractmethod
    def select_all(self) -> None:
        """Select every stride."""

    @property
    @abstractmethod
    def value(self) -> float:
        """The metric of what is selected; 0 where that is too little."""

    @abstractmethod
    def _with(self, stride: int, sign: int) -> float:
        """The metric with a stride added or, with a sign of -1, taken away."""

    @abstractmethod
    def _take(self, stride: int, sign: int) -> None:
        """Add a stride, or take it away."""


class OfProducts(Metric):
    r"""A metric that inner products tell: of the strides' sums $S_j$, and of each gradient $d_i$ with itself.

    Args:
        counts: Gradients in each stride.
        gram: $S_j\cdot S_k$.
        sqnorms: $\sum_{i\in j}\|d_i\|^2$.
        formula: ``(squared norm of the sum, sum of squared norms, count) -> metric`` of what is selected.
    """

    def __init__(
        self,
        counts: Sequence[int],
        gram: Floats,
        sqnorms: Floats,
        formula: Callable[[float, float, int], float],
    ) -> None:
        super().__init__(counts)
        self._formula = formula
        self._gram, self._own, self._sqnorms = gram, gram.diagonal().tolist(), sqnorms.tolist()
        self._dots = np.zeros(len(counts))  # of each stride with the sum of those selected
        self._sqnorm = self._total = 0.0

    @property
    def value(self) -> float:
        """See `Metric.value`."""
        return self._formula(self._sqnorm, self._total, self.num_selected)

    def select_all(self) -> None:
        """See `Metric.select_all`."""
        self._dots = self._gram.sum(0)
        self._sqnorm, self._total = float(self._dots.sum()), sum(self._sqnorms)
        self.selected, self.num_selected = [True] * len(self.counts), sum(self.counts)

    def _with(self, stride: int, sign: int) -> float:
        count = self.num_selected + sign * self.counts[stride]
        return self._formula(self._sqnorm_with(stride, sign), self._total + sign * self._sqnorms[stride], count)

    def _sqnorm_with(self, stride: int, sign: int) -> float:
        return self._sqnorm + 2 * sign * float(self._dots[stride]) + self._own[stride]

    def _take(self, stride: int, sign: int) -> None:
        self._sqnorm = self._sqnorm_with(stride, sign)
        self._total += sign * self._sqnorms[stride]
        self._dots += sign * self._gram[stride]


def norm(sqnorm: float, total: float, count: int) -> float:
    r"""The norm of the mean, $\|\bar d\|$; 0 of none."""
    return math.sqrt(_not_below_zero(sqnorm)) / count if count else 0.0


def trace(sqnorm: float, total: float, count: int) -> float:
    r"""The trace of the covariance, $\frac1{n-1}\sum_i\|d_i-\bar d\|^2$; 0 of fewer than two."""
    return _not_below_zero(total - sqnorm / count) / (count - 1) if count > 1 else 0.0


def std_norm(sqnorm: float, total: float, count: int) -> float:
    """The norm of the elementwise standard deviations, the root of the trace."""
    return math.sqrt(trace(sqnorm, total, count))


def _not_below_zero(value: float) -> float:
    """The value, where rounding did not leave something that vanishes just below zero; nan stays nan."""
    return 0.0 if value < 0 else value


class VarianceNorm(Metric):
    r"""The norm of their elementwise variance, $\|v\|$ with $v=\frac1{n-1}\sum_i(d_i-\bar d)^2$; 0 of fewer than two.

    Args:
        counts: Gradients in each stride.
        moments: Of each parameter, the sums and the sums of squares of each stride, [k, *shape].
        scale: Factor that the sums want, and the squares twice.
    """

    def __init__(self, counts: Sequence[int], moments: Sequence[tuple[Tensor, Tensor]], scale: float) -> None:
        super().__init__(counts)
        self._moments = [(sums.flatten(1), squares.flatten(1)) for sums, squares in moments]
        # All arithmetic goes into the same memory: fresh tensors of this size would cost more than the arithmetic.
        self._running = [(torch.zeros_like(sums[0]), torch.zeros_like(squares[0])) for sums, squares in self._moments]
        self._candidate = [(torch.empty_like(sums), torch.empty_like(squares)) for sums, squares in self._running]
        self._variances = [torch.empty_like(squares) for _, squares in self._running]
        self._evaluated: tuple[int, int] | None = None  # the candidate in memory
        self._scale = scale

    @property
    def value(self) -> float:
        """See `Metric.value`."""
        return self._of(self._running, self.num_selected)

    def select_all(self) -> None:
        """See `Metric.select_all`."""
        for (sums, squares), (total, square_total) in zip(self._moments, self._running, strict=True):
            torch.sum(sums, 0, out=total)
            torch.sum(squares, 0, out=square_total)
        self.selected, self.num_selected = [True] * len(self.counts), sum(self.counts)

    def _with(self, stride: int, sign: int) -> float:
        self._evaluate(stride, sign)
        return self._of(self._candidate, self.num_selected + sign * self.counts[stride])

    def _evaluate(self, stride: int, sign: int) -> None:
        """Put the moments with a stride added or taken away in the candidate's memory."""
        for (sums, squares), now, then in zip(self._moments, self._running, self._candidate, strict=True):
            torch.add(now[0], sums[stride], alpha=sign, out=then[0])
            torch.add(now[1], squares[stride], alpha=sign, out=then[1])
        self._evaluated = stride, sign

    def _take(self, stride: int, sign: int) -> None:
        if self._evaluated != (stride, sign):
            self._evaluate(stride, sign)
        self._running, self._candidate, self._evaluated = self._candidate, self._running, None

    def _of(self, moments: Sequence[tuple[Tensor, Tensor]], count: int) -> float:
        """The metric of ``count`` gradients with these sums and sums of squares."""
        if count < 2:
            return 0.0
        sqnorm = 0.0
        for (total, square_total), variance in zip(moments, self._variances, strict=True):
            torch.addcmul(square_total, total, total, value=-1 / count, out=variance)
            sqnorm += torch.dot(variance, variance).item()
        return math.sqrt(sqnorm) / (count - 1) * self._scale**2


def bottom_up(metric: Metric, distance: Distance) -> None:
    """Add strides for as long as one of them brings the metric nearer, in passes over those left (Algorithm 2).

    The first stride is always taken, so that something is selected.

    Args:
        metric: The metric, with nothing selected; what is selected at the end stays in it.
        distance: How far a value is from where it should be.
    """
    _improve(metric, distance, math.inf, lambda: _where(metric, selected=False))


def top_down(metric: Metric, distance: Distance, *, literal: bool) -> None:
    """Take strides away for as long as that brings the metric nearer, in passes over those left (Algorithm 3).

    Args:
        metric: The metric, with nothing selected; what is selected at the end stays in it.
        distance: How far a value is from where it should be.
        literal: To the letter: the first stride always goes, however well the whole batch fits, and the last one may.
    """
    metric.select_all()
    best = math.inf if literal else distance(metric.value)
    _improve(metric, distance, best, lambda: _where(metric, selected=True), keep_last=not literal)


def _improve(
    metric: Metric, distance: Distance, best: float, candidates: Callable[[], list[int]], *, keep_last: bool = False
) -> None:
    """Flip each candidate that brings the metric nearer, until a whole pass flips none."""
    improved = True
    while improved:
        improved = False
        for stride in candidates():
            if keep_last and sum(metric.selected) == 1:
                return
            own = distance(metric.value_if_flipped(stride))
            if own < best:
                metric.flip(stride)
                best, improved = own, True


def _where(metric: Metric, *, selected: bool) -> list[int]:
    """The strides that are selected, or those that are not, as they are now."""
    return [stride for stride, is_selected in enumerate(metric.selected) if is_selected == selected]


def metric_of(name: str, parts: Sequence[Strides], *, over_strides: bool) -> Metric:
    """The metric of that name for a layer.

    Args:
        name: ``"norm"``, ``"variance"``, ``"trace"`` or ``"std"``.
        parts: The strides of each of its parameters.
        over_strides: Of the strides' mean gradients, not of the samples' gradients.

    Returns:
        The metric, with nothing selected.
    """
    counts = parts[0].counts
    ones = (1,) * len(counts)
    if name == "variance":
        moments = [_moments(part, over_strides=over_strides) for part in parts]
        return VarianceNorm(ones if over_strides else counts, moments, parts[0].scale)
    gram = np.sum([part.gram for part in parts if part.gram is not None], axis=0)
    if over_strides:
        gram = gram / np.outer(counts, counts)
        return OfProducts(ones, gram, gram.diagonal(), _FORMULAS[name])
    own = [part.sqnorms for part in parts if part.sqnorms is not None]  # which the norm does without
    sqnorms = np.sum(own, axis=0) if own else np.zeros(len(counts))
    return OfProducts(counts, gram, sqnorms, _FORMULAS[name])


_FORMULAS = {"norm": norm, "trace": trace, "std": std_norm}


def _moments(part: Strides, *, over_strides: bool) -> tuple[Tensor, Tensor]:
    """A parameter's sums and sums of squares, of each stride's samples or of its mean."""
    assert part.sums is not None
    assert part.square_sums is not None
    if not over_strides:
        return part.sums, part.square_sums
    counts = part.sums.new_tensor(part.counts)
    means = part.sums / counts.view(-1, *[1] * (part.sums.dim() - 1))
    return means, means.square()
