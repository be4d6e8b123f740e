"""Where a tensor of the graph keeps the samples, and how that is found out.

Nothing in a tensor's shape says which axis counts the samples: a sequence model may hold them second, a matrix product
has them folded with the positions. So the graph is asked: a backward pass in which only some samples are sent back
(the *masked pass*) leaves zeros exactly where the other samples are.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Fitting", "Folded", "Layout", "LayoutError", "Packed", "find_layouts"]


class Layout(ABC):
    """How the samples lie in a tensor."""

    @abstractmethod
    def by_sample(self, tensor: Tensor, num_samples: int) -> Tensor:
        """The tensor with the samples first, [B, T, rest]; T positions of each, [B, rest] where there is one.

        Args:
            tensor: The tensor.
            num_samples: Samples B in it.

        Raises:
            LayoutError: If the tensor cannot be laid out so.
        """

    @abstractmethod
    def only(self, tensor: Tensor, sample: int, num_samples: int) -> Tensor:
        """The tensor with zeros wherever another sample is."""


class LayoutError(Exception):
    """A tensor that cannot be laid out as tensors of its kind were before."""


@dataclass(frozen=True, slots=True)
class Folded(Layout):
    """One axis holds the samples, with T positions of each folded into it.

    Attributes:
        axis: The axis.
        is_inner: Whether the samples vary fastest along it, as in a sequence-first batch.
        is_single: Whether only one position was seen, which does not tell where the samples would vary.
    """

    axis: int
    is_inner: bool = False
    is_single: bool = False

    def by_sample(self, tensor: Tensor, num_samples: int) -> Tensor:
        """See `Layout.by_sample`."""
        if self.axis:
            tensor = tensor.movedim(self.axis, 0)
        if len(tensor) == num_samples:
            return tensor
        if self.is_single or len(tensor) % num_samples:
            raise LayoutError
        if self.is_inner:
            return tensor.unflatten(0, (-1, num_samples)).transpose(0, 1)
        return tensor.unflatten(0, (num_samples, -1))

    def only(self, tensor: Tensor, sample: int, num_samples: int) -> Tensor:
        """See `Layout.only`."""
        alone = torch.zeros_like(tensor, memory_format=torch.contiguous_format)
        self.by_sample(alone, num_samples)[sample] = self.by_sample(tensor, num_samples)[sample]  # a view
        return alone


class Packed(Layout):
    """The leading axis holds the positions of sequences of unequal length, as a `PackedSequence` does.

    Position by position, it holds those samples that are long enough; an axis with at most B rows is one position.

    Args:
        batch_sizes: Samples at each position, [T], on the host.
        order: The samples, longest first, [B]; by default as they come.
        device: Where the sequences are.
    """

    def __init__(self, batch_sizes: Tensor, order: Tensor | None, device: torch.device) -> None:
        self.length = len(batch_sizes)
        self.num_rows = int(batch_sizes.sum())
        num_samples = int(batch_sizes[0])
        places = torch.cat([torch.arange(int(size)) for size in batch_sizes]).to(device)
        self.samples = places if order is None else order.to(device)[places]
        self.positions = torch.arange(self.length).repeat_interleave(batch_sizes).to(device)
        self.num_samples = num_samples

    def holds(self, num_rows: int) -> bool:
        """Whether an axis of that length may be laid out so."""
        return num_rows == self.num_rows or num_rows <= self.num_samples

    def by_sample(self, tensor: Tensor, num_samples: int) -> Tensor:
        """See `Layout.by_sample`."""
        count = len(tensor)
        if not self.holds(count):
            raise LayoutError
        length = 1 if count <= self.num_samples else self.length
        padded = tensor.new_zeros(num_samples, length, *tensor.shape[1:])
        padded[self.samples[:count], self.positions[:count]] = tensor
        return padded

    def only(self, tensor: Tensor, sample: int, num_samples: int) -> Tensor:
        """See `Layout.only`."""
        own = self.samples[: len(tensor)] == sample
        return tensor * own.view(-1, *[1] * (tensor.dim() - 1))


Fitting = frozenset[Folded | Packed]
"""The layouts that what was seen of a tensor allows."""


def find_layouts(grad: Tensor | None, mask: Tensor, packings: Sequence[Packed]) -> Fitting | None:
    """How the samples may lie in a tensor, from what a masked pass left in its gradient.

    Args:
        grad: The gradient in the masked pass.
        mask: Whether each sample was sent back, [B], with some that were and some that were not.
        packings: How sequences of unequal length were packed in the forward pass, if any were.

    Returns:
        The layouts that account for the zeros, none if the samples are mixed; ``None`` if there were no traces, or if
        what came was not finite.
    """
    if grad is None:
        return None
    size, heard = len(mask), grad != 0
    fitting: set[Folded | Packed] = set()
    is_silent = True
    for axis, length in enumerate(grad.shape):
        if length == 0 or length % size:
            continue
        traces = heard.any([other for other in range(grad.dim()) if other != axis]) if grad.dim() > 1 else heard
        is_silent = is_silent and not bool(traces.any())
        fitting.update(layout for layout in _foldings(axis, length, size) if _fits(layout, traces, mask))
    for packing in packings:
        if grad.dim() and packing.holds(len(grad)):
            traces = heard.flatten(1).any(1) if grad.dim() > 1 else heard
            if _fits(packing, traces, mask):
                fitting.add(packing)
    if (is_silent and not bool(heard.any())) or not bool(grad.sum().isfinite()):
        return None
    return frozenset(fitting)


def _foldings(axis: int, length: int, num_samples: int) -> Iterator[Folded]:
    """The ways in which an axis of that length may hold the samples."""
    yield Folded(axis)
    yield Folded(axis, is_inner=True)
    if length == num_samples:
        yield Folded(axis, is_single=True)


def _fits(layout: Folded | Packed, traces: Tensor, mask: Tensor) -> bool:
    """Whether the samples that were not sent back left no traces along the axis that holds them."""
    along = replace(layout, axis=0) if isinstance(layout, Folded) else layout
    heard = along.by_sample(traces, len(mask)).reshape(len(mask), -1).any(1)
    return not bool(heard[~mask].any())
