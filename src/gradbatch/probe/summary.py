"""From sums over passes to `Statistics`: by layer, by parameter group, in total."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import mul
from typing import Any

import torch
from torch import Tensor

from gradbatch import estimators
from gradbatch._types import LayerStatistics, Statistics
from gradbatch.probe.coverage import ParameterTable
from gradbatch.probe.hooks import sqnorm

__all__ = ["Sums", "summarise"]


@dataclass(slots=True)
class Sums:
    r"""What the passes behind one `Statistics` add up to.

    Sums, never means, so that uneven cuts are exact. The numbers stay on the device, as 0-dim tensors, until
    `summarise` copies all of them at once.

    Attributes:
        num_samples: Samples $B$ so far.
        num_passes: Passes $J$ so far.
        values: Squared norms heard, one for every parameter of every pass.
        places: The parameter that each belongs to.
        factors: The factor that turns each into its share of $\sum_i\|g_i\|^2$ (``layers``) or of
            $\sum_j n_j\|\bar g_j\|^2$ (``chunks``).
        gradient_sum: $\sum_i g_i$ by parameter, where the probe keeps it.
        is_complete: False once a pass was heard whose second moment cannot be had.
        is_contradicted: Whether the mean gradient turned out longer than the samples' gradients allow.
        by_chunks: Whether the values are of whole passes (``chunks``) or of samples (``layers``).
    """

    num_samples: int = 0
    num_passes: int = 0
    values: list[Tensor] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)
    gradient_sum: dict[int, Tensor] = field(default_factory=dict)
    is_complete: bool = True
    is_contradicted: bool = False
    by_chunks: bool = False

    def add(self, values: Mapping[int, Tensor], factor: float, num_samples: int) -> None:
        """Add the squared norms of one more pass of ``num_samples`` samples."""
        self.num_samples += num_samples
        self.num_passes += 1
        self.values += values.values()
        self.places += values
        self.factors += [factor] * len(values)

    def add_gradient(self, grads: Mapping[int, Tensor], factor: float) -> None:
        """Add one more pass's gradient, times what turns it into a sum over samples."""
        for place, grad in grads.items():
            total = self.gradient_sum.get(place)
            self.gradient_sum[place] = grad * factor if total is None else total.add_(grad, alpha=factor)

    def mean_gradient(self, num_parameters: int) -> list[Tensor | None]:
        """The mean gradient by parameter, from the probe's own sum."""
        grads = [self.gradient_sum.get(place) for place in range(num_parameters)]
        return [None if grad is None else grad / self.num_samples for grad in grads]

    def sample_sqnorm(self, total: float, grad_sqnorm: float) -> float | None:
        r"""The second moment $\frac1B\sum_i\|g_i\|^2$ of some parameters.

        For ``chunks`` it is what makes their unbiased variance,
        $(\sum_j n_j\|\bar g_j\|^2 - B\|\bar g\|^2)/(J-1)$, come out of the usual formula.

        Args:
            total: Those parameters' values times their factors, summed.
            grad_sqnorm: $\|\bar g\|^2$ of those parameters.

        Returns:
            The second moment, or ``None`` where the passes cannot give it.
        """
        size, passes = self.num_samples, self.num_passes
        if not self.is_complete or (self.by_chunks and passes < 2):
            return None
        if not self.by_chunks:
            return total / size
        return grad_sqnorm + (size - 1) / size * (total - size * grad_sqnorm) / (passes - 1)


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
    grad_places = [place for place, grad in enumerate(gradient) if grad is not None]
    grads = [sqnorm(grad) for grad in gradient if grad is not None]
    loss_value, *numbers = _to_host([torch.as_tensor(loss), *grads, *sums.values])
    grad_shares = numbers[: len(grads)]
    shares = list(map(mul, sums.factors, numbers[len(grads) :]))
    # The mean of squares is never below the square of the mean, but for rounding of the gradients themselves.
    if not sums.by_chunks and math.fsum(grad_shares) > (1 + _ROUNDING) * math.fsum(shares) / sums.num_samples:
        sums.is_contradicted, sums.is_complete = True, False

    def parts(owners: Sequence[Any], keys: Iterable[Any]) -> dict[Any, LayerStatistics]:
        """The same for each owner of parameters: a layer, or a group, even an empty one."""
        of_key = {key: ([0.0], [0.0]) for key in keys}
        for place, share in zip(grad_places, grad_shares, strict=True):
            of_key[owners[place]][0].append(share)
        for place, share in zip(sums.places, shares, strict=True):
            of_key[owners[place]][1].append(share)
        return {
            key: LayerStatistics(num_samples=sums.num_samples, **_asked(sums, *own, quantities))
            for key, own in of_key.items()
        }

    return Statistics(
        num_samples=sums.num_samples,
        loss=loss_value,
        layers=parts(table.layers, table.layers) if "layers" in quantities else None,
        groups=tuple(parts(table.groups, range(table.num_groups)).values()) if "groups" in quantities else None,
        **_asked(sums, grad_shares, shares, quantities),
    )


def _asked(
    sums: Sums, grad_shares: Iterable[float], shares: Iterable[float], quantities: frozenset[str]
) -> dict[str, Any]:
    """The quantities that were asked for and can be had, of the parameters with these shares."""
    grad_sqnorm = math.fsum(grad_shares)
    sample_sqnorm = sums.sample_sqnorm(math.fsum(shares), grad_sqnorm)
    values: dict[str, float | None] = {}
    if "grad_sqnorm" in quantities:
        values["grad_sqnorm"] = grad_sqnorm
    if "sample_sqnorm" in quantities:
        values["sample_sqnorm"] = sample_sqnorm
    if sums.num_samples > 1 and sample_sqnorm is not None and not quantities.isdisjoint(_DERIVED):
        moments = LayerStatistics(num_samples=sums.num_samples, grad_sqnorm=grad_sqnorm, sample_sqnorm=sample_sqnorm)
        values |= {name: formula(moments) for name, formula in _DERIVED.items() if name in quantities}
    return values


_ROUNDING = 0.01
"""Relative; what half-precision gradients may add to a squared norm."""

_DERIVED = {"grad_variance": estimators.grad_variance, "noise_scale": estimators.noise_scale}


def _to_host(numbers: Sequence[Tensor]) -> list[float]:
    """The values of 0-dim tensors, in one copy from a device."""
    if numbers[-1].device.type == "cpu":  # nothing to copy, and nothing gained by packing
        return [number.item() for number in numbers]
    return torch.stack([number.detach().to(numbers[-1].device) for number in numbers]).tolist()
