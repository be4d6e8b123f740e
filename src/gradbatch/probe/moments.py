r"""What is asked of per-sample gradients: norms, second moments, projections, weighted sums, strides.

Each function has one plain definition, over gradients that are written out a piece at a time, and shorter ways for
the forms that allow them. $g_i$ is the gradient of sample $i$, $i=1,\dots,B$; a stride is ``size`` consecutive
samples, the last one what is left; there are $k=\lceil B/size\rceil$ strides.
"""

import math
from collections.abc import Iterator
from functools import singledispatch

import torch
from torch import Tensor
from torch.linalg import vecdot, vector_norm

from gradbatch.probe.forms import (
    MAX_WRITTEN_OUT,
    Dense,
    Lazy,
    Lookup,
    Outer,
    OuterSum,
    PerSample,
    Rearranged,
    Total,
)

__all__ = [
    "projections",
    "second_moment",
    "sqnorm_sum",
    "sqnorms",
    "stride_gram",
    "stride_square_sums",
    "stride_sums",
    "weighted_sum",
]


@singledispatch
def sqnorms(form: PerSample) -> Tensor:
    r"""Squared norms $\|g_i\|^2$, [B]."""
    return torch.cat([_row_sqnorms(form.rows_of(start, stop)) for start, stop in form.bounds()])


@sqnorms.register
def _(form: Dense) -> Tensor:
    return form.rows.norms.square()


@sqnorms.register
def _(form: Outer) -> Tensor:
    return (form.left.norms * form.right.norms).square_()


@sqnorms.register
def _(form: OuterSum) -> Tensor:
    positions, left, right = form.left.shape[2], form.left.shape[3], form.right.shape[3]
    # Multiplications for each sample and group: T^2 (L + R) for two Gram matrices, T L R for the gradient itself.
    if positions * (left + right) > left * right:
        return torch.cat([_row_sqnorms(blocks.flatten(1)) for blocks in form.blocks()])
    size = max(1, MAX_WRITTEN_OUT // (2 * form.left.shape[1] * positions**2))
    pieces = zip(form.left.split(size), form.right.split(size), strict=True)
    grams = [vecdot((a @ a.mT).flatten(1), (b @ b.mT).flatten(1)) for a, b in pieces]
    return torch.cat(grams).clamp_(min=0)  # rounding may leave a vanishing one just below zero


@sqnorms.register
def _(form: Lookup) -> Tensor:
    keys, sums = form.entries
    norms = _row_sqnorms(sums)
    return norms.new_zeros(form.num_samples).index_add_(0, keys // form.shape[0], norms)


@sqnorms.register
def _(form: Lazy) -> Tensor:
    return torch.cat([sqnorms(part) for part in form.forms()])


@sqnorms.register
def _(form: Rearranged) -> Tensor:
    return sqnorms(form.base)


@sqnorms.register
def _(form: Total) -> Tensor:
    tables = [part for part in form.parts if isinstance(part, Lookup)]
    others = [part for part in form.parts if isinstance(part, Outer) or _is_ungrouped(part)]
    if len(tables) != 1 or len(others) != 1 or len(form.parts) != 2:
        return torch.cat([_row_sqnorms(form.rows_of(start, stop)) for start, stop in form.bounds()])
    total = sqnorms(tables[0]) + sqnorms(others[0]) + 2 * _inner(tables[0], others[0])
    return total.clamp_(min=0)


def _is_ungrouped(form: PerSample) -> bool:
    """Whether it is a sum of products with one whole matrix."""
    return isinstance(form, OuterSum) and form.left.shape[1] == 1


def _inner(table: Lookup, product: PerSample) -> Tensor:
    r"""$\langle g_i, g'_i\rangle$ of a look-up and a product with one table (tied weights), [B].

    With $g_i=\sum_t e_{id_t}r_t^\top$ and $g'_i=\sum_s\ell_s r_s'^\top$ it is $\sum_{ts}\ell_s[id_t]\,(r_t\cdot r'_s)$.

    Returns:
        The inner products.
    """
    if isinstance(product, Outer):
        left, right = product.left.tensor[:, None], product.right.tensor[:, None]
    else:
        assert isinstance(product, OuterSum)
        left, right = product.left.flatten(1, 2), product.right.flatten(1, 2)
    ids, found = table.ids, table.right
    size = max(1, MAX_WRITTEN_OUT // (2 * left.shape[1] * ids.shape[1]))
    inner = []
    for i, r, a, b in zip(ids.split(size), found.split(size), left.split(size), right.split(size), strict=True):
        picked = a.gather(2, i[:, None].expand(-1, a.shape[1], -1))  # [n, S, T]
        inner.append(vecdot(picked.flatten(1), (b @ r.mT).flatten(1)))
    return torch.cat(inner)


@singledispatch
def sqnorm_sum(form: PerSample) -> Tensor:
    r"""$\sum_i\|g_i\|^2$, 0-dim."""
    return sqnorms(form).sum()


@sqnorm_sum.register
def _(form: Outer) -> Tensor:
    norms = form.left.norms * form.right.norms
    return torch.dot(norms, norms)


@sqnorm_sum.register
def _(form: Dense) -> Tensor:
    norms = form.rows.norms
    return torch.dot(norms, norms)


@singledispatch
def second_moment(form: PerSample) -> Tensor:
    r"""Elementwise $\sum_i g_i\circ g_i$, [*shape]."""
    total = None
    for start, stop in form.bounds():
        part = form.piece(start, stop).square().sum(0)
        total = part if total is None else total.add_(part)
    assert total is not None
    return total


@second_moment.register
def _(form: Dense) -> Tensor:
    return form.rows.tensor.square().sum(0).view(form.shape)


@second_moment.register
def _(form: Outer) -> Tensor:
    return form.left.tensor.square().mT @ form.right.tensor.square()


@second_moment.register
def _(form: OuterSum) -> Tensor:
    return _added(blocks.square_().sum(0) for blocks in form.blocks()).view(form.shape)


@second_moment.register
def _(form: Lookup) -> Tensor:
    keys, sums = form.entries
    return sums.new_zeros(form.shape).index_add_(0, keys % form.shape[0], sums.square())


@second_moment.register
def _(form: Lazy) -> Tensor:
    return _added(second_moment(part) for part in form.forms())


@second_moment.register
def _(form: Rearranged) -> Tensor:
    return form.push(second_moment(form.base)[None])[0]


@singledispatch
def projections(form: PerSample, direction: Tensor) -> Tensor:
    r"""$g_i\cdot v$ with one vector $v$ of the parameter's shape, [B]."""
    flat = direction.reshape(-1)
    return torch.cat([form.rows_of(start, stop) @ flat for start, stop in form.bounds()])


@projections.register
def _(form: Dense, direction: Tensor) -> Tensor:
    return form.rows.tensor @ direction.reshape(-1)


@projections.register
def _(form: Outer, direction: Tensor) -> Tensor:
    return vecdot(form.left.tensor @ direction, form.right.tensor)


@projections.register
def _(form: OuterSum, direction: Tensor) -> Tensor:
    groups, left, right = form.left.shape[1], form.left.shape[3], form.right.shape[3]
    matrix = direction.reshape(groups, left, right)
    # Samples at a time such that [n, G, T, R] stays within bounds.
    size = max(1, MAX_WRITTEN_OUT // max(1, form.right[0].numel()))
    pieces = zip(form.left.split(size), form.right.split(size), strict=True)
    return torch.cat([vecdot((a @ matrix).flatten(1), b.flatten(1)) for a, b in pieces])


@projections.register
def _(form: Lookup, direction: Tensor) -> Tensor:
    return vecdot(direction[form.ids], form.right).sum(1)


@projections.register
def _(form: Lazy, direction: Tensor) -> Tensor:
    return torch.cat([projections(part, direction) for part in form.forms()])


@projections.register
def _(form: Rearranged, direction: Tensor) -> Tensor:
    return projections(form.base, form.pull(direction))


@projections.register
def _(form: Total, direction: Tensor) -> Tensor:
    return torch.stack([projections(part, direction) for part in form.parts]).sum(0)


@singledispatch
def weighted_sum(form: PerSample, weights: Tensor) -> Tensor:
    r"""$\sum_i w_ig_i$ with weights [B], [*shape]."""
    return _added(torch.tensordot(weights[start:stop], form.piece(start, stop), 1) for start, stop in form.bounds())


@weighted_sum.register
def _(form: Dense, weights: Tensor) -> Tensor:
    return (weights @ form.rows.tensor).view(form.shape)


@weighted_sum.register
def _(form: Outer, weights: Tensor) -> Tensor:
    return (form.left.tensor * weights[:, None]).mT @ form.right.tensor


@weighted_sum.register
def _(form: OuterSum, weights: Tensor) -> Tensor:
    left = (form.left * weights[:, None, None, None]).transpose(0, 1).flatten(1, 2)
    return (left.mT @ form.right.transpose(0, 1).flatten(1, 2)).reshape(form.shape)


@weighted_sum.register
def _(form: Lookup, weights: Tensor) -> Tensor:
    right = (form.right * weights[:, None, None]).flatten(0, 1)
    return right.new_zeros(form.shape).index_add_(0, form.ids.flatten(), right)


@weighted_sum.register
def _(form: Lazy, weights: Tensor) -> Tensor:
    shares = weights.split(form.piece_size)
    return _added(weighted_sum(part, share) for part, share in zip(form.forms(), shares, strict=True))


@weighted_sum.register
def _(form: Rearranged, weights: Tensor) -> Tensor:
    return form.push(weighted_sum(form.base, weights)[None])[0]


@weighted_sum.register
def _(form: Total, weights: Tensor) -> Tensor:
    return _added(weighted_sum(part, weights) for part in form.parts)


@singledispatch
def stride_sums(form: PerSample, size: int) -> Tensor:
    r"""Sums of the gradients within each stride, [k, *shape]."""
    strides = [_added(form.piece(*bounds).sum(0) for bounds in form.bounds(*stride)) for stride in _strides(form, size)]
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
    return _added(stride_sums(part, size) for part in form.parts)


@singledispatch
def stride_square_sums(form: PerSample, size: int) -> Tensor:
    r"""Elementwise sums of $g_i\circ g_i$ within each stride, [k, *shape]."""
    strides = _strides(form, size)
    return torch.stack(
        [_added(form.piece(*bounds).square().sum(0) for bounds in form.bounds(*stride)) for stride in strides]
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


def _row_sqnorms(rows: Tensor) -> Tensor:
    """Squared norms of the rows of a matrix."""
    norms = vector_norm(rows, dim=1)
    return norms.mul_(norms)


def _added(parts: Iterator[Tensor]) -> Tensor:
    """The sum of fresh tensors, in place of the first."""
    total = next(parts)
    for part in parts:
        total = total.add_(part)
    return total


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
