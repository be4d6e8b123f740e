"""Counting, cutting and joining: what a batch is made of survives, and its samples stay in order."""

from collections import OrderedDict, UserDict, defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradbatch._batches import ChunkBuffer, cut, join, num_bytes, num_samples, pick, select, to_device
from gradbatch.errors import InvalidInputError


class Pair(NamedTuple):
    inputs: Tensor
    targets: Any


@dataclass(frozen=True)
class Tokens:
    ids: Tensor
    text: list[str]
    mask: Tensor | None = None


class Encoding(UserDict[str, Any]):
    """As tokenizers give it: a mapping that is no dict."""


def numbers(n: int) -> Tensor:
    return torch.arange(n, dtype=torch.float32)


# A batch as a function of its samples' numbers, which is the oracle of cutting and joining.
STRUCTURES = {
    "tensor": lambda x: x[:, None] * torch.ones(3),
    "array": lambda x: x.numpy(),
    "strings": lambda x: [f"sample {i:.0f}" for i in x],
    "tuple": lambda x: (x, -x),
    "default_collate": lambda x: [x, tuple(f"{i:.0f}" for i in x)],
    "named tuple": lambda x: Pair(x, {"label": x.long()}),
    "dict": lambda x: {"x": x, "nested": {"y": [x, None]}},
    "mapping": lambda x: Encoding({"ids": x.long(), "text": [f"{i:.0f}" for i in x]}),
    "ordered": lambda x: OrderedDict(b=x, a=-x),
    "dataclass": lambda x: Tokens(x[:, None], [f"{i:.0f}" for i in x]),
    "tokens": lambda x: (x, [["a"] * (1 + int(i) % 3) for i in x]),
    "named strings": lambda x: Pair([f"{i:.0f}" for i in x], [f"{i:.0f}?" for i in x]),
    "metadata": lambda x: (x, [{"file": f"{i:.0f}.png", "box": (i.item(), 1)} for i in x]),
}


def assert_same(left: Any, right: Any) -> None:
    """Equality of values and of types, at every depth."""
    assert type(left) is type(right)
    if isinstance(left, Tensor):
        assert left.dtype == right.dtype
        assert torch.equal(left, right)
    elif isinstance(left, np.ndarray):
        np.testing.assert_array_equal(left, right)
    elif isinstance(left, (dict, UserDict)):
        assert list(left) == list(right)
        assert_same(list(left.values()), list(right.values()))
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            assert_same(a, b)
    elif isinstance(left, Tokens):
        assert_same(list(vars(left).values()), list(vars(right).values()))
    else:
        assert left == right


@pytest.fixture(params=STRUCTURES, name="make")
def _make(request: pytest.FixtureRequest) -> Any:
    return STRUCTURES[request.param]


def test_a_batch_is_counted_cut_and_joined(make: Any) -> None:
    batch = make(numbers(7))
    assert num_samples(batch) == 7
    assert_same(cut(batch, 2, 5), make(numbers(7)[2:5]))
    assert_same(join([cut(batch, 0, 2), cut(batch, 2, 5), cut(batch, 5, 7)]), batch)


@settings(deadline=None)
@given(chunks=st.lists(st.integers(0, 5), min_size=1, max_size=8), data=st.data())
@pytest.mark.parametrize("kind", STRUCTURES)
def test_a_buffer_gives_samples_in_order_whatever_the_sizes(kind: str, chunks: list[int], data: st.DataObject) -> None:
    make, total, start = STRUCTURES[kind], sum(chunks), 0
    buffer, everything = ChunkBuffer(), numbers(total)
    for size in chunks:
        buffer.append(make(everything[start : start + size]), size)
        start += size
    position = 0
    while position < total:
        count = data.draw(st.integers(1, total - position))
        assert_same(buffer.take(count), make(everything[position : position + count]))
        position += count
        assert buffer.num_samples == total - position


def test_a_batch_within_a_chunk_is_a_view_and_a_whole_chunk_is_itself() -> None:
    buffer, chunk = ChunkBuffer(), numbers(6)
    buffer.append(chunk, 6)
    buffer.append(chunk, 6)
    assert buffer.take(2).data_ptr() == chunk.data_ptr()
    assert buffer.take(4).data_ptr() == chunk[2:].data_ptr()
    assert buffer.take(6) is chunk


def test_a_buffer_that_cannot_join_loses_nothing() -> None:
    buffer = ChunkBuffer()
    buffer.append(torch.zeros(2, 3), 2)
    buffer.append(torch.zeros(2, 4), 2)
    with pytest.raises(InvalidInputError, match="num_workers=0"):
        buffer.take(3)
    assert buffer.num_samples == 4
    assert buffer.take(2).shape == (2, 3)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.bfloat16, torch.float64, torch.complex64])
def test_large_tensors_of_any_type_are_joined_bit_for_bit(dtype: torch.dtype) -> None:
    whole = (torch.randn(70, 1000, generator=torch.Generator().manual_seed(0)) * 9).to(dtype)
    joined = join([whole[:20], whole[20:21], whole[21:]])
    assert joined.dtype == dtype
    assert torch.equal(joined, whole)


def test_large_tensors_that_are_not_contiguous_or_need_gradients_are_joined_too() -> None:
    whole = torch.randn(70, 1000, generator=torch.Generator().manual_seed(0))
    transposed = whole.t().contiguous().t()
    assert torch.equal(join([transposed[:30], transposed[30:]]), whole)
    leaf = whole.clone().requires_grad_()
    joined = join([leaf[:30], leaf[30:]])
    joined.sum().backward()
    assert torch.equal(leaf.grad, torch.ones_like(whole))


def test_select_and_pick() -> None:
    columns = {"x": numbers(5), "y": (-numbers(5),)}
    assert_same(select(columns, torch.tensor([3, 0])), {"x": torch.tensor([3.0, 0]), "y": (-torch.tensor([3.0, 0]),)})
    assert_same(pick(columns, 4), {"x": torch.tensor(4.0), "y": (torch.tensor(-4.0),)})


def test_only_tensors_move() -> None:
    batch = {"x": numbers(2), "text": ["a", "b"], "y": np.arange(2)}
    moved = to_device(batch, "meta")
    assert moved["x"].device.type == "meta"
    assert moved["text"] is batch["text"]
    assert moved["y"] is batch["y"]


def test_bytes() -> None:
    assert num_bytes((torch.zeros(3, 2), np.zeros(3), ["a", "b", "c"])) == 24 + 24


def test_a_mapping_that_cannot_be_rebuilt_becomes_a_dict() -> None:
    batch = defaultdict(list, {"x": numbers(4)})
    assert_same(cut(batch, 0, 1), {"x": numbers(1)})


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ((numbers(3), numbers(2)), r"`batch\[0\]` holds 3 samples and `batch\[1\]` holds 2"),
        (Pair(numbers(3), {"y": ["a"]}), r"`batch\[1\]\['y'\]` holds 1"),
        (Tokens(numbers(2), ["a"]), r"`batch.ids` holds 2 samples and `batch.text` holds 1"),
        ({"x": torch.tensor(1.0)}, r"`batch\['x'\]` is a scalar"),
        ({"x": numbers(2), "task": "nli"}, r"`batch\['task'\]` is of type str"),
        ({"x": None}, "without samples"),
    ],
)
def test_what_cannot_be_counted_is_refused(batch: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        num_samples(batch)


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([torch.zeros(2, 3), torch.zeros(2, 4)], r"\[2, 3\] and \[2, 4\].*pad to a fixed length"),
        ([np.zeros((2, 3)), np.zeros((2, 4))], "pad to a fixed length"),
        ([torch.zeros(2), torch.zeros(2, dtype=torch.long)], "float32 and torch.int64"),
        ([{"x": numbers(2)}, {"y": numbers(2)}], r"\['x'\] and \['y'\]"),
        ([(numbers(2), None), (numbers(2), numbers(2))], "same parts"),
        ([{"x": numbers(2)}, numbers(2)], "a leaf"),
    ],
)
def test_what_cannot_be_joined_is_refused(batches: list[Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        join(batches)
