"""ScaleLR: what the size of a batch makes of its learning rate, whatever rule chose it."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradbatch as gb
from cases import follow, moments, progress, trajectory
from gradbatch.errors import InvalidInputError


@dataclass(frozen=True, kw_only=True)
class Halves(gb.Rule[int]):
    """Halves the rate, counts, and has a number of its own."""

    def requires(self, progress: gb.Progress) -> frozenset[str]:
        return frozenset({"sample_sqnorm"})

    def init(self) -> int:
        return 0

    def update(self, statistics: gb.Statistics, progress: gb.Progress, state: int) -> tuple[gb.Decision, int]:
        return gb.Decision(batch_size=40, lr_scale=0.5, reason="said", numbers={"own": 1.0}), state + 1


def scale(method: Any, num_samples: int, rule: gb.Rule[Any] | None = None) -> float:
    held = gb.ScaleLR(rule=rule or gb.Fixed(), base_batch_size=16, method=method)
    return held.update(moments(num_samples=num_samples), progress(), held.init())[0].lr_scale


@given(st.integers(1, 10**6))
def test_linear_and_root(num_samples: int) -> None:
    assert scale("linear", num_samples) == num_samples / 16
    assert scale("sqrt", num_samples) == pytest.approx(math.sqrt(num_samples) / 4, rel=1e-15)


def test_the_held_rules_scale_is_multiplied_and_the_rest_is_left() -> None:
    rule = gb.ScaleLR(rule=Halves(), base_batch_size=16)
    decision, state = rule.update(moments(num_samples=64), progress(), rule.init())
    assert decision == gb.Decision(
        batch_size=40,
        lr_scale=2.0,
        reason="said; learning rate x 4 (linear)",
        numbers={"own": 1.0, "lr_factor": 4.0},
    )
    assert state["held"] == 1


@pytest.mark.parametrize("used", [7, 64])
def test_the_size_that_was_used_and_not_the_one_requested(used: int) -> None:
    rule = gb.ScaleLR(rule=gb.Fixed(), base_batch_size=16)
    decision, _ = rule.update(moments(num_samples=used), progress(batch_size=64), rule.init())
    assert (decision.batch_size, decision.lr_scale) == (64, used / 16)


def test_what_is_required() -> None:
    rules = {m: gb.ScaleLR(rule=Halves(), base_batch_size=16, method=m) for m in ("linear", "sqrt", "adascale")}
    required = {method: rule.requires(progress()) for method, rule in rules.items()}
    assert required["linear"] == required["sqrt"] == {"sample_sqnorm"}
    assert required["adascale"] == {"sample_sqnorm", "grad_variance", "grad_sqnorm"}


def test_the_gain_is_adascales() -> None:
    course = [moments(variance=float(v), num_samples=n) for v, n in [(9, 32), (70, 64), (1, 16), (800, 500)]]
    wrapped = follow(gb.ScaleLR(rule=gb.Fixed(), base_batch_size=16, method="adascale"), course)
    bare = follow(gb.AdaScale(base_batch_size=16), course)
    assert [d.lr_scale for d in wrapped.decisions] == [d.lr_scale for d in bare.decisions]
    assert len({d.lr_scale for d in bare.decisions}) > 2
    assert wrapped.state["moments"] == bare.state["moments"]


def test_the_held_rule_decides_as_if_it_were_alone() -> None:
    # CABS reads the learning rate: it must be the one without the scale.
    course = [moments(variance=100.0 + 40 * t) for t in range(40)]
    bare = follow(gb.CABS(decay=0.5), course)
    assert len({d.batch_size for d in bare.decisions}) > 10
    for method in ("linear", "sqrt", "adascale"):
        wrapped = follow(gb.ScaleLR(rule=gb.CABS(decay=0.5), base_batch_size=16, method=method), course)
        assert [d.batch_size for d in wrapped.decisions] == [d.batch_size for d in bare.decisions]
        assert wrapped.state["held"] == bare.state


def test_a_wrapper_within_and_one_around_see_the_same_scale() -> None:
    course = trajectory(60)
    inner = follow(gb.Clip(rule=gb.ScaleLR(rule=gb.CABS(), base_batch_size=8), max_batch_size=50), course)
    outer = follow(gb.ScaleLR(rule=gb.Clip(rule=gb.CABS(), max_batch_size=50), base_batch_size=8), course)
    assert [(d.batch_size, d.lr_scale) for d in inner.decisions] == [
        (d.batch_size, d.lr_scale) for d in outer.decisions
    ]


def test_without_a_variance_the_averages_stand() -> None:
    rule = gb.ScaleLR(rule=gb.Fixed(), base_batch_size=16, method="adascale")
    single = gb.Statistics(num_samples=1, loss=1.0, grad_sqnorm=1.0)
    assert rule.update(single, progress(), rule.init())[0].lr_scale == 1.0
    _, state = rule.update(moments(variance=31.0, grad_sqnorm=3.0, num_samples=32), progress(), rule.init())
    # tr(Sigma) = 32, |G|^2 = 3 - 1: (32/16 + 2)/(32/1 + 2).
    decision, after = rule.update(single, progress(), state)
    assert decision.lr_scale == pytest.approx(4 / 34)
    assert after == state


@pytest.mark.parametrize("base", [0, -3, 1.5, True, None])
def test_bad_base_batch_sizes(base: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"`base_batch_size` must be a whole number .*, got {base!r}"):
        gb.ScaleLR(rule=gb.Fixed(), base_batch_size=base)


@pytest.mark.parametrize("method", ["none", "Linear", None, 1])
def test_bad_methods(method: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"`method` must be 'linear' or 'sqrt' or 'adascale', got {method!r}"):
        gb.ScaleLR(rule=gb.Fixed(), base_batch_size=16, method=method)
