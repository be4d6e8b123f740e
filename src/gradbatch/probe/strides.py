r"""What is asked of strides of per-sample gradients, for rules that select among them.

A stride is ``size`` consecutive samples, the last one what is left; there are $k=\lceil B/size\rceil$ of them. As in
`gradbatch.probe.moments`, each function has one plain definition and shorter ways for some forms.
"""

import math
from collections.abc import Iterator
from functools import singledispatch

import torch
from torch import Tensor

from gradbatch.probe.forms import Dense, Lookup, Outer, OuterSum, PerSample, Rearranged, Total
from gradbatch.probe.moments import added

__all__ = ["stride_gram", "stride_square_sums", "stride_sums"]


@singledispatch
def stride_sums(form: PerSample, size: int) -> Tensor:
    r"""Sums of the gradients within each stride, [k, *shape]."""
    strides = [added(form.piece(*bounds).sum(0) for bounds in form.bounds(*stride)) for stride in _strides(form, size)]
    return torch.stack(strides)


@stride_sums.register
def _(form: Dense, size: int) -> Tensor:
    return _by_stride(form.rows.tensor, size).sum(1).view(-1, *form.shape)


@stride_sums.register
def _(form: Outer, size: int) -> Tensor:
    return _by_stride(form.left.tensor, size).mT @ _by_stride(form.right.tensor, size)


@stride_sums.register
def _(form: OuterSum, size: int) -> Tensor:
    # The samples of a stride are further positions: [k, size, G, T, L] -> [k, G, size T, L].
    left, right = (_by_stride(side, size).transpose(1, 2).flatten(2, 3) for side in (form.left, form.right))
    return (left.mT @ right).reshape(-1, *form.shape)


@stride_sums.register
def _(form: Lookup, size: int) -> Tensor:
    strides = torch.arange(form.num_samples, device=form.ids.device) // size
    keys = (strides[:, None] * form.shape[0] + form.ids).flatten()
    table = form.right.new_zeros(math.ceil(form.num_samples / size) * form.shape[0], form.shape[1])
    return table.index_add_(0, keys, form.right.flatten(0, 1)).view(-1, *form.shape)


@stride_sums.register
def _(form: Rearranged, size: int) -> Tensor:
    return form.push(stride_sums(form.base, size))


@stride_sums.register
def _(form: Total, size: int) -> Tensor:
    return added(stride_sums(part, size) for part in form.parts)


@singledispatch
def stride_square_sums(form: PerSample, size: int) -> Tensor:
    r"""Elementwise sums of $g_i\circ g_i$ within each stride, [k, *shape]."""
    strides = _strides(form, size)
    return torch.stack(
        [added(form.piece(*bounds).square().sum(0) for bounds in form.bounds(*stride)) for stride in strides]
    )


@stride_square_sums.register
def _(form: Dense, size: int) -> Tensor:
    return _by_stride(form.rows.tensor, size).square().sum(1).view(-1, *form.shape)


@stride_square_sums.register
def _(form: Outer, size: int) -> Tensor:
    return _by_stride(form.left.tensor, size).square().mT @ _by_stride(form.right.tensor, size).square()


@stride_square_sums.register
def _(form: Lookup, size: int) -> Tensor:
    keys, sums = form.entries
    places = (keys // form.shape[0]).div(size, rounding_mode="floor") * form.shape[0] + keys % form.shape[0]
    table = sums.new_zeros(math.ceil(form.num_samples / size) * form.shape[0], form.shape[1])
    return table.index_add_(0, places, sums.square()).view(-1, *form.shape)


@stride_square_sums.register
def _(form: Rearranged, size: int) -> Tensor:
    return form.push(stride_square_sums(form.base, size))


@singledispatch
def stride_gram(form: PerSample, size: int) -> Tensor:
    r"""Inner products of the strides' summed gradients, [k, k]."""
    flat = _flat(stride_sums(form, size))
    return flat @ flat.mT


@stride_gram.register
def _(form: Outer, size: int) -> Tensor:
    samples, left, right = form.num_samples, *form.shape
    # Multiplications: B^2 (L + R) for the samples' Gram matrices; B L R + k^2 L R for the sums.
    if samples * (left + right) > left * right * (1 + samples / size**2):
        flat = _flat(stride_sums(form, size))
        return flat @ flat.mT
    gram = (form.left.tensor @ form.left.tensor.mT) * (form.right.tensor @ form.right.tensor.mT)
    return _by_stride(_by_stride(gram, size).sum(1).mT.contiguous(), size).sum(1)


@stride_gram.register
def _(form: Rearranged, size: int) -> Tensor:
    return stride_gram(form.base, size)


def _flat(sums: Tensor) -> Tensor:
    """One row for each stride."""
    return sums.reshape(len(sums), -1)


def _strides(form: PerSample, size: int) -> Iterator[tuple[int, int]]:
    """Bounds of the strides."""
    for start in range(0, form.num_samples, size):
        yield start, min(start + size, form.num_samples)


def _by_stride(tensor: Tensor, size: int) -> Tensor:
    """The leading axis cut into strides, [k, size, ...], with zeros where the last one is short."""
    missing = -len(tensor) % size
    if missing:
        tensor = torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])])
    return tensor.unflatten(0, (-1, size))
