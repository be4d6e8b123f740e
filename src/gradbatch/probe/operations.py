r"""What each operation of autograd's graph says about the parameters that enter it.

A parameter meets the samples in an operation: a product, a convolution, a look-up, a sum. From the operation's output
gradient and what autograd saved for its backward, each function here makes the per-sample gradients of the operands
asked for. Nothing is computed anew that could come out differently, such as a dropout mask.

Letters: B samples, T positions of each, I inputs, O outputs, C channels, V rows of a table, D numbers in a row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.utils.checkpoint import GraphExecGroup

from gradbatch.probe.forms import MAX_KEPT, Dense, Lookup, Outer, OuterSum, PerSample, Rows
from gradbatch.probe.layout import Folded, Layout
from gradbatch.probe.nodes import UnknownOperationError, output_shape, saved, sent_back

__all__ = [
    "ONE_BY_ONE",
    "OPERATIONS",
    "Call",
    "Operation",
    "check_size",
    "operation",
    "per_sample_gradients",
    "reduced",
]


@dataclass(eq=False, slots=True)
class Call:
    """One operation in one backward pass.

    Attributes:
        node: The operation's backward, which holds what was saved for it.
        grads: Gradients of its outputs; ``None`` where an output has none.
        operands: Places of the operands asked for.
        layout: How the samples lie in the first output.
        num_samples: Samples B of the pass.
        count: How many of them to look at, from the first.
        group: Under it, checkpointed activations are recomputed for us, aside from autograd's own recomputation.
    """

    node: Node
    grads: tuple[Tensor | None, ...]
    operands: Sequence[int]
    layout: Layout
    num_samples: int
    count: int
    group: GraphExecGroup
    _rows: Rows | None = field(default=None, init=False)

    @property
    def grad(self) -> Tensor:
        """Gradient of the first output."""
        grad = self.grads[0]
        assert grad is not None
        return grad

    def shape(self, place: int) -> torch.Size:
        """Shape of an operand."""
        child, output = self.node.next_functions[place]
        assert child is not None
        return output_shape(child, output)

    def saved(self, name: str) -> Any:
        """What autograd saved under this name; to be asked for once, since a checkpoint gives it once."""
        with self.group:
            value = saved(self.node, name)
        return value.detach() if isinstance(value, Tensor) else value  # an activation, which holds its own graph

    def by_sample(self, tensor: Tensor) -> Tensor:
        """A tensor that lies as the first output does: its samples first, [count, (T,) rest], in single precision."""
        tensor = self.layout.by_sample(tensor, self.num_samples)
        if self.count < self.num_samples:
            tensor = tensor[: self.count]
        return tensor.float() if tensor.dtype in _HALF else tensor

    @property
    def axis(self) -> int:
        """Axis of the first output along which the samples lie."""
        return self.layout.axis if isinstance(self.layout, Folded) else 0

    @property
    def is_plain(self) -> bool:
        """Whether the first output is a matrix with one row for each sample."""
        is_folded = isinstance(self.layout, Folded) and self.layout.axis == 0
        return is_folded and self.grad.dim() == 2 and len(self.grad) == self.num_samples

    @property
    def rows(self) -> Rows:
        """The output gradient [B, O] of samples with one position each; its norms serve several operands."""
        if self._rows is None:
            self._rows = Rows(self.by_sample(self.grad))
        return self._rows


Operation = Callable[[Call], dict[int, PerSample]]
"""``(call) -> {operand's place: its per-sample gradients}`` for the operands in ``call.operands``."""

OPERATIONS: dict[str, Operation] = {}
"""Operations by the name of their backward."""

_HALF = (torch.float16, torch.bfloat16)


def operation(*names: str) -> Callable[[Operation], Operation]:
    """Enter a function in `OPERATIONS`.

    Args:
        *names: Names of the backward nodes it is for.

    Returns:
        The decorator.
    """

    def enter(function: Operation) -> Operation:
        OPERATIONS.update(dict.fromkeys(names, function))
        return function

    return enter


def per_sample_gradients(call: Call) -> dict[int, PerSample]:
    """The per-sample gradients of an operation's operands.

    Args:
        call: The operation.

    Returns:
        The gradients of each operand asked for, by its place.

    Raises:
        UnknownOperationError: If nothing can be said about them.
    """
    return OPERATIONS.get(call.node.name(), any_operation)(call)


def reduced(call: Call, grad: Tensor, shape: torch.Size) -> Dense:
    """Gradients of an operand that was broadcast, from those of the full shape.

    Args:
        call: The operation.
        grad: Gradient in the shape to which the operand was broadcast, which lies as the first output does.
        shape: The operand's shape.

    Returns:
        The sums over the positions and over the axes along which it was broadcast.

    Raises:
        UnknownOperationError: If the operand has an entry of its own for each sample.
    """
    if grad is call.grad and call.is_plain and grad.shape[1:] == shape:
        return Dense(call.rows, shape)
    by_sample = call.by_sample(grad)
    full = [1] * (grad.dim() - len(shape)) + list(shape)
    if full.pop(call.axis) != 1:
        raise UnknownOperationError(f"{call.node.name()} gives each sample an entry of its own")
    first = by_sample.dim() - len(full)  # where the axes beside the samples' begin
    summed = list(range(1, first))
    summed += [first + k for k, size in enumerate(full) if size == 1 and by_sample.shape[first + k] != 1]
    if summed:
        by_sample = by_sample.sum(summed)
    return Dense(Rows(by_sample.reshape(len(by_sample), -1)), shape)


@operation("MmBackward0", "AddmmBackward0")
def matrix_product(call: Call) -> dict[int, PerSample]:
    """A matrix that multiplies the samples from the right, or from the left with the samples in columns; an addend."""
    is_sum = call.node.name() == "AddmmBackward0"
    right = 2 if is_sum else 1
    forms: dict[int, PerSample] = {}
    for place in call.operands:
        if place == right - 2:
            beta = saved(call.node, "beta")
            forms[place] = reduced(call, call.grad if beta == 1 else call.grad * beta, call.shape(place))
            continue
        if call.axis != right - place:
            raise UnknownOperationError(f"{call.node.name()} has the samples along an axis of the parameter")
        other = call.saved("mat2" if place != right else "mat1" if is_sum else "self")
        alpha = saved(call.node, "alpha") if is_sum else 1
        grads, others = call.rows, Rows(call.by_sample(other if alpha == 1 else other * alpha))
        forms[place] = _product(others, grads) if place == right else _product(grads, others)
    return forms


def _product(left: Rows, right: Rows) -> PerSample:
    """The outer products of two factors [B, N], or their sums over positions [B, T, N]."""
    if left.tensor.dim() == 2:
        return Outer(left, right)
    shape = torch.Size((left.tensor.shape[2], right.tensor.shape[2]))
    return OuterSum(left.tensor[:, None], right.tensor[:, None], shape)


@operation("BmmBackward0")
def batched_product(call: Call) -> dict[int, PerSample]:
    """Several matrices, each of which multiplies its own share of the samples' vectors."""
    forms: dict[int, PerSample] = {}
    for place in call.operands:
        if call.axis != 2 - (place == 1):
            raise UnknownOperationError("BmmBackward0 has the samples along an axis of the parameter")
        # [B, (T,) G, N] -> [B, G, T, N]
        others, grads = (
            _by_group(call.by_sample(side)) for side in (call.saved("self" if place else "mat2"), call.grad)
        )
        sides = (others, grads) if place else (grads, others)
        forms[place] = OuterSum(*sides, call.shape(place))
    return forms


def _by_group(tensor: Tensor) -> Tensor:
    """[B, G, N] or [B, T, G, N] as [B, G, T, N]."""
    return tensor[:, :, None] if tensor.dim() == 3 else tensor.transpose(1, 2)


@operation("EmbeddingBackward0")
def look_up(call: Call) -> dict[int, PerSample]:
    """Rows of a table, one for each position."""
    if call.saved("scale_grad_by_freq"):
        raise UnknownOperationError("`scale_grad_by_freq` counts over all samples of a batch")
    ids, grad = call.saved("indices"), call.grad
    grad = call.by_sample(grad.reshape(*ids.shape, grad.shape[-1]))
    ids = call.by_sample(ids)
    ids, grad = ids.reshape(len(ids), -1), grad.reshape(len(grad), -1, grad.shape[-1])
    padding = call.saved("padding_idx")
    if 0 <= padding < call.shape(0)[0]:  # a number without a sign stands for none
        grad = grad.masked_fill((ids == padding)[..., None], 0)
    return {0: Lookup(ids, grad, call.shape(0))}


@operation("EmbeddingBagBackward0")
def look_up_bags(call: Call) -> dict[int, PerSample]:
    """Sums or means of a table's rows, one bag for each output."""
    mode = call.saved("mode")
    if mode == 2 or call.saved("scale_grad_by_freq") or list(call.operands) != [0]:
        return any_operation(call)
    vocabulary, width = call.shape(0)
    ids, offsets, weights = call.saved("indices"), call.saved("offsets"), call.saved("per_sample_weights")
    padding = call.saved("padding_idx")
    counts = offsets.to(torch.long).diff(append=offsets.new_tensor([len(ids)]).long())[: len(call.grad)]
    bags = torch.repeat_interleave(torch.arange(len(counts), device=ids.device), counts)
    factors = torch.ones_like(ids, dtype=call.grad.dtype) if weights is None else weights.to(call.grad.dtype)
    if padding is not None and 0 <= padding < vocabulary:
        factors = factors * (ids != padding)
    if mode == 1:
        sizes = torch.zeros_like(counts).index_add_(0, bags, (ids != padding).long())
        factors = factors / sizes.clamp(min=1)[bags]
    # Bags of unequal size become rows of one length; what fills them up counts nothing.
    places = torch.arange(len(ids), device=ids.device) - offsets.long()[bags]
    shape = len(counts), int(counts.max())  # waits for the device
    table, scale = ids.new_zeros(shape), factors.new_zeros(shape)
    table[bags, places], scale[bags, places] = ids, factors
    grad = call.grad[:, None] * scale[..., None]
    table, grad = call.by_sample(table), call.by_sample(grad)
    return {0: Lookup(table.reshape(len(table), -1), grad.reshape(len(grad), -1, width), call.shape(0))}


@operation("IndexBackward0")
def index_rows(call: Call) -> dict[int, PerSample]:
    """Rows of a parameter, picked by one tensor of indices."""
    indices, shape = call.saved("indices"), call.shape(0)
    if len(indices) != 1 or indices[0] is None or indices[0].dtype == torch.bool or len(shape) < 2:
        return any_operation(call)
    ids = call.by_sample(indices[0] % shape[0])
    grad = call.by_sample(call.grad)
    ids = ids.reshape(len(ids), -1)
    form = Lookup(ids, grad.reshape(*ids.shape, -1), torch.Size((shape[0], shape[1:].numel())))
    if len(shape) == 2:
        return {0: form}
    raise UnknownOperationError("IndexBackward0 picks from a parameter of more than two axes")


@operation("AddBackward0", "ExpandBackward0")
def broadcast(call: Call) -> dict[int, PerSample]:
    """An addend, or a parameter repeated for each sample."""
    forms: dict[int, PerSample] = {}
    for place in call.operands:
        scale = call.saved("alpha") if place == 1 else 1
        forms[place] = reduced(call, call.grad if scale == 1 else call.grad * scale, call.shape(place))
    return forms


@operation("RepeatBackward0")
def repeat(call: Call) -> dict[int, PerSample]:
    """A parameter tiled along the leading axis, once for each sample (an instance norm's scale)."""
    shape = call.shape(0)
    grad = call.by_sample(call.grad)
    if call.axis or grad.shape[1:] != shape:
        return any_operation(call)
    return {0: Dense(Rows(grad.reshape(len(grad), -1)), shape)}


@operation("MulBackward0")
def elementwise_product(call: Call) -> dict[int, PerSample]:
    """A factor."""
    names = {0: "other", 1: "self"}
    return {place: reduced(call, call.grad * call.saved(names[place]), call.shape(place)) for place in call.operands}


def _is_elementwise(call: Call, place: int, part: Tensor) -> bool:
    """Whether an operand's gradient has the output's full shape, and the operand one entry for all samples."""
    shape = call.shape(place)
    full = [1] * (call.grad.dim() - len(shape)) + list(shape)
    return part.shape == call.grad.shape and full[call.axis] == 1


ONE_BY_ONE = "has no shorter way than its own backward, once for each sample"


def any_operation(call: Call) -> dict[int, PerSample]:
    """The operation's own backward: as it is where it works element by element, else once for each sample.

    Args:
        call: The operation.

    Returns:
        The gradients of each operand asked for, by its place.

    """
    with call.group:
        whole = sent_back(call.node, call.grads)
        parts = {place: whole[place] for place in call.operands}
        if all(part is not None and _is_elementwise(call, place, part) for place, part in parts.items()):
            return {place: reduced(call, part, call.shape(place)) for place, part in parts.items() if part is not None}
        for place in call.operands:
            check_size(call.count, call.shape(place))
        samples = [_sent_by(call, sample) for sample in range(call.count)]
    written = {place: [own[place] for own in samples] for place in call.operands}
    return {
        place: Dense(Rows(_single(torch.stack(rows))), call.shape(place), f"{call.node.name()} {ONE_BY_ONE}")
        for place, rows in written.items()
    }


def check_size(count: int, shape: torch.Size) -> None:
    """Refuse to keep all of a parameter's per-sample gradients where they would take too much memory.

    Args:
        count: Samples.
        shape: The parameter's shape.

    Raises:
        UnknownOperationError: If they would.
    """
    if count * shape.numel() > MAX_KEPT:
        raise UnknownOperationError(f"{count} gradients {tuple(shape)} would have to be kept at once")


def _sent_by(call: Call, sample: int) -> dict[int, Tensor]:
    """The operands' gradients, flattened, from one sample alone."""
    grads = [None if grad is None else call.layout.only(grad, sample, call.num_samples) for grad in call.grads]
    sent = sent_back(call.node, grads)
    shapes = {place: call.shape(place) for place in call.operands}
    whole = {place: sent[place] for place in shapes}
    return {
        place: call.grad.new_zeros(shapes[place].numel()) if part is None else part.sum_to_size(shapes[place]).flatten()
        for place, part in whole.items()
    }


def _single(tensor: Tensor) -> Tensor:
    """The tensor, in single precision where it came in half."""
    return tensor.float() if tensor.dtype in _HALF else tensor
