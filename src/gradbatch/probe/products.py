r"""Parameters that multiply the samples as matrices and vectors: $y=xW$, alone, in groups, and with an addend.

What multiplies a gradient is conjugated, for filters that act on the samples' Fourier transforms.

Letters: B samples, T positions of each, G groups, I inputs, O outputs.
"""

import torch
from torch import Tensor

from gradbatch.probe.forms import Dense, Lazy, Outer, OuterSum, PerSample, Rows
from gradbatch.probe.nodes import UnknownOperationError, saved
from gradbatch.probe.operations import Call, any_operation, operation, reduced

__all__ = ["batched_product", "bilinear", "matrix_product", "vector_product"]


@operation("MmBackward0", "AddmmBackward0")
def matrix_product(call: Call) -> dict[int, PerSample]:
    """A matrix that multiplies the samples from the right, or from the left with the samples in columns; an addend."""
    is_sum = call.node.name() == "AddmmBackward0"
    right = 2 if is_sum else 1
    forms: dict[int, PerSample] = {}
    for place in call.operands:
        if place == right - 2:
            forms[place] = _addend(call)
            continue
        if call.axis != right - place:
            raise UnknownOperationError(f"{call.node.name()} has the samples along an axis of the parameter")
        other = call.saved("mat2" if place != right else "mat1" if is_sum else "self").conj()
        alpha = saved(call.node, "alpha") if is_sum else 1
        grads, others = call.rows, Rows(call.by_sample(other if alpha == 1 else other * alpha))
        forms[place] = _product(others, grads) if place == right else _product(grads, others)
    return forms


def _addend(call: Call) -> PerSample:
    """What is added to a product; the first operand."""
    beta = saved(call.node, "beta")
    return reduced(call, call.grad if beta == 1 else call.grad * beta, call.shape(0))


def _product(left: Rows, right: Rows) -> PerSample:
    """The outer products of two factors [B, N], or their sums over positions [B, T, N]."""
    if left.tensor.dim() == 2:
        return Outer(left, right)
    shape = torch.Size((left.tensor.shape[2], right.tensor.shape[2]))
    return OuterSum(left.tensor[:, None], right.tensor[:, None], shape)


@operation("BmmBackward0", "BaddbmmBackward0")
def batched_product(call: Call) -> dict[int, PerSample]:
    """Several matrices, each of which multiplies its own share of the samples' vectors; an addend."""
    is_sum = call.node.name() == "BaddbmmBackward0"
    right = 2 if is_sum else 1
    names = ("batch1", "batch2") if is_sum else ("self", "mat2")
    forms: dict[int, PerSample] = {}
    for place in call.operands:
        if place == right - 2:
            forms[place] = _addend(call)
            continue
        if call.axis != 2 - (place == right):
            raise UnknownOperationError(f"{call.node.name()} has the samples along an axis of the parameter")
        # [B, (T,) G, N] -> [B, G, T, N]
        other = call.saved(names[0] if place == right else names[1]).conj()
        alpha = saved(call.node, "alpha") if is_sum else 1
        others, grads = (
            _by_group(call.by_sample(side)) for side in (other if alpha == 1 else other * alpha, call.grad)
        )
        sides = (others, grads) if place == right else (grads, others)
        forms[place] = OuterSum(*sides, call.shape(place))
    return forms


def _by_group(tensor: Tensor) -> Tensor:
    """[B, G, N] or [B, T, G, N] as [B, G, T, N]."""
    return tensor[:, :, None] if tensor.dim() == 3 else tensor.transpose(1, 2)


@operation("MvBackward0")
def vector_product(call: Call) -> dict[int, PerSample]:
    """A vector that multiplies the samples from the right: a layer of one output."""
    if list(call.operands) != [1]:
        return any_operation(call)
    grad, inputs = call.by_sample(call.grad), call.by_sample(call.saved("self").conj())
    if grad.dim() == 1:  # one position
        grad, inputs = grad[:, None], inputs[:, None]
    return {1: Dense(Rows((grad[:, None] @ inputs)[:, 0]), call.shape(1))}


@operation("TrilinearBackward0")
def bilinear(call: Call) -> dict[int, PerSample]:
    r"""The weight of $y_o=x^\top W_oz$, an outer product of $\partial\ell/\partial y$ with $x\otimes z$."""
    axes = tuple(tuple(saved(call.node, name)) for name in ("expand1", "expand2", "expand3", "sumdim"))
    if list(call.operands) != [1] or axes != _BILINEAR:
        return any_operation(call)
    left, first, second = (
        call.by_sample(side) for side in (call.grad, call.saved("i1").conj(), call.saved("i3").conj())
    )
    if left.dim() == 2:
        left, first, second = left[:, None], first[:, None], second[:, None]
    shape = call.shape(1)

    def make(start: int, stop: int) -> PerSample:
        right = first[start:stop, :, :, None] * second[start:stop, :, None]
        return OuterSum(left[start:stop, None], right.flatten(2)[:, None], shape)

    return {1: Lazy(make, len(left), shape, (left, first, second), left.shape[1] * shape[1:].numel())}


_BILINEAR = ((1, 3), (0,), (1, 2), (2, 3))
"""How torch lines up [N, I], [O, I, J] and [N, J] for a bilinear layer, and what it sums over."""
