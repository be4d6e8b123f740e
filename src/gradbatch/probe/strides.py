r"""What is asked of strides of per-sample gradients, for rules that select among them.

A stride is ``size`` consecutive samples of a batch, the last one what is left. A pass may begin within a stride that
an earlier pass began: ``lead`` is how many samples of it came before. As in `gradbatch.probe.moments`, each function
has one plain definition and shorter ways for some forms; $k$ is the number of strides that the pass has samples of.
"""

import math
from collections.abc import Iterator
from functools import singledispatch

import torch
from torch import Tensor

from gradbatch.probe.forms import Dense, Lookup, Outer, OuterSum, PerSample, Rearranged, Total
from gradbatch.probe.moments import added, sqnorms

__all__ = ["gram", "stride_gram", "stride_sqnorms", "stride_square_sums", "stride_sums"]


@singledispatch
def stride_sums(form: PerSample, size: int, lead: int = 0) -> Tensor:
    r"""Sums of the gradients within each stride, [k, *shape]."""
    strides = _strides(form, size, lead)
    return torch.stack([added(form.piece(*bounds).sum(0) for bounds in form.bounds(*stride)) for stride in strides])


@stride_sums.register
def _(form: Dense, size: int, lead: int = 0) -> Tensor:
    return _by_stride(form.rows.tensor, size, lead).sum(1).view(-1, *form.shape)


@stride_sums.register
def _(form: Outer, size: int, lead: int = 0) -> Tensor:
    return _by_stride(form.left.tensor, size, lead).mT @ _by_stride(form.right.tensor, size, lead)


@stride_sums.register
def _(form: OuterSum, size: int, lead: int = 0) -> Tensor:
    # The samples of a stride are further positions: [k, size, G, T, L] -> [k, G, size T, L].
    left, right = (_by_stride(side, size, lead).transpose(1, 2).flatten(2, 3) for side in (form.left, form.right))
    return (left.mT @ right).reshape(-1, *form.shape)


@stride_sums.register
def _(form: Lookup, size: int, lead: int = 0) -> Tensor:
    strides = (torch.arange(form.num_samples, device=form.ids.device) + lead) // size
    keys = (strides[:, None] * form.shape[0] + form.ids).flatten()
    table = form.right.new_zeros(_count(form, size, lead) * form.shape[0], form.shape[1])
    return table.index_add_(0, keys, form.right.flatten(0, 1)).view(-1, *form.shape)


@stride_sums.register
def _(form: Rearranged, size: int, lead: int = 0) -> Tensor:
    return form.push(stride_sums(form.base, size, lead))


@stride_sums.register
def _(form: Total, size: int, lead: int = 0) -> Tensor:
    return added(stride_sums(part, size, lead) for part in form.parts)


@singledispatch
def stride_square_sums(form: PerSample, size: int, lead: int = 0) -> Tensor:
    r"""Elementwise sums of $g_i\circ g_i$ within each stride, [k, *shape]."""
    strides = _strides(form, size, lead)
    return torch.stack(
        [added(form.piece(*bounds).square().sum(0) for bounds in form.bounds(*stride)) for stride in strides]
    )


@stride_square_sums.register
def _(form: Dense, size: int, lead: int = 0) -> Tensor:
    return _by_stride(form.rows.tensor, size, lead).square().sum(1).view(-1, *form.shape)


@stride_square_sums.register
def _(form: Outer, size: int, lead: int = 0) -> Tensor:
    left, right = (_by_stride(side.tensor.square(), size, lead) for side in (form.left, form.right))
    return left.mT @ right


@stride_square_sums.register
def _(form: Lookup, size: int, lead: int = 0) -> Tensor:
    keys, sums = form.entries
    strides = (keys // form.shape[0] + lead).div(size, rounding_mode="floor")
    table = sums.new_zeros(_count(form, size, lead) * form.shape[0], form.shape[1])
    return table.index_add_(0, strides * form.shape[0] + keys % form.shape[0], sums.square()).view(-1, *form.shape)


@stride_square_sums.register
def _(form: Rearranged, size: int, lead: int = 0) -> Tensor:
    return form.push(stride_square_sums(form.base, size, lead))


def stride_sqnorms(form: PerSample, size: int, lead: int = 0) -> Tensor:
    r"""Sums of $\|g_i\|^2$ within each stride, [k]."""
    return _by_stride(sqnorms(form), size, lead).sum(1)


@singledispatch
def stride_gram(form: PerSample, size: int) -> Tensor:
    r"""Inner products of the strides' summed gradients, [k, k], of a batch in one pass."""
    return gram(stride_sums(form, size))


@stride_gram.register
def _(form: Outer, size: int) -> Tensor:
    samples, numbers = form.num_samples, form.shape.numel()
    strides = math.ceil(samples / size)
    # Multiplications for the samples' inner products; for the sums, theirs, and writing and reading them.
    if samples**2 * sum(form.shape) > numbers * (samples + strides**2 + _TRAFFIC * strides):
        return gram(stride_sums(form, size))
    products = (form.left.tensor @ form.left.tensor.mT) * (form.right.tensor @ form.right.tensor.mT)
    if samples % size == 0:
        return products.view(strides, size, strides, size).sum((1, 3))
    return _by_stride(_by_stride(products, size).sum(1).mT.contiguous(), size).sum(1)


@stride_gram.register
def _(form: Rearranged, size: int) -> Tensor:
    return stride_gram(form.base, size)


_TRAFFIC = 30
"""Multiplications in the time in which a number goes to memory and comes back, where they do not fit the caches;
measured on a CPU with matrices of 10 x 1024 to 1024 x 1024 and batches of 128 and 2048."""


def gram(sums: Tensor) -> Tensor:
    """Inner products of the rows, [k, k]."""
    flat = sums.reshape(len(sums), -1)
    return flat @ flat.mT


def _count(form: PerSample, size: int, lead: int) -> int:
    """Strides of which the form has samples."""
    return math.ceil((lead + form.num_samples) / size)


def _strides(form: PerSample, size: int, lead: int) -> Iterator[tuple[int, int]]:
    """Bounds of the strides."""
    for start in range(-lead, form.num_samples, size):
        yield max(0, start), min(start + size, form.num_samples)


def _by_stride(tensor: Tensor, size: int, lead: int = 0) -> Tensor:
    """The leading axis cut into strides, [k, size, ...], with zeros where the first or last one is not whole."""
    missing = -(lead + len(tensor)) % size
    if lead or missing:
        ahead, behind = (tensor.new_zeros(count, *tensor.shape[1:]) for count in (lead, missing))
        tensor = torch.cat([ahead, tensor, behind])
    return tensor.unflatten(0, (-1, size))
