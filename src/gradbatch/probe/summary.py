"""From sums over passes to `Statistics`: by layer, by parameter group, in total."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradbatch import estimators
from gradbatch._types import Floats, LayerStatistics, Statistics
from gradbatch.probe.coverage import ParameterTable
from gradbatch.probe.forms import PerSample
from gradbatch.probe.moments import projections
from gradbatch.probe.sums import Sums

__all__ = ["summarise"]


@dataclass(frozen=True, slots=True)
class _Partition:
    """A way to cut the parameters into parts.

    Attributes:
        keys: The parts, in order.
        owners: The part to which each parameter belongs.
    """

    keys: Sequence[Any]
    owners: Sequence[Any]


_Shares = dict[str, dict[int, float]]
"""By kind and place: shares of sums over parameters, such as those of the squared norm of the gradient."""


def summarise(
    sums: Sums,
    gradient: Sequence[Tensor | None],
    loss: Tensor | float,
    table: ParameterTable,
    quantities: frozenset[str],
    momenta: Sequence[Tensor | None] = (),
    preconditioners: Sequence[Tensor | None] = (),
) -> Statistics:
    r"""The statistics behind the sums, with the one copy from device to host.

    Args:
        sums: What the passes add up to.
        gradient: The mean gradient, by parameter.
        loss: Mean loss over the samples.
        table: The parameters.
        quantities: What was asked for.
        momenta: What momentum carries over to the update, $\rho\,b$ by parameter, for ``momentum_projection``.
        preconditioners: $p$ by parameter, for ``preconditioned_variance`` and ``descent_variance``.

    Returns:
        The statistics, with ``None`` for what was not asked for and for what the passes cannot give.
    """
    partitions = {"total": _Partition([None], [None] * len(table.names))}
    if "layers" in quantities:
        partitions["layers"] = _Partition(list(dict.fromkeys(table.layers)), table.layers)
    if "groups" in quantities:
        partitions["groups"] = _Partition(range(table.num_groups), table.groups)
    spreads: list[Tensor] = []
    if "projection_variance" in quantities and sums.forms and sums.num_counted > 1:
        of_samples = _projections(sums, gradient)
        spreads = [spread for cut in partitions.values() for spread in _spreads(of_samples, cut)]
    strides, of_strides = sums.strides if sums.is_complete else None, dict[tuple[str, int], Tensor]()
    if strides is not None:
        strides.pad(sums.num_samples)
        of_strides = strides.asked(quantities)
    numbers = _arrays(of_strides)
    grads = {place: grad for place, grad in enumerate(gradient) if grad is not None}
    pairs = _weighted(sums, grads, preconditioners, quantities)
    dots = _dots(grads, momenta) if "momentum_projection" in quantities else {}
    loss_value, shares, host_spreads = _on_host(sums, grads, loss, pairs, dots, spreads)
    is_exact = sums.is_complete and not sums.by_chunks and sums.num_counted == sums.num_samples
    if is_exact and _is_contradicted(sums, shares):
        sums.is_contradicted, sums.is_complete = True, False
    of_parts = iter(host_spreads)
    parts = {name: _parts(sums, shares, cut, of_parts, quantities) for name, cut in partitions.items()}
    return Statistics(
        loss=loss_value,
        layers=_statistics(sums, parts["layers"]) if "layers" in parts else None,
        groups=tuple(_statistics(sums, parts["groups"]).values()) if "groups" in parts else None,
        strides=None
        if strides is None or not sums.is_complete
        else strides.strides(sums.num_samples, table.names, numbers, sums.per_sample),
        num_samples=sums.num_samples,
        **parts["total"][None],
    )


def _statistics(sums: Sums, parts: Mapping[Any, Mapping[str, Any]]) -> dict[Any, LayerStatistics]:
    """Statistics of parts, from their quantities."""
    return {key: LayerStatistics(num_samples=sums.num_samples, **values) for key, values in parts.items()}


def _on_host(
    sums: Sums,
    grads: Mapping[int, Tensor],
    loss: Tensor | float,
    pairs: Mapping[str, Mapping[int, tuple[Tensor, Tensor]]],
    dots: Mapping[int, Tensor],
    spreads: Sequence[Tensor],
) -> tuple[float, _Shares, list[float]]:
    """The loss, the shares and the spreads as numbers: the one point at which the host waits for the device."""
    norms = _norms(list(grads.values()))
    flat = [tensor for of_kind in pairs.values() for pair in of_kind.values() for tensor in pair]
    numbers = iter(_to_host([torch.as_tensor(loss), *norms, *sums.values, *flat, *dots.values(), *spreads]))
    loss_value = next(numbers)
    shares: _Shares = {"grad": {place: next(numbers) ** 2 for place in grads}, "sample": {}, "position": {}}
    for (kind, place), factor in zip(sums.owners, sums.factors, strict=True):
        shares[kind][place] = shares[kind].get(place, 0.0) + next(numbers) * factor
    unbiased = sums.num_samples / max(1, sums.num_samples - 1)
    second = sums.per_sample**2 / sums.num_samples
    for kind, of_kind in pairs.items():
        both = {place: (next(numbers) * second, next(numbers)) for place in of_kind}
        shares[kind] = {place: unbiased * (moment - square) for place, (moment, square) in both.items()}
        shares[f"{kind} grad"] = {place: square for place, (_, square) in both.items()}
    shares["momentum"] = {place: next(numbers) for place in dots}
    return loss_value, shares, list(numbers)


def _norms(grads: list[Tensor]) -> Sequence[Tensor]:
    """Norms of the gradients, 0-dim, in at least single precision."""
    grads = [grad.coalesce().values() if grad.is_sparse else grad for grad in grads]
    is_half = any(grad.dtype in (torch.float16, torch.bfloat16) for grad in grads)
    return torch._foreach_norm(grads, dtype=torch.float32 if is_half else None) if grads else []


def _weighted(
    sums: Sums,
    grads: Mapping[int, Tensor],
    preconditioners: Sequence[Tensor | None],
    quantities: frozenset[str],
) -> dict[str, dict[int, tuple[Tensor, Tensor]]]:
    r"""$\sum_d w_d\sum_i g_{id}^2$ and $\sum_d w_d\bar g_d^2$ by parameter, whose difference has the variances."""
    # "diagonal" has the gradient's squares for weights, "preconditioned" those of p and "descent" p itself, where all
    # parameters have one.
    places = [place for place in sums.second_moments if place in grads]
    factors: dict[str, Mapping[int, Tensor]] = {}
    if "diagonal_projection_variance" in quantities:
        factors["diagonal"] = grads
    known = {place: own for place, own in enumerate(preconditioners) if own is not None}
    if known.keys() >= grads.keys():
        kinds = ("preconditioned", "descent")
        factors |= {kind: known for kind in kinds if any(name.startswith(f"{kind}_") for name in quantities)}
    powers = {"descent": 1}
    return {
        kind: {
            place: _weighted_sums(own[place], powers.get(kind, 2), grads[place], sums.second_moments[place])
            for place in places
        }
        for kind, own in factors.items()
    }


def _weighted_sums(factor: Tensor, power: int, grad: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of a second moment, and of a gradient's squares, times a factor or its square."""
    flat = [tensor.to_dense().to(moment.dtype).reshape(-1).split(_IN_CACHE) for tensor in (factor, grad, moment)]
    pairs = []
    for own, grads, moments in zip(*flat, strict=True):
        squares = grads.square()
        weights = squares if factor is grad else own.square() if power == 2 else own
        pairs.append(torch.stack([torch.dot(weights, moments), torch.dot(weights, squares)]))
    first, second = (pairs[0] if len(pairs) == 1 else torch.stack(pairs).sum(0)).unbind()
    return first, second


def _dots(grads: Mapping[int, Tensor], others: Sequence[Tensor | None]) -> dict[int, Tensor]:
    """Inner products of the gradient with other vectors, by parameter."""
    pairs = {place: other for place, other in enumerate(others) if other is not None and place in grads}
    return {place: torch.sum(grads[place] * other) for place, other in pairs.items()}


def _projections(sums: Sums, gradient: Sequence[Tensor | None]) -> dict[int, Tensor]:
    r"""$g_i\cdot\bar g$ of every sample that was looked at, by parameter."""
    passes: list[dict[int, Tensor]] = []
    for forms, factor in sums.forms:
        known = {place: (kept.form, grad) for place, kept in forms.items() if (grad := gradient[place]) is not None}
        scale = factor * sums.per_sample
        passes.append({place: projections(form, _like(form, grad)) * scale for place, (form, grad) in known.items()})
    # A parameter that a pass did not use has no projection there.
    zeros = [torch.zeros_like(next(iter(of_pass.values()))) for of_pass in passes]
    places = {place for of_pass in passes for place in of_pass}
    return {
        place: torch.cat([of_pass.get(place, zero) for of_pass, zero in zip(passes, zeros, strict=True)])
        for place in places
    }


def _like(form: PerSample, grad: Tensor) -> Tensor:
    """A gradient in the type of a form's own."""
    grad = grad.to_dense() if grad.is_sparse else grad
    floating = [tensor for tensor in form.held() if tensor.is_floating_point()]
    return grad.to(floating[0].dtype)


def _spreads(of_samples: Mapping[int, Tensor], cut: _Partition) -> list[Tensor]:
    """Unbiased variance over the samples of each part's projections."""
    totals: dict[Any, Tensor] = {}
    for place, values in of_samples.items():
        key = cut.owners[place]
        totals[key] = totals[key] + values if key in totals else values
    zero = next(iter(of_samples.values())).new_zeros(())
    return [totals[key].double().var() if key in totals else zero for key in cut.keys]


def _is_contradicted(sums: Sums, shares: _Shares) -> bool:
    """Whether the square of the mean exceeds the mean of squares, but for rounding of the gradients themselves."""
    mean_square = math.fsum(shares["sample"].values()) * sums.per_sample**2 / sums.num_samples
    return math.fsum(shares["grad"].values()) > (1 + _ROUNDING) * mean_square


def _parts(
    sums: Sums, shares: _Shares, cut: _Partition, spreads: Iterator[float], quantities: frozenset[str]
) -> dict[Any, dict[str, Any]]:
    """The quantities of each part."""
    return {key: _asked(sums, _totals(shares, cut, key), next(spreads, None), quantities) for key in cut.keys}


def _totals(shares: _Shares, cut: _Partition, key: Any) -> dict[str, float]:
    """Sums of the shares of one part, by kind."""
    if len(cut.keys) == 1:
        return {kind: math.fsum(of_kind.values()) for kind, of_kind in shares.items()}
    owners = cut.owners
    return {
        kind: math.fsum([share for place, share in of_kind.items() if owners[place] == key])
        for kind, of_kind in shares.items()
    }


def _asked(
    sums: Sums, totals: Mapping[str, float], spread: float | None, quantities: frozenset[str]
) -> dict[str, float | None]:
    """The quantities that were asked for and can be had, of the parameters with these totals."""
    grad_sqnorm = totals["grad"]
    sample_sqnorm = sums.sample_sqnorm(totals["sample"], grad_sqnorm)
    values: dict[str, float | None] = {}
    if "grad_sqnorm" in quantities:
        values["grad_sqnorm"] = grad_sqnorm
    if "sample_sqnorm" in quantities:
        values["sample_sqnorm"] = sample_sqnorm
    if "position_sqnorm" in quantities and sums.is_complete and sums.has_positions and not sums.by_chunks:
        values["position_sqnorm"] = totals["position"] * sums.per_sample**2 / sums.num_samples
    if "momentum_projection" in quantities:
        values["momentum_projection"] = grad_sqnorm + totals["momentum"]
    if sums.num_samples < 2 or sample_sqnorm is None:
        return values
    if not quantities.isdisjoint(_DERIVED):
        moments = LayerStatistics(num_samples=sums.num_samples, grad_sqnorm=grad_sqnorm, sample_sqnorm=sample_sqnorm)
        values |= {name: formula(moments) for name, formula in _DERIVED.items() if name in quantities}
    if "projection_variance" in quantities:
        values["projection_variance"] = spread
    if "diagonal_projection_variance" in quantities and sums.second_moments:
        values["diagonal_projection_variance"] = totals["diagonal"]
    for kind in ("preconditioned", "descent"):
        found = {f"{kind}_variance": totals.get(kind), f"{kind}_sqnorm": totals.get(f"{kind} grad")}
        values |= {name: value for name, value in found.items() if name in quantities}
    return values


_IN_CACHE = 2**16
"""Numbers of two tensors that fit a core's cache together."""

_ROUNDING = 0.01
"""Relative; what half-precision gradients may add to a squared norm."""

_DERIVED = {"grad_variance": estimators.grad_variance, "noise_scale": estimators.noise_scale}


def _to_host(numbers: Sequence[Tensor]) -> list[float]:
    """The values of 0-dim tensors, in one copy from a device."""
    if numbers[-1].device.type == "cpu":  # nothing to copy, and nothing gained by packing
        return [number.item() for number in numbers]
    return torch.stack([number.detach().to(numbers[-1].device, torch.float64) for number in numbers]).tolist()


def _arrays(tensors: Mapping[tuple[str, int], Tensor]) -> dict[tuple[str, int], Floats]:
    """The same of small tensors, those of one kind being of one shape, in a copy for each kind."""
    arrays: dict[tuple[str, int], Floats] = {}
    for kind in dict.fromkeys(kind for kind, _ in tensors):
        own = {key: tensor for key, tensor in tensors.items() if key[0] == kind}
        device = next(iter(own.values())).device  # of a model on several, the first one's
        packed = torch.stack([tensor.detach().to(device, torch.float64) for tensor in own.values()])
        arrays |= zip(own, packed.cpu().numpy(), strict=True)
    return arrays
