"""AdaBatch: its schedule against the authors' loop, and the learning rate against the baseline's."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradbatch as gb
from cases import moments, progress
from gradbatch.errors import InvalidInputError


def epochs(
    rule: gb.Rule[Any], *, first: int, count: int, dataset_size: int = 1000
) -> Iterator[tuple[list[int], list[float]]]:
    """Sizes and learning-rate factors of the batches of each epoch, as a run would use them."""
    seen, size, state = 0, first, rule.init()
    for epoch in range(count):
        sizes, scales = [], []
        while seen < (epoch + 1) * dataset_size:
            used = min(size, (epoch + 1) * dataset_size - seen)
            seen += used
            here = progress(samples_seen=seen, batch_size=size, dataset_size=dataset_size)
            decision, state = rule.update(moments(num_samples=used), here, state)
            sizes.append(size)
            scales.append(decision.lr_scale)
            size = decision.batch_size
        yield sizes, scales


def test_the_paper_s_experiment() -> None:
    rule = gb.AdaBatch()
    assert rule == gb.AdaBatch(growth=2.0, interval=20, lr_decay=0.375, max_batch_size=None, warmup_epochs=0)
    run = list(epochs(rule, first=128, count=100, dataset_size=5000))
    # One size and one rate in each epoch, the last batch of an epoch included, however short it is.
    assert [len(set(sizes)) * len(set(scales)) for sizes, scales in run] == [1] * 100
    sizes = [sizes[0] for sizes, _ in run]
    assert sizes == [128] * 20 + [256] * 20 + [512] * 20 + [1024] * 20 + [2048] * 20
    rates = [0.01 * scales[0] for _, scales in run[::20]]
    assert rates == pytest.approx([0.01, 0.0075, 0.005625, 0.00421875, 0.0031640625], rel=1e-14)


@given(
    growth=st.floats(1.01, 8),
    interval=st.integers(1, 4),
    decay=st.floats(0.05, 1.0),
    cap=st.none() | st.integers(1, 300),
    first=st.integers(1, 60),
    dataset_size=st.integers(60, 400),
)
def test_rate_over_size_is_the_baseline_s(
    growth: float, interval: int, decay: float, cap: int | None, first: int, dataset_size: int
) -> None:
    rule = gb.AdaBatch(growth=growth, interval=interval, lr_decay=decay, max_batch_size=cap)
    for epoch, (sizes, scales) in enumerate(epochs(rule, first=first, count=9, dataset_size=dataset_size)):
        baseline = decay ** (epoch // interval)
        for size, scale in zip(sizes, scales, strict=True):
            # Exact but for the roundings of three operations.
            assert scale / size == pytest.approx(baseline / first, rel=1e-14)


@pytest.mark.parametrize(
    ("rule", "reached"),
    [
        (gb.Clip(rule=gb.AdaBatch(interval=1), max_batch_size=50), {21, 42, 50}),
        (gb.RoundTo(rule=gb.AdaBatch(interval=1), multiple=8), {21, 24, 40, 88, 168, 336}),
    ],
)
def test_rate_over_size_is_the_baseline_s_inside_of_wrappers(rule: gb.Rule[Any], reached: set[int]) -> None:
    run = list(epochs(rule, first=21, count=5))
    assert {size for sizes, _ in run for size in sizes} == reached
    for epoch, (sizes, scales) in enumerate(run):
        for size, scale in zip(sizes, scales, strict=True):
            assert scale / size == pytest.approx(0.375**epoch / 21, rel=1e-14)


def authors_sizes(first: int, factor: float, frequency: int, largest: int, count: int) -> list[int]:
    """The size in each epoch as the authors' loop makes it: floor after every multiplication."""
    sizes, size = [], first
    for epoch in range(count):
        sizes.append(size)
        if (epoch + 1) % frequency == 0:
            size = min(int(size * factor), largest)
    return sizes


@given(st.floats(1.001, 5), st.integers(1, 5), st.integers(1, 100), st.integers(100, 400))
def test_sizes_are_the_authors(growth: float, interval: int, first: int, dataset_size: int) -> None:
    rule = gb.AdaBatch(growth=growth, interval=interval)
    ours = [sizes[0] for sizes, _ in epochs(rule, first=first, count=12, dataset_size=dataset_size)]
    assert ours == authors_sizes(first, growth, interval, dataset_size, 12)


def test_a_bound_comes_out_of_the_rate() -> None:
    # 400, 800, then 1000 of 1600: in the authors' code gamma * 1000/1600 at that interval, and gamma/2 from there on.
    rule = gb.AdaBatch(interval=1, lr_decay=0.5)
    run = list(epochs(rule, first=400, count=5))
    assert [sizes[0] for sizes, _ in run] == [400, 800, 1000, 1000, 1000]
    assert [scales[0] for _, scales in run] == [1.0, 1.0, 0.625, 0.3125, 0.15625]


def test_a_first_batch_beyond_the_bound() -> None:
    # It was asked for before the rule was; those after it keep the bound, at a rate to match.
    ((sizes, scales),) = epochs(gb.AdaBatch(max_batch_size=30), first=100, count=1, dataset_size=190)
    assert sizes == [100, 30, 30, 30]
    assert scales == pytest.approx([1.0, 0.3, 0.3, 0.3], rel=1e-15)


def test_floor() -> None:
    assert [sizes[0] for sizes, _ in epochs(gb.AdaBatch(growth=1.5, interval=1), first=3, count=5)] == [3, 4, 6, 9, 13]
    # What the floor gives back is never grown: for ever 1.
    run = list(epochs(gb.AdaBatch(growth=1.5, interval=1, lr_decay=0.5), first=1, count=4, dataset_size=6))
    assert [sizes[0] for sizes, _ in run] == [1] * 4
    assert [scales[0] for _, scales in run] == [1.0, 0.5, 0.25, 0.125]


def test_a_growth_beyond_all_numbers_is_bounded() -> None:
    assert [sizes[0] for sizes, _ in epochs(gb.AdaBatch(growth=1.7e308, interval=1), first=3, count=3)] == [
        3,
        1000,
        1000,
    ]


def test_warmup() -> None:
    # The authors add (lr0*r0/rb - lr0)/(W - 1) after each of the first W - 1 epochs: here 4 times to 5.
    rule = gb.AdaBatch(interval=100, warmup_epochs=5, baseline_batch_size=20)
    scales = [scales for _, scales in epochs(rule, first=100, count=7)]
    assert [set(of_epoch) for of_epoch in scales] == [{1.0}, {2.0}, {3.0}, {4.0}, {5.0}, {5.0}, {5.0}]
    # After it, rate over size is that of a baseline of 20 samples.
    rule = gb.AdaBatch(interval=2, warmup_epochs=2, baseline_batch_size=20)
    for epoch, (sizes, of_epoch) in enumerate(epochs(rule, first=100, count=6)):
        if epoch >= 1:
            assert of_epoch[0] / sizes[0] == pytest.approx(0.375 ** (epoch // 2) / 20, rel=1e-14)


def test_smith_s_schedule() -> None:
    # Five times the batch at a constant rate up to a tenth of the data, then a fifth of the rate.
    rule = gb.AdaBatch(growth=5, lr_decay=0.2, interval=2, max_batch_size=500)
    run = list(epochs(rule, first=20, count=10, dataset_size=5000))
    assert [sizes[0] for sizes, _ in run] == [20, 20, 100, 100] + [500] * 6
    rates = [scales[0] for _, scales in run]
    assert rates == pytest.approx([1.0] * 6 + [0.2, 0.2, 0.04, 0.04], rel=1e-14)


def test_it_measures_nothing_and_says_what_it_does() -> None:
    rule = gb.AdaBatch(interval=1)
    assert rule.requires(progress()) == frozenset()
    here = progress(samples_seen=3000, batch_size=16, dataset_size=1000)
    decision, state = rule.update(moments(), here, {"initial_batch_size": 8})
    assert (decision.batch_size, decision.step) == (64, True)
    assert decision.reason == "adabatch: 64 after 3 intervals of 1 epochs"
    assert decision.numbers == {"intervals": 3}
    assert state == {"initial_batch_size": 8}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *[({"growth": value}, f"`growth` must .*, got {value}") for value in (1.0, 0.5, -2.0, math.nan, math.inf)],
        *[({"interval": value}, f"`interval` must .*, got {value}") for value in (0, 1.5, True)],
        *[({"lr_decay": value}, f"`lr_decay` must .*, got {value}") for value in (0.0, -0.1, 1.1, math.nan)],
        *[({"max_batch_size": value}, f"`max_batch_size` must .*, got {value}") for value in (0, 2.5)],
        ({"warmup_epochs": 1, "baseline_batch_size": 8}, "`warmup_epochs` must .*, got 1"),
        ({"warmup_epochs": 5, "baseline_batch_size": 0}, "`baseline_batch_size` must .*, got 0"),
        ({"warmup_epochs": 5}, "`warmup_epochs` and `baseline_batch_size` must be given together, got 5 and None"),
        ({"baseline_batch_size": 8}, "`warmup_epochs` and `baseline_batch_size` must be given together, got 0 and 8"),
    ],
)
def test_bad_hyper_parameters(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{message}$"):
        gb.AdaBatch(**options)
