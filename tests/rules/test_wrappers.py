"""What the wrappers move, when they ask, and what they refuse to hold."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradbatch as gb
from cases import WRAPPERS, follow, moments, progress
from gradbatch.errors import InvalidInputError


@dataclass(frozen=True, kw_only=True)
class Says(gb.Rule[int]):
    """Answers with a size, a scale and perhaps weights, and counts how often it was asked."""

    size: int = 40
    weights: dict[str, tuple[float, ...]] | None = None

    def requires(self, progress: gb.Progress) -> frozenset[str]:
        return frozenset({"noise_scale"})

    def init(self) -> int:
        return 0

    def update(self, statistics: gb.Statistics, progress: gb.Progress, state: int) -> tuple[gb.Decision, int]:
        decision = gb.Decision(batch_size=self.size, lr_scale=2.0, weights=self.weights, reason="said")
        return decision, state + 1


@dataclass(frozen=True, kw_only=True)
class DrawsMore(Says):
    """Decides within a step."""

    in_step = True


def answer(rule: gb.Rule[Any], *, step: int = 0, batch_size: int = 32) -> gb.Decision:
    return rule.update(moments(), progress(step=step, batch_size=batch_size), rule.init())[0]


WITH_STEPS = [gb.Every, gb.Warmup]


@pytest.mark.parametrize(
    ("size", "bounds", "expected"),
    [
        (40, (1, None), 40),
        (40, (40, 40), 40),
        (40, (50, None), 50),
        (40, (50, 60), 50),
        (40, (1, 30), 30),
        (40, (30, 39), 39),
        (10**12, (1, None), 10**12),
    ],
)
def test_clip(size: int, bounds: tuple[int, int | None], expected: int) -> None:
    rule = gb.Clip(rule=Says(size=size), min_batch_size=bounds[0], max_batch_size=bounds[1])
    decision = answer(rule)
    assert decision.batch_size == expected
    assert decision.reason == ("said" if size == expected else f"said; clipped from {size}")


@pytest.mark.parametrize(
    ("size", "multiple", "expected"),
    [
        (40, 1, 40),
        (40, 8, 40),
        (40, 16, 48),
        (39, 16, 32),
        (41, 16, 48),
        (24, 16, 32),
        (3, 64, 64),
        (1, 2, 2),
    ],
)
def test_round_to(size: int, multiple: int, expected: int) -> None:
    decision = answer(gb.RoundTo(rule=Says(size=size), multiple=multiple))
    assert decision.batch_size == expected
    assert decision.reason == ("said" if size == expected else f"said; rounded from {size}")


@given(st.integers(1, 10**9), st.integers(1, 10**5))
def test_round_to_the_nearest_multiple_and_up_on_a_tie(size: int, multiple: int) -> None:
    rounded = answer(gb.RoundTo(rule=Says(size=size), multiple=multiple)).batch_size
    assert rounded % multiple == 0
    assert rounded >= multiple
    distance = Fraction(rounded - size, multiple)
    assert (Fraction(-1, 2) < distance <= Fraction(1, 2)) or (rounded == multiple and size < multiple)


@pytest.mark.parametrize("wrapper", ["clip", "round"])
def test_resizing_leaves_the_rest_of_a_decision(wrapper: str) -> None:
    rule = WRAPPERS[wrapper](Says(size=1000, weights={"layer": (1.0,)}))
    decision, state = rule.update(moments(), progress(), 41)
    assert decision.batch_size != 1000
    assert (decision.step, decision.lr_scale, decision.weights) == (True, 2.0, {"layer": (1.0,)})
    assert state == 42
    assert rule.requires(progress()) == {"noise_scale"}
    assert rule.init() == 0


def test_every_asks_at_its_steps_only() -> None:
    rule = gb.Every(rule=Says(), steps=3)
    measured = [bool(rule.requires(progress(step=step))) for step in range(8)]
    assert measured == [True, False, False, True, False, False, True, False]
    followed = follow(rule, [moments()] * 8)
    assert [d.reason == "said" for d in followed.decisions] == measured
    assert followed.state == {"lr_scale": 2.0, "held": sum(measured)}
    assert {d.batch_size for d in followed.decisions} == {40}


def test_every_holds_the_request_and_the_rate_in_between() -> None:
    rule = gb.Every(rule=Says(), steps=5)
    between = answer(rule, step=7, batch_size=33)
    assert between == gb.Decision(batch_size=33, reason="every 5 steps: held until step 10")
    asked, state = rule.update(moments(), progress(step=10, batch_size=33), rule.init())
    assert (asked.batch_size, asked.lr_scale) == (40, 2.0)
    again, after = rule.update(moments(), progress(step=11, batch_size=40), state)
    assert again == gb.Decision(batch_size=40, lr_scale=2.0, reason="every 5 steps: held until step 15")
    assert after == state


@pytest.mark.parametrize(
    "rule",
    [
        gb.AdaBatch(interval=1, lr_decay=0.4),
        gb.LossRatio(dwell=2, decay=0.0, max_batch_size=40),
        gb.DiveBatch(interval=1, delta=5.0, scale_lr=True),
        gb.ScaleLR(rule=gb.CABS(decay=0.5), base_batch_size=16),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_every_keeps_a_factor_on_the_rate_that_lasts(rule: gb.Rule[Any]) -> None:
    course = [moments(loss=4.0 / (t + 1), variance=50.0) for t in range(60)]
    scales = [d.lr_scale for d in follow(gb.Every(rule=rule, steps=4), course, as_requested=True).decisions]
    assert scales == [scales[t - t % 4] for t in range(60)]
    assert len(set(scales)) > 1


def test_every_single_step_is_the_rule_itself() -> None:
    course = [moments(variance=float(100 * t)) for t in range(30)]
    bare, wrapped = follow(gb.CABS(), course), follow(gb.Every(rule=gb.CABS(), steps=1), course)
    assert wrapped.decisions == bare.decisions
    assert wrapped.state["held"] == bare.state


def test_averages_advance_once_per_asking() -> None:
    course = [moments(variance=float(100 * t)) for t in range(30)]
    asked = follow(gb.CABS(), course[::3])
    spaced = follow(gb.Every(rule=gb.CABS(), steps=3), course)
    assert spaced.state["held"] == asked.state
    assert [d.batch_size for d in spaced.decisions[::3]] == [d.batch_size for d in asked.decisions]


def test_warmup_watches_before_it_obeys() -> None:
    rule = gb.Warmup(rule=Says(), steps=3)
    followed = follow(rule, [moments()] * 5)
    assert [d.batch_size for d in followed.decisions] == [32, 32, 32, 40, 40]
    assert [d.lr_scale for d in followed.decisions] == [1.0, 1.0, 1.0, 2.0, 2.0]
    assert [d.reason for d in followed.decisions[1:4]] == [
        "warm-up 2 of 3; said",
        "warm-up 3 of 3; said",
        "said",
    ]
    assert all(rule.requires(progress(step=step)) == {"noise_scale"} for step in range(5))
    # The held rule saw all five; the count stops where the warm-up ends.
    assert followed.state == {"watched": 3, "held": 5}


def test_no_warmup() -> None:
    assert answer(gb.Warmup(rule=Says(), steps=0)).batch_size == 40


def test_averages_fill_during_the_warmup() -> None:
    course = [moments(variance=float(1000 * t)) for t in range(30)]
    bare, warm = follow(gb.CABS(), course), follow(gb.Warmup(rule=gb.CABS(), steps=20), course)
    assert warm.state["held"] == bare.state
    assert {d.batch_size for d in warm.decisions[:20]} == {32}
    assert warm.decisions[20:] == bare.decisions[20:]


@pytest.mark.parametrize(
    ("present", "ratio", "expected"),
    [
        (40, 1.0, 40),
        (41, 1.0, 40),
        (32, 1.25, 32),
        (31, 1.25, 40),
        (50, 1.25, 50),
        (51, 1.25, 40),
        (39, 1.1, 39),
        (1, 1.1, 40),
    ],
)
def test_hysteresis(present: int, ratio: float, expected: int) -> None:
    decision = answer(gb.Hysteresis(rule=Says(), ratio=ratio), batch_size=present)
    assert decision.batch_size == expected
    held = f"; held within a factor of {ratio:g} at {present} instead of 40"
    assert decision.reason == ("said" if expected == 40 else "said" + held)


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.floats(1.0, 10.0))
def test_hysteresis_is_symmetric_and_never_moves_by_less(present: int, asked: int, ratio: float) -> None:
    there = answer(gb.Hysteresis(rule=Says(size=asked), ratio=ratio), batch_size=present).batch_size
    back = answer(gb.Hysteresis(rule=Says(size=present), ratio=ratio), batch_size=asked).batch_size
    assert (there == present) is (back == asked)
    assert there == present or (there == asked and max(there / present, present / there) >= ratio * (1 - 1e-12))


def test_hysteresis_leaves_the_rest_of_a_decision() -> None:
    rule = gb.Hysteresis(rule=Says(size=33, weights={"layer": (1.0,)}))
    decision, state = rule.update(moments(), progress(), 41)
    assert (decision.batch_size, decision.lr_scale, decision.weights, state) == (32, 2.0, {"layer": (1.0,)}, 42)
    assert rule.requires(progress()) == {"noise_scale"}


def test_a_slow_drift_is_followed_in_leaps() -> None:
    # CABS at decay 0 asks for 100, 101, ..., 199.
    course = [moments(variance=1000.0 + 10 * t) for t in range(100)]
    sizes = [d.batch_size for d in follow(gb.Hysteresis(rule=gb.CABS(decay=0.0), ratio=1.2), course).decisions]
    assert sorted(set(sizes)) == [100, 121, 146, 176]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("ratio", [0.99, 0.0, -1.0, float("nan"), float("inf")])
def test_bad_ratios(ratio: float) -> None:
    with pytest.raises(InvalidInputError, match=f"`ratio` must be a finite number of at least 1, got {ratio}"):
        gb.Hysteresis(rule=Says(), ratio=ratio)


def test_wrappers_compose_from_the_inside_out() -> None:
    inner = gb.Clip(rule=Says(size=1000), max_batch_size=90)
    decision = answer(gb.RoundTo(rule=inner, multiple=64))
    assert decision.batch_size == 64
    assert decision.reason == "said; clipped from 1000; rounded from 90"
    outer = gb.Clip(rule=gb.RoundTo(rule=Says(size=1000), multiple=64), max_batch_size=90)
    assert answer(outer).batch_size == 90


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_an_in_step_rule_is_refused(wrap: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"^\w+ cannot hold DrawsMore, which decides within a step"):
        wrap(DrawsMore())


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("thing", [None, 32, "cabs", gb.CABS], ids=str)
def test_what_is_no_rule_is_refused(wrap: Any, thing: object) -> None:
    with pytest.raises(InvalidInputError, match=r"`rule` of \w+ must be a rule such as CABS\(\), got"):
        wrap(thing)


@pytest.mark.parametrize("wrapper", WITH_STEPS)
@pytest.mark.parametrize("steps", [-1, 1.0, True, "3", None])
def test_bad_steps(wrapper: Any, steps: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"`steps` must be a whole number of at least [01], got {steps!r}"):
        wrapper(rule=Says(), steps=steps)


def test_every_zero_steps_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"`steps`.*at least 1, got 0"):
        gb.Every(rule=Says(), steps=0)


@pytest.mark.parametrize("multiple", [0, -8, 2.0, True])
def test_bad_multiples(multiple: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"`multiple` must .*, got {multiple!r}"):
        gb.RoundTo(rule=Says(), multiple=multiple)


@pytest.mark.parametrize(
    ("bounds", "named"),
    [
        ((0, None), "min_batch_size"),
        ((1.5, None), "min_batch_size"),
        ((9, 8.5), "max_batch_size"),
        ((1, 0), "max_batch_size"),
    ],
)
def test_bad_bounds(bounds: tuple[Any, Any], named: str) -> None:
    with pytest.raises(InvalidInputError, match=f"`{named}` must be a whole number of at least"):
        gb.Clip(rule=Says(), min_batch_size=bounds[0], max_batch_size=bounds[1])
