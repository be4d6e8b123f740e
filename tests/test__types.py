"""The values that flow: what they are by default, what they refuse, and what of them reaches the log."""

import inspect
import json
import math
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

import gradbatch as gb
from cases import moments, progress, record
from gradbatch._types import QUANTITIES
from gradbatch.errors import InvalidInputError

VALUES = [
    gb.LayerStatistics(num_samples=2),
    moments(),
    progress(),
    gb.Decision(batch_size=32),
    record(),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_are_frozen_and_made_by_keyword(value: Any) -> None:
    for item in fields(value):
        with pytest.raises(FrozenInstanceError):
            setattr(value, item.name, None)
    # `slots` alone answers with another error where the class is frozen too (python/cpython#105936).
    with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
        value.something_new = 1
    kinds = {parameter.kind for parameter in inspect.signature(type(value)).parameters.values()}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}


def test_what_was_not_asked_for_is_none() -> None:
    statistics = gb.Statistics(num_samples=4, loss=1.0)
    assert all(getattr(statistics, name) is None for name in (*QUANTITIES, "layers", "groups"))
    assert statistics.extra == {}


@pytest.mark.parametrize("kind", [gb.LayerStatistics, gb.Statistics, gb.Record])
def test_every_quantity_is_a_field(kind: Any) -> None:
    assert set(QUANTITIES) <= {item.name for item in fields(kind)}


def test_a_decision_updates_at_the_scheduled_rate_by_default() -> None:
    decision = gb.Decision(batch_size=7)
    assert (decision.step, decision.lr_scale, decision.weights, decision.reason) == (True, 1.0, None, "")


def test_finite_statistics() -> None:
    assert moments().is_finite
    assert gb.Statistics(num_samples=1, loss=0.0).is_finite
    assert gb.Statistics(num_samples=1, loss=-1e308, grad_sqnorm=1e308).is_finite


@pytest.mark.parametrize("name", ["loss", *QUANTITIES])
def test_not_finite_statistics(name: str) -> None:
    for value in (math.nan, math.inf, -math.inf):
        assert not replace(moments(), **{name: value}).is_finite


def test_a_rule_must_say_all_three_things() -> None:
    class Mute(gb.Rule[None]):
        def init(self) -> None:
            return None

    with pytest.raises(TypeError, match=r"requires.*update"):
        Mute()
    assert not gb.Rule.in_step


def test_a_line_of_the_log() -> None:
    line = record(
        samples_seen=64,
        requested=40,
        batch_size=32,
        grad_sqnorm=2.5,
        reason="why",
        group_lrs=(0.1, 0.02),
        groups=(
            gb.LayerStatistics(num_samples=32, grad_sqnorm=1.5),
            gb.LayerStatistics(num_samples=32, grad_sqnorm=1.0),
        ),
        numbers={"variance": 0.25},
        shadows={"CABS": 16, "CABS-2": 48},
    )
    assert line.to_dict() == {
        "step": 0,
        "samples_seen": 64,
        "epoch": 0.064,
        "batch_size": 32,
        "requested": 40,
        "next_batch_size": 40,
        "micro_batches": 1,
        "lr": 0.1,
        "momentum": 0.0,
        "lr_scale": 1.0,
        "loss": 1.0,
        "seconds": 0.0,
        "reason": "why",
        "skipped": False,
        "grad_sqnorm": 2.5,
        "groups.0.lr": 0.1,
        "groups.1.lr": 0.02,
        "groups.0.num_samples": 32,
        "groups.0.grad_sqnorm": 1.5,
        "groups.1.num_samples": 32,
        "groups.1.grad_sqnorm": 1.0,
        "numbers.variance": 0.25,
        "shadows.CABS": 16,
        "shadows.CABS-2": 48,
    }


@pytest.mark.parametrize(
    "line",
    [
        record(),
        record(loss=0.1 + 0.2, grad_sqnorm=1e-320, noise_scale=1e308, shadows={"Fixed": 1}),
        record(skipped=True, reason="skipped: ∞"),
    ],
)
def test_a_line_survives_json(line: gb.Record) -> None:
    assert gb.Record.from_dict(json.loads(json.dumps(line.to_dict(), allow_nan=False))) == line


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_line_without_finite_numbers(value: float) -> None:
    text = json.dumps(record(loss=value, grad_sqnorm=value).to_dict(), allow_nan=False)
    assert json.loads(text)["loss"] is None
    assert json.loads(text)["grad_sqnorm"] is None
    back = gb.Record.from_dict(json.loads(text))
    assert math.isnan(back.loss)
    assert back.grad_sqnorm is not None
    assert math.isnan(back.grad_sqnorm)
    assert back.sample_sqnorm is None


@pytest.mark.parametrize(
    ("change", "named"),
    [({"loss": ...}, "loss"), ({"lost": 1}, "lost"), ({"shadows": {}}, "shadows")],
    ids=["missing", "unknown", "nested"],
)
def test_what_is_no_line_of_a_log(change: dict[str, Any], named: str) -> None:
    flat = {name: value for name, value in {**record().to_dict(), **change}.items() if value is not ...}
    with pytest.raises(InvalidInputError, match=rf"not a line of a run log.*{named}"):
        gb.Record.from_dict(flat)
