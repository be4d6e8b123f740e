r"""What each operation of autograd's graph says about the parameters that enter it.

A parameter meets the samples in an operation: a product, a convolution, a look-up, a sum. From the operation's output
gradient and what autograd saved for its backward, a function for each makes the per-sample gradients of the operands
asked for. Nothing is computed anew that could come out differently, such as a dropout mask. The functions are in the
modules beside this one, by family; an operation without one is taken apart by its own backward.

Letters: B samples, T positions of each, O outputs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.utils.checkpoint import GraphExecGroup

from gradbatch.probe.forms import MAX_KEPT, Dense, OuterSum, PerSample, Rows
from gradbatch.probe.layout import Folded, Layout
from gradbatch.probe.nodes import UnknownOperationError, output_shape, saved, sent_back

__all__ = [
    "ONE_BY_ONE",
    "OPERATIONS",
    "Call",
    "Operation",
    "any_operation",
    "check_size",
    "operation",
    "over_positions",
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
        by_position: Keep positions apart even where their sum is cheaper.
        group: Under it, checkpointed activations are recomputed for us, aside from autograd's own recomputation.
    """

    node: Node
    grads: tuple[Tensor | None, ...]
    operands: Sequence[int]
    layout: Layout
    num_samples: int
    count: int
    by_position: bool
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


def reduced(call: Call, grad: Tensor, shape: torch.Size) -> PerSample:
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
    if summed and call.by_position:
        kept = [axis for axis in range(1, by_sample.dim()) if axis not in summed]
        by_sample = by_sample.permute(0, *summed, *kept).flatten(1, len(summed))
        return over_positions(by_sample.reshape(*by_sample.shape[:2], shape.numel()), shape)
    if summed:
        by_sample = by_sample.sum(summed)
    return Dense(Rows(by_sample.reshape(len(by_sample), -1)), shape)


def over_positions(grads: Tensor, shape: torch.Size) -> OuterSum:
    """Gradients that are sums over positions, of which each is kept.

    Args:
        grads: What each position gives, [B, T, N].
        shape: Shape of the N numbers.

    Returns:
        The sums over positions, as outer products with 1.
    """
    return OuterSum(grads[:, None], grads.new_ones(len(grads), 1, grads.shape[1], 1), shape)


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
