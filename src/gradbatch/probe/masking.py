"""Masked passes: backward passes of some of the samples, by which is seen where each sample lies."""

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.utils.checkpoint import GraphExecGroup

from gradbatch.probe.layout import Fitting, Packed, find_layouts
from gradbatch.probe.nodes import delivered, num_outputs, sent_back

__all__ = ["masked_pass", "masks"]


def masks(num_samples: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Halves of the samples, by the digits of a number that each is given: all of them tell each sample apart."""
    numbers = torch.randperm(num_samples, generator=generator)
    for digit in range((num_samples - 1).bit_length()):
        mask = (numbers >> digit) % 2 == 1
        yield mask
        yield ~mask


def masked_pass(
    nodes: Collection[Node],
    candidates: Collection[Node],
    outputs: Sequence[Tensor],
    mask: Tensor,
    packings: Sequence[Packed],
    generator: torch.Generator,
) -> dict[Node, Fitting | None]:
    """How the samples lie in the nodes' outputs, from a backward pass of some of the samples.

    Args:
        nodes: The nodes, operands first.
        candidates: Those of them to look at.
        outputs: Tensors whose leading axis counts the samples, from which to go back.
        mask: Whether each sample is sent back, [B].
        packings: How sequences of unequal length were packed.
        generator: Where the outputs' gradients are drawn from.

    Returns:
        What `find_layouts` says of each candidate that the pass came through.
    """
    grads = []
    for output in outputs:
        grad = torch.randn(output.shape, generator=generator) * mask.view(-1, *[1] * (output.dim() - 1))
        grads.append(grad.to(output))
    mask = mask.to(outputs[0].device)
    found: dict[Node, Fitting | None] = {}
    waiting: dict[Node, dict[int, Tensor]] = {}
    for output, grad in zip(outputs, grads, strict=True):
        if output.grad_fn is not None:
            _add(waiting, output.grad_fn, output.output_nr, grad)
    # Node by node, since hooks that a user put on activations or parameters are for the user's own passes.
    with torch.no_grad(), GraphExecGroup():
        for node in reversed(list(nodes)):
            own = waiting.pop(node, None)
            if own is None or not node.next_functions:
                continue
            if node in candidates:
                findings = (find_layouts(own[output], mask, packings) for output in sorted(own))
                found[node] = next((fitting for fitting in findings if fitting is not None), None)
            if any(child is not None and child.next_functions for child, _ in node.next_functions):
                sent = sent_back(node, [own.get(output) for output in range(num_outputs(node))], once=True)
                for child, index, part in delivered(node, sent):
                    _add(waiting, child, index, part)
    return found


def _add(waiting: dict[Node, dict[int, Tensor]], node: Node, output: int, grad: Tensor) -> None:
    """Add to the gradient that waits for an output of a node."""
    own = waiting.setdefault(node, {})
    own[output] = own[output] + grad if output in own else grad
