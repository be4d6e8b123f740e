"""CABS by hand, against the authors' rule transcribed, and at the edges that the paper leaves open."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import gradbatch as gb
from cases import follow, moments, progress
from gradbatch.errors import InvalidInputError

HALF = {"decay": 0.5, "min_batch_size": 1, "max_batch_size": 1000}
"""Averages that are exact in binary, so that sizes and ties can be computed by hand."""


def sizes(rule: gb.CABS, *course: dict[str, Any], lr: float = 1.0, dataset_size: int = 10_000) -> list[int]:
    """The rule's answers to some statistics in a row."""
    state, answers = rule.init(), []
    for values in course:
        decision, state = rule.update(moments(**values), progress(lr=lr, dataset_size=dataset_size), state)
        answers.append(decision.batch_size)
    return answers


def test_by_hand() -> None:
    # Averages from 0 and 1 at decay 1/2, lr 1:
    #   variance 10, loss 3:  5/2   = 2.5  -> 2, the even one
    #   variance  9, loss 2:  7/2   = 3.5  -> 4, the even one
    #   variance 23, loss 0: 15/1   = 15
    course = [
        {"variance": 10.0, "loss": 3.0},
        {"variance": 9.0, "loss": 2.0},
        {"variance": 23.0, "loss": 0.0},
    ]
    assert sizes(gb.CABS(**HALF), *course) == [2, 4, 15]
    # The learning rate, c and eps where they belong: 4 * 2 * 5/(2 + 0.5) = 16.
    assert sizes(gb.CABS(**HALF, scale=4.0, eps=0.5), course[0], lr=2.0) == [16]


def test_the_authors_defaults() -> None:
    rule = gb.CABS()
    assert rule == gb.CABS(decay=0.95, min_batch_size=16, max_batch_size=2048, scale=1.0, eps=0.0, unbiased=False)
    assert rule.init() == {"variances": [], "loss": 1.0}
    # 5 % of 80000 from 0 and 5 % of 3 from 1: 0.1 * 4000/1.1 = 363.6.
    assert sizes(rule, {"variance": 80_000.0, "loss": 3.0}, lr=0.1) == [364]
    # A variance of 3000 at a loss of 1 asks for 300 in the end, and for less in the first tens of steps.
    early = sizes(rule, *[{"variance": 3000.0}] * 100, lr=0.1)
    assert early[0] == 16
    assert early == sorted(early)
    assert early[-1] == round(300 * (1 - 0.95**100))


def authors_rule(
    xi: np.ndarray,
    loss: np.ndarray,
    alpha: np.ndarray,
    *,
    mu: float,
    c: float,
    eps: float,
    bounds: tuple[int, int],
) -> np.ndarray:
    """The authors' update, step by step as their code has it: averages, round half to even, clip."""
    xi_avg, f_avg, answers = np.float64(0.0), np.float64(1.0), []
    for t in range(len(xi)):
        xi_avg = mu * xi_avg + (1 - mu) * xi[t]
        f_avg = mu * f_avg + (1 - mu) * loss[t]
        raw = c * (alpha[t] * xi_avg) / (f_avg + eps)
        answers.append(int(np.clip(np.rint(raw), *bounds)))
    return np.array(answers)


@pytest.mark.parametrize("seed", range(3))
def test_against_the_authors_rule(seed: int) -> None:
    generator = np.random.default_rng(seed)
    steps, options = 500, {"c": 1.7, "eps": 1e-8, "mu": 0.9}
    swing = 6 + 4 * np.sin(np.linspace(0, 20, steps))
    second = np.exp(swing + generator.normal(0, 1, steps))
    first = second * generator.uniform(0, 1, steps)
    loss = generator.exponential(1.5, steps)
    alpha = generator.choice([0.3, 0.1, 0.03], steps)
    rule = gb.CABS(decay=0.9, min_batch_size=3, max_batch_size=700, scale=1.7, eps=1e-8)
    state, ours = rule.init(), []
    for t in range(steps):
        statistics = gb.Statistics(num_samples=9, loss=loss[t], grad_sqnorm=first[t], sample_sqnorm=second[t])
        decision, state = rule.update(statistics, progress(lr=alpha[t], dataset_size=10_000), state)
        ours.append(decision.batch_size)
    theirs = authors_rule(second - first, loss, alpha, bounds=(3, 700), **options)
    # Equal, not close: a last digit can only matter at a tie, and random numbers give none.
    assert ours == theirs.tolist()
    # The course must reach both bounds and go through the middle to prove anything.
    assert {3, 700} < set(ours)
    assert sum(3 < size < 700 for size in ours) > 100


@pytest.mark.parametrize(("numerator", "expected"), [(0.5, 1), (1.5, 2), (2.5, 2), (3.5, 4), (4.5, 4), (4.75, 5)])
def test_ties_go_to_the_even_size(numerator: float, expected: int) -> None:
    assert sizes(gb.CABS(**HALF), {"variance": 2 * numerator}) == [expected]


@pytest.mark.parametrize(("variance", "expected"), [(2 * 9.4, 10), (2 * 10.4, 10), (2 * 20.6, 20), (2e9, 20)])
def test_bounds(variance: float, expected: int) -> None:
    assert sizes(gb.CABS(decay=0.5, min_batch_size=10, max_batch_size=20), {"variance": variance}) == [expected]


def test_the_data_set_is_a_bound_too() -> None:
    much = {"variance": 1e9}
    assert sizes(gb.CABS(**HALF), much, dataset_size=77) == [77]
    assert sizes(gb.CABS(**HALF), {"variance": 1e9, "loss": -1.0}, dataset_size=77) == [77]
    # A data set smaller than the floor: the floor is what is asked for.
    assert sizes(gb.CABS(decay=0.5), much, {"variance": 0.0}, dataset_size=5) == [16, 16]


def test_unbiased() -> None:
    # 4/3 of the biased variance: 4/3 * 12/2 = 8 at a loss of 1; a batch of 100 has 100/99.
    rule = gb.CABS(**HALF, unbiased=True)
    assert sizes(rule, {"variance": 12.0, "num_samples": 4}) == [8]
    assert sizes(rule, {"variance": 990.0, "num_samples": 100}) == [500]
    assert sizes(rule, {"variance": 12.0, "num_samples": 2}) == [12]
    _, state = rule.update(moments(variance=12.0, num_samples=4), progress(), rule.init())
    assert state["variances"] == [8.0]


def test_a_batch_of_one_sample_is_left_out_of_unbiased_averages_only() -> None:
    single = moments(num_samples=1, loss=5.0)
    start = {"variances": [4.0], "loss": 2.0}
    decision, state = gb.CABS(**HALF, unbiased=True).update(single, progress(batch_size=77), start)
    assert decision.batch_size == 77
    assert "held" in decision.reason
    assert state == start
    # The authors' own estimator gives one sample a variance of 0.
    decision, state = gb.CABS(**HALF).update(single, progress(lr=100.0), start)
    assert state == {"variances": [2.0], "loss": 3.5}
    assert decision.batch_size == 57


@pytest.mark.parametrize("unbiased", [False, True])
def test_parameter_groups(unbiased: bool) -> None:
    rule = gb.CABS(**HALF, unbiased=unbiased)
    here = progress(group_lrs=(1.0, 0.25, 0.0))
    assert rule.requires(here) == {"sample_sqnorm", "grad_sqnorm", "groups"}
    assert rule.requires(progress()) == {"sample_sqnorm", "grad_sqnorm"}
    # Variances 12, 24, 60 of four samples; averages 6, 12, 30; 6 + 0.25 * 12 + 0 * 30 = 9 over a loss of 1.
    statistics = moments(variance=96.0, grad_sqnorm=8.0, num_samples=4, groups=(0.125, 0.25, 0.625))
    decision, state = rule.update(statistics, here, rule.init())
    bessel = 4 / 3 if unbiased else 1
    assert decision.batch_size == 9 * bessel
    assert state["variances"] == pytest.approx([6 * bessel, 12 * bessel, 30 * bessel], rel=1e-15)
    # Each group keeps its own average, also when the rates change.
    decision, state = rule.update(statistics, progress(group_lrs=(0.0, 0.0, 1.0)), state)
    assert decision.batch_size == 45 * bessel
    assert state["variances"] == pytest.approx([9 * bessel, 18 * bessel, 45 * bessel], rel=1e-15)


def test_groups_of_equal_rates_are_one_group() -> None:
    whole, parts = gb.CABS(**HALF), gb.CABS(**HALF)
    course = [{"variance": 40.0 + 8 * t, "loss": 1.0} for t in range(20)]
    state_of_whole, state_of_parts = whole.init(), parts.init()
    for values in course:
        one, state_of_whole = whole.update(moments(**values), progress(lr=0.5), state_of_whole)
        statistics = moments(**values, groups=(0.5, 0.25, 0.25))
        many, state_of_parts = parts.update(statistics, progress(group_lrs=(0.5,) * 3), state_of_parts)
        # Shares that are powers of 2 lose no bit.
        assert one.batch_size == many.batch_size


def test_a_loss_average_of_zero_asks_for_the_largest_batch() -> None:
    # From 1 at decay 1/2 a loss of -1 gives exactly 0.
    assert sizes(gb.CABS(**HALF), {"variance": 1e-9, "loss": -1.0}) == [1000]
    # ... unless there is no variance either, or eps stands in.
    assert sizes(gb.CABS(**HALF), {"variance": 0.0, "loss": -1.0}) == [1]
    assert sizes(gb.CABS(**HALF, eps=0.5), {"variance": 10.0, "loss": -1.0}) == [10]


def test_a_negative_loss_average_asks_for_the_smallest_batch() -> None:
    assert sizes(gb.CABS(**HALF), {"variance": 1e9, "loss": -2.0}) == [1]
    # A large number over a small negative one is minus infinity, which is still below the smallest.
    assert sizes(gb.CABS(**HALF), {"variance": 1e300, "loss": -1.0 - 2.0**-52}, lr=1e8) == [1]


def test_a_negative_variance_asks_for_the_smallest_batch() -> None:
    # Rounding makes it so where all gradients are equal.
    assert sizes(gb.CABS(**HALF), {"variance": -1e-9}) == [1]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_changes_nothing(value: float) -> None:
    start = {"variances": [4.0], "loss": 2.0}
    decision, state = gb.CABS(**HALF).update(moments(loss=value), progress(batch_size=77), start)
    assert state == start
    assert decision.batch_size == 77
    assert "held" in decision.reason


def test_a_variance_that_is_not_finite_changes_nothing() -> None:
    start = {"variances": [4.0], "loss": 2.0}
    # Both moments are finite, and B/(B - 1) of their difference is not.
    huge = gb.Statistics(num_samples=2, loss=1.0, grad_sqnorm=0.0, sample_sqnorm=1.7e308)
    decision, state = gb.CABS(**HALF, unbiased=True).update(huge, progress(batch_size=77), start)
    assert state == start
    assert decision.batch_size == 77


def test_averages_advance_with_the_current_batch_first() -> None:
    # Were the averages updated after the answer, the first would be the smallest whatever the variance.
    assert sizes(gb.CABS(decay=0.0), {"variance": 100.0}, {"variance": 200.0}) == [100, 200]


def test_the_size_used_and_the_size_requested_play_no_part() -> None:
    course = [moments(variance=50.0, num_samples=n) for n in (3, 32, 500)]
    decisions = [d.batch_size for d in follow(gb.CABS(decay=0.0), course).decisions]
    assert decisions == [16, 16, 16]
    decisions = [
        gb.CABS(decay=0.0).update(moments(variance=500.0), progress(batch_size=b), {"variances": [], "loss": 1.0})[0]
        for b in (1, 32, 900)
    ]
    assert {d.batch_size for d in decisions} == {50}


def test_the_reason_has_the_numbers() -> None:
    decision, _ = gb.CABS(**HALF).update(moments(variance=10.0, loss=3.0), progress(lr=1.0), gb.CABS().init())
    assert decision.reason == "cabs: lr*variance/loss = 5/2"


def test_momentum_takes_the_rate_at_which_it_moves_in_the_long_run() -> None:
    rule = gb.CABS(**HALF, with_momentum=True)
    for momentum, expected in ((0.0, 16), (0.75, 64)):  # 0.5 * 64/1, over 1 - 0.75
        place = replace(progress(lr=0.5), momentum=momentum)
        decision, _ = rule.update(moments(variance=64.0), place, rule.init())
        assert decision.batch_size == expected
        assert gb.CABS(**HALF).update(moments(variance=64.0), place, rule.init())[0].batch_size == 16
    with pytest.raises(InvalidInputError, match="momentum below 1"):
        rule.requires(replace(progress(), momentum=1.0))


def test_the_authors_moment_leaves_out_products_between_positions() -> None:
    rule = gb.CABS(**HALF, moment="position")
    assert rule.requires(progress()) == {"position_sqnorm", "grad_sqnorm"}
    batch = gb.Statistics(num_samples=4, loss=1.0, position_sqnorm=68.0, grad_sqnorm=4.0, sample_sqnorm=1e6)
    decision, state = rule.update(batch, progress(lr=1.0), rule.init())
    assert decision.batch_size == 32
    assert decision.numbers == {"variance": 32.0, "loss": 1.0}
    assert state == {"variances": [32.0], "loss": 1.0}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("decay", value) for value in (-0.1, 1.0, 2.0, math.nan)],
        *[("min_batch_size", value) for value in (0, -1, 1.5, True, "16", None)],
        *[("max_batch_size", value) for value in (0, 15, 100.0, "2048")],
        *[("scale", value) for value in (0.0, -1.0, math.nan, math.inf)],
        *[("eps", value) for value in (-1e-9, math.nan, math.inf)],
        *[("moment", value) for value in ("layers", None)],
    ],
)
def test_bad_hyper_parameters(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"`{name}` must .*, got {value!r}$"):
        gb.CABS(**{name: value})
