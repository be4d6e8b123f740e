from dataclasses import dataclass
from typing import Any

import pytest

from gradbatch.errors import InvalidInputError
from gradbatch.experiments import rule_settings
from gradbatch.experiments.rule_settings import build_rule, rule_parameters
from gradbatch.rules import CABS, RULES, Schedule


def test_values_take_the_type_of_the_field():
    rule = build_rule("cabs", ["decay=0.5", "max_batch_size=64", "unbiased=yes"])
    assert rule == CABS(decay=0.5, max_batch_size=64, unbiased=True)
    assert build_rule("schedule", ["table=0:8 10:16", "unit=samples"]) == Schedule(table="0:8 10:16", unit="samples")


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_rule_is_built_from_its_own_defaults(name):
    texts = [f"{key}={value}" for key, value in rule_parameters(RULES[name]).items()]
    assert build_rule(name, texts) == RULES[name]()


@dataclass(frozen=True, kw_only=True)
class Optional:
    limit: int | None = 3
    sizes: tuple[int, ...] = ()
    pair: Any = None


def test_optional_and_structured_values(monkeypatch):
    monkeypatch.setitem(rule_settings.RULES, "optional", Optional)
    assert build_rule("optional", ["limit=none", "sizes=(1, 2)"]) == Optional(limit=None, sizes=(1, 2))
    assert build_rule("optional", ["limit=7"]).limit == 7
    with pytest.raises(InvalidInputError, match="`limit` must be a whole number or none"):
        build_rule("optional", ["limit=x"])


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "deca=0.5",
            'no hyper-parameter "deca" of the rule "cabs", did you mean "decay"[?] Known: decay, min_batch_size',
        ),
        ("decay", '"decay" does not set a hyper-parameter: write key=value'),
        ("decay=fast", '`decay` must be a number, got "fast"'),
        ("max_batch_size=1.5", '`max_batch_size` must be a whole number, got "1.5"'),
        ("unbiased=perhaps", "`unbiased` must be true or false"),
        ("decay=2", "`decay` must be at least 0 and below 1"),
    ],
)
def test_what_cannot_be_set_is_a_sentence(assignment, message):
    with pytest.raises(InvalidInputError, match=message):
        build_rule("cabs", [assignment])


def test_a_literal_names_its_values():
    with pytest.raises(InvalidInputError, match="`unit` must be epochs or samples"):
        build_rule("schedule", ["unit=hours"])
