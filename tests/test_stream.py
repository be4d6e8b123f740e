"""The stream's laws: one order, any sizes, and a cursor that resumes exactly."""

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.multiprocessing
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from gradbatch.errors import InvalidInputError, MeasurementError
from gradbatch.stream import SampleStream

FIRST_ORDERS = [1, 3, 0, 6, 7, 2, 5, 4], [4, 2, 7, 1, 6, 0, 3, 5]
"""The first two epochs of 8 samples with seed 0."""

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=12)


def columns(n: int) -> tuple[Tensor, Tensor]:
    """Data whose rows tell their index."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, generator=generator), torch.arange(n)


class Rows(Dataset[tuple[Tensor, int]]):
    """The rows of `columns`, one by one."""

    def __init__(self, n: int) -> None:
        self.rows = columns(n)[0]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.rows[index], index


class Texts(Dataset[dict[str, Any]]):
    """Samples of several kinds, nested."""

    def __len__(self) -> int:
        return 150

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"text": f"sample {index}", "pair": {"ids": torch.tensor([index, index + 1]), "length": 2}}


def indices(batch: Any) -> list[int]:
    return batch[1].tolist()


def read(stream: SampleStream, sizes: list[int], epochs: int = 1, commit: bool = True) -> list[list[int]]:
    """Indices of the samples of whole epochs, in batches of these sizes, over and over."""
    batches: list[list[int]] = []
    step = 0
    for _ in range(epochs):
        while True:
            batch = indices(stream.take(sizes[step % len(sizes)]))
            batches.append(batch)
            step += 1
            is_last = stream.available(1) == 0
            if commit:
                stream.commit(len(batch))
            if is_last:
                break
    return batches


def flat(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


def source(kind: str, n: int) -> dict[str, Any]:
    """Arguments of a stream over the same samples, read in another way."""
    return {
        "tensors": {"dataset": columns(n)},
        "TensorDataset": {"dataset": TensorDataset(*columns(n))},
        "map-style": {"dataset": Rows(n)},
        "list": {"dataset": [Rows(n)[i] for i in range(n)]},
        "getitems": {"dataset": Subset(Rows(n), range(n))},
        "tensors, collated": {"dataset": columns(n), "collate_fn": default_collate},
        "tensors, 1 worker": {"dataset": columns(n), "num_workers": 1},
        "map-style, 1 worker": {"dataset": Rows(n), "num_workers": 1},
        "map-style, 2 workers": {"dataset": Rows(n), "num_workers": 2},
        "collated, 2 workers": {
            "dataset": TensorDataset(*columns(n)),
            "num_workers": 2,
            "collate_fn": default_collate,
        },
    }[kind]


DIRECT = ["tensors", "TensorDataset", "map-style", "list", "getitems", "tensors, collated"]
WORKERS = ["tensors, 1 worker", "map-style, 1 worker", "map-style, 2 workers", "collated, 2 workers"]


# -- order


@settings(deadline=None)
@given(n=st.integers(1, 100), sizes=SIZES, seed=st.integers(-(2**70), 2**70))
def test_each_epoch_holds_each_sample_once_whatever_the_sizes(n: int, sizes: list[int], seed: int) -> None:
    stream = SampleStream(columns(n), seed=seed)
    steady = SampleStream(columns(n), seed=seed)
    for epoch in range(3):
        order = flat(read(stream, sizes))
        assert sorted(order) == list(range(n))
        assert order == flat(read(steady, [7]))
        assert (stream.epoch, stream.position) == (epoch + 1, 0)


def test_the_order_depends_on_seed_and_epoch() -> None:
    orders = {
        (seed, epoch): tuple(flat(read(SampleStream(columns(50), seed=seed), [50], epochs=epoch + 1)[epoch:]))
        for seed in (-1, 0, 1, 2, 2**40)
        for epoch in range(3)
    }
    assert len(set(orders.values())) == len(orders)


def test_the_order_of_a_seed_stays_from_release_to_release() -> None:
    """Saved cursors mean nothing once this changes, so changing it needs a new version of the state."""
    assert read(SampleStream(columns(8), seed=0), [8], epochs=2) == list(FIRST_ORDERS)


@pytest.mark.parametrize("kind", DIRECT[1:] + WORKERS)
def test_the_order_does_not_depend_on_how_samples_are_read(kind: str) -> None:
    n, sizes = 333, [50, 1, 130, 7, 64, 90]
    expected = SampleStream(columns(n), seed=3)
    with SampleStream(seed=3, **source(kind, n)) as stream:
        assert flat(read(stream, sizes, epochs=3)) == flat(read(expected, [29], epochs=3))


def test_without_shuffling_samples_come_as_they_lie() -> None:
    for kind in ("tensors", "map-style", "map-style, 2 workers"):
        with SampleStream(shuffle=False, **source(kind, 100)) as stream:
            assert flat(read(stream, [33], epochs=2)) == [*range(100), *range(100)]


@given(sizes=st.lists(st.integers(1, 300), min_size=1, max_size=20))
@settings(max_examples=12, deadline=None)
def test_workers_give_exactly_the_sizes_asked_for(two_workers: SampleStream, sizes: list[int]) -> None:
    """One stream for all examples, so that sizes change while chunks of other sizes are on their way."""
    expected = SampleStream(columns(333), seed=5)
    expected.load_state_dict(two_workers.state_dict())
    assert read(two_workers, sizes) == read(expected, sizes)


@pytest.fixture(scope="module", name="two_workers")
def _two_workers() -> Iterator[SampleStream]:
    with SampleStream(Rows(333), seed=5, num_workers=2) as stream:
        yield stream


# -- what a batch is


def test_batches_in_memory_equal_the_indexed_tensors() -> None:
    x, y = columns(40)
    stream = SampleStream((x, y), seed=2)
    order = torch.tensor(flat(read(SampleStream((x, y), seed=2), [40])))
    for start in range(0, 40, 15):
        batch = stream.take(15)
        assert type(batch) is tuple
        assert torch.equal(batch[0], x[order[start : start + 15]])
        assert torch.equal(batch[1], y[order[start : start + 15]])


@pytest.mark.parametrize(
    "data",
    [torch.arange(9.0), [torch.arange(9.0), torch.arange(9)], {"x": torch.arange(9.0), "y": torch.arange(9)}],
    ids=["tensor", "list", "dict"],
)
@pytest.mark.parametrize("num_workers", [0, 1])
def test_tensors_keep_their_structure(data: Any, num_workers: int) -> None:
    with SampleStream(data, shuffle=False, num_workers=num_workers) as stream:
        batch = stream.take(9)
    assert type(batch) is type(data)
    assert str(batch) == str(data)


def test_a_batch_of_the_stream_is_not_the_users_memory() -> None:
    data = torch.zeros(8)
    SampleStream(data, shuffle=False).take(8).add_(1)
    assert torch.equal(data, torch.zeros(8))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_nested_samples_with_strings(num_workers: int) -> None:
    with SampleStream(Texts(), num_workers=num_workers) as stream:
        for size in (100, 20, 30):
            batch = stream.take(size)
            ids = batch["pair"]["ids"][:, 0]
            assert list(batch["text"]) == [f"sample {i}" for i in ids.tolist()]
            assert batch["pair"]["length"].tolist() == [2] * size


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_collate_fn_makes_the_batch(num_workers: int) -> None:
    def collate(samples: list[tuple[Tensor, int]]) -> dict[str, Any]:
        return {"names": [f"{i}" for _, i in samples], "x": torch.stack([x for x, _ in samples]).double()}

    with SampleStream(Rows(150), collate_fn=collate, num_workers=num_workers) as stream:
        for size in (70, 80):
            batch = stream.take(size)
            assert torch.equal(batch["x"], columns(150)[0][[int(name) for name in batch["names"]]].double())
            assert len(batch["names"]) == size


def test_only_the_samples_asked_for_are_collated_without_workers() -> None:
    counts: list[int] = []

    def collate(samples: list[Any]) -> Any:
        counts.append(len(samples))
        return default_collate(samples)

    stream = SampleStream(Rows(50), collate_fn=collate)
    read(stream, [20])
    assert counts == [20, 20, 10]


def test_a_batch_goes_to_the_device_asked_for() -> None:
    x, y = SampleStream(columns(5)).take(3, device="meta")
    assert x.device.type == y.device.type == "meta"


# -- sizes and the epoch's end


@pytest.mark.parametrize("kind", ["tensors", "map-style, 2 workers"])
def test_a_new_size_holds_at_the_very_next_take(kind: str) -> None:
    sizes = random.Random(0)
    with SampleStream(**source(kind, 2000)) as stream:
        for _ in range(30):
            size = sizes.randint(1, 200)
            expected = stream.available(size)
            batch = stream.take(size)
            assert len(batch[0]) == (expected or size)


@pytest.mark.parametrize("kind", ["tensors", "map-style", "map-style, 2 workers"])
def test_a_batch_never_crosses_an_epochs_end(kind: str) -> None:
    with SampleStream(**source(kind, 100)) as stream:
        assert [len(batch) for batch in read(stream, [70], epochs=3)] == [70, 30] * 3
        assert [len(batch) for batch in read(stream, [1000], epochs=2)] == [100] * 2


def test_available_is_exact_and_zero_at_the_end() -> None:
    stream = SampleStream(columns(10))
    assert stream.available(4) == 4
    assert stream.available(11) == 10
    stream.take(7)
    assert stream.available(4) == 3
    stream.take(3)
    assert stream.available(4) == 0
    stream.commit(9)
    assert stream.available(4) == 0
    stream.commit(1)
    assert stream.available(4) == 4
    assert len(stream.take(11)[0]) == 10
    assert len(stream.take(2)[0]) == 2
    assert stream.available(10) == 8
    stream.rewind()
    assert stream.available(11) == 10


def are_views(stream: SampleStream, size: int, count: int) -> bool:
    """Whether none of the next batches of ``size``, an epoch's short last one aside, is a copy of its own."""
    batches = [stream.take(size)[0] for _ in range(count)]
    return all(x.untyped_storage().nbytes() > x.nbytes for x in batches if len(x) == size)


def test_a_steady_size_costs_no_copy() -> None:
    """Its batches lie within one chunk: through the epochs' ends, and soon after other sizes came before."""
    with SampleStream(Rows(1000), num_workers=2) as stream:
        assert are_views(stream, 30, 200)
    with SampleStream(Rows(4000), num_workers=2) as stream:
        for size in (7, 100, *[30] * 60):  # the last for the chunks that are on their way
            stream.take(size)
        assert are_views(stream, 30, 50)


@pytest.mark.parametrize(("most_bytes", "least", "most"), [(2**24, 300, 500), (2**10, 64, 150)])
def test_chunks_grow_while_sizes_change_within_a_bound_of_memory(
    monkeypatch: pytest.MonkeyPatch, most_bytes: int, least: int, most: int
) -> None:
    """Fewer batches cross a chunk's end then, and so fewer are copied."""
    monkeypatch.setattr("gradbatch._sources._WIDE_CHUNK_BYTES", most_bytes)
    with SampleStream(Rows(3000), num_workers=1) as stream:
        batches = [stream.take(size)[0] for size in (90, 100) * 10]
    largest = max(x.untyped_storage().nbytes() // x[0].nbytes for x in batches)
    assert least <= largest <= most


# -- cursors


@settings(deadline=None)
@given(takes=st.lists(st.integers(1, 9), max_size=12), data=st.data())
def test_cursors_count_samples(takes: list[int], data: st.DataObject) -> None:
    stream, taken, committed = SampleStream(columns(7)), 0, 0
    for size in takes:
        taken += len(stream.take(size)[0])
        if committed < taken:
            count = data.draw(st.integers(0, taken - committed))
            if count:
                stream.commit(count)
                committed += count
        assert (stream.epoch, stream.position) == divmod(committed, 7)


@pytest.mark.parametrize("kind", ["tensors", "map-style", "map-style, 2 workers"])
def test_uncommitted_samples_come_again(kind: str) -> None:
    with SampleStream(**source(kind, 100)) as stream:
        stream.take(10)
        stream.commit(10)
        before = stream.state_dict()
        lost = indices(stream.take(50)) + indices(stream.take(60)) + indices(stream.take(30))
        assert stream.state_dict() == before
        stream.rewind()
        assert indices(stream.take(50)) + indices(stream.take(60)) + indices(stream.take(30)) == lost
        stream.commit(100)
        assert (stream.epoch, stream.position) == (1, 10)
        stream.rewind()
        assert indices(stream.take(20)) == lost[-20:]


def test_a_resumed_stream_is_the_stream_at_every_position() -> None:
    n, sizes = 23, [3, 5, 1, 8]
    stream = SampleStream(columns(n), seed=4)
    whole = read(stream, [1], epochs=3)
    stream = SampleStream(columns(n), seed=4)
    for position in range(2 * n):
        state = json.loads(json.dumps(stream.state_dict()))
        resumed = SampleStream(Rows(n), seed=4)
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        assert (resumed.epoch, resumed.position) == divmod(position, n)
        rest = flat(read(resumed, sizes))
        assert rest == flat(whole)[position : position + len(rest)]
        assert position + len(rest) == (position // n + 1) * n
        stream.take(1)
        stream.commit(1)


def test_a_stream_with_workers_resumes_at_every_position() -> None:
    n = 130
    whole = flat(read(SampleStream(Rows(n), seed=4), [40], epochs=3))
    with SampleStream(Rows(n), seed=4, num_workers=2) as stream:
        for position in (0, 1, 63, 64, 65, 129, 130, 131, 200, 7):
            epoch, place = divmod(position, n)
            stream.load_state_dict({**stream.state_dict(), "epoch": epoch, "position": place})
            rest = flat(read(stream, [17, 90], epochs=2))
            assert rest == whole[position : position + len(rest)]


def test_state_is_plain_and_complete() -> None:
    stream = SampleStream(columns(5), seed=9)
    stream.take(5)
    stream.take(2)
    stream.commit(6)
    expected = {"version": 1, "seed": 9, "epoch": 1, "position": 1, "dataset_size": 5, "shuffle": True}
    assert stream.state_dict() == expected
    assert {type(value) for value in stream.state_dict().values()} <= {int, bool}


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    with SampleStream(Rows(100), num_workers=1) as stream:
        read(stream, [30], epochs=2)
        stream.rewind()
        stream.take(1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stream_has_no_length() -> None:
    with pytest.raises(TypeError):
        len(SampleStream(columns(3)))  # pyrefly: ignore[bad-argument-type]


def test_workers_end_on_close_and_start_again() -> None:
    others = set(torch.multiprocessing.active_children())
    stream = SampleStream(Rows(100), num_workers=2)
    first = indices(stream.take(20))
    stream.commit(20)
    assert len(set(torch.multiprocessing.active_children()) - others) == 2
    stream.close()
    assert set(torch.multiprocessing.active_children()) <= others
    second = indices(stream.take(30))
    stream.close()
    assert first + second == indices(SampleStream(Rows(100)).take(50))


class Fragile(Rows):
    """Fails at one index until it is mended."""

    is_broken = True

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self.is_broken and index == 42:
            raise LookupError("sample 42 cannot be read")
        return super().__getitem__(index)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_take_that_failed_moves_no_cursor_and_can_be_tried_again(num_workers: int) -> None:
    order = indices(SampleStream(Rows(400), seed=1).take(400))
    dataset, taken = Fragile(400), order.index(42) // 64 * 64  # the chunks before the one that fails
    assert taken > 0
    with SampleStream(dataset, seed=1, num_workers=num_workers) as stream:
        assert indices(stream.take(taken - 10)) == order[: taken - 10]
        for size in (100, 400):
            with pytest.raises(LookupError, match="sample 42"):
                stream.take(size)
            assert stream.available(500) == 400 - taken + 10
        dataset.is_broken = False
        assert indices(stream.take(500)) == order[taken - 10 :]


# -- iterables of batches


def loader(n: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(Rows(n), batch_size=16, generator=torch.Generator().manual_seed(0), **options)


@given(sizes=SIZES)
@settings(deadline=None)
def test_batches_of_an_iterable_are_cut_anew(sizes: list[int]) -> None:
    stream = SampleStream(loader(50))
    batches = read(stream, sizes, epochs=2)
    assert flat(batches) == [*range(50), *range(50)]
    assert (stream.epoch, stream.position, stream.dataset_size) == (2, 0, 50)
    assert all(len(batch) <= size for batch, size in zip(batches, sizes * 100, strict=False))


def test_an_iterable_looks_ahead_and_never_crosses_a_pass() -> None:
    stream = SampleStream([torch.arange(4), torch.arange(4, 6)], dataset_size=6)
    assert stream.available(5) == 5
    assert stream.available(9) == 6
    assert stream.take(4).tolist() == [0, 1, 2, 3]
    assert stream.available(9) == 2
    assert stream.take(9).tolist() == [4, 5]
    assert stream.available(1) == 0
    stream.commit(6)
    assert (stream.epoch, stream.position) == (1, 0)
    assert stream.take(1).tolist() == [0]


@pytest.mark.parametrize(
    ("options", "size"),
    [({}, 50), ({"drop_last": True}, 48), ({"sampler": RandomSampler(range(50), num_samples=20)}, 20)],
)
def test_the_size_of_a_pass_is_the_samplers(options: dict[str, Any], size: int) -> None:
    stream = SampleStream(loader(50, **options))
    assert stream.dataset_size == size
    assert len(flat(read(stream, [7]))) == size


def test_an_iterable_cannot_go_back_but_its_counts_are_saved() -> None:
    stream = SampleStream(loader(50))
    stream.take(20)
    stream.commit(15)
    with pytest.raises(MeasurementError, match="cannot give 5 uncommitted samples again"):
        stream.rewind()
    stream.commit(5)
    stream.rewind()
    assert indices(stream.take(3)) == [20, 21, 22]
    resumed = SampleStream(loader(50))
    resumed.load_state_dict(stream.state_dict())
    assert (resumed.epoch, resumed.position) == (0, 20)
    assert indices(resumed.take(2)) == [0, 1]
    resumed.load_state_dict(stream.state_dict())
    assert indices(resumed.take(2)) == [0, 1]


def test_an_iterator_gives_one_epoch() -> None:
    stream = SampleStream(iter([torch.arange(4), torch.arange(3)]), dataset_size=7)
    assert len(stream.take(9)) == 7
    assert stream.available(1) == 0
    with pytest.raises(InvalidInputError, match="one epoch only"):
        stream.take(1)


def test_an_iterable_whose_pass_is_empty_is_refused() -> None:
    stream = SampleStream([], dataset_size=7)
    for _ in range(2):
        with pytest.raises(InvalidInputError, match="no samples"):
            stream.take(1)


# -- errors


class Endless(IterableDataset[int]):
    """An iterable dataset, of samples."""

    def __iter__(self) -> Iterator[int]:
        yield from range(5)


class Unsized(Dataset[int]):
    """A map-style dataset that does not tell its size."""

    def __getitem__(self, index: int) -> int:
        return index


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dataset": columns(3), "seed": 1.0}, "`seed` is 1.0: give an integer"),
        ({"dataset": columns(3), "seed": None}, "`seed`"),
        ({"dataset": columns(3), "seed": True}, "`seed`"),
        ({"dataset": columns(3), "num_workers": -1}, "`num_workers` is -1: give an integer of at least 0"),
        ({"dataset": columns(3), "prefetch_factor": 0}, "`prefetch_factor`"),
        ({"dataset": ()}, "`dataset` is a tuple"),
        ({"dataset": []}, "`dataset` is empty"),
        ({"dataset": torch.zeros(0, 3)}, "`dataset` is empty"),
        ({"dataset": torch.tensor(1.0)}, "`dataset` is a scalar"),
        ({"dataset": (torch.zeros(3), torch.zeros(2))}, r"`dataset\[0\]` holds 3 .* `dataset\[1\]` holds 2"),
        ({"dataset": (torch.zeros(3), [1, 2, 3])}, "tuple of other things than tensors"),
        ({"dataset": 5}, "of type int cannot be read"),
        ({"dataset": Unsized()}, "Unsized cannot be read"),
        ({"dataset": Endless()}, "IterableDataset .Endless.* DataLoader over it"),
        ({"dataset": DataLoader(Endless())}, "give `dataset_size`"),
        ({"dataset": DataLoader(Rows(4), batch_sampler=[[0, 1], [2]])}, "give `dataset_size`"),
        ({"dataset": DataLoader(Rows(4), batch_size=None)}, "give `dataset_size`"),
        ({"dataset": iter([])}, "give `dataset_size`"),
        ({"dataset": [torch.zeros(3)], "dataset_size": 0}, "`dataset_size` is 0"),
        ({"dataset": Rows(4), "dataset_size": 4}, "whose size is known"),
        ({"dataset": loader(4), "num_workers": 2}, "`num_workers` was given with an iterable"),
        ({"dataset": loader(4), "collate_fn": default_collate}, "`collate_fn` was given with an iterable"),
    ],
)
def test_what_cannot_be_streamed_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        SampleStream(**arguments)


@pytest.mark.parametrize("n", [0, -1, 2.0, True, None])
def test_a_size_must_be_a_positive_integer(n: Any) -> None:
    stream = SampleStream(columns(3))
    for method in (stream.take, stream.available, stream.commit):
        with pytest.raises(InvalidInputError, match=r"`n` is .*: give an integer of at least 1"):
            method(n)


def test_more_than_was_taken_cannot_be_committed() -> None:
    stream = SampleStream(columns(9))
    stream.take(5)
    stream.commit(2)
    with pytest.raises(MeasurementError, match="`n`=4 samples, since 3 were taken"):
        stream.commit(4)
    stream.commit(3)
    assert stream.position == 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "version=2 and this stream has version=1"),
        ({"seed": 1}, "seed=1 and this stream has seed=0"),
        ({"dataset_size": 8}, "dataset_size=8"),
        ({"shuffle": False}, "shuffle=False"),
        ({"seed": None}, "seed=None"),
        ({"epoch": None}, r"`state\['epoch'\]` is None"),
        ({"position": -1}, r"`state\['position'\]` is -1"),
        ({"position": 9}, "position=9, beyond the 9 samples"),
    ],
)
def test_a_state_of_another_stream_is_refused(change: dict[str, Any], words: str) -> None:
    stream = SampleStream(columns(9))
    stream.take(4)
    with pytest.raises(InvalidInputError, match=words):
        stream.load_state_dict({**stream.state_dict(), **change})
    assert stream.available(9) == 5


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("dataset", [Rows(100), columns(100)], ids=["map-style", "tensors"])
def test_a_collate_fn_that_changes_the_size_is_refused(dataset: Any, num_workers: int) -> None:
    def lossy(samples: list[Any]) -> Any:
        return default_collate(samples[:-1])

    with SampleStream(dataset, collate_fn=lossy, num_workers=num_workers) as stream:
        count = 70 if num_workers else 10  # the least multiple of 10 that fills a chunk
        words = rf"`collate_fn` was given {count} samples .* wrong size, {count - 1}"
        with pytest.raises(InvalidInputError, match=words):
            stream.take(10)


def test_padding_to_the_longest_needs_no_workers_or_a_fixed_length() -> None:
    def pad(samples: list[tuple[Tensor, int]]) -> Any:
        rows = [torch.ones(1 + index) for _, index in samples]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([i for _, i in samples])

    direct = SampleStream(Rows(200), collate_fn=pad)
    assert direct.take(100)[0].shape == (100, 1 + max(indices(SampleStream(Rows(200)).take(100))))
    with SampleStream(Rows(200), collate_fn=pad, num_workers=1, seed=1, shuffle=False) as stream:
        stream.take(10)
        with pytest.raises(InvalidInputError, match=r"num_workers=0.*pad to a fixed length"):
            stream.take(150)


def test_a_path_and_an_empty_batch_are_named() -> None:
    with pytest.raises(InvalidInputError, match="`dataset` is the str '/nowhere': give what was loaded"):
        SampleStream("/nowhere")
    with pytest.raises(InvalidInputError, match="`collate_fn's batch` is a dict without samples"):
        SampleStream([1, 2, 3], collate_fn=lambda samples: {}).take(2)
