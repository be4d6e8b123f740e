r"""Per-sample gradients in the forms in which they come, most of which are never written out.

A form stands for the gradients $g_1,\dots,g_B$ that a batch gives one parameter. What every form can do is to write
some of them out (`PerSample.piece`); what is asked of all of them lies in `gradbatch.probe.moments`, which knows
shorter ways for some forms.

Letters: B samples, T positions within a sample (of a sequence, of an image), G groups, L and R the two sides of an
outer product, V rows of a table and D its columns.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.linalg import vector_norm

__all__ = [
    "MAX_KEPT",
    "MAX_WRITTEN_OUT",
    "Dense",
    "Lazy",
    "Lookup",
    "Mapped",
    "Outer",
    "OuterSum",
    "PerSample",
    "Rearranged",
    "Rows",
    "Total",
]

MAX_WRITTEN_OUT = 2**20
"""Most numbers of per-sample gradients, or of products between positions, at a time: 4 MiB in single precision, which
stay in the processor's cache. At 64 MiB the same work took two to four times as long."""

MAX_KEPT = 2**26
"""Most numbers (256 MiB in single precision) of one parameter's per-sample gradients that are kept all at once, where
there is no form for them."""


class PerSample(ABC):
    """Gradients of B samples with respect to one tensor.

    Attributes:
        num_samples: Their number B.
        shape: Shape of each, that of the tensor.
        overhead: Numbers that come into being on the way to one that is written out, where those are more.
    """

    num_samples: int
    shape: torch.Size
    overhead: int = 0

    @abstractmethod
    def piece(self, start: int, stop: int) -> Tensor:
        """The gradients of samples ``start`` to ``stop`` (excluded), [stop - start, *shape]."""

    @abstractmethod
    def held(self) -> Sequence[Tensor]:
        """The tensors that the form keeps alive."""

    def rows_of(self, start: int, stop: int) -> Tensor:
        """The same, each as one row, [stop - start, N]."""
        return self.piece(start, stop).reshape(stop - start, -1)

    @property
    def piece_size(self) -> int:
        """Samples that may be written out at a time, at least one."""
        return max(1, MAX_WRITTEN_OUT // max(1, self.shape.numel(), self.overhead))

    def bounds(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int]]:
        """Bounds of the pieces in which the samples ``start`` to ``stop`` (by default all) can be written out."""
        stop = self.num_samples if stop is None else stop
        for first in range(start, stop, self.piece_size):
            yield first, min(first + self.piece_size, stop)


class Rows:
    """A matrix with one row for each sample, and the norms of its rows, computed once.

    Args:
        tensor: The matrix, [B, N].
    """

    __slots__ = ("_norms", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self._norms: Tensor | None = None

    @property
    def norms(self) -> Tensor:
        """Norms of the rows, [B]."""
        if self._norms is None:
            self._norms = vector_norm(self.tensor, dim=1)
        return self._norms


class Dense(PerSample):
    """Gradients that are written out: of biases, of norms' scales, of whatever is small.

    Args:
        rows: The gradients, flattened, [B, N].
        shape: Shape of each, of N numbers.
        origin: How they were come by, where that is out of the ordinary.
    """

    def __init__(self, rows: Rows, shape: torch.Size, origin: str = "") -> None:
        self.rows, self.shape, self.num_samples, self.origin = rows, shape, len(rows.tensor), origin

    def piece(self, start: int, stop: int) -> Tensor:
        """See `PerSample.piece`."""
        return self.rows.tensor[start:stop].reshape(-1, *self.shape)

    def held(self) -> Sequence[Tensor]:
        """See `PerSample.held`."""
        return (self.rows.tensor,)


class Outer(PerSample):
    r"""One outer product for each sample, $g_i = \ell_i r_i^\top$: a matrix that multiplies one vector a sample.

    Args:
        left: $\ell$, [B, L].
        right: $r$, [B, R].
    """

    def __init__(self, left: Rows, right: Rows) -> None:
        self.left, self.right = left, right
        (self.num_samples, rows), (_, columns) = left.tensor.shape, right.tensor.shape
        self.shape = torch.Size((rows, columns))

    def piece(self, start: int, stop: int) -> Tensor:
        """See `PerSample.piece`."""
        return self.left.tensor[start:stop, :, None] * self.right.tensor[start:stop, None, :]

    def held(self) -> Sequence[Tensor]:
        """See `PerSample.held`."""
        return self.left.tensor, self.right.tensor


class OuterSum(PerSample):
    r"""Sums of outer products over positions, $g_i=\sum_t\ell_{it}r_{it}^\top$, with one such block for each group.

    Args:
        left: $\ell$, [B, G, T, L].
        right: $r$, [B, G, T, R].
        shape: Shape of each gradient, of G L R numbers in this order.
    """

    def __init__(self, left: Tensor, right: Tensor, shape: torch.Size) -> None:
        self.left, self.right, self.shape = left, right, shape
        self.num_samples = len(left)

    def blocks(self) -> Iterator[Tensor]:
        """Gradients by group, [n, G, L, R], some samples at a time; each piece goes where the last one was."""
        buffer: Tensor | None = None
        for start, stop in self.bounds():
            shape = (stop - start, *self.left.shape[1::2], self.right.shape[3])
            if buffer is None:
                buffer = self.left.new_empty(shape)
            yield torch.matmul(self.left[start:stop].mT, self.right[start:stop], out=buffer[: stop - start])

    def piece(self, start: int, stop: int) -> Tensor:
        """See `PerSample.piece`."""
        return (self.left[start:stop].mT @ self.right[start:stop]).reshape(-1, *self.shape)

    def held(self) -> Sequence[Tensor]:
        """See `PerSample.held`."""
        return self.left, self.right


class Lookup(PerSample):
    r"""Rows added to a table: row $v$ of $g_i$ is $\sum_{t: id_{it}=v} r_{it}$.

    Args:
        ids: Rows that were looked up, [B, T].
        right: Gradients of what was found, [B, T, D]; zero where a look-up does not count.
        shape: Shape of the table, [V, D].
    """

    def __init__(self, ids: Tensor, right: Tensor, shape: torch.Size) -> None:
        self.ids, self.right, self.shape = ids, right, shape
        self.num_samples = len(ids)

    @cached_property
    def entries(self) -> tuple[Tensor, Tensor]:
        """The distinct pairs of sample and row as ``sample * V + row``, [E], and what each adds up to, [E, D]."""
        samples = torch.arange(self.num_samples, device=self.ids.device)
        keys, places = (samples[:, None] * self.shape[0] + self.ids).unique(return_inverse=True)
        right = self.right.flatten(0, 1)
        return keys, right.new_zeros(len(keys), right.shape[1]).index_add_(0, places.flatten(), right)

    def piece(self, start: int, stop: int) -> Tensor:
        """See `PerSample.piece`."""
        count = stop - start
        samples = torch.arange(count, device=self.ids.device)
        keys = (samples[:, None] * self.shape[0] + self.ids[start:stop]).flatten()
        table = self.right.new_zeros(count * self.shape[0], self.shape[1])
        return table.index_add_(0, keys, self.right[start:stop].flatten(0, 1)).view(count, *self.shape)

    def held(self) -> Sequence[Tensor]:
        """See `PerSample.held`."""
        return self.ids, self.right


class Lazy(PerSample):
    """Gradients whose form is itself too large to exist for all samples at once, as that of unfolded images.

    Args:
        make: ``(start, stop) -> form`` of those samples.
        num_samples: Samples B in all.
        shape: Shape of each gradient.
        sources: The tensors that ``make`` reads.
        numbers: Numbers a sample that the form made of it holds.
    """

    def __init__(
        self,
        make: Callable[[int, int], PerSample],
        num_samples: int,
        shape: torch.Size,
        sources: Sequence[Tensor],
        numbers: int,
    ) -> None:
        self.make, self.num_samples, self.shape, self.sources = make, num_samples, shape, sources
        self.overhead = numbers

    def forms(self) -> Iterator[PerSample]:
        """The forms of all samples, in order."""
        for start, stop in self.bounds():
            yield self.make(start, stop)

    def piece(self, start: int, stop: int) -> Tensor:
        """See `PerSample.piece`."""
        return self.make(start, stop).piece(0, stop - start)

    def held(self) -> Sequence[Tensor]:
        """See `PerSample.held`."""
        return self.sources


class Rearranged(PerSample):
    """Gradients with their numbers in another order: those of a parameter that was used through a view.

    Args:
        base: The gradients of the view.
        shape: The parameter's shape.
        push: Takes gradients of the view, [n, *base.shape], to the parameter's order, [n, *shape].
        pull: Takes a tensor in the parameter's order, [*shape], to the view's.
    """

    def __init__(
        self, base: PerSample, shape: torch.Size, push: Callable[[Tensor], Tensor], pull: Callable[[Tensor], Tensor]
    ) -> None:
        self.base, self.shape, self.push, self.pull = base, shape, push, pull
        self.num_samples = base.num_samples

    def piece(self, start: int, stop: int) -> Tensor:
        """See `PerSample.piece`."""
        return self.push(self.base.piece(start, stop))

    def held(self) -> Sequence[Tensor]:
        """See `PerSample.held`."""
        return self.base.held()


class Mapped(PerSample):
    """Gradients carried on to the parameters from which the tensor was computed, as a parametrised weight is.

    Args:
        base: The gradients of the tensor.
        shape: The parameter's shape.
        push: Takes gradients of the tensor, [n, *base.shape], to those of the parameter, [n, *shape].
    """

    def __init__(self, base: PerSample, shape: torch.Size, push: Callable[[Tensor], Tensor]) -> None:
        self.base, self.shape, self.push = base, shape, push
        self.num_samples = base.num_samples
        self.overhead = max(base.shape.numel(), base.overhead)

    def piece(self, start: int, stop: int) -> Tensor:
        """See `PerSample.piece`."""
        return self.push(self.base.piece(start, stop))

    def held(self) -> Sequence[Tensor]:
        """See `PerSample.held`."""
        return self.base.held()


class Total(PerSample):
    """The sum of several uses of one parameter, whose gradients cannot be joined into one form.

    Args:
        parts: The uses' gradients, of one shape.
    """

    def __init__(self, parts: Sequence[PerSample]) -> None:
        self.parts, self.shape, self.num_samples = parts, parts[0].shape, parts[0].num_samples
        self.overhead = max(part.overhead for part in parts)

    def piece(self, start: int, stop: int) -> Tensor:
        """See `PerSample.piece`."""
        total = self.parts[0].piece(start, stop)
        for part in self.parts[1:]:
            total = total + part.piece(start, stop)
        return total

    def held(self) -> Sequence[Tensor]:
        """See `PerSample.held`."""
        return [tensor for part in self.parts for tensor in part.held()]
