"""NoiseFloor by hand, the floor against a simulation, and what stands in where there is no decrease."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradbatch as gb
from cases import moments, progress
from gradbatch.errors import InvalidInputError

WIDE = {"min_batch_size": 1, "max_batch_size": 10**9, "growth": 1e9, "max_lr_scale": 1.0}


def batch(variance: float = 1.0, loss: float = 1.0, *, num_samples: int = 100, signal: float = 0.0) -> gb.Statistics:
    sqnorm = signal + variance / num_samples
    return gb.Statistics(num_samples=num_samples, loss=loss, grad_variance=variance, grad_sqnorm=sqnorm)


def known(
    *, variance: float, slow: float, fast: float, watched: int = 10**12, signal: float = 0.0, lr_scale: float = 1.0
) -> dict[str, Any]:
    """A state after so long that a batch more leaves the loss where it is."""
    return {
        "variances": [{"mean": variance, "weight": 1.0}],
        "signals": [{"mean": signal, "weight": 1.0}],
        "lr_scale": lr_scale,
        "watched": watched,
        "samples_seen": 0,
        "slow": slow,
        "fast": fast,
    }


def answer(
    rule: gb.NoiseFloor, state: Any, *, variance: float = 1.0, loss: float = 1.0, signal: float = 0.0, **where: Any
) -> gb.Decision:
    here = progress(**{"samples_seen": 100, "dataset_size": 10**12, "lr": 0.5} | where)
    return rule.update(batch(variance, loss, signal=signal), here, state)[0]


def test_by_hand() -> None:
    rule = gb.NoiseFloor(**WIDE)
    # 0.5 * 8000 = 4000; D = 2 - 1 = 1; the floor asks for 4000/4 = 1000, the guard for 4000/2.
    state = known(variance=8000.0, slow=2.0, fast=1.0)
    decision = answer(rule, state, variance=8000.0)
    assert decision.batch_size == 2000
    assert decision.numbers == {
        "noise": pytest.approx(4000),
        "loss": pytest.approx(1.0),
        "decrease": pytest.approx(1.0),
    }
    assert answer(gb.NoiseFloor(**WIDE, guard=False), state, variance=8000.0).batch_size == 1000
    # At momentum 0.75 the rate counts four times; a decrease of 0.1 makes the floor ask for more than the guard.
    assert answer(rule, state, variance=8000.0, momentum=0.75).batch_size == 8000
    state = known(variance=8000.0, slow=1.1, fast=1.0)
    assert answer(rule, state, variance=8000.0).batch_size == 10000


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(0.0, 0.99))
def test_with_a_decrease_beyond_half_of_the_loss_it_is_half_of_cabs(
    lr: float, variance: float, momentum: float
) -> None:
    state = known(variance=variance, slow=1.6, fast=1.0)
    decision = answer(gb.NoiseFloor(**WIDE), state, variance=variance, lr=lr, momentum=momentum)
    # CABS with the rate that momentum makes of it; in the steady state its averages are the numbers themselves.
    cabs = gb.CABS(decay=0.0, scale=0.5, min_batch_size=1, max_batch_size=10**9)
    asked = cabs.update(
        moments(variance=variance, loss=1.0), progress(lr=lr / (1 - momentum), dataset_size=10**12), cabs.init()
    )[0]
    assert decision.batch_size == pytest.approx(asked.batch_size, abs=1, rel=1e-6)


def test_the_floor_is_what_a_simulation_has() -> None:
    # Three directions of curvature h with noise sigma^2/B, momentum 0.5: the loss above its minimum, in the mean.
    generator, lr, rho, size = np.random.default_rng(0), 0.02, 0.5, 8
    curvature, variance = np.array([0.5, 1.0, 2.0]), np.array([3.0, 1.0, 2.0])
    x, velocity, costs = np.zeros((2000, 3)), np.zeros((2000, 3)), []
    for step in range(1500):
        noise = generator.normal(0, 1, x.shape) * np.sqrt(variance / size)
        velocity = rho * velocity + curvature * x + noise
        x = x - lr * velocity
        if step >= 500:
            costs.append((curvature * x**2).sum(1).mean() / 2)
    floor = np.mean(costs)
    # The rule asks for `size` samples where the loss falls by just this floor.
    rule = gb.NoiseFloor(**WIDE, guard=False, min_decrease=0.0)
    state = known(variance=6.0, slow=1 + floor, fast=1.0)
    decision = answer(rule, state, variance=6.0, lr=lr, momentum=rho)
    assert lr / (1 - rho) * 6.0 / (4 * floor) == pytest.approx(size, rel=0.05)
    assert decision.batch_size == size


def test_averages_are_weighted_means_of_all_that_was_seen() -> None:
    rule = gb.NoiseFloor(horizon=0.5, decay=0.5)
    losses, sizes, variances = [3.0, 2.0, 2.5, 1.0], [10, 30, 5, 20], [4.0, 1.0, 7.0, 2.0]
    state, seen = rule.init(), 500
    for loss, size, variance in zip(losses, sizes, variances, strict=True):
        seen += size
        here = progress(samples_seen=seen, dataset_size=200)
        _, state = rule.update(batch(variance, loss, num_samples=size), here, state)
    # Each sample that a batch stands for weighs exp(-age/tau), here as a sum over samples, one by one.
    ages = np.arange(65)[::-1]
    course = np.repeat(losses, sizes)
    for name, constant in [("slow", 100), ("fast", 12.5)]:
        weights = np.exp(-ages / constant)
        assert state[name] == pytest.approx((weights * course).sum() / weights.sum(), rel=1e-12)
    weights = 0.5 ** np.arange(4)[::-1]
    assert state["variances"][0]["mean"] == pytest.approx((weights * variances).sum() / weights.sum(), rel=1e-12)
    assert (state["watched"], state["samples_seen"]) == (65, 565)


def test_a_batch_stands_for_the_samples_since_the_last_one_that_was_seen() -> None:
    rule = gb.NoiseFloor()
    _, state = rule.update(batch(num_samples=10), progress(samples_seen=10), rule.init())
    _, state = rule.update(batch(num_samples=10), progress(samples_seen=50), state)
    assert state["watched"] == 50


def test_until_the_horizon_only_the_guard_decides() -> None:
    rule, size = gb.NoiseFloor(horizon=0.25, **WIDE), 77
    state: Any = rule.init()
    for step in range(4):
        # A loss that does not fall at all asks for 5e3 times the guard's size, once it is known that it does not.
        here = progress(samples_seen=100 * (step + 1), dataset_size=1600, lr=1.0)
        decision, state = rule.update(batch(10.0, 1.0), here, state)
        assert decision.batch_size == (5 if step < 3 else 1600)
        assert ("decrease" in decision.numbers) is (step == 3)
    alone = gb.NoiseFloor(horizon=0.25, **WIDE, guard=False)
    decision, _ = alone.update(batch(), progress(batch_size=size, dataset_size=1600), alone.init())
    assert (decision.batch_size, decision.reason) == (
        size,
        "noise-floor: held, the loss was not watched for long enough",
    )


@pytest.mark.parametrize(("slow", "decrease"), [(1.0, 1e-4), (0.9, 1e-4), (1.00005, 1e-4), (1.01, 0.01)])
def test_the_smallest_decrease(slow: float, decrease: float) -> None:
    decision = answer(gb.NoiseFloor(**WIDE), known(variance=1.0, slow=slow, fast=1.0))
    assert decision.numbers["decrease"] == pytest.approx(decrease, rel=1e-9)


def test_growth_is_bounded_and_shrinking_is_not() -> None:
    rule = gb.NoiseFloor()
    huge, none = known(variance=1e12, slow=1.1, fast=1.0), known(variance=0.0, slow=1.1, fast=1.0)
    assert [answer(rule, huge, variance=1e12, batch_size=b).batch_size for b in (16, 20, 100, 4000)] == [
        17,
        22,
        110,
        4096,
    ]
    assert answer(rule, none, variance=0.0, batch_size=4000).batch_size == 16
    # The lower bound wins over growth and over the data set.
    assert answer(rule, huge, variance=1e12, batch_size=3).batch_size == 16
    assert answer(gb.NoiseFloor(horizon=1e-9), huge, variance=1e12, batch_size=300, dataset_size=310).batch_size == 310


def test_losses_of_0_and_below_have_no_guard() -> None:
    rule = gb.NoiseFloor(**WIDE)
    # D = 1: 0.5 * 800/4 = 100.
    for fast in (0.0, -5.0):
        state = known(variance=800.0, slow=fast + 1, fast=fast)
        assert answer(rule, state, variance=800.0, loss=fast).batch_size == 100
    # A flat loss of -5: D = 5e-4.
    state = known(variance=800.0, slow=-5.0, fast=-5.0)
    assert answer(rule, state, variance=800.0, loss=-5.0).batch_size == 200_000
    # Nothing left to lose: noise asks for all there is, and none for none.
    for variance, expected in [(1.0, 10**9), (0.0, 1), (-1e-12, 1)]:
        state = known(variance=variance, slow=0.0, fast=0.0)
        assert answer(rule, state, variance=variance, loss=0.0).batch_size == expected


def test_parameter_groups() -> None:
    rule = gb.NoiseFloor(**WIDE)
    here = progress(group_lrs=(1.0, 0.25), samples_seen=100, dataset_size=10**9)
    assert rule.requires(here) == {"grad_variance", "grad_sqnorm", "groups"}
    assert rule.requires(progress()) == {"grad_variance", "grad_sqnorm"}
    statistics = moments(variance=31.0, num_samples=32, groups=(0.25, 0.75))
    decision, state = rule.update(statistics, here, rule.init())
    # Of 32 samples, unbiased: 8 and 24; 8 + 24/4 = 14 over twice a loss of 1.
    assert decision.batch_size == 7
    assert [own["mean"] for own in state["variances"]] == pytest.approx([8, 24])
    with pytest.raises(InvalidInputError, match=r"averaged over 2 parameter groups and `optimizer` now has 1"):
        rule.update(batch(), progress(), state)


FREE = {"horizon": 1e-9, "growth": 1e9, "max_lr_scale": 100.0}


def test_below_the_smallest_size_the_rate_makes_up_for_it() -> None:
    # 0.5 * 8 = 4 over twice a loss of 1: the guard's 2 samples are wanted, an eighth of 16.
    rule, state = gb.NoiseFloor(**FREE), known(variance=8.0, slow=3.0, fast=1.0)
    decision = answer(rule, state, variance=8.0)
    # Polyak's bound: twice the loss over 0.5 * 8/16, the noise's part of a step, is 8 as well.
    assert (decision.batch_size, decision.lr_scale) == (16, pytest.approx(8.0))
    # With a gradient of its own the step is larger: 2 / (0.5 * 0.5 + 0.25) = 4.
    assert answer(rule, known(variance=8.0, slow=3.0, fast=1.0, signal=0.5), variance=8.0, signal=0.5).lr_scale == (
        pytest.approx(4.0)
    )
    assert answer(rule, known(variance=8.0, slow=3.0, fast=1.0, signal=9.0), variance=8.0, signal=9.0).lr_scale == 1.0
    assert answer(gb.NoiseFloor(**FREE | {"max_lr_scale": 3.0}), state, variance=8.0).lr_scale == 3.0
    assert answer(gb.NoiseFloor(**FREE | {"max_lr_scale": 1.0}), state, variance=8.0).lr_scale == 1.0


def test_until_the_horizon_the_rate_is_not_raised() -> None:
    # The batch of 100 samples ends before, or at, a quarter of 1,600; the guard asks for 2 samples either way.
    rule = gb.NoiseFloor(**FREE | {"horizon": 0.25})
    scales = [
        answer(rule, known(variance=8.0, slow=3.0, fast=1.0, watched=watched), variance=8.0, dataset_size=1600).lr_scale
        for watched in (299, 300)
    ]
    assert scales == [1.0, pytest.approx(8.0)]
    loud = known(variance=16000.0, slow=3.0, fast=1.0, watched=299)
    assert answer(rule, loud, variance=16000.0, dataset_size=1600, batch_size=1600).lr_scale == pytest.approx(0.4)


def test_towards_the_end_the_decrease_that_is_left_counts() -> None:
    # Of a horizon of 800 samples 800, 400, 100 and none are left.
    state = known(variance=4.0, slow=1.4, fast=1.0)
    sizes, decreases = [], []
    for budget in (900, 500, 200, 100, 50, None):
        rule = gb.NoiseFloor(**WIDE | {"horizon": 0.5, "budget": budget})
        decision = answer(rule, state, variance=4.0, dataset_size=1600)
        sizes.append(decision.batch_size)
        decreases.append(decision.numbers["decrease"])
        assert ("as many samples as it may" in decision.reason) == (decreases[-1] == 0)
        assert "inf" not in decision.reason
    assert decreases == pytest.approx([share * decreases[-1] for share in (1, 1 / 2, 1 / 8, 0, 0, 1)])
    # A rate of 0.5 times a variance of 4, over 4 times the decrease; without any, as much as there is.
    assert sizes == [round(2 / (4 * value)) if value else 1600 for value in decreases]
    assert len(set(sizes)) == 4


@given(st.floats(1e-4, 1.0), st.floats(1e-3, 10.0), st.floats(0.0, 10.0), st.floats(0.0, 0.9))
def test_a_raised_rate_keeps_the_temperature_and_polyaks_bound(
    lr: float, variance: float, signal: float, momentum: float
) -> None:
    state = known(variance=variance, slow=1.6, fast=1.0, signal=signal)
    decision = answer(gb.NoiseFloor(**FREE), state, variance=variance, signal=signal, lr=lr, momentum=momentum)
    pace = lr / (1 - momentum)
    wanted = pace * variance / 2  # over twice a loss of 1; the decrease of 0.6 asks for less
    if decision.lr_scale > 1:
        assert decision.batch_size == 16
        # Rate over size is at most that of the wanted size, and a step takes at most the loss.
        assert decision.lr_scale * pace / 16 <= pace / wanted * (1 + 1e-6)
        assert decision.lr_scale * pace * (signal + variance / 16) <= 2 + 1e-6


def test_without_noise_and_gradient_only_the_bound_holds_the_rate() -> None:
    decision = answer(gb.NoiseFloor(**FREE), known(variance=0.0, slow=1.5, fast=1.0), variance=0.0)
    assert (decision.batch_size, decision.lr_scale) == (16, 100.0)


def test_beyond_the_largest_size_the_rate_makes_up_for_it() -> None:
    rule = gb.NoiseFloor(**FREE | {"max_batch_size": 1000})
    # 0.5 * 16000 / 2 = 4000 by the guard; the floor asks for less.
    state = known(variance=16000.0, slow=3.0, fast=1.0)
    assert answer(rule, state, variance=16000.0, batch_size=1000).lr_scale == pytest.approx(0.25)
    # On the way to the bound the rate is left alone.
    assert answer(rule, state, variance=16000.0, batch_size=999).lr_scale == 1.0
    state = known(variance=1e12, slow=3.0, fast=1.0)
    assert answer(rule, state, variance=1e12, batch_size=1000).lr_scale == 0.01


def test_the_rate_moves_step_by_step() -> None:
    rule = gb.NoiseFloor(horizon=1e-9, max_lr_scale=100.0)
    none = {"variance": 0.0, "slow": 1.5, "fast": 1.0}
    assert answer(rule, known(**none), variance=0.0).lr_scale == pytest.approx(1.1)
    assert answer(rule, known(**none, lr_scale=99.0), variance=0.0).lr_scale == 100.0
    huge = {"variance": 1e9, "slow": 1.5, "fast": 1.0}
    assert answer(rule, known(**huge, lr_scale=5.0), variance=1e9).lr_scale == pytest.approx(5 / 1.1)
    state = rule.init()
    scales = []
    for _ in range(3):
        decision, state = rule.update(batch(0.0), progress(), state)
        scales.append(decision.lr_scale)
    assert scales == pytest.approx([1.1, 1.21, 1.331])


@pytest.mark.parametrize(("loss", "guard"), [(0.0, True), (-1.0, True), (1.0, False)])
def test_without_a_guard_the_rate_is_not_raised(loss: float, guard: bool) -> None:
    state = known(variance=0.0, slow=loss + 1, fast=loss)
    assert answer(gb.NoiseFloor(**FREE, guard=guard), state, variance=0.0, loss=loss).lr_scale == 1.0


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_adams_noise_is_that_of_its_updates(name: str) -> None:
    rule, here = gb.NoiseFloor(**WIDE), progress(lr=0.5, samples_seen=100, dataset_size=10**9)
    here = replace(here, optimizer=name)
    assert rule.requires(here) == {"descent_variance", "descent_sqnorm"}
    statistics = gb.Statistics(
        num_samples=100, loss=1.0, grad_variance=1e9, grad_sqnorm=1e9, descent_variance=400.0, descent_sqnorm=5.0
    )
    decision, state = rule.update(statistics, here, rule.init())
    assert decision.batch_size == 100
    assert state["signals"][0]["mean"] == pytest.approx(1.0)
    plain = gb.NoiseFloor(preconditioned=False)
    assert plain.requires(here) == {"grad_variance", "grad_sqnorm"}
    # Before Adam has made its first steps there is no such variance.
    first = gb.Statistics(num_samples=100, loss=1.0, descent_variance=None, descent_sqnorm=None)
    assert rule.update(first, here, state)[0].reason.startswith("noise-floor: held")


def test_a_held_batch_keeps_the_rate() -> None:
    state = known(variance=1.0, slow=1.5, fast=1.0, lr_scale=3.0)
    decision, after = gb.NoiseFloor().update(batch(loss=math.nan), progress(batch_size=77), state)
    assert (decision.batch_size, decision.lr_scale, after) == (77, 3.0, state)


@pytest.mark.parametrize(
    ("statistics", "momentum"),
    [
        (batch(loss=math.nan), 0.0),
        (batch(loss=-math.inf), 0.0),
        (batch(variance=math.inf), 0.0),
        (gb.Statistics(num_samples=1, loss=1.0), 0.0),
        (batch(), 1.0),
        (batch(), 1.5),
        (batch(variance=1.7e308), 0.99),
        (batch(loss=1e308), 0.0),
    ],
)
def test_what_cannot_be_used_changes_nothing(statistics: gb.Statistics, momentum: float) -> None:
    state: Any = known(variance=1.0, slow=1.0, fast=-1e308, watched=10**5) | {"slow": 1.7e308}
    if statistics.loss == 1.0:
        state = gb.NoiseFloor().init()
    here = progress(batch_size=77, samples_seen=100, momentum=momentum, dataset_size=10**9)
    decision, after = gb.NoiseFloor().update(statistics, here, state)
    assert after == state
    assert (decision.batch_size, decision.reason.startswith("noise-floor: held")) == (77, True)


def test_no_group_was_measured() -> None:
    here = progress(batch_size=77, group_lrs=(1.0, 0.25))
    decision, state = gb.NoiseFloor().update(batch(), here, gb.NoiseFloor().init())
    assert (decision.batch_size, state) == (77, gb.NoiseFloor().init())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("horizon", value) for value in (0.0, -1.0, math.nan, math.inf)],
        *[("min_batch_size", value) for value in (0, 1.5)],
        *[("max_batch_size", value) for value in (0, 15, 20.0)],
        *[("decay", value) for value in (-0.1, 1.0, math.nan)],
        *[("growth", value) for value in (1.0, 0.5, math.nan, math.inf)],
        *[("min_decrease", value) for value in (-1e-9, math.nan, math.inf)],
        *[("budget", value) for value in (0, -1, 1.5, True)],
        *[("max_lr_scale", value) for value in (0.5, -1.0, math.nan, math.inf)],
    ],
)
def test_bad_hyper_parameters(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"`{name}` must .*, got {value!r}$"):
        gb.NoiseFloor(**{name: value})
