"""DBA: for every layer, the part of the batch whose gradients best follow the loss."""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, TypedDict

import numpy as np

from gradbatch._types import Decision, Progress, Rule, Statistics, Strides
from gradbatch.errors import InvalidInputError
from gradbatch.estimators import Ema
from gradbatch.rules._check import check_at_least, check_bounds, check_choice, check_decay, check_positive
from gradbatch.rules._selection import Distance, Metric, bottom_up, metric_of, top_down
from gradbatch.rules._sizes import hold, largest_size

__all__ = ["DBA", "DBAState"]


class DBAState(TypedDict):
    """What DBA remembers.

    The running mean of the loss (``None`` before the first batch) and of each layer's metric; the epoch, and how often
    each number of samples was selected in it, as pairs; and the samples used so far, a mean over the layers.
    """

    loss: float | None
    metrics: dict[str, float]
    epoch: int
    selected: list[list[int]]
    used: float


@dataclass(frozen=True, kw_only=True)
class DBA(Rule[DBAState]):
    r"""Dynamic Batch Adaptation: each layer's update averages the part of the batch that best follows the loss.

    The batch is cut into strides of $s$ consecutive samples. For every layer apart, with a gradient metric $G(X)$ of
    the per-sample gradients in a set $X$ of strides and the batch's mean loss $M$, a greedy search looks for the $X$
    that minimises (Eq. 3)

    $$ D(X) = \Big|\,G(X) - \frac{M}{\bar M}\,\bar G\,\mu\,\Big|, $$

    where $\bar M$ and the layer's $\bar G$ are running means, $\bar x\leftarrow\beta\bar x+(1-\beta)x$. The layer's
    gradient becomes the mean over the samples in $X$, and the optimizer steps with it. The search goes bottom-up from
    nothing (Algorithm 2) or top-down from everything (Algorithm 3), by lot for every layer and step. At the end of an
    epoch, with $q$ the median number of selected samples, the batch size $B$ becomes (Eq. 4)

    $$ B+\delta \text{ if } q>0.8B,\quad B-\delta \text{ if } q<0.2B,\quad \text{else } B, $$

    within bounds.

    Metrics, over the $n$ selected gradients $d_i$ with mean $\bar d$: ``"norm"`` is $\|\bar d\|$; ``"variance"`` is
    $\|v\|$ with the elementwise variance $v=\frac1{n-1}\sum_i(d_i-\bar d)^2$; ``"trace"`` is $\sum_e v_e$; ``"std"``
    is $\|\sqrt v\|$. All variances are 0 for $n<2$.

    Source: Simionescu, Stoica and Herscovici 2022 (arXiv:2208.00815). Where it is silent or contradicts itself:

    - The variance norm as printed, $\|\frac1{n-1}\sum_i(d_i-\bar d)\|$, is always zero; the elementwise variance,
      which the text speaks of, takes its place.
    - Metrics are over samples; ``metric_over="stride"`` takes the strides' mean gradients for them.
    - The mean over the chosen is over samples, so that everything chosen gives the wrapped optimizer's own gradient.
    - A layer is a module, its weight and bias together; ``per="parameter"`` takes each tensor apart.
    - Running means begin with their first observation and advance after the selection, $\bar G$ with $G$ of what was
      chosen, so that $M/\bar M$ and $\bar G$ speak of the past. ``mixes_candidate=True`` takes the candidate's own
      metric into $\bar G$ before comparing, as the pseudo-code may be read.
    - The pseudo-code of the top-down search always drops its first stride, and may empty the set.
      ``literal=True`` follows it (an empty set gives a zero gradient); otherwise the search begins with the distance
      of the whole batch and keeps the last stride.
    - The search visits strides in their order, and passes go over those left when the pass begins.
    - $q$ is the median over all layers and steps of the epoch; a last batch that is short is left out.
    - A loss whose running mean is zero counts as equal to it.

    The batch's gradients must come apart by samples: a model that mixes samples (BatchNorm) is refused.

    Attributes:
        metric: $G$.
        stride: $s$, in samples; at least 2 for a metric of variance over samples.
        slope: $\mu>0$.
        alpha: If given, the alternative objective $|\alpha G(X)-M|$, which the authors found slightly worse.
        decay: $\beta$ of both running means, in [0, 1).
        strategy: ``"bottom-up"``, ``"top-down"``, or ``"mixed"``, one of the two by lot.
        increment: $\delta$, in samples; 0 keeps the batch size.
        min_batch_size: In samples.
        max_batch_size: In samples; the data set is a bound as well.
        metric_over: ``"sample"`` or ``"stride"``.
        per: ``"layer"`` or ``"parameter"``.
        mixes_candidate: See above.
        literal: See above.
        seed: Of the lots, which are drawn from (seed, step, layer).
    """

    metric: Literal["norm", "variance", "trace", "std"] = "norm"
    stride: int = 16
    slope: float = 1.0
    alpha: float | None = None
    decay: float = 0.9
    strategy: Literal["mixed", "bottom-up", "top-down"] = "mixed"
    increment: int = 8
    min_batch_size: int = 32
    max_batch_size: int = 2048
    metric_over: Literal["sample", "stride"] = "sample"
    per: Literal["layer", "parameter"] = "layer"
    mixes_candidate: bool = False
    literal: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("metric", self.metric, tuple(_QUANTITIES))
        check_choice("strategy", self.strategy, ("mixed", "bottom-up", "top-down"))
        check_choice("metric_over", self.metric_over, ("sample", "stride"))
        check_choice("per", self.per, ("layer", "parameter"))
        check_at_least("stride", self.stride, 1)
        check_at_least("increment", self.increment, 0)
        check_bounds(self.min_batch_size, self.max_batch_size)
        check_decay(self.decay)
        check_positive("slope", self.slope)
        if self.alpha is not None:
            check_positive("alpha", self.alpha)
        if self.metric != "norm" and self.metric_over == "sample" and self.stride < 2:
            raise InvalidInputError(
                f'`stride` must be at least 2 for the metric "{self.metric}", a variance of the samples within, got '
                f"{self.stride}"
            )

    def requires(self, progress: Progress) -> frozenset[str]:
        """What the metric takes, of strides."""
        return frozenset(f"{name}:{self.stride}" for name in _QUANTITIES[self.metric])

    def init(self) -> DBAState:
        """Nothing seen yet."""
        return DBAState(loss=None, metrics={}, epoch=0, selected=[], used=0.0)

    def update(self, statistics: Statistics, progress: Progress, state: DBAState) -> tuple[Decision, DBAState]:
        """Select in every layer, and at an epoch's end move the batch size; see the class."""
        layers = self._layers(statistics)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is held
            chosen = {name: self._search(name, own, statistics.loss, progress, state) for name, own in layers.items()}
        if not chosen or not all(math.isfinite(metric.value) for metric in chosen.values()):
            return hold("dba", progress, "this batch's gradients are not finite"), state
        counts = [_num_samples(layers[name][0], metric) for name, metric in chosen.items()]
        used = math.fsum(counts) / len(counts)
        epoch = (progress.samples_seen - statistics.num_samples) // progress.dataset_size
        selected, ended = _tallied(counts, statistics, progress, epoch, state)
        size, reason = progress.batch_size, f"dba: used {used / statistics.num_samples:.0%} of the batch"
        if ended is not None:
            size, why = self._next_size(progress, ended)
            reason = f"{reason}; {why}"
        state = DBAState(
            loss=self._mean(state["loss"], statistics.loss),
            metrics={name: self._mean(state["metrics"].get(name), metric.value) for name, metric in chosen.items()},
            epoch=epoch,
            selected=selected,
            used=state["used"] + used,
        )
        decision = Decision(
            batch_size=size,
            weights={name: tuple(map(float, metric.selected)) for name, metric in chosen.items()},
            reason=reason,
            numbers={
                "utilisation": used / statistics.num_samples,
                "real_epochs": state["used"] / progress.dataset_size,
            },
        )
        return decision, state

    def _layers(self, statistics: Statistics) -> dict[str, list[Strides]]:
        """The strides of the parameters, by layer."""
        layers: dict[str, list[Strides]] = {}
        for name, strides in (statistics.strides or {}).items():
            layers.setdefault(name.rpartition(".")[0] if self.per == "layer" else name, []).append(strides)
        return layers

    def _mean(self, past: float | None, value: float) -> float:
        """The running mean with one more value in it."""
        return value if past is None else Ema(decay=self.decay).update(past, value)

    def _search(self, layer: str, parts: Sequence[Strides], loss: float, progress: Progress, state: DBAState) -> Metric:
        """Select in one layer; the metric holds what is selected."""
        metric = self._metric(parts)
        distance = self._distance(self._past_of(layer, parts, state), loss, state["loss"])
        if self._is_bottom_up(progress.step, layer):
            bottom_up(metric, distance)
        else:
            top_down(metric, distance, literal=self.literal)
        return metric

    def _metric(self, parts: Sequence[Strides]) -> Metric:
        """The metric of a layer, with nothing selected."""
        return metric_of(self.metric, parts, over_strides=self.metric_over == "stride")

    def _past_of(self, layer: str, parts: Sequence[Strides], state: DBAState) -> float:
        r"""A layer's $\bar G$; before there is one, $G$ of the whole batch."""
        past = state["metrics"].get(layer)
        if past is not None:
            return past
        metric = self._metric(parts)
        metric.select_all()
        return metric.value

    def _distance(self, past: float, loss: float, past_loss: float | None) -> Distance:
        """$D$ as a function of the candidate's metric."""
        if self.alpha is not None:
            alpha = self.alpha
            return lambda value: abs(alpha * value - loss)
        ratio = self.slope * (loss / past_loss if past_loss else 1.0)
        if self.mixes_candidate:
            return lambda value: abs(value - ratio * self._mean(past, value))
        return lambda value: abs(value - ratio * past)

    def _is_bottom_up(self, step: int, layer: str) -> bool:
        """Which way to search, by lot if need be."""
        if self.strategy != "mixed":
            return self.strategy == "bottom-up"
        return hashlib.blake2b(f"{self.seed}/{step}/{layer}".encode(), digest_size=1).digest()[0] % 2 == 0

    def _next_size(self, progress: Progress, selected: Sequence[Sequence[int]]) -> tuple[int, str]:
        """The batch size of the next epoch (Eq. 4), and why."""
        size = progress.batch_size
        if not selected:
            return size, "no whole batch in this epoch, the size is kept"
        middle = median([count for count, times in selected for _ in range(times)])
        step = self.increment * ((middle > _MANY * size) - (middle < _FEW * size))
        bounded = max(self.min_batch_size, min(size + step, largest_size(self.max_batch_size, progress)))
        return bounded, f"median {middle:g} of {size} selected, {step:+d}"


_QUANTITIES: Mapping[str, tuple[str, ...]] = {
    "norm": ("stride_gram",),
    "variance": ("stride_moments",),
    "trace": ("stride_gram", "stride_sqnorms"),
    "std": ("stride_gram", "stride_sqnorms"),
}

_MANY, _FEW = 0.8, 0.2
"""Parts of the batch above and below which the median number of selected samples moves its size."""


def _num_samples(strides: Strides, metric: Metric) -> int:
    """Samples in the strides that are selected."""
    return sum(count for count, is_selected in zip(strides.counts, metric.selected, strict=True) if is_selected)


def _tallied(
    counts: Sequence[int], statistics: Statistics, progress: Progress, epoch: int, state: DBAState
) -> tuple[list[list[int]], list[list[int]] | None]:
    """What was selected in the epoch under way, and in one that is over, if one is."""
    # If its last batch was not asked about, an epoch is over with the batch after it, which is none of its own.
    is_late = epoch > state["epoch"] and bool(state["selected"])
    selected: list[list[int]] = [] if is_late else [list(pair) for pair in state["selected"]]
    if statistics.num_samples == progress.batch_size:  # not the short batches of an epoch's end
        selected = _counted(selected, counts)
    if is_late:
        return selected, state["selected"]
    return ([], selected) if progress.samples_seen % progress.dataset_size == 0 else (selected, None)


def _counted(selected: Sequence[Sequence[int]], counts: Sequence[int]) -> list[list[int]]:
    """The pairs of a number of samples and how often it was selected, with more of them."""
    times = Counter({pair[0]: pair[1] for pair in selected})
    times.update(counts)
    return [[count, times[count]] for count in sorted(times)]
