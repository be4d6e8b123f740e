"""What the engine reads of autograd's nodes; all that torch does not document is here.

``node.next_functions``, ``node.name()`` and ``node.register_prehook`` are public. That a node can be called, that a
leaf knows its ``variable``, and what a node saved for its backward (``_saved_*``) are long-standing but named only in
notes; a pass's id is what ``torch.autograd.graph`` itself tells passes apart by.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

__all__ = [
    "LEAF",
    "Operands",
    "UnknownOperationError",
    "current_pass",
    "delivered",
    "num_outputs",
    "output_dtype",
    "output_shape",
    "parameter_of",
    "saved",
    "sent_back",
]

LEAF = "torch::autograd::AccumulateGrad"
"""Name of the nodes behind which the parameters are."""

Operands = Sequence[tuple[Node | None, int]]
"""The nodes of which a node's operands are outputs, and of which output; no node for a constant."""

current_pass = torch._C._current_graph_task_id
"""The id of the backward pass under way; -1 outside of any."""


class UnknownOperationError(Exception):
    """An operation about whose operands nothing can be said."""


def parameter_of(leaf: Any) -> nn.Parameter:
    """The parameter behind a leaf."""
    return leaf.variable


def saved(node: Node, name: str) -> Any:
    """What a node keeps for its backward; a checkpointed tensor is recomputed, and given once in a pass."""
    return getattr(node, "_saved_" + name)


def num_outputs(node: Any) -> int:
    """How many outputs a node's operation has."""
    return len(node._input_metadata)


def output_shape(node: Any, output: int) -> torch.Size:
    """Shape of an output of a node's operation, or of the parameter at a leaf."""
    return node.variable.shape if node.name() == LEAF else torch.Size(node._input_metadata[output].shape)


def output_dtype(node: Any, output: int) -> torch.dtype:
    """Type of an output of a node's operation."""
    return node._input_metadata[output].dtype


def sent_back(node: Any, grads: Sequence[Tensor | None], *, once: bool = False) -> tuple[Tensor | None, ...]:
    """What a node's own backward makes of gradients of its outputs, without anyone's hooks.

    Autograd itself sums over broadcast axes only after this, so that elementwise operations give the full shape.

    Args:
        node: The node.
        grads: Gradients of its outputs.
        once: Call a backward that a user wrote, too, which need not bear being called again and again.

    Returns:
        Gradients of its operands.

    Raises:
        UnknownOperationError: If a user wrote it and it would be called more than once.
    """
    if isinstance(node, BackwardCFunction):
        if not once:
            raise UnknownOperationError(
                f"{type(node).__name__} is not an operation of torch, teach it with gradbatch.register_formula"
            )
        given = next(grad for grad in grads if grad is not None)
        sent = node.apply(  # which autograd gives zeros for outputs that were not used
            *[
                given.new_zeros(output_shape(node, output)) if grad is None else grad
                for output, grad in enumerate(grads)
            ]
        )
    else:
        sent = node(*grads)
    return sent if isinstance(sent, tuple) else (sent,)


def delivered(node: Any, sent: Sequence[Tensor | None]) -> Iterator[tuple[Node, int, Tensor]]:
    """Gradients of a node's operands as autograd hands them on: in the shape and type of what they belong to.

    Args:
        node: The node.
        sent: What its backward gave.

    Yields:
        The operand's node, which of its outputs it is, and the gradient.
    """
    for (child, output), part in zip(node.next_functions, sent, strict=False):
        if child is not None and part is not None:
            shape = output_shape(child, output)
            yield child, output, part if part.shape == shape else part.sum_to_size(shape)
