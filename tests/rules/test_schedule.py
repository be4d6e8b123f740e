"""Batch sizes planned in advance: when each takes effect, and which tables are none."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradbatch as gb
from cases import moments, progress
from gradbatch.errors import InvalidInputError


def test_the_manual_baseline() -> None:
    # Chen, Wu and Luo: 32, doubled every 25 of 100 epochs.
    manual = gb.Schedule()
    dataset_size = 60_000
    sizes = [manual.batch_size_at(samples_seen=epoch * dataset_size, dataset_size=dataset_size) for epoch in range(100)]
    assert sizes == [32] * 25 + [64] * 25 + [128] * 25 + [256] * 25
    assert manual.batch_size_at(samples_seen=25 * dataset_size - 1, dataset_size=dataset_size) == 32
    assert manual.batch_size_at(samples_seen=10**12, dataset_size=dataset_size) == 256


def test_update_plans_the_next_batch() -> None:
    schedule = gb.Schedule(table="0:8 2:20")
    assert schedule.requires(progress()) == frozenset()
    for seen, size in ((1999, 8), (2000, 20), (2001, 20)):
        decision, state = schedule.update(
            moments(), progress(samples_seen=seen, batch_size=5, dataset_size=1000), schedule.init()
        )
        assert decision.batch_size == size
        assert str(size) in decision.reason
        assert decision.step
        assert decision.lr_scale == 1
        assert state is None


def test_megatron_table() -> None:
    schedule = gb.Schedule(table="0:768 250B:1536", unit="samples")
    for seen, size in ((0, 768), (249_999_999_999, 768), (250_000_000_000, 1536)):
        assert schedule.batch_size_at(samples_seen=seen, dataset_size=17) == size


@pytest.mark.parametrize(
    ("start", "samples"),
    [("7", 7), ("3K", 3000), ("1.5K", 1500), ("2M", 2_000_000), ("0.25B", 250_000_000), ("1T", 10**12)],
)
def test_suffixes(start: str, samples: int) -> None:
    schedule = gb.Schedule(table=f"0:1 {start}:2", unit="samples")
    assert schedule.batch_size_at(samples_seen=samples - 1, dataset_size=100) == 1
    assert schedule.batch_size_at(samples_seen=samples, dataset_size=100) == 2


@pytest.mark.parametrize(
    ("start", "dataset_size", "first"),
    [
        ("0.5", 10, 5),
        ("0.3", 10, 3),  # 0.3 * 10 is exact in floats,
        ("1.1", 10, 11),  # 1.1 * 10 is 11.000000000000002,
        ("0.29", 100, 29),  # and 0.29 * 100 is 28.999999999999996: neither may move the milestone
        ("0.25", 10, 3),  # 2.5 samples: 2 samples are before the start, so it takes effect with the third
        ("0.33", 10, 4),  # 3.3 samples: at 3 only 0.30 epochs have passed
    ],
)
def test_fractional_epochs(start: str, dataset_size: int, first: int) -> None:
    schedule = gb.Schedule(table=f"0:1 {start}:2")
    sizes = [schedule.batch_size_at(samples_seen=n, dataset_size=dataset_size) for n in range(dataset_size * 2)]
    assert sizes.index(2) == first


@given(st.decimals(0, 20, places=2).filter(bool), st.integers(1, 300), st.integers(0, 5000))
def test_a_size_takes_effect_at_or_after_its_start(start: Any, dataset_size: int, seen: int) -> None:
    schedule = gb.Schedule(table=f"0:1 {start}:2")
    is_due = Fraction(seen, dataset_size) >= Fraction(start)
    assert schedule.batch_size_at(samples_seen=seen, dataset_size=dataset_size) == 1 + is_due


@pytest.mark.parametrize(
    "table",
    [
        "",
        "   ",
        "32",
        "0:32,25:64",
        "0:32 25",
        "0:32 25:",
        "0: 32",
        "0:32 :64",
        "0:32 25:64.5",
        "0:-32",
        "0:32 -5:64",
        "0:32 2k:64",
        "0:32 2KM:64",
        "0:32 1e3:64",
        "0:32 nan:64",
        "0:32 .5:64",
    ],
)
def test_malformed_tables(table: str) -> None:
    with pytest.raises(InvalidInputError, match="`table` must hold entries like") as caught:
        gb.Schedule(table=table)
    assert repr(table) in str(caught.value)


@pytest.mark.parametrize("table", ["1:32", "25:64 0:32", "0:32 50:64 25:128", "0:32 25:64 25:128", "0:32 1K:64 999:1"])
def test_starts_must_begin_at_0_and_grow(table: str) -> None:
    with pytest.raises(InvalidInputError, match="must start at 0 and its starts must grow"):
        gb.Schedule(table=table)


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="batch sizes of at least 1"):
        gb.Schedule(table="0:32 25:0")


@pytest.mark.parametrize("unit", ["epoch", "steps", "", None])
def test_units(unit: Any) -> None:
    with pytest.raises(InvalidInputError, match="`unit` must be 'epochs' or 'samples', got"):
        gb.Schedule(unit=unit)
