import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from gradbatch.cli import _parser
from gradbatch.errors import InvalidInputError
from gradbatch.experiments.reproduce import trial as trial_module
from gradbatch.experiments.reproduce.trial import trial
from gradbatch.experiments.settings import TrainSettings
from gradbatch.rules import CABS


def measure(settings, progress, rounds=1):
    return {"rounds": rounds}


class Nameless:
    def __call__(self, settings, progress):
        return {}


def test_a_key_is_of_what_is_run_and_of_nothing_else():
    one = trial(place={"a": 1}, lr=0.3, rule="cabs")
    other_place = trial(place={"b": 2}, lr=0.3, rule="cabs")
    elsewhere = replace(one, settings=replace(one.settings, out=Path("x"), data_dir=Path("y"), device="cpu"))
    assert one.key == other_place.key == elsewhere.key
    changes = ({"lr": 0.31}, {"seed": 1}, {"set": ("decay=0.9",)}, {"epochs": 3}, {"evaluate_every": 10})
    keys = {trial(place={}, **{"lr": 0.3, "rule": "cabs"} | change).key for change in changes}
    assert len(keys | {one.key}) == len(changes) + 1


def test_a_default_of_the_task_and_the_same_value_named_are_one_trial():
    assert trial(place={}).key == trial(place={}, lr=0.5, epochs=20, model="mlp").key


def test_a_rule_with_other_defaults_is_another_trial(monkeypatch):
    key = trial(place={}, rule="cabs").key
    assert trial(place={}, rule="cabs").key == key
    monkeypatch.setattr(trial_module, "build_rule", lambda name, assignments: CABS(decay=0.9))
    assert trial(place={}, rule="cabs").key != key


def test_other_work_on_the_same_settings_is_another_trial():
    keys = {trial(place={}).key, trial(measure, place={}).key}
    keys |= {trial(partial(measure, rounds=n), place={}).key for n in (2, 3)}
    assert len(keys) == 4
    assert trial(partial(measure, rounds=2), place={}).key in keys


def test_work_without_a_name_has_no_key():
    with pytest.raises(AttributeError):
        _ = trial(Nameless(), place={}).key


def test_the_command_repeats_the_trial():
    own = trial(place={}, task="mnist", rule="dba", set=("metric=variance", "stride=10"), nesterov=True, momentum=0.9)
    words = shlex.split(own.command)
    assert words[:3] == ["gradbatch", "train", "mnist"]
    assert "--nesterov" in words
    start = words.index("--set")
    assert words[start + 1 : start + 3] == ["metric=variance", "stride=10"]
    assert "--out" not in words
    parsed = vars(_parser().parse_args(words[1:]))
    parsed.pop("command")
    assert (
        trial(place={}, **{name: tuple(v) if isinstance(v, list) else v for name, v in parsed.items()}).key == own.key
    )
    assert trial(measure, place={}).command == ""


def test_the_seed_belongs_to_the_place():
    assert trial(place={"rule": "cabs"}, seed=4).place == {"rule": "cabs", "seed": 4}


def test_settings_that_cannot_be_used_are_refused_when_declared():
    with pytest.raises(InvalidInputError, match="momentum"):
        trial(place={}, optimizer="adam", momentum=0.9)
    assert isinstance(trial(place={}).settings, TrainSettings)
