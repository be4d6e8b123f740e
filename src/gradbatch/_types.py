"""The values that flow: measured statistics in, a decision out, a record into the log.

Everything here is frozen, holds plain numbers (but for `Strides`) and knows nothing of models, data or devices, so that
a rule can be tested on hand-made numbers, replayed on a log and run identically on every rank.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gradbatch.errors import InvalidInputError

__all__ = [
    "QUANTITIES",
    "STRIDE_QUANTITIES",
    "Decision",
    "Floats",
    "LayerStatistics",
    "Progress",
    "Record",
    "Rule",
    "Statistics",
    "Strides",
]

Floats = npt.NDArray[np.float64]
"""Numbers on the host."""

QUANTITIES = (
    "grad_sqnorm",
    "sample_sqnorm",
    "grad_variance",
    "noise_scale",
    "projection_variance",
    "diagonal_projection_variance",
    "momentum_projection",
    "position_sqnorm",
    "preconditioned_variance",
    "preconditioned_sqnorm",
    "descent_variance",
    "descent_sqnorm",
)
"""Names of the scalar quantities that a rule may ask for; ``"layers"`` and ``"groups"`` ask for them in parts."""

STRIDE_QUANTITIES = ("stride_gram", "stride_sqnorms", "stride_moments")
"""What can be asked of strides of the batch, with their size: ``"stride_gram:16"``; see `Strides`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Strides:
    r"""One parameter's gradients, summed over strides of consecutive samples, for rules that select among them.

    Stride $j$ holds $n_j$ samples, and $S_j=\sum_{i\in j}g_i$ is the sum of their gradients.

    Attributes:
        counts: $n_j$, all equal but the last, which may be smaller.
        gram: $S_j\cdot S_k$, [k, k], if ``"stride_gram:<size>"`` was asked for.
        sqnorms: $\sum_{i\in j}\|g_i\|^2$, [k], if ``"stride_sqnorms:<size>"`` was asked for.
        sums: $S_j$ over ``scale``, [k, *shape], if ``"stride_moments:<size>"`` was asked for.
        square_sums: $\sum_{i\in j}g_i\circ g_i$ over ``scale`` squared, likewise.
        scale: The factor that the tensors want; it is left out of them, since they are large.
    """

    counts: tuple[int, ...]
    gram: Floats | None = None
    sqnorms: Floats | None = None
    sums: Tensor | None = None
    square_sums: Tensor | None = None
    scale: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStatistics:
    r"""Gradient statistics of one layer, or of one parameter group.

    The fields mean what they mean in `Statistics`, with every norm and product taken over the parameters of
    this part only. Those of the parts add up to those of the whole, but for ``noise_scale`` and
    ``projection_variance``.

    Attributes:
        num_samples: Number of samples $B$ behind the statistics.
        grad_sqnorm: $\|\bar g\|^2$.
        sample_sqnorm: $\frac1B\sum_i\|g_i\|^2$.
        grad_variance: Unbiased $\operatorname{tr}\Sigma$.
        noise_scale: $\operatorname{tr}\Sigma/\|G\|^2$, in samples.
        projection_variance: Unbiased variance of $g_i\cdot\bar g$.
        diagonal_projection_variance: $\sum_d \bar g_d^2\operatorname{var}_d$.
        momentum_projection: $\bar g\cdot(\rho\,b+\bar g)$ with momentum buffer $b$.
        position_sqnorm: $\frac1B\sum_i\sum_t\|g_{it}\|^2$.
        preconditioned_variance: $\sum_d p_d^2\operatorname{var}_d$.
        preconditioned_sqnorm: $\sum_d p_d^2\bar g_d^2$.
        descent_variance: $\sum_d p_d\operatorname{var}_d$.
        descent_sqnorm: $\sum_d p_d\bar g_d^2$.
    """

    num_samples: int
    grad_sqnorm: float | None = None
    sample_sqnorm: float | None = None
    grad_variance: float | None = None
    noise_scale: float | None = None
    projection_variance: float | None = None
    diagonal_projection_variance: float | None = None
    momentum_projection: float | None = None
    position_sqnorm: float | None = None
    preconditioned_variance: float | None = None
    preconditioned_sqnorm: float | None = None
    descent_variance: float | None = None
    descent_sqnorm: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    r"""Gradient statistics of one batch, reduced over micro-batches and ranks.

    $g_i$ is the gradient of sample $i$'s own loss (no $1/B$), $\bar g=\frac1B\sum_i g_i$ their mean over the
    $B$ samples of the batch. A quantity that was not asked for, or that this batch cannot give (a variance of
    one sample), is ``None``.

    Attributes:
        num_samples: Number of samples $B$ of this batch, all ranks.
        loss: Mean loss of the batch.
        grad_sqnorm: $\|\bar g\|^2$, in squared gradient units.
        sample_sqnorm: $\frac1B\sum_i\|g_i\|^2$, in squared gradient units.
        grad_variance: Unbiased trace of the covariance of the $g_i$, in squared gradient units.
        noise_scale: $\operatorname{tr}\Sigma/\|G\|^2$ with the bias-corrected $\|G\|^2$, in samples; ``None``
            where the corrected $\|G\|^2$ is not positive.
        projection_variance: Unbiased variance of the projections $g_i\cdot\bar g$, in squared gradient units, squared.
        diagonal_projection_variance: $\sum_d \bar g_d^2 \operatorname{var}_d$ with unbiased variances.
        momentum_projection: $\bar g\cdot(\rho\,b + \bar g)$ with the optimizer's momentum buffer $b$.
        position_sqnorm: $\frac1B\sum_i\sum_t\|g_{it}\|^2$, where $g_i=\sum_tg_{it}$ over the positions of an image or a
            sequence: ``sample_sqnorm`` without the products between positions, in squared gradient units.
        preconditioned_variance: $\sum_d p_d^2\operatorname{var}_d$ with unbiased variances and the factor that the
            optimizer puts on the gradient: $p_d=1/(\sqrt{\hat v_d}+\epsilon)$ of Adam, this gradient in $\hat v_d$
            (the variance then has no unit), and 1 for SGD; ``None`` for others, and until Adam has made five steps.
        preconditioned_sqnorm: $\sum_d p_d^2\bar g_d^2$, likewise.
        descent_variance: $\sum_d p_d\operatorname{var}_d$: the noise of an update as the loss feels it, since the
            update is $-\eta p_d\bar g_d$; ``grad_variance`` for SGD.
        descent_sqnorm: $\sum_d p_d\bar g_d^2$, what an update takes from the loss to first order, per unit of rate;
            ``grad_sqnorm`` for SGD.
        layers: The same per layer, by the layer's name, when ``"layers"`` was asked for.
        groups: The same per parameter group of the optimizer, when ``"groups"`` was asked for.
        strides: Sums over strides of the samples, by the parameters' names, when they were asked for.
        extra: Quantities that a rule registered by name; none so far.
    """

    num_samples: int
    loss: float
    grad_sqnorm: float | None = None
    sample_sqnorm: float | None = None
    grad_variance: float | None = None
    noise_scale: float | None = None
    projection_variance: float | None = None
    diagonal_projection_variance: float | None = None
    momentum_projection: float | None = None
    position_sqnorm: float | None = None
    preconditioned_variance: float | None = None
    preconditioned_sqnorm: float | None = None
    descent_variance: float | None = None
    descent_sqnorm: float | None = None
    layers: Mapping[str, LayerStatistics] | None = None
    groups: tuple[LayerStatistics, ...] | None = None
    strides: Mapping[str, Strides] | None = None
    extra: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_finite(self) -> bool:
        """Whether the loss and every total that was measured are neither nan nor infinite."""
        totals = [self.loss, *[value for name in QUANTITIES if (value := getattr(self, name)) is not None]]
        return all(map(math.isfinite, totals))


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where training stands when a rule is asked: after backward, before the update.

    Attributes:
        step: Updates done before this one.
        samples_seen: Samples drawn so far, this batch included.
        epoch: ``samples_seen / dataset_size``, in epochs.
        lr: The optimizer's learning rate, before any scale (of its first parameter group).
        momentum: The optimizer's momentum (of its first parameter group); 0 where it has none.
        batch_size: The size that was *requested* for this batch, in samples over all ranks.
        dataset_size: Samples in an epoch.
        world_size: Number of ranks.
        seconds: Time spent training so far, measured.
        group_lrs: Learning rates of all parameter groups where there are several, else empty.
        optimizer: What the optimizer is: ``"SGD"``, with heavy-ball momentum or without, or else in words, as
            ``"Adam"`` or ``"SGD with Nesterov momentum"``.
    """

    step: int
    samples_seen: int
    epoch: float
    lr: float
    momentum: float
    batch_size: int
    dataset_size: int
    world_size: int = 1
    seconds: float = 0.0
    group_lrs: tuple[float, ...] = ()
    optimizer: str = "SGD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a rule answers; all fields are given by name.

    Attributes:
        batch_size: Size of the next batch, in samples over all ranks. Where ``step`` is false: how many more
            samples to draw into this one.
        step: Update now, or draw more samples first.
        lr_scale: Factor on the scheduled learning rate, for this update only.
        weights: For rules that select gradients: by the name of a layer or parameter, how much the samples of each
            stride count in its gradient, see `Probe.select`. Equal weights leave the gradient as it is.
        reason: Why, for people; it begins with the rule's name and a colon.
        numbers: What stands behind it, by name, for programs; finite.
    """

    batch_size: int
    step: bool = True
    lr_scale: float = 1.0
    weights: Mapping[str, tuple[float, ...]] | None = None
    reason: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One update, as one flat line of the run log.

    Attributes:
        step: Updates done before this one.
        samples_seen: Samples drawn so far, this batch included.
        epoch: ``samples_seen / dataset_size``, in epochs.
        batch_size: Samples really used for this update.
        requested: Samples that were asked for; more than ``batch_size`` at an epoch's end.
        next_batch_size: Samples asked for next.
        micro_batches: Forward and backward passes behind this update.
        lr: The scheduled learning rate, before the scale (of the first parameter group).
        momentum: The momentum (of the first parameter group).
        lr_scale: The factor on it, for this update only.
        loss: Mean loss of the batch.
        seconds: Time spent training so far.
        reason: Why the next batch has the size it has.
        skipped: Whether the update was left out because the loss or the gradient was not finite.
        grad_sqnorm: See `Statistics`; this and the following are ``None`` where no rule asked.
        sample_sqnorm: See `Statistics`.
        grad_variance: See `Statistics`.
        noise_scale: See `Statistics`.
        projection_variance: See `Statistics`.
        diagonal_projection_variance: See `Statistics`.
        momentum_projection: See `Statistics`.
        position_sqnorm: See `Statistics`.
        preconditioned_variance: See `Statistics`.
        preconditioned_sqnorm: See `Statistics`.
        descent_variance: See `Statistics`.
        descent_sqnorm: See `Statistics`.
        group_lrs: Learning rates of all parameter groups, where there are several.
        groups: See `Statistics`.
        numbers: What stands behind the reason, see `Decision`.
        shadows: Batch sizes that the shadow rules would have asked for next, by name.
    """

    step: int
    samples_seen: int
    epoch: float
    batch_size: int
    requested: int
    next_batch_size: int
    micro_batches: int
    lr: float
    lr_scale: float
    loss: float
    seconds: float
    momentum: float = 0.0
    reason: str = ""
    skipped: bool = False
    grad_sqnorm: float | None = None
    sample_sqnorm: float | None = None
    grad_variance: float | None = None
    noise_scale: float | None = None
    projection_variance: float | None = None
    diagonal_projection_variance: float | None = None
    momentum_projection: float | None = None
    position_sqnorm: float | None = None
    preconditioned_variance: float | None = None
    preconditioned_sqnorm: float | None = None
    descent_variance: float | None = None
    descent_sqnorm: float | None = None
    group_lrs: tuple[float, ...] = ()
    groups: tuple[LayerStatistics, ...] | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    shadows: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The record as a flat, JSON-ready dictionary: what was not asked for is left out.

        Numbers that JSON cannot hold (nan, infinities) become ``None``; ``reason`` says so. A shadow's answer stands
        under ``"shadows.<name>"``, a number behind the reason under ``"numbers.<name>"``, what belongs to a parameter
        group under ``"groups.<index>.<name>"``.

        Returns:
            The dictionary, without the fields that are ``None``.
        """
        flat = {name: value for name in _RECORD_FIELDS if (value := getattr(self, name)) is not None}
        flat |= {f"groups.{index}.lr": lr for index, lr in enumerate(self.group_lrs)}
        for index, group in enumerate(self.groups or ()):
            values = {name: getattr(group, name) for name in ("num_samples", *QUANTITIES)}
            flat |= {f"groups.{index}.{name}": value for name, value in values.items() if value is not None}
        flat |= {f"numbers.{name}": value for name, value in self.numbers.items()}
        flat |= {f"shadows.{name}": size for name, size in self.shadows.items()}
        return {k: value if type(value) is not float or math.isfinite(value) else None for k, value in flat.items()}

    @classmethod
    def from_dict(cls, flat: Mapping[str, Any]) -> "Record":
        """The record behind a line of the log, with nan for a number of ``None``, which was not finite.

        Args:
            flat: The line, as `to_dict` made it.

        Returns:
            The record.

        Raises:
            InvalidInputError: If a field is missing or unknown.
        """
        flat = {name: math.nan if value is None else value for name, value in flat.items()}
        values = {name: value for name, value in flat.items() if "." not in name}
        try:
            groups = _groups_of(flat)
            return cls(
                **values,
                group_lrs=tuple([group.pop("lr") for group in groups if "lr" in group]),
                groups=tuple([LayerStatistics(**group) for group in groups]) if any(groups) else None,
                numbers=_under("numbers.", flat),
                shadows=_under("shadows.", flat),
            )
        except TypeError as error:
            raise InvalidInputError(f"this is not a line of a run log: {error}") from None


def _under(prefix: str, flat: Mapping[str, Any]) -> dict[str, Any]:
    """What stands under a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in flat.items() if name.startswith(prefix)}


def _groups_of(flat: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What stands under each parameter group, in their order."""
    groups: dict[int, dict[str, Any]] = {}
    for name, value in _under("groups.", flat).items():
        index, _, own = name.partition(".")
        groups.setdefault(int(index), {})[own] = value
    return [groups[index] for index in sorted(groups)]


_NESTED = ("group_lrs", "groups", "numbers", "shadows")

_RECORD_FIELDS = tuple(item.name for item in fields(Record) if item.name not in _NESTED)

State = TypeVar("State")


class Rule(ABC, Generic[State]):
    """What decides the next batch size: hyper-parameters with three pure methods.

    A rule never sees tensors, the model or the data. Its evolving state (running averages, counters) is a plain
    JSON-ready value that it makes in `init`, receives in `update` and returns anew; the rule itself never
    changes. To alter a rule, wrap it (`gradbatch.Clip`, `gradbatch.Every`, ...), do not subclass it.

    Attributes:
        in_step: Whether the rule may answer ``step=False`` and so decide within a step.

    Example:
        A rule that asks for as many samples as the noise scale says:

        >>> @dataclass(frozen=True, kw_only=True)
        ... class NoiseFollower(Rule[None]):
        ...     max_batch_size: int = 1024
        ...
        ...     def requires(self, progress):
        ...         return frozenset({"noise_scale"})
        ...
        ...     def init(self):
        ...         return None
        ...
        ...     def update(self, statistics, progress, state):
        ...         size = statistics.noise_scale or self.max_batch_size  # None: noise hides the gradient
        ...         size = min(max(1, round(size)), self.max_batch_size)
        ...         return Decision(batch_size=size, reason=f"noise scale {statistics.noise_scale}"), state
        >>> NoiseFollower().requires(None)
        frozenset({'noise_scale'})
    """

    in_step: ClassVar[bool] = False

    @abstractmethod
    def requires(self, progress: Progress) -> frozenset[str]:
        """Names of the quantities to measure on the coming batch; empty for none.

        Args:
            progress: Where training stands, before the batch is drawn (its samples are not counted yet).

        Returns:
            Names of fields of `Statistics`, as ``"grad_variance"``; ``"layers"`` and ``"groups"`` for the same
            in parts.
        """

    @abstractmethod
    def init(self) -> State:
        """The state before the first batch."""

    @abstractmethod
    def update(self, statistics: Statistics, progress: Progress, state: State) -> tuple[Decision, State]:
        """Decide, given one batch's statistics.

        Args:
            statistics: What was measured on this batch.
            progress: Where training stands, this batch included.
            state: What the last call returned, or `init`. Must not be changed in place.

        Returns:
            The decision, and the state for the next call.
        """
