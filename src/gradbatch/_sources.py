"""Where a stream reads: tensors in memory, datasets, or ready-made batches."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    TensorDataset,
    default_collate,
)

from gradbatch._batches import ChunkBuffer, Columns, num_bytes, num_samples, tensors_of
from gradbatch.errors import InvalidInputError

__all__ = ["Source", "checked_int", "open_source"]

_MIN_CHUNK = 64
"""Samples. A message from a worker costs about a millisecond whatever its size."""

_WIDE_CHUNK, _WIDE_CHUNK_BYTES = 4, 2**24
"""Batches, bytes. While sizes change, chunks grow to the lesser of both, so that few batches cross one."""


class Source(Protocol):
    """Where a stream reads. A place is (epoch, position), the position in samples."""

    dataset_size: int
    can_rewind: bool

    def remaining(self, epoch: int, position: int, limit: int) -> int:
        """How many of the next ``limit`` samples lie before the epoch's end."""

    def read(self, epoch: int, position: int, count: int) -> Any:
        """The ``count`` samples from that place on, all of one epoch."""

    def close(self) -> None:
        """Let go of workers and of what was read ahead."""


class Order:
    """The order of the samples in each epoch, a function of (seed, epoch) alone."""

    def __init__(self, dataset_size: int, seed: int, shuffle: bool, device: torch.device) -> None:
        self.dataset_size = dataset_size
        self._seed, self._shuffle, self._device = seed, shuffle, device
        self._epoch = -1
        self._indices = torch.empty(0, dtype=torch.long)

    def indices(self, epoch: int, start: int, stop: int) -> Tensor:
        """Dataset indices of the samples at positions ``start`` to ``stop`` of an epoch."""
        if epoch != self._epoch:
            self._indices, self._epoch = self._draw(epoch).to(self._device), epoch
        return self._indices[start:stop]

    def generator(self, *place: int) -> torch.Generator:
        """A generator of its own for each (seed, *place)."""
        # Hashed, since sums or products of seed and epoch would give different runs the same epochs.
        digest = hashlib.blake2b(repr((self._seed, *place)).encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "little"))

    def _draw(self, epoch: int) -> Tensor:
        if not self._shuffle:
            return torch.arange(self.dataset_size)
        # On the CPU whatever the device, whose generator would give another permutation.
        return torch.randperm(self.dataset_size, generator=self.generator(epoch))


class DirectSource:
    """Collates exactly the samples asked for, in this process."""

    can_rewind = True

    def __init__(self, order: Order, dataset: Any, collate_fn: Callable[[Any], Any]) -> None:
        self.dataset_size = order.dataset_size
        self._order, self._dataset, self._collate_fn = order, dataset, collate_fn

    def remaining(self, epoch: int, position: int, limit: int) -> int:
        """See `Source`."""
        return min(limit, self.dataset_size - position)

    def read(self, epoch: int, position: int, count: int) -> Any:
        """See `Source`."""
        indices = self._order.indices(epoch, position, position + count)
        batch = self._collate_fn(self._fetch(indices))
        return batch if self._collate_fn is _as_it_is else _checked_batch(batch, count)

    def close(self) -> None:
        """Nothing to let go of."""

    def _fetch(self, indices: Tensor) -> Any:
        """What the dataset holds at ``indices`` ([n])."""
        if isinstance(self._dataset, Columns):
            return self._dataset.__getitems__(indices)
        # As torch's own loader does: `__getitems__`, where a dataset has it, fetches many samples at once.
        fetch_many = getattr(self._dataset, "__getitems__", None)
        wanted = indices.tolist()
        return fetch_many(wanted) if fetch_many else [self._dataset[index] for index in wanted]


class WorkerSource:
    """Batches cut out of chunks that a loader's workers make ahead of time."""

    can_rewind = True

    def __init__(
        self,
        order: Order,
        dataset: Any,
        collate_fn: Callable[[Any], Any],
        num_workers: int,
        prefetch_factor: int,
    ) -> None:
        self.dataset_size = order.dataset_size
        self._order = order
        self._sampler = _ChunkSampler(order)
        # Of its own, so that the loader leaves alone the global one, from which a model's dropout draws.
        self._generator = torch.Generator()
        self._settings = {
            "dataset": dataset,
            "collate_fn": collate_fn,
            "num_workers": num_workers,
            "prefetch_factor": prefetch_factor,
        }
        self._loader: DataLoader[Any] | None = None
        self._chunks: Iterator[Any] = iter(())
        self._buffer = ChunkBuffer()
        self._place: tuple[int, int] | None = None

    def remaining(self, epoch: int, position: int, limit: int) -> int:
        """See `Source`."""
        return min(limit, self.dataset_size - position)

    def read(self, epoch: int, position: int, count: int) -> Any:
        """See `Source`."""
        self._sampler.follow(epoch, position, count)
        if self._place != (epoch, position):
            self._start(epoch, position)
        try:
            while self._buffer.num_samples < count:
                chunk, size = next(self._chunks), self._sampler.sizes.popleft()
                self._buffer.append(_checked_batch(chunk, size), size)
                self._sampler.sample_bytes = num_bytes(chunk) / size
            batch = self._buffer.take(count)
        except BaseException:  # whatever it was, it left a gap: the next read starts anew
            self.close()
            raise
        end = position + count
        self._place = (epoch, end) if end < self.dataset_size else (epoch + 1, 0)
        return batch

    def close(self) -> None:
        """Shut the workers down, as torch does when a loader's iterator goes."""
        self._loader, self._chunks, self._place = None, iter(()), None
        self._buffer.clear()

    def _start(self, epoch: int, position: int) -> None:
        """Have the workers make chunks from that place on."""
        if self._loader is None:
            self._loader = DataLoader(
                **self._settings,
                batch_sampler=self._sampler,
                generator=self._generator,
                persistent_workers=True,
            )
        self._generator.set_state(self._order.generator(epoch, position).get_state())
        self._buffer.clear()
        self._sampler.restart(epoch, position)
        self._chunks = iter(self._loader)  # with workers at hand, this only resets them


class _ChunkSampler:
    """Indices of one chunk after the other, without end.

    The loader draws from it ahead of the batches. It therefore follows their sizes late, which may cost
    copies and never correctness.

    Attributes:
        sizes: Samples in each chunk that was drawn and has not arrived yet.
        sample_bytes: Memory of a sample, once a chunk has arrived.
    """

    def __init__(self, order: Order) -> None:
        self.sizes: deque[int] = deque()
        self.sample_bytes: float | None = None
        self._order = order
        self._start = (0, 0)
        self._anchor = (0, 0)
        self._size = 1
        self._is_steady = True

    def restart(self, epoch: int, position: int) -> None:
        """Begin the next iteration at that place."""
        self._start = (epoch, position)
        self.sizes.clear()

    def follow(self, epoch: int, position: int, count: int) -> None:
        """Note that ``count`` samples are now read from that place."""
        if position + count == self._order.dataset_size:  # perhaps cut short by the epoch's end
            count = max(count, self._size)
        self._is_steady = count == self._size
        self._anchor, self._size = (epoch, position), count

    def __iter__(self) -> Iterator[list[int]]:
        epoch, position = self._start
        while True:
            stop = min(self._boundary(epoch, position), self._order.dataset_size)
            self.sizes.append(stop - position)
            yield self._order.indices(epoch, position, stop).tolist()
            epoch, position = (epoch, stop) if stop < self._order.dataset_size else (epoch + 1, 0)

    def _boundary(self, epoch: int, position: int) -> int:
        """The end of a chunk that begins at ``position``."""
        # A multiple of the last size away from where the last batch began: as long as the size stays, each
        # batch is a chunk or lies within one, and no sample is copied.
        anchor = self._anchor[1] if epoch == self._anchor[0] else 0
        least = max(_MIN_CHUNK, self._size // 2)
        if not self._is_steady and self.sample_bytes:
            least = max(least, min(_WIDE_CHUNK * self._size, int(_WIDE_CHUNK_BYTES / self.sample_bytes)))
        batches = -(-(position + least - anchor) // self._size)
        return anchor + batches * self._size


class BatchSource:
    """Batches re-cut from the ready-made ones of an iterable; one pass is one epoch."""

    can_rewind = False

    def __init__(self, batches: Iterable[Any], dataset_size: int) -> None:
        self.dataset_size = dataset_size
        self._batches = batches
        self._is_spent = False
        self.close()

    def remaining(self, epoch: int, position: int, limit: int) -> int:
        """See `Source`; reads ahead as far as it must."""
        if epoch != self._epoch:
            self._begin(epoch)
        self._fill(limit)
        return min(limit, self._buffer.num_samples)

    def read(self, epoch: int, position: int, count: int) -> Any:
        """See `Source`; what follows the last read, wherever the place is said to be."""
        return self._buffer.take(count)

    def close(self) -> None:
        """Leave the current pass: the next read begins another."""
        self._epoch = -1
        self._pass: Iterator[Any] = iter(())
        self._buffer = ChunkBuffer()

    def _begin(self, epoch: int) -> None:
        """Begin a pass."""
        if self._is_spent:
            raise InvalidInputError(
                "`dataset` is an iterator, which gives one epoch only: give something that can be iterated "
                "again, such as a DataLoader or a list of batches"
            )
        self._pass, self._epoch = iter(self._batches), epoch
        self._is_spent = self._pass is self._batches
        self._fill(1)
        if self._buffer.num_samples == 0:
            self.close()
            raise InvalidInputError("a pass over `dataset` gave no samples: each epoch needs at least one batch")

    def _fill(self, limit: int) -> None:
        """Read ahead until ``limit`` samples are held or the pass is over."""
        while self._buffer.num_samples < limit:
            batch = next(self._pass, _END)
            if batch is _END:
                return
            self._buffer.append(batch, num_samples(batch))


def open_source(
    dataset: Any,
    *,
    seed: int,
    shuffle: bool,
    num_workers: int,
    collate_fn: Callable[[list[Any]], Any] | None,
    prefetch_factor: int,
    dataset_size: int | None,
) -> Source:
    """The source that fits a dataset; see `SampleStream` for the arguments."""
    if _is_iterable_of_batches(dataset, dataset_size):
        _check_loads_itself(num_workers, collate_fn)
        return BatchSource(dataset, _samples_per_pass(dataset, dataset_size))
    dataset, collate_fn = _as_map_style(dataset, collate_fn)
    is_indexed_at_once = isinstance(dataset, Columns) and not num_workers
    device = dataset.device if is_indexed_at_once else torch.device("cpu")
    order = Order(_checked_size(len(dataset)), seed, shuffle, device)
    if num_workers:
        return WorkerSource(order, dataset, collate_fn, num_workers, prefetch_factor)
    return DirectSource(order, dataset, collate_fn)


_END = object()


def _as_map_style(dataset: Any, collate_fn: Callable[[list[Any]], Any] | None) -> tuple[Any, Callable[[Any], Any]]:
    """A dataset of samples, and what collates what it fetches."""
    columns = dataset.tensors if type(dataset) is TensorDataset else dataset
    if tensors_of(columns):
        return Columns(columns, as_samples=collate_fn is not None), collate_fn or _as_it_is
    if isinstance(dataset, (tuple, Mapping)):
        raise InvalidInputError(
            f"`dataset` is a {type(dataset).__name__} of other things than tensors: "
            "make tensors of its parts, or a list of samples"
        )
    return dataset, collate_fn or default_collate


def _as_it_is(batch: Any) -> Any:
    return batch


def _is_iterable_of_batches(dataset: Any, dataset_size: int | None) -> bool:
    """Whether the dataset gives batches rather than samples."""
    kind = type(dataset).__name__
    if isinstance(dataset, (str, bytes)):
        raise InvalidInputError(
            f"`dataset` is the {kind} {dataset!r}: give what was loaded from there, such as tensors or a Dataset"
        )
    if isinstance(dataset, IterableDataset):
        raise InvalidInputError(
            f"`dataset` is an IterableDataset ({kind}), which gives sample after sample: "
            "give a DataLoader over it, and `dataset_size`"
        )
    is_map_style = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if dataset_size is not None and isinstance(dataset, (Tensor, Mapping, Dataset)):
        raise InvalidInputError(
            f"`dataset_size` was given with a {kind}, whose size is known: leave it out, "
            "since it is meant for iterables of ready-made batches"
        )
    if not is_map_style and (isinstance(dataset, Dataset) or not hasattr(dataset, "__iter__")):
        raise InvalidInputError(
            f"`dataset` of type {kind} cannot be read: give tensors of one length, a dataset with `__len__` "
            "and `__getitem__`, or an iterable of batches such as a DataLoader"
        )
    return dataset_size is not None or not is_map_style


def _samples_per_pass(batches: Any, dataset_size: int | None) -> int:
    """Samples in one pass of an iterable: as given, or as its loader's sampler tells."""
    if dataset_size is not None:
        return checked_int("dataset_size", dataset_size, 1)
    batch_sampler = batches.batch_sampler if isinstance(batches, DataLoader) else None
    sampler: Any = getattr(batch_sampler, "sampler", None)
    # Nobody knows what a batch sampler of the user's own leaves out or repeats, or an endless sampler.
    if type(batch_sampler) is not BatchSampler or not hasattr(sampler, "__len__"):
        raise InvalidInputError(
            f"the samples in one pass of `dataset` ({type(batches).__name__}) are not known: give `dataset_size`"
        )
    size = len(sampler)  # of the sampler: it may leave out or repeat parts of the dataset
    return _checked_size(size - size % batch_sampler.batch_size if batch_sampler.drop_last else size)


def _check_loads_itself(num_workers: int, collate_fn: object) -> None:
    """Refuse settings that an iterable of batches has of its own."""
    name = "num_workers" if num_workers else "collate_fn"
    if num_workers or collate_fn is not None:
        raise InvalidInputError(
            f"`{name}` was given with an iterable of ready-made batches, which loads and collates itself: "
            "set it there, on your DataLoader"
        )


def _checked_size(size: int) -> int:
    """The size of a dataset, which must not be empty."""
    if size < 1:
        raise InvalidInputError("`dataset` is empty: it needs at least one sample")
    return size


def _checked_batch(batch: Any, count: int) -> Any:
    """What a ``collate_fn`` made of ``count`` samples, which must be as many."""
    found = num_samples(batch, "collate_fn's batch")
    if found != count:
        raise InvalidInputError(
            f"`collate_fn` was given {count} samples and returned a batch of the wrong size, {found}: "
            "it must return one entry for each sample along the first dimension"
        )
    return batch


def checked_int(name: str, value: Any, least: int | None = None) -> int:
    """The value, which must be an integer of at least ``least``."""
    if type(value) is not int or (least is not None and value < least):
        needed = "an integer" if least is None else f"an integer of at least {least}"
        raise InvalidInputError(f"`{name}` is {value!r}: give {needed}")
    return value
