import math

import pytest

from experiments.reproduce.outcomes import outcome, results
from experiments.studies.fields import RATES, field
from gradbatch.experiments.studies.gains import (
    against,
    chance_of,
    decayed,
    matched,
    of_learned,
    searched,
    spread_ratio,
    time_ratio,
    unsearched,
    untuned,
    update_ratio,
)
from gradbatch.experiments.studies.standings import Field


def test_by_hand():
    own = field()
    # At the rates the best constants have 0.90, 0.92, 0.97 (4 samples) and 0.96; the rule 0.91, 0.915, 0.92, 0.925.
    assert matched(own, "cabs") == pytest.approx(100 * (0.9375 - 0.9175))
    # Under a cosine decay each has a point more.
    assert decayed(own, "cabs") == pytest.approx(100 * (0.9475 - 0.9175))
    assert against(own, "cabs", "none") == pytest.approx(100 * (0.97 - 0.925))
    assert against(own, "cabs", "cosine") == pytest.approx(100 * (0.98 - 0.925))
    assert searched(own, "cabs") == pytest.approx(100 * (0.98 - 0.925))
    assert update_ratio(own, "cabs") == pytest.approx(0.3)
    assert time_ratio(own, "cabs") == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("task", "chance", "best", "score"),
    [("digits", 0.1, 0.9, 0.8), ("semeval", 0.0, 0.8, 0.7), ("shakespeare", 6.022, 2.0, 2.5)],
)
def test_regrets_of_different_metrics_are_shares_of_what_is_learned(task, chance, best, score):
    entries = [
        ({"task": task, "optimizer": "sgd", "lr": 0.1, **place}, outcome(test_score=[own], validation_score=[own]))
        for place, own in (({"kind": "none", "size": 16}, best), ({"kind": "rule", "rule": "cabs"}, score))
    ]
    own = Field.of(results(*entries), task, "sgd")
    assert of_learned(matched, own, "cabs") == pytest.approx(100 * (best - score) / (best - chance))


def test_a_constant_batch_is_a_contender_like_any_rule():
    own = field()
    # It has 0.85, 0.87, 0.89 and 0.91.
    assert matched(own, "constant 16") == pytest.approx(100 * (0.9375 - 0.88))
    assert searched(own, "constant 4, cosine") == pytest.approx(0.0)


def test_a_rate_that_nobody_searched_for_loses_the_mean_over_the_rates():
    # The search finds 0.98; the rule has 0.91, 0.915, 0.92 and 0.925.
    assert untuned(field(), "cabs") == pytest.approx(100 * (0.98 - 0.9175))
    assert math.isnan(untuned(field(lambda place: place["kind"] == "cosine" and place["seed"] == 1), "cabs"))


def test_what_nobody_searched_for_is_batches_of_16():
    # They have 0.85, 0.87, 0.89 and 0.91, the rule 0.91, 0.915, 0.92 and 0.925.
    assert unsearched(field(), "cabs") == pytest.approx(100 * (0.88 - 0.9175))
    assert math.isnan(unsearched(field(lambda place: place.get("size") == 16 and place["seed"] == 1), "cabs"))


def test_chance_is_that_of_the_seeds():
    def jittered(place):
        return 0.01 * (place["seed"] - 1) if place.get("rule") == "cabs" else 0.0

    # The regrets of the seeds are 3, 2 and 1: a standard error of 1 / sqrt(3), and 4.30 of them to each side.
    assert chance_of(matched, field(shift=jittered), "cabs") == pytest.approx(4.30 / math.sqrt(3))
    assert chance_of(matched, field(), "cabs") == pytest.approx(0.0, abs=1e-9)
    assert math.isnan(chance_of(matched, field(lambda place: place.get("rule") == "cabs"), "cabs"))


def test_with_one_seed_chance_is_that_of_the_test_set():
    own = Field.of(field().results.at(seed=0), "digits", "sgd")
    assert chance_of(matched, own, "cabs") == pytest.approx(100 * 2 * math.sqrt(2 * 0.98 * 0.02 / 360))


def test_the_spread_is_against_the_batch_that_is_best_over_all_rates():
    # The best cell is of 4 samples, which fail at the largest rate; over the rates 64 are best, with a spread of 6.
    own = field()
    assert own.best_of_grid("none").size == 4
    assert spread_ratio(own, "cabs") == pytest.approx(1.5 / 6.0)


@pytest.mark.parametrize(
    "missing",
    [
        lambda place: place.get("rule") == "cabs" and place["lr"] == RATES[0],
        lambda place: place.get("rule") == "cabs" and place["seed"] == 2,
        lambda place: place["kind"] == "none" and place["size"] == 8 and place["seed"] == 1,
    ],
)
def test_nothing_is_said_before_everything_was_run(missing):
    own = field(missing)
    assert math.isnan(matched(own, "cabs"))
    assert math.isnan(against(own, "cabs", "none"))
    assert math.isnan(spread_ratio(own, "cabs"))
    assert math.isnan(update_ratio(own, "cabs"))
    assert math.isfinite(matched(own, "dba")) == (missing({"rule": "cabs", "kind": "rule", "lr": RATES[0], "seed": 2}))
