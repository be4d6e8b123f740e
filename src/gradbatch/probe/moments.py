r"""What is asked of per-sample gradients: norms, second moments, projections, weighted sums.

Each function has one plain definition, over gradients that are written out a piece at a time, and shorter ways for
the forms that allow them. $g_i$ is the gradient of sample $i$, $i=1,\dots,B$.
"""

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
    "added",
    "method",
    "projections",
    "second_moment",
    "sqnorm_sum",
    "sqnorms",
    "weighted_sum",
]


@singledispatch
def sqnorms(form: PerSample, by_gram: bool | None = None) -> Tensor:
    r"""Squared norms $\|g_i\|^2$, [B].

    Args:
        form: The gradients.
        by_gram: Whether sums over positions go by products between the positions, or are written out; by default
            by whichever takes fewer multiplications.

    Returns:
        The squared norms.
    """
    return torch.cat([_row_sqnorms(form.rows_of(start, stop)) for start, stop in form.bounds()])


@sqnorms.register
def _(form: Dense, by_gram: bool | None = None) -> Tensor:
    return form.rows.norms.square()


@sqnorms.register
def _(form: Outer, by_gram: bool | None = None) -> Tensor:
    return (form.left.norms * form.right.norms).square_()


@sqnorms.register
def _(form: OuterSum, by_gram: bool | None = None) -> Tensor:
    if not (_has_small_gram(form) if by_gram is None else by_gram):
        return torch.cat([_row_sqnorms(blocks.flatten(1)) for blocks in form.blocks()])
    size = max(1, MAX_WRITTEN_OUT // (2 * form.left.shape[1] * form.left.shape[2] ** 2))
    pieces = zip(form.left.split(size), form.right.split(size), strict=True)
    grams = [vecdot((a @ a.mT).flatten(1), (b @ b.mT).flatten(1)) for a, b in pieces]
    return torch.cat(grams).clamp_(min=0)  # rounding may leave a vanishing one just below zero


def _has_small_gram(form: OuterSum) -> bool:
    """Whether the products between positions cost less than the gradients."""
    # Multiplications for each sample and group: T^2 (L + R) for two Gram matrices, T L R for the gradient itself.
    positions, left, right = form.left.shape[2], form.left.shape[3], form.right.shape[3]
    return positions * (left + right) <= left * right


@sqnorms.register
def _(form: Lookup, by_gram: bool | None = None) -> Tensor:
    keys, sums = form.entries
    norms = _row_sqnorms(sums)
    return norms.new_zeros(form.num_samples).index_add_(0, keys // form.shape[0], norms)


@sqnorms.register
def _(form: Lazy, by_gram: bool | None = None) -> Tensor:
    return torch.cat([sqnorms(part, by_gram) for part in form.forms()])


@sqnorms.register
def _(form: Rearranged, by_gram: bool | None = None) -> Tensor:
    return sqnorms(form.base, by_gram)


@sqnorms.register
def _(form: Total, by_gram: bool | None = None) -> Tensor:
    tables = [part for part in form.parts if isinstance(part, Lookup)]
    others = [part for part in form.parts if isinstance(part, Outer) or _is_ungrouped(part)]
    if len(tables) != 1 or len(others) != 1 or len(form.parts) != 2:
        return torch.cat([_row_sqnorms(form.rows_of(start, stop)) for start, stop in form.bounds()])
    total = sqnorms(tables[0]) + sqnorms(others[0], by_gram) + 2 * _inner(tables[0], others[0])
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
def sqnorm_sum(form: PerSample, by_gram: bool | None = None) -> Tensor:
    r"""$\sum_i\|g_i\|^2$, 0-dim; see `sqnorms`."""
    return sqnorms(form, by_gram).sum()


@sqnorm_sum.register
def _(form: Outer, by_gram: bool | None = None) -> Tensor:
    norms = form.left.norms * form.right.norms
    return torch.dot(norms, norms)


@sqnorm_sum.register
def _(form: Dense, by_gram: bool | None = None) -> Tensor:
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
    return added(blocks.square_().sum(0) for blocks in form.blocks()).view(form.shape)


@second_moment.register
def _(form: Lookup) -> Tensor:
    keys, sums = form.entries
    return sums.new_zeros(form.shape).index_add_(0, keys % form.shape[0], sums.square())


@second_moment.register
def _(form: Lazy) -> Tensor:
    return added(second_moment(part) for part in form.forms())


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
    return added(torch.tensordot(weights[start:stop], form.piece(start, stop), 1) for start, stop in form.bounds())


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
    return added(weighted_sum(part, share) for part, share in zip(form.forms(), shares, strict=True))


@weighted_sum.register
def _(form: Rearranged, weights: Tensor) -> Tensor:
    return form.push(weighted_sum(form.base, weights)[None])[0]


@weighted_sum.register
def _(form: Total, weights: Tensor) -> Tensor:
    return added(weighted_sum(part, weights) for part in form.parts)


def _row_sqnorms(rows: Tensor) -> Tensor:
    """Squared norms of the rows of a matrix."""
    norms = vector_norm(rows, dim=1)
    return norms.mul_(norms)


@singledispatch
def method(form: PerSample, by_gram: bool | None = None) -> str:
    """How the norms of the gradients are computed, in a few words for the log."""
    return f"written out, {form.piece_size} samples at a time"


@method.register
def _(form: Dense, by_gram: bool | None = None) -> str:
    return form.origin or "written out at once"


@method.register
def _(form: Outer, by_gram: bool | None = None) -> str:
    return "from the norms of both factors"


@method.register
def _(form: OuterSum, by_gram: bool | None = None) -> str:
    by_gram = _has_small_gram(form) if by_gram is None else by_gram
    how = "products between positions" if by_gram else "written out, a few samples at a time"
    return f"{form.left.shape[2]} positions, {how}"


@method.register
def _(form: Lookup, by_gram: bool | None = None) -> str:
    return "distinct rows of each sample"


@method.register
def _(form: Lazy, by_gram: bool | None = None) -> str:
    return f"unfolded {form.piece_size} samples at a time, {method(form.make(0, 1), by_gram)}"


@method.register
def _(form: Rearranged, by_gram: bool | None = None) -> str:
    return method(form.base, by_gram)


@method.register
def _(form: Total, by_gram: bool | None = None) -> str:
    return "several uses: " + "; ".join(method(part, by_gram) for part in form.parts)


def added(parts: Iterator[Tensor]) -> Tensor:
    """The sum of fresh tensors, in place of the first."""
    total = next(parts)
    for part in parts:
        total = total.add_(part)
    return total
