import math
from collections import Counter

import pytest

from gradbatch.experiments.studies.benches import BENCHES
from gradbatch.experiments.studies.contest import RULES, contest
from gradbatch.experiments.tasks import TASKS


@pytest.fixture(scope="module")
def full():
    return contest("full")


def test_everybody_has_the_same_samples_rates_and_seeds(full):
    for name, bench in BENCHES.items():
        own = [trial for trial in full if trial.place["task"] == name]
        assert {trial.settings.samples for trial in own} == {bench.samples}
        counts = Counter((t.place["optimizer"], t.place["lr"], t.place["seed"]) for t in own)
        assert len({n for (optimizer, _, _), n in counts.items() if optimizer == "sgd"}) == 1
        assert len({n for (optimizer, _, _), n in counts.items() if optimizer == "adam"}) == 1
        assert {t.place["lr"] for t in own if t.place["optimizer"] == "sgd"} == set(bench.rates["sgd"])


def test_with_adam_dear_tasks_have_fewer_rules(full):
    rules = {(t.place["task"], t.place["optimizer"]): set() for t in full}
    for own in full:
        rules[own.place["task"], own.place["optimizer"]].add(own.place.get("rule"))
    assert all(rules[name, "sgd"] == {None, *RULES} for name in BENCHES)
    assert rules["digits", "adam"] == {None, *RULES} - {"ba", "ba, as in the code", "cabs, with momentum", "adascale"}
    assert rules["fashion-cnn", "adam"] == {None, "cabs"} | {name for name in RULES if name.startswith("noise-floor")}


def test_the_rates_span_a_factor_of_thirty():
    for bench in BENCHES.values():
        for rates in bench.rates.values():
            assert max(rates) / min(rates) == pytest.approx(100 / 3, rel=0.15)


def test_what_is_cut_short_is_a_comparison_over_all_tasks_with_sgd_and_one_seed(full):
    begun = [(trial.place["seed"], trial.place["optimizer"]) for trial in full]
    assert begun[0] == (0, "sgd")
    assert sorted(begun, key=lambda own: (own[0], own[1] == "adam")) == begun
    first = {trial.place["task"] for trial in full if (trial.place["seed"], trial.place["optimizer"]) == (0, "sgd")}
    assert first == set(BENCHES)


def test_runs_are_evaluated_as_often_as_is_said(full):
    for trial in full:
        settings, bench = trial.settings, BENCHES[trial.place["task"]]
        assert math.ceil(settings.samples / settings.evaluate_every) == bench.num_evaluations
        assert bench.num_evaluations * settings.evaluate_every >= settings.samples


def test_no_two_trials_are_one(full):
    assert len({trial.key for trial in full}) == len(full)


def test_the_training_sets_have_the_size_that_is_said():
    for bench in BENCHES.values():
        settings = bench.settings
        if "per_class" in settings:
            expected = settings["per_class"] * 10
        else:
            whole = TASKS[settings["task"]].train_samples
            expected = whole - round(settings["validation"] * whole)
        assert bench.train_samples == expected


def test_the_quick_contest_has_something_of_everything():
    quick = contest("quick")
    assert {trial.place["kind"] for trial in quick} == {"none", "cosine", "rule"}
    assert contest("quick", ("mnist",)) == []
    assert {trial.place["rule"] for trial in quick if "rule" in trial.place} <= set(RULES)
