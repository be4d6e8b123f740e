"""From sums over passes to `Statistics`: by parameter, then by layer, by group and in total."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gradbatch import estimators
from gradbatch._types import LayerStatistics, Statistics
from gradbatch.probe.coverage import ParameterTable
from gradbatch.probe.hooks import sqnorm

__all__ = ["Sums", "summarise"]


@dataclass(slots=True)
class Sums:
    r"""What the passes behind one `Statistics` add up to. Sums, never means, so that uneven cuts are exact.

    The numbers stay on the device, as 0-dim tensors, until `summarise` copies all of them at once.

    Attributes:
        num_samples: Samples $B$ so far.
        num_passes: Passes $J$ so far.
        values: Squared norms heard, one for every parameter of every pass.
        places: The parameter that each belongs to.
        factors: The factor that turns each into its share of $\sum_i\|g_i\|^2$ (``layers``) or of
            $\sum_j n_j\|\bar g_j\|^2$ (``chunks``).
        gradient_sum: $\sum_i g_i$ by parameter, where the probe keeps it.
        is_complete: False once a pass was heard whose second moment cannot be had.
        by_chunks: Whether the values are of whole passes (``chunks``) or of samples (``layers``).
    """

    num_samples: int = 0
    num_passes: int = 0
    values: list[Tensor] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)
    gradient_sum: dict[int, Tensor] = field(default_factory=dict)
    is_complete: bool = True
    by_chunks: bool = False

    def add(self, values: Mapping[int, Tensor], factor: float, num_samples: int) -> None:
        """Add the squared norms of one more pass of ``num_samples`` samples."""
        self.num_samples += num_samples
        self.num_passes += 1
        self.values.extend(values.values())
        self.places.extend(values)
        self.factors.extend([factor] * len(values))

    def add_gradient(self, grads: Mapping[int, Tensor], factor: float) -> None:
        """Add one more pass's gradient, times what turns it into a sum over samples."""
        for place, grad in grads.items():
            total = self.gradient_sum.get(place)
            self.gradient_sum[place] = grad * factor if total is None else total.add_(grad, alpha=factor)


    def mean_gradient(self, num_parameters: int) -> list[Tensor | None]:
        """The mean gradient by parameter, from the probe's own sum."""
        grads = [self.gradient_sum.get(place) for place in range(num_parameters)]
        return [None if grad is None else grad / self.num_samples for grad in grads]

    def sample_sqnorms(self, totals: Sequence[float], grad_sqnorms: Sequence[float]) -> list[float] | None:
        r"""Second moments $\frac1B\sum_i\|g_i\|^2$ by parameter, or ``None`` where one cannot be had.

        For ``chunks`` the second moment is what makes the unbiased variance
        $(\sum_j n_j\|\bar g_j\|^2 - B\|\bar g\|^2)/(J-1)$ come out of the usual formula.
        """
        if not self.is_complete:
            return None
        samples, passes = self.num_samples, self.num_passes
        if not self.by_chunks:
            return [total / samples for total in totals]
        if passes < 2:
            return None
        pairs = zip(totals, grad_sqnorms, strict=True)
        return [g + (samples - 1) / samples * (t - samples * g) / (passes - 1) for t, g in pairs]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Squares:
    """Squared norms by parameter, as plain numbers; the second moment is ``None`` where it cannot be had."""

    num_samples: int
    grad: list[float]
    sample: list[float] | None

    def part(self, places: Iterable[int], quantities: frozenset[str]) -> LayerStatistics:
        """What was asked for, of some parameters together."""
        places = list(places)
        grad = sum([self.grad[p] for p in places])
        sample = None if self.sample is None else sum([self.sample[p] for p in places])
        return LayerStatistics(num_samples=self.num_samples, **_wanted(self.num_samples, grad, sample, quantities))


def _wanted(
    num_samples: int, grad_sqnorm: float, sample_sqnorm: float | None, quantities: frozenset[str]
) -> dict[str, float | None]:
    """The quantities that were asked for and can be had, from the two moments."""
    wanted = {"grad_sqnorm": grad_sqnorm, "sample_sqnorm": sample_sqnorm}
    if num_samples > 1 and sample_sqnorm is not None and not quantities.isdisjoint(_DERIVED):
        moments = LayerStatistics(num_samples=num_samples, grad_sqnorm=grad_sqnorm, sample_sqnorm=sample_sqnorm)
        wanted |= {name: formula(moments) for name, formula in _DERIVED.items()}
    return {name: value for name, value in wanted.items() if name in quantities}


_DERIVED = {"grad_variance": estimators.grad_variance, "noise_scale": estimators.noise_scale}


def summarise(
    sums: Sums,
    gradient: Sequence[Tensor | None],
    loss: Tensor | float,
    table: ParameterTable,
    quantities: frozenset[str],
) -> Statistics:
    """The statistics behind the sums, with the one copy from device to host.

    Args:
        sums: What the passes add up to.
        gradient: The mean gradient, by parameter.
        loss: Mean loss over the samples.
        table: The parameters.
        quantities: What was asked for.

    Returns:
        The statistics, with ``None`` for what was not asked for and for what the passes cannot give.
    """
    grads = {place: sqnorm(grad) for place, grad in enumerate(gradient) if grad is not None}
    loss_value, *numbers = to_host([torch.as_tensor(loss), *grads.values(), *sums.values])
    grad_sqnorms = [0.0] * len(table.names)
    for place, number in zip(grads, numbers, strict=False):
        grad_sqnorms[place] = number
    totals = [0.0] * len(table.names)
    for place, factor, number in zip(sums.places, sums.factors, numbers[len(grads) :], strict=True):
        totals[place] += factor * number
    squares = _Squares(
        num_samples=sums.num_samples,
        grad=grad_sqnorms,
        sample=sums.sample_sqnorms(totals, grad_sqnorms),
    )
    total = None if squares.sample is None else sum(squares.sample)
    return Statistics(
        num_samples=sums.num_samples,
        loss=loss_value,
        layers=_by_layer(squares, table, quantities) if "layers" in quantities else None,
        groups=_by_group(squares, table, quantities) if "groups" in quantities else None,
        **_wanted(sums.num_samples, sum(squares.grad), total, quantities),
    )


def to_host(numbers: Sequence[Tensor]) -> list[float]:
    """The values of 0-dim tensors: in one copy where they lie on a device, one by one where none is needed."""
    if all(number.device.type == "cpu" for number in numbers):
        return [number.item() for number in numbers]
    return torch.stack([number.detach().to(numbers[-1].device) for number in numbers]).tolist()


def _by_layer(
    squares: _Squares, table: ParameterTable, quantities: frozenset[str]
) -> dict[str, LayerStatistics]:
    """The statistics of each layer, by its qualified name."""
    places = defaultdict[str, list[int]](list)
    for place, layer in enumerate(table.layers):
        places[layer].append(place)
    return {layer: squares.part(own, quantities) for layer, own in places.items()}


def _by_group(
    squares: _Squares, table: ParameterTable, quantities: frozenset[str]
) -> tuple[LayerStatistics, ...]:
    """The statistics of each parameter group, in the groups' order."""
    return tuple(
        squares.part([place for place, own in enumerate(table.groups) if own == group], quantities)
        for group in range(table.num_groups)
    )
