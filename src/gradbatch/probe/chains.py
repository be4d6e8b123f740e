"""From a tensor that no sample enters, such as a transposed or normalised weight, back to the parameters behind it."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.utils.checkpoint import GraphExecGroup

from gradbatch.probe.forms import Dense, Lookup, Mapped, Outer, OuterSum, PerSample, Rearranged
from gradbatch.probe.nodes import delivered, num_outputs, output_dtype, output_shape, parameter_of, saved, sent_back
from gradbatch.probe.operations import Call

__all__ = ["carried"]


def carried(form: PerSample, node: Node, index: int, places: Mapping[Node, int], call: Call) -> dict[int, PerSample]:
    """Per-sample gradients of parameters, from those of a tensor that was computed from parameters alone.

    Args:
        form: The gradients of the tensor.
        node: The node of which the tensor is an output, or a leaf.
        index: Which of its outputs.
        places: The parameters' leaves, and their places.
        call: The operation in which the tensor met the samples.

    Returns:
        The gradients of each parameter, by its place.
    """
    while node not in places:
        view = _VIEWS.get(node.name())
        if view is None:
            return _mapped(form, node, index, places)
        child, child_index = node.next_functions[0]
        assert child is not None
        form = view(form, node, output_shape(child, child_index), call)
        node, index = child, child_index
    return {places[node]: form}


def _mapped(form: PerSample, root: Node, index: int, places: Mapping[Node, int]) -> dict[int, PerSample]:
    """The gradients sent on through the nodes' own backward, a batch of them at a time."""
    order, dtype = _operands_last(root), output_dtype(root, index)
    forms: dict[int, PerSample] = {}
    for leaf in order:
        if leaf in places:

            def push(grads: Tensor, leaf: Node = leaf) -> Tensor:
                # In a group of its own, checkpointed nodes can be asked again and again for what they saved; and
                # vmap regrets it aloud where it can only loop over an operation.
                with GraphExecGroup(), warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message=".*batching rule", category=UserWarning)
                    # Half-precision nodes take gradients of their own type only.
                    sent = torch.vmap(partial(_sent_to, order, leaf, index))(grads.to(dtype))
                    return sent.float() if sent.element_size() < 4 else sent

            forms[places[leaf]] = Mapped(form, parameter_of(leaf).shape, push)
    return forms


def _sent_to(order: Sequence[Node], leaf: Node, index: int, grad: Tensor) -> Tensor:
    """What autograd would send to a leaf, had it started with a gradient at the first node, without anyone's hooks.

    Args:
        order: The nodes, operands last.
        leaf: The leaf.
        index: The output of the first node whose gradient it is.
        grad: The gradient.

    Returns:
        The leaf's gradient.
    """
    waiting: dict[Node, dict[int, Tensor]] = {order[0]: {index: grad}}
    for node in order:
        own = waiting.pop(node, {})
        if node is leaf:
            return own[0]
        if not node.next_functions or not own:
            continue
        sent = sent_back(node, [own.get(output) for output in range(num_outputs(node))])
        for child, output, part in delivered(node, sent):
            of_child = waiting.setdefault(child, {})
            of_child[output] = of_child[output] + part if output in of_child else part
    return torch.zeros(parameter_of(leaf).shape, dtype=grad.dtype, device=grad.device)  # no gradient came through


def _operands_last(root: Node) -> list[Node]:
    """All nodes from one down to the leaves, each before its operands."""
    order: list[Node] = []
    done: set[Node] = set()
    stack = [(root, False)]
    while stack:
        node, is_ready = stack.pop()
        if is_ready:
            order.append(node)
        elif node not in done:
            done.add(node)
            stack.append((node, True))
            stack += [(child, False) for child, _ in node.next_functions if child is not None]
    return order[::-1]


View = Callable[[PerSample, Node, torch.Size, Call], PerSample]
"""``(gradients of the view, its node, shape of what it views, call) -> gradients of what it views``."""


def _same(form: PerSample, node: Node, shape: torch.Size, call: Call) -> PerSample:
    """A copy, perhaps in another type."""
    return form


def _transposed(form: PerSample, node: Node, shape: torch.Size, call: Call) -> PerSample:
    """A matrix transposed: an outer product changes its sides; a vector stays as it is."""
    if len(shape) < 2:
        return form
    if isinstance(form, Outer):
        return Outer(form.right, form.left)
    if isinstance(form, OuterSum) and form.left.shape[1] == 1 and len(form.shape) == 2:
        return OuterSum(form.right, form.left, shape)
    return Rearranged(form, shape, lambda grads: grads.mT, lambda tensor: tensor.mT)


def _axes_exchanged(form: PerSample, node: Node, shape: torch.Size, call: Call) -> PerSample:
    """Two axes exchanged; saved numbers have lost their sign."""
    count = len(shape)
    first, second = (_signed(axis) % count for axis in (saved(node, "dim0"), saved(node, "dim1")))
    if count == 2 and first != second:
        return _transposed(form, node, shape, call)
    return Rearranged(
        form,
        shape,
        lambda grads: grads.transpose(first + 1, second + 1),
        lambda tensor: tensor.transpose(first, second),
    )


def _permuted(form: PerSample, node: Node, shape: torch.Size, call: Call) -> PerSample:
    """Axes in another order."""
    order = [_signed(axis) % len(shape) for axis in saved(node, "dims")]
    back = [0, *(order.index(axis) + 1 for axis in range(len(order)))]
    return Rearranged(form, shape, lambda grads: grads.permute(back), lambda tensor: tensor.permute(order))


def _reshaped(form: PerSample, node: Node, shape: torch.Size, call: Call) -> PerSample:
    """The same numbers in the same order, in another shape."""
    if isinstance(form, Dense):
        return Dense(form.rows, shape)
    if isinstance(form, OuterSum):
        return OuterSum(form.left, form.right, shape)
    view = form.shape
    return Rearranged(form, shape, lambda grads: grads.reshape(-1, *shape), lambda tensor: tensor.reshape(view))


def _looked_up(form: PerSample, node: Node, shape: torch.Size, call: Call) -> PerSample:
    """Rows of a table that are the same for every sample (learned positions)."""
    with call.group:
        ids, padding = saved(node, "indices").reshape(1, -1), saved(node, "padding_idx")
    right = form.piece(0, form.num_samples).reshape(form.num_samples, ids.shape[1], -1)
    if 0 <= padding < shape[0]:
        right = right.masked_fill((ids == padding)[..., None], 0)
    return Lookup(ids.expand(form.num_samples, -1), right, shape)


def _signed(number: int) -> int:
    """A 64-bit number that autograd shows without its sign."""
    return number - 2**64 if number >= 2**63 else number


_VIEWS: dict[str, View] = {
    "TBackward0": _transposed,
    "TransposeBackward0": _axes_exchanged,
    "PermuteBackward0": _permuted,
    "EmbeddingBackward0": _looked_up,
    **dict.fromkeys(["ToCopyBackward0", "CloneBackward0", "AliasBackward0"], _same),
    **dict.fromkeys(
        [
            "ViewBackward0",
            "UnsafeViewBackward0",
            "ReshapeAliasBackward0",
            "UnsqueezeBackward0",
            "SqueezeBackward0",
            "SqueezeBackward1",
            "SqueezeBackward2",
        ],
        _reshaped,
    ),
}
