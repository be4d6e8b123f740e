"""DiveBatch by hand, against sums over all gradients of a data set, and when it measures."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradbatch as gb
from cases import moments, progress
from gradbatch.asking import ask, lacking
from gradbatch.errors import InvalidInputError


def statistics_of(grads: np.ndarray) -> gb.Statistics:
    """What a batch of these per-sample gradients [B, D] gives; no variance if there is but one."""
    mean, single = grads.mean(axis=0), len(grads) == 1
    return gb.Statistics(
        num_samples=len(grads),
        loss=1.0,
        sample_sqnorm=float((grads**2).sum(axis=1).mean()),
        grad_sqnorm=float(mean @ mean),
        grad_variance=None if single else float(grads.var(axis=0, ddof=1).sum()),
    )


def train(
    rule: gb.Rule[Any], grads: np.ndarray, *, first: int, epochs: int
) -> tuple[list[tuple[int, bool]], list[float]]:
    """Requested size of each batch with whether it was measured, and the rates' factors; gradients stay as they are."""
    total, seen, size, state = len(grads), 0, first, rule.init()
    batches, scales = [], []
    while seen < epochs * total:
        quantities = rule.requires(progress(samples_seen=seen, batch_size=size, dataset_size=total))
        used = min(size, total - seen % total)
        statistics = statistics_of(grads[seen % total :][:used])
        seen += used
        here = progress(samples_seen=seen, batch_size=size, dataset_size=total)
        decision, state = ask(rule, statistics, here, state, lacking(statistics, quantities))
        batches.append((size, bool(quantities)))
        scales.append(decision.lr_scale)
        size = decision.batch_size
    return batches, scales


def diversity(grads: np.ndarray) -> float:
    """The number of samples times Δ, by its definition."""
    total = grads.sum(axis=0)
    return len(grads) * float((grads**2).sum() / (total @ total))


def test_by_hand() -> None:
    # Four samples, gradients (3, 0), (1, 0), (0, 2), (0, 2), in two batches. Mean squared norm (9 + 1 + 4 + 4)/4 = 4.5.
    # Squared norms of the means 4 and 4, variances 2 and 0: 4 - 2 * (1/2 - 1/4) = 3.5 and 4, their mean 3.75.
    grads = np.array([[3.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
    rule = gb.DiveBatch(delta=2.5, interval=1)
    first, second = statistics_of(grads[:2]), statistics_of(grads[2:])
    _, state = rule.update(first, progress(samples_seen=2, batch_size=2, dataset_size=4), rule.init())
    assert state == {"epoch": 0, "samples": 2, "sample_sqnorm": 5.0, "grad_sqnorm": 3.5, "initial_batch_size": 2}
    decision, state = rule.update(second, progress(samples_seen=4, batch_size=2, dataset_size=4), state)
    # 2.5 * 4.5/3.75 = 3.
    assert decision == gb.Decision(
        batch_size=3,
        reason="divebatch: n*diversity = 4.5/3.75",
        numbers={"sample_sqnorm": 4.5, "grad_sqnorm": 3.75},
    )
    assert state == rule.init() | {"initial_batch_size": 2}


def test_the_authors_defaults() -> None:
    rule = gb.DiveBatch()
    assert rule == gb.DiveBatch(delta=0.1, interval=20, max_batch_size=2048, scale_lr=False)


@given(st.integers(2, 30), st.integers(1, 4), st.integers(0, 10**6))
def test_a_batch_of_all_samples_gives_the_diversity(total: int, dim: int, seed: int) -> None:
    grads = np.random.default_rng(seed).normal(0.5, 1.0, (total, dim))
    rule = gb.DiveBatch(delta=7.3, interval=1, max_batch_size=10**9)
    here = progress(samples_seen=total, batch_size=1, dataset_size=total)
    decision, _ = rule.update(statistics_of(grads), here, rule.init())
    ours = decision.numbers["sample_sqnorm"] / decision.numbers["grad_sqnorm"]
    assert ours == pytest.approx(diversity(grads), rel=1e-9)
    assert decision.batch_size == max(1, min(int(7.3 * ours), total))


@pytest.mark.parametrize(("total", "size"), [(5, 2), (6, 3), (6, 5)])
def test_unbiased_over_all_batches_without_replacement(total: int, size: int) -> None:
    grads = np.random.default_rng(total).normal(0.5, 1.0, (total, 3))
    rule, norms = gb.DiveBatch(interval=1), []
    for chosen in itertools.combinations(range(total), size):
        here = progress(samples_seen=size, batch_size=size, dataset_size=total)
        norms.append(rule.update(statistics_of(grads[list(chosen)]), here, rule.init())[1]["grad_sqnorm"])
    mean = grads.mean(axis=0)
    assert np.mean(norms) == pytest.approx(mean @ mean, rel=1e-12)


@given(st.floats(0.1, 1e3), st.floats(1e-2, 1e2), st.integers(2, 500))
def test_it_is_one_and_the_noise_scale(trace: float, signal: float, count: int) -> None:
    # Section 6: n Δ = 1 + B_simple where the data set is large.
    sqnorm, second = signal + trace / count, signal + trace
    statistics = gb.Statistics(
        num_samples=count, loss=1.0, sample_sqnorm=second, grad_sqnorm=sqnorm, grad_variance=trace
    )
    endless = 10**15
    here = progress(samples_seen=endless, batch_size=1, dataset_size=endless)
    rule, noise = gb.DiveBatch(interval=1), gb.NoiseScale()
    found = rule.update(statistics, here, rule.init())[0].numbers
    scale = noise.update(statistics, here, noise.init())[0].numbers
    ours, theirs = found["sample_sqnorm"] / found["grad_sqnorm"], scale["variance"] / scale["signal"]
    # The norm's cancellation costs up to 5 of 16 digits, of these and of the truth.
    assert ours == pytest.approx(1 + theirs, rel=1e-9)
    assert ours == pytest.approx(1 + trace / signal, rel=1e-9)


def test_it_measures_every_so_many_epochs_and_below_its_largest_size() -> None:
    # Mean 1 and mean square 5 in every batch, variance 4 * 10/9 in one of 10 and 4 * 20/19 in one of 20:
    # 2.6 * 5/(1 - 40/9 * (1/10 - 1/60)) = 20.6, and 2.6 * 5/(1 - 80/19 * (1/20 - 1/60)) = 15.1.
    grads = np.tile([[3.0], [-1.0]], (30, 1))
    batches, scales = train(gb.DiveBatch(delta=2.6, interval=2, max_batch_size=25), grads, first=10, epochs=7)
    # It is never 25, so the fourth and the sixth epoch are measured as well.
    unmeasured, measured = [(10, False)] * 6, [(10, True)] * 6
    assert batches == unmeasured + measured + ([(20, False)] * 3 + [(20, True)] * 3) * 2 + [(20, False)] * 3
    assert set(scales) == {1.0}
    # Once it is at its largest size there is nothing left to decide.
    batches, _ = train(gb.DiveBatch(delta=2.6, interval=1, max_batch_size=20), grads, first=10, epochs=3)
    assert batches == [(10, True)] * 6 + [(20, False)] * 6
    # ... which the data set may be.
    batches, _ = train(gb.DiveBatch(delta=20.0, interval=1), grads, first=10, epochs=3)
    assert batches == [(10, True)] * 6 + [(60, False)] * 2


def test_it_never_shrinks() -> None:
    grads = np.ones((20, 1))
    batches, _ = train(gb.DiveBatch(interval=1), grads, first=5, epochs=3)
    assert batches == [(5, True)] * 12


def test_the_learning_rate_follows_the_size() -> None:
    grads = np.tile([[3.0], [-1.0]], (30, 1))
    rule = gb.DiveBatch(delta=2.6, interval=1, scale_lr=True)
    batches, scales = train(rule, grads, first=10, epochs=2)
    assert [size for size, _ in batches] == [10] * 6 + [20] * 3
    # With the batch that grew, not with the one before it.
    assert scales == [1.0] * 6 + [2.0] * 3


def test_an_epoch_that_ends_with_one_sample_is_decided_by_the_next_batch() -> None:
    grads = np.tile([[3.0], [-1.0]], (31, 1))[:61]
    batches, _ = train(gb.DiveBatch(delta=2.6, interval=2), grads, first=10, epochs=4)
    # 61 = 6 * 10 + 1: the second epoch's last batch has no variance; one batch later the size is 20.
    assert batches[:14] == [(10, False)] * 7 + [(10, True)] * 7
    assert batches[14] == (10, False)
    assert {size for size, _ in batches[15:]} == {20}
    # The batch that decides may be measured itself, for the epoch in which it lies.
    batches, _ = train(gb.DiveBatch(delta=2.6, interval=1), grads, first=10, epochs=2)
    assert batches == [(10, True)] * 8 + [(20, True)] * 3


def test_what_an_epoch_left_over_does_not_enter_the_next() -> None:
    rule, here = gb.DiveBatch(interval=1), progress(samples_seen=1032, batch_size=32, dataset_size=1000)
    left = {"epoch": 0, "samples": 500, "sample_sqnorm": 1e6, "grad_sqnorm": 1e-6, "initial_batch_size": 32}
    fresh, state = rule.update(moments(), here, rule.init())
    assert (fresh.batch_size, state["samples"], state["epoch"]) == (32, 32, 1)
    late, after = rule.update(moments(), here, left)
    assert (late.batch_size, after) == (1000, state)


def test_no_gradient_asks_for_the_largest_batch() -> None:
    # As in the authors' code, for 0/0 too; and a mean that noise hides counts as none.
    rule, here = gb.DiveBatch(interval=1, max_batch_size=500), progress(samples_seen=1000, dataset_size=1000)
    for variance, sqnorm in ((0.0, 0.0), (4.0, 0.0), (32.0, 0.5)):
        statistics = moments(variance=variance, grad_sqnorm=sqnorm)
        assert rule.update(statistics, here, rule.init())[0].batch_size == 500


@pytest.mark.parametrize("field", ["loss", "grad_variance", "grad_sqnorm", "sample_sqnorm"])
def test_what_is_not_finite_changes_nothing(field: str) -> None:
    names = ("loss", "grad_variance", "grad_sqnorm", "sample_sqnorm")
    rule, broken = (
        gb.DiveBatch(interval=1),
        gb.Statistics(num_samples=4, **dict.fromkeys(names, 1.0) | {field: math.inf}),
    )
    start = rule.update(moments(), progress(), rule.init())[1]
    decision, state = rule.update(broken, progress(samples_seen=36, batch_size=77), start)
    assert decision == gb.Decision(batch_size=77, reason="divebatch: held, this batch's numbers are not finite")
    assert state == start


def test_in_between_it_says_so() -> None:
    decision, _ = gb.DiveBatch().update(moments(), progress(batch_size=77), gb.DiveBatch().init())
    assert decision == gb.Decision(batch_size=77, reason="divebatch: as before")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("delta", value) for value in (0.0, -0.1, math.nan, math.inf)],
        *[("interval", value) for value in (0, 1.5, True)],
        *[("max_batch_size", value) for value in (0, 100.0)],
    ],
)
def test_bad_hyper_parameters(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"`{name}` must .*, got {value!r}$"):
        gb.DiveBatch(**{name: value})
