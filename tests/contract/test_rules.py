"""The laws that hold for every rule, bare and inside of every wrapper."""

import inspect
import json
import math
import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from typing import Any

import pytest

import gradbatch as gb
from cases import EXTREMES, ONE_RATE, RULES, WRAPPERS, Course, follow, moments, only, progress, trajectory
from gradbatch import rules
from gradbatch._types import QUANTITIES, STRIDE_QUANTITIES
from gradbatch.asking import ask, lacking
from gradbatch.errors import InvalidInputError
from gradbatch.replay import progress_of, statistics_of

KNOWN = {*QUANTITIES, *STRIDE_QUANTITIES, "layers", "groups"}
NON_FINITE = [("loss", math.nan), ("loss", -math.inf), ("grad_sqnorm", math.nan), ("sample_sqnorm", math.inf)]
STEPS = 200
"""Long enough for the averages of CABS to forget their start: 0.95^200 < 1e-4."""


def _all_rules() -> Iterator[Any]:
    """Every case, every unwrapped one in every wrapper that can hold it, and wrappers in wrappers."""
    for name, make in RULES.items():
        yield pytest.param(make(), id=name)
        if not make().in_step and not hasattr(make(), "rule"):
            yield from (pytest.param(wrap(make()), id=f"{name} in {by}") for by, wrap in WRAPPERS.items())
    yield pytest.param(WRAPPERS["every"](WRAPPERS["warm-up"](gb.CABS(decay=0.5))), id="warm-up in every")
    yield pytest.param(WRAPPERS["warm-up"](WRAPPERS["every"](gb.CABS(decay=0.5))), id="every in warm-up")


every_rule = pytest.mark.parametrize("rule", list(_all_rules()))
every_rule_in_groups = pytest.mark.parametrize(
    ("rule", "groups"),
    [
        pytest.param(*case.values, groups, id=f"{case.id}, {len(groups) or 1} group(s)")
        for groups in ((), (0.75, 0.25))
        for case in _all_rules()
        if not (groups and isinstance(case.values[0], ONE_RATE))
    ],
)


def through_json(state: Any) -> Any:
    return json.loads(json.dumps(state, allow_nan=False))


def numbers(state: Any) -> Iterator[float]:
    """Every number in a state."""
    if isinstance(state, dict | list):
        for part in state.values() if isinstance(state, dict) else state:
            yield from numbers(part)
    elif isinstance(state, int | float):
        yield state


def assert_size(size: object) -> None:
    assert type(size) is int
    assert size >= 1


def test_every_rule_has_a_case() -> None:
    def held(rule: Any) -> Iterator[type]:
        yield type(rule)
        if hasattr(rule, "rule"):
            yield from held(rule.rule)

    public = {value for name in rules.__all__ if inspect.isclass(value := getattr(rules, name))}
    covered = {kind for make in RULES.values() for kind in held(make())}
    assert public - covered == set()
    assert set(rules.RULES.values()) <= public
    wrappers = {kind for kind in public if any(item.name == "rule" for item in fields(kind))}
    assert wrappers == {type(wrap(gb.Fixed())) for wrap in WRAPPERS.values()}


@every_rule_in_groups
def test_update_is_pure(rule: gb.Rule[Any], groups: tuple[float, ...]) -> None:
    group_lrs = (0.1, 0.02) if groups else ()
    # A state with something in it: one that a run has led to, not the empty one.
    state = follow(rule, trajectory(7, groups=groups)).state
    for step in range(6):
        here = progress(step=step, samples_seen=900, group_lrs=group_lrs)
        statistics = only(moments(groups=groups), rule.requires(here))
        before = repr((rule, statistics, here, state))  # strides compare by identity
        first = deepcopy(rule.update(statistics, here, state))
        assert repr((rule, statistics, here, state)) == before
        assert rule.update(statistics, here, state) == first
        assert repr((rule, statistics, here, state)) == before
        state = first[1]


@every_rule
def test_init_is_a_new_state_each_time(rule: gb.Rule[Any]) -> None:
    fresh = deepcopy(rule.init())
    follow(rule, trajectory(5))
    assert rule.init() == fresh


@every_rule_in_groups
def test_state_survives_json(rule: gb.Rule[Any], groups: tuple[float, ...]) -> None:
    course = trajectory(STEPS, groups=groups)
    plain = follow(rule, course)
    carried = follow(rule, course, carry=through_json)
    # Equality of the whole state tells tuples from lists and 1 from "1"; JSON keeps every bit of a float.
    assert carried.state == plain.state == through_json(plain.state)
    assert carried.decisions == plain.decisions


@every_rule_in_groups
def test_sizes_are_sizes(rule: gb.Rule[Any], groups: tuple[float, ...]) -> None:
    followed = follow(rule, trajectory(STEPS, groups=groups, seed=1))
    for decision in followed.decisions:
        assert_size(decision.batch_size)
        assert math.isfinite(decision.lr_scale)
        assert decision.lr_scale > 0
        assert decision.reason
    assert all(math.isfinite(number) for number in numbers(followed.state))


@pytest.mark.parametrize("extreme", EXTREMES, ids=str)
def test_sizes_are_sizes_at_the_edge(extreme: dict[str, float]) -> None:
    # Again and again, so that the averages go where it leads: a decay of 0.5 leaves 2^-30 of what was before.
    for name, make in RULES.items():
        followed = follow(make(), [moments(**extreme)] * 30)
        assert all(type(d.batch_size) is int and d.batch_size >= 1 for d in followed.decisions), name
        assert all(math.isfinite(number) for number in numbers(followed.state)), name


@every_rule
def test_own_bounds_are_kept(rule: gb.Rule[Any]) -> None:
    smallest = getattr(rule, "min_batch_size", 1)
    largest = getattr(rule, "max_batch_size", None) or math.inf
    # A held answer repeats the request, such as the first one, from before the rule was ever obeyed.
    decisions = follow(rule, trajectory(STEPS), as_requested=True).decisions
    obeyed = [d.batch_size for d in decisions if not re.match(r"([\w-]+: )?held", d.reason)]
    assert len(obeyed) > STEPS // 4
    assert all(smallest <= size <= largest for size in obeyed)


@every_rule_in_groups
def test_requires_known_names(rule: gb.Rule[Any], groups: tuple[float, ...]) -> None:
    group_lrs = (0.1, 0.02) if groups else ()
    for step in range(7):
        quantities = rule.requires(progress(step=step, samples_seen=32 * step, group_lrs=group_lrs))
        assert type(quantities) is frozenset
        assert {name.partition(":")[0] for name in quantities} <= KNOWN


@every_rule
def test_several_learning_rates_are_taken_or_refused(rule: gb.Rule[Any]) -> None:
    here = progress(group_lrs=(0.1, 0.02))
    if isinstance(rule, ONE_RATE):
        with pytest.raises(InvalidInputError, match="one learning rate"):
            rule.requires(here)
    else:
        assert {name.partition(":")[0] for name in rule.requires(here)} <= KNOWN


@every_rule
def test_rules_are_frozen_values(rule: gb.Rule[Any]) -> None:
    assert is_dataclass(rule)
    for item in fields(rule):
        with pytest.raises(FrozenInstanceError):
            setattr(rule, item.name, getattr(rule, item.name))
    with pytest.raises(FrozenInstanceError):
        rule.something_new = 1
    twin = deepcopy(rule)
    assert twin == rule
    assert hash(twin) == hash(rule)
    assert eval(repr(rule), vars(gb).copy()) == rule


@every_rule
def test_hyper_parameters_are_keywords(rule: gb.Rule[Any]) -> None:
    parameters = inspect.signature(type(rule)).parameters.values()
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in parameters)
    with pytest.raises(TypeError):
        type(rule)(3)


@every_rule
def test_one_sample(rule: gb.Rule[Any]) -> None:
    single = moments(num_samples=1)
    for decision in follow(rule, [single] * 7 + [moments()] + [single] * 3).decisions:
        assert_size(decision.batch_size)


@every_rule
@pytest.mark.parametrize(("field", "value"), NON_FINITE)
def test_not_finite(rule: gb.Rule[Any], field: str, value: float) -> None:
    state = follow(rule, trajectory(9)).state
    before = deepcopy(state)
    here = progress(step=6, samples_seen=300, batch_size=77)
    broken = replace(moments(), **{field: value})

    # As the controller asks: the size is held and the state is the old one, whatever the rule.
    decision, after = ask(rule, broken, here, state, lacking(broken, rule.requires(here)))
    assert (decision.batch_size, decision.step, decision.lr_scale) == (77, True, 1.0)
    assert "not finite" in decision.reason
    assert after == state == before

    # Asked directly: an answer that can be used, and nothing that poisons the averages.
    decision, after = rule.update(broken, here, state)
    assert_size(decision.batch_size)
    assert state == before
    assert all(math.isfinite(number) for number in numbers(after))


@every_rule
def test_a_batch_that_cannot_give_what_was_asked(rule: gb.Rule[Any]) -> None:
    state = follow(rule, trajectory(9)).state
    here = progress(step=6, batch_size=77)
    empty = gb.Statistics(num_samples=32, loss=1.0)
    absent = lacking(empty, rule.requires(here))
    assert absent == rule.requires(here) - {"noise_scale"}
    decision, after = ask(rule, empty, here, state, absent)
    if absent:
        assert decision.batch_size == 77
        assert all(name in decision.reason for name in absent)
        assert after == state
    else:
        assert_size(decision.batch_size)


@every_rule
def test_replay_of_a_log(rule: gb.Rule[Any]) -> None:
    followed = follow(rule, trajectory(STEPS))
    lines = [json.dumps(line.to_dict(), allow_nan=False) for line in _log(followed)]
    # The log has no place for strides, which are large.
    assert _replayed(rule, lines, [whole.strides for whole in followed.statistics]) == followed.decisions


def _log(followed: Course) -> Iterator[gb.Record]:
    """The records that a run along the course would have written."""
    for statistics, here, decision in zip(followed.statistics, followed.places, followed.decisions, strict=True):
        yield gb.Record(
            step=here.step,
            samples_seen=here.samples_seen,
            epoch=here.epoch,
            batch_size=statistics.num_samples,
            requested=here.batch_size,
            next_batch_size=decision.batch_size,
            micro_batches=1,
            lr=here.lr,
            lr_scale=decision.lr_scale,
            loss=statistics.loss,
            seconds=here.seconds,
            reason=decision.reason,
            **{name: getattr(statistics, name) for name in QUANTITIES},
        )


def _replayed(rule: gb.Rule[Any], lines: list[str], strides: list[Any]) -> list[gb.Decision]:
    """The rule's decisions on what the log holds, and the strides, which no log has."""
    decisions, state = [], rule.init()
    for line, own in zip(lines, strides, strict=True):
        logged = gb.Record.from_dict(json.loads(line))
        here, statistics = progress_of(logged), replace(statistics_of(logged), strides=own)
        before = replace(here, samples_seen=here.samples_seen - logged.batch_size)
        decision, state = ask(rule, statistics, here, state, lacking(statistics, rule.requires(before)))
        decisions.append(decision)
    return decisions
