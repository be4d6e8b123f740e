"""Counting, cutting and joining batches of any structure.

A batch is a tree. Its structures are mappings, tuples, named tuples, lists and dataclasses (``None`` is one
without parts). Its leaves hold one entry per sample along their first dimension: tensors, NumPy arrays, and
lists or tuples in which there is no tensor and no array at any depth (strings, file names, tokens). So
``[inputs, targets]`` is a structure of two leaves and ``["a cat", "a dog"]`` is one leaf of two samples,
which the tree functions of torch would not tell apart.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradbatch.errors import InvalidInputError

__all__ = [
    "ChunkBuffer",
    "Columns",
    "cut",
    "join",
    "num_bytes",
    "num_samples",
    "pick",
    "select",
    "tensors_of",
    "to_device",
]


def num_samples(batch: Any, name: str = "batch") -> int:
    """Number of samples in a batch: the length that all its leaves share.

    Args:
        batch: A tree of tensors, arrays and lists with one entry per sample along their first dimension.
        name: What messages call it.

    Returns:
        The number of samples.

    Raises:
        InvalidInputError: If a leaf has no samples to count, if two leaves disagree or if there is no leaf.

    Example:
        >>> num_samples({"tokens": torch.zeros(2, 7), "text": ["a cat", "a dog"]})
        2
    """
    sizes = [(path, _leaf_size(path, leaf)) for path, leaf in _leaves(name, batch)]
    if not sizes:
        raise InvalidInputError(
            f"`{name}` is a {type(batch).__name__} without samples: it needs a tensor, an array or a list"
        )
    first_path, first_size = sizes[0]
    for path, size in sizes:
        if size != first_size:
            raise InvalidInputError(
                f"`{first_path}` holds {first_size} samples and `{path}` holds {size}: all parts need one "
                "entry per sample along their first dimension (a list of tensors is read as several parts)"
            )
    return first_size


def num_bytes(batch: Any) -> int:
    """Memory of a batch's tensors and arrays, in bytes."""
    return sum(leaf.nbytes for _, leaf in _leaves("batch", batch) if isinstance(leaf, (Tensor, np.ndarray)))


def cut(batch: Any, start: int, stop: int) -> Any:
    """Samples ``start`` to ``stop`` (exclusive) of a batch, as views of its tensors."""
    return _map_leaves(itemgetter(slice(start, stop)), batch)


def select(batch: Any, indices: Tensor) -> Any:
    """Copies of the samples at ``indices`` ([n], any order) of a batch of tensors."""

    def select_rows(leaf: Tensor) -> Tensor:
        return leaf.index_select(0, indices.to(leaf.device))

    return _map_leaves(select_rows, batch)


def pick(batch: Any, index: int) -> Any:
    """The sample at ``index``: the batch's structure with one entry of each leaf."""
    return _map_leaves(itemgetter(index), batch)


def to_device(batch: Any, device: torch.device | str) -> Any:
    """The batch with its tensors on ``device``, copied without waiting."""
    device = torch.device(device)

    # A copy to the CPU that did not wait would be read before it is there.
    def move(leaf: Any) -> Any:
        is_elsewhere = isinstance(leaf, Tensor) and leaf.device != device
        return leaf.to(device, non_blocking=device.type != "cpu") if is_elsewhere else leaf

    return _map_leaves(move, batch)


def join(batches: Sequence[Any]) -> Any:
    """One batch of the samples of all batches, in order; a single batch comes back as it is.

    Batches whose structures differ, or whose leaves differ in type or in shape beyond the first dimension,
    are refused with an `InvalidInputError`.

    Args:
        batches: At least one batch.

    Returns:
        A batch of the first one's structure.
    """
    return batches[0] if len(batches) == 1 else _map_leaves(_join_leaves, *batches)


class Columns:
    """Tensors of one length as a map-style dataset that fetches many samples at once.

    Attributes:
        device: Where the tensors are.
    """

    def __init__(self, columns: Any, as_samples: bool) -> None:
        self._columns, self._as_samples = columns, as_samples
        self._size = num_samples(columns, "dataset")
        self.device = tensors_of(columns)[0].device

    def __len__(self) -> int:
        return self._size

    def __getitems__(self, indices: Tensor | list[int]) -> Any:
        """The batch of these samples, or a list of them for a ``collate_fn``."""
        if self._as_samples:
            return [pick(self._columns, int(index)) for index in indices]
        return select(self._columns, torch.as_tensor(indices))


def tensors_of(dataset: Any) -> list[Tensor]:
    """The columns of a dataset that is nothing but tensors, else an empty list."""
    if isinstance(dataset, Tensor):
        return [dataset]
    if not isinstance(dataset, (tuple, list, Mapping)):
        return []
    parts = list(dataset.values() if isinstance(dataset, Mapping) else dataset)
    return parts if all(isinstance(part, Tensor) for part in parts) else []


class ChunkBuffer:
    """Chunks in order of arrival, given out again in batches of any size.

    A batch that lies within one chunk is a view of it; only a batch across chunks is copied.

    Attributes:
        num_samples: Samples held.
    """

    def __init__(self) -> None:
        self.num_samples = 0
        self._chunks: deque[tuple[Any, int]] = deque()  # each with its number of samples
        self._start = 0  # samples of the first chunk that are gone already

    def append(self, chunk: Any, size: int) -> None:
        """Put ``chunk`` of ``size`` samples behind the others."""
        if size > 0:
            self._chunks.append((chunk, size))
            self.num_samples += size

    def take(self, count: int) -> Any:
        """Remove and return the first ``count`` samples (at most those held) as one batch."""
        assert 0 < count <= self.num_samples, f"{count} of {self.num_samples} buffered samples asked for"
        pieces: list[Any] = []
        start, missing = self._start, count
        for chunk, size in self._chunks:
            stop = min(size, start + missing)
            pieces.append(chunk if stop - start == size else cut(chunk, start, stop))
            missing -= stop - start
            if missing == 0:
                break
            start = 0
        batch = join(pieces)  # before anything is dropped: where pieces cannot be joined, no sample is lost
        self._drop(count)
        return batch

    def clear(self) -> None:
        """Forget everything."""
        self._chunks.clear()
        self._start = self.num_samples = 0

    def _drop(self, count: int) -> None:
        """Forget the first ``count`` samples."""
        self.num_samples -= count
        self._start += count
        while self._chunks and self._start >= self._chunks[0][1]:
            self._start -= self._chunks.popleft()[1]


def _map_leaves(function: Callable[..., Any], *batches: Any) -> Any:
    """The batches' structure, with ``function`` of their matching leaves for leaves."""
    if len(batches) == 1 and type(batches[0]) is tuple and all(type(part) is Tensor for part in batches[0]):
        return tuple([function(part) for part in batches[0]])  # what most batches are, at each step
    all_parts = [_parts(batch) for batch in batches]
    first = all_parts[0]
    for other in all_parts[1:]:
        if (first is None) != (other is None) or (first and other and first.keys() != other.keys()):
            raise InvalidInputError(
                f"batches with the parts {_describe(first)} and {_describe(other)} cannot be joined: "
                "let `collate_fn` return the same parts for all samples"
            )
    if first is None:
        return function(*batches)
    matching = {name: [parts[name] for parts in all_parts if parts is not None] for name in first}
    return _rebuild(batches[0], {name: _map_leaves(function, *values) for name, values in matching.items()})


def _parts(batch: Any) -> dict[Any, Any] | None:
    """The parts of a structure by name or place; ``None`` for a leaf."""
    if isinstance(batch, (Tensor, np.ndarray)):
        return None
    if batch is None:
        return {}
    if isinstance(batch, Mapping):
        return dict(batch)
    if isinstance(batch, (list, tuple)):
        is_structure = hasattr(batch, "_fields") or _holds_arrays(batch)
        return dict(enumerate(batch)) if is_structure else None
    if is_dataclass(batch) and not isinstance(batch, type):
        return {field.name: getattr(batch, field.name) for field in fields(batch)}
    return None


def _holds_arrays(item: Any) -> bool:
    """Whether there is a tensor or an array in ``item``, at any depth."""
    if isinstance(item, (Tensor, np.ndarray)):
        return True
    if isinstance(item, (list, tuple)):
        return any(map(_holds_arrays, item))
    if isinstance(item, Mapping):
        return any(map(_holds_arrays, item.values()))
    if is_dataclass(item) and not isinstance(item, type):
        return any(_holds_arrays(getattr(item, field.name)) for field in fields(item))
    return False


def _rebuild(batch: Any, parts: dict[Any, Any]) -> Any:
    """A structure like ``batch`` made of ``parts``."""
    if batch is None:
        return None
    if isinstance(batch, Mapping):
        kind: Any = type(batch)
        try:
            return kind(parts)
        except TypeError:  # a mapping whose constructor takes other things, such as defaultdict
            return parts
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*parts.values())
    if isinstance(batch, (list, tuple)):
        return type(batch)(parts.values())
    # Frozen dataclasses and fields outside of the constructor rule out assignment and `dataclasses.replace`.
    clone = copy.copy(batch)
    for name, part in parts.items():
        object.__setattr__(clone, name, part)
    return clone


def _join_leaves(*leaves: Any) -> Any:
    """The samples of all leaves, in order."""
    first = leaves[0]
    if not isinstance(first, (Tensor, np.ndarray)):
        return type(first)(entry for leaf in leaves for entry in leaf)
    for leaf in leaves[1:]:
        if leaf.shape[1:] != first.shape[1:]:
            raise InvalidInputError(
                f"chunks of shape {list(first.shape)} and {list(leaf.shape)} cannot be joined to one batch: "
                "give the dataset itself with `num_workers=0`, which collates each batch by itself, "
                "or pad to a fixed length in `collate_fn`"
            )
        if isinstance(leaf, Tensor) and leaf.dtype != first.dtype:
            raise InvalidInputError(
                f"chunks of {first.dtype} and {leaf.dtype} cannot be joined to one batch: "
                "let `collate_fn` return one type for all samples"
            )
    return _join_tensors(leaves) if isinstance(first, Tensor) else np.concatenate(leaves)


def _join_tensors(leaves: Sequence[Tensor]) -> Tensor:
    """What `torch.cat` gives, in one thread where the copy is large."""
    # Where workers keep all cores busy, the threads of a parallel copy wait for one another: beside two
    # workers on two cores `torch.cat` was measured to take five times as long as this copy of bytes.
    is_plain = all(type(leaf) is Tensor and leaf.is_cpu and leaf.is_contiguous() for leaf in leaves)
    if not is_plain or any(leaf.requires_grad for leaf in leaves) or sum(map(Tensor.numel, leaves)) < 2**15:
        return torch.cat(list(leaves))  # which takes one thread where it is small
    joined = leaves[0].new_empty(sum(map(len, leaves)), *leaves[0].shape[1:])
    np.concatenate([_bytes(leaf) for leaf in leaves], out=_bytes(joined))
    return joined


def _bytes(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The memory of a contiguous tensor, of any type."""
    return tensor.view(-1).view(torch.uint8).numpy()


def _leaves(path: str, batch: Any) -> Iterator[tuple[str, Any]]:
    """All leaves, each with the expression that leads to it, such as ``batch['text']``."""
    parts = _parts(batch)
    if parts is None:
        yield path, batch
        return
    for name, part in parts.items():
        is_attribute = not isinstance(batch, (Mapping, list, tuple))
        yield from _leaves(f"{path}.{name}" if is_attribute else f"{path}[{name!r}]", part)


def _leaf_size(path: str, leaf: Any) -> int:
    """Number of samples in a leaf."""
    if isinstance(leaf, (list, tuple)) or (isinstance(leaf, (Tensor, np.ndarray)) and leaf.ndim > 0):
        return len(leaf)
    found = "a scalar" if isinstance(leaf, (Tensor, np.ndarray)) else f"of type {type(leaf).__name__}"
    raise InvalidInputError(
        f"`{path}` is {found} and cannot be cut into samples: "
        "make it a tensor, an array or a list with one entry per sample"
    )


def _describe(parts: dict[Any, Any] | None) -> str:
    """The names of the parts, for a message."""
    return "(a leaf)" if parts is None else str(list(parts))
