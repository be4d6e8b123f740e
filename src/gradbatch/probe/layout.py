"""Where a tensor of the graph keeps the samples, and how that is found out.

Nothing in a tensor's shape says which axis counts the samples: a sequence model may hold them second, a matrix product
has them folded with the positions. So the graph is asked: a backward pass in which only some samples are sent back
(the *masked pass*) leaves zeros exactly where the other samples are.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Finding", "Folded", "Layout", "Mixed", "Packed", "Silent", "find_layout"]


class Layout(ABC):
    """How the samples lie in a tensor."""

    @abstractmethod
    def by_sample(self, tensor: Tensor, num_samples: int) -> Tensor:
        """The tensor with the samples first, [B, T, rest]; T positions of each, [B, rest] where there is one.

        Args:
            tensor: The tensor.
            num_samples: Samples B in it.
        """

    @abstractmethod
    def only(self, tensor: Tensor, sample: int, num_samples: int) -> Tensor:
        """The tensor with zeros wherever another sample is."""


@dataclass(frozen=True, slots=True)
class Folded(Layout):
    """One axis holds the samples, with T positions of each folded into it.

    Attributes:
        axis: The axis.
        is_inner: Whether the samples vary fastest along it, as in a sequence-first batch.
    """

    axis: int
    is_inner: bool = False

    def by_sample(self, tensor: Tensor, num_samples: int) -> Tensor:
        if self.axis:
            tensor = tensor.movedim(self.axis, 0)
        if len(tensor) == num_samples:
            return tensor
        if self.is_inner:
            return tensor.unflatten(0, (-1, num_samples)).transpose(0, 1)
        return tensor.unflatten(0, (num_samples, -1))

    def only(self, tensor: Tensor, sample: int, num_samples: int) -> Tensor:
        alone = torch.zeros_like(tensor, memory_format=torch.contiguous_format)
        self.by_sample(alone, num_samples)[sample] = self.by_sample(tensor, num_samples)[sample]  # a view
        return alone


@dataclass(frozen=True, slots=True, eq=False)
class Packed(Layout):
    """The leading axis holds the positions of sequences of unequal length, as a ``PackedSequence`` does.

    Attributes:
        samples: The sample of each row, [N]; an axis that is shorter holds the first of the rows.
        positions: The row's position within its sample, [N].
        length: Positions T of the longest sample.
    """

    samples: Tensor
    positions: Tensor
    length: int

    def by_sample(self, tensor: Tensor, num_samples: int) -> Tensor:
        count = len(tensor)
        padded = tensor.new_zeros(num_samples, self.length, *tensor.shape[1:])
        padded[self.samples[:count], self.positions[:count]] = tensor
        return padded

    def only(self, tensor: Tensor, sample: int, num_samples: int) -> Tensor:
        own = self.samples[: len(tensor)] == sample
        return tensor * own.view(-1, *[1] * (tensor.dim() - 1))


@dataclass(frozen=True, slots=True)
class Mixed:
    """No layout: the samples that were masked left their traces everywhere."""


@dataclass(frozen=True, slots=True)
class Silent:
    """No telling: the masked pass left too few traces, or none."""


Finding = Layout | Mixed | Silent


def find_layout(grad: Tensor | None, mask: Tensor) -> Finding:
    """How the samples lie in a tensor, from what a masked pass left in its gradient.

    Args:
        grad: The gradient in the masked pass.
        mask: Whether each sample was sent back, [B], with some that were and some that were not.

    Returns:
        The one layout that accounts for the zeros, or why there is none.
    """
    if grad is None:
        return Silent()
    heard = grad != 0  # nan is a trace
    if not bool(heard.any()):
        return Silent()
    fitting = [layout for layout in _candidates(grad.shape, len(mask)) if _fits(layout, heard, mask)]
    if not fitting:
        return Mixed()
    return fitting[0] if len(fitting) == 1 else Silent()


def _candidates(shape: torch.Size, num_samples: int) -> Iterator[Folded]:
    """The layouts that are possible in a shape."""
    for axis, size in enumerate(shape):
        if size and size % num_samples == 0:
            yield Folded(axis)
            if size > num_samples:
                yield Folded(axis, is_inner=True)


def _fits(layout: Folded, heard: Tensor, mask: Tensor) -> bool:
    """Whether the masked samples, and only they, are silent."""
    traces = layout.by_sample(heard, len(mask)).flatten(1).any(1)
    return not bool(traces[~mask].any())
