import math

import pytest

from experiments.reproduce.outcomes import outcome, results
from gradbatch.experiments.studies.standings import Field


def scored(test, validation=None, line=1, **values):
    validation = test if validation is None else validation
    return outcome(line, test_score=[0.1, test], validation_score=[0.1, validation], **values)


def entry(found, *, lr, task="digits", optimizer="sgd", **place):
    return ({"task": task, "optimizer": optimizer, "lr": lr, **place}, found)


def constant(found, *, lr, size, kind="none", **place):
    return entry(found, lr=lr, kind=kind, size=size, **place)


def rule(found, *, lr, name="cabs", **place):
    return entry(found, lr=lr, kind="rule", rule=name, **place)


@pytest.fixture
def field():
    return Field.of(
        results(
            constant(scored(0.80, 0.90), lr=0.01, size=16),
            constant(scored(0.85, 0.70), lr=0.01, size=64),
            constant(scored(0.90, 0.92, updates=100), lr=0.03, size=64),
            constant(scored(0.95, 0.95), lr=0.03, size=64, kind="cosine"),
            rule(scored(0.82), lr=0.01),
            rule(scored(0.87, updates=25), lr=0.03),
            rule(scored(0.89), lr=0.03),
        ),
        "digits",
        "sgd",
    )


def test_the_validation_set_chooses_and_the_test_set_reports(field):
    assert field.rates == [0.01, 0.03]
    assert (field.best_constant(0.01).size, field.best_constant(0.01).test) == (16, 0.80)
    best = field.best_of_grid("none")
    assert (best.size, best.rate, best.test) == (64, 0.03, 0.90)
    assert field.best_of_grid("cosine").test == 0.95
    assert field.best_of_grid("none", "cosine").test == 0.95


def test_regret_is_in_points_at_the_same_rate(field):
    assert field.regrets("cabs") == pytest.approx([-2.0, 2.0])  # 0.82 and the mean of 0.87 and 0.89
    assert field.regrets("nothing") == []


def test_chance_is_the_median_deviation_over_seeds(field):
    # 0.87 and 0.89 are all that has two seeds: 2 points apart, with a standard deviation of 2 / sqrt(2)
    assert field.seed_deviation() == pytest.approx(math.sqrt(2))
    pairs = [(16, 0.01), (64, 0.02), (256, 0.3)]
    several = [constant(scored(0.6 + sign * x), lr=0.01, size=n) for n, x in pairs for sign in (-1, 1)]
    assert Field.of(results(*several), "digits", "sgd").seed_deviation() == pytest.approx(2 * math.sqrt(2))
    one_seed = Field.of(results(constant(scored(0.8), lr=0.01, size=16)), "digits", "sgd")
    assert math.isnan(one_seed.seed_deviation())
    losses = results(rule(scored(2.0), lr=0.01, task="shakespeare"), rule(scored(2.2), lr=0.01, task="shakespeare"))
    relative = 100 * math.sqrt(0.02) / 2.1
    assert Field.of(losses, "shakespeare", "sgd").seed_deviation() == pytest.approx(relative)


def test_a_run_that_something_held_up_has_no_seconds():
    def timed(seconds, updates, line):
        return scored(0.8, line=line, seconds=seconds, updates=updates, samples=1000)

    field = Field.of(
        results(
            rule(timed(1.0, 100, 1), lr=0.01),
            rule(timed(1.2, 100, 2), lr=0.02),
            rule(timed(1.1, 100, 5), lr=0.03),
            rule(timed(5.0, 100, 3), lr=0.1),  # five times as long as usual
            rule(timed(1.0, 10, 4), lr=0.3),  # longer for an update, which has more samples
        ),
        "digits",
        "sgd",
    )
    slow, large = (field.at(rate, kind="rule", rule="cabs") for rate in (0.1, 0.3))
    assert math.isnan(field.seconds(slow))
    assert math.isnan(field.seconds_to_target(slow.outcomes[0], 0.5))
    assert field.seconds(large) == 1.0


def test_a_size_is_settled_once_the_start_is_over():
    def sized(*largest):
        own = scored(0.8)
        own.values["course"]["largest"] = list(largest)
        return own

    found = (sized(32, 16, 16), sized(32, 16, 17), sized(32, 32, 32))
    field = Field.of(results(*(rule(one, lr=n / 100) for n, one in enumerate(found, 1))), "digits", "sgd")
    assert [one.settled_size for one in field.over_rates(kind="rule", rule="cabs")] == [16, None, 32]


def test_the_spread_is_over_rates(field):
    assert field.spread(field.over_rates(kind="rule", rule="cabs")) == pytest.approx(6.0)
    assert [one.test for one in field.constant_over_rates()] == [0.85, 0.90]
    assert math.isnan(field.spread(field.over_rates(kind="rule", rule="nothing")))


def test_of_a_loss_the_lower_is_better_and_regret_is_relative():
    place = {"task": "shakespeare"}
    field = Field.of(
        results(
            constant(scored(2.0), lr=0.1, size=16, **place),
            constant(scored(2.5), lr=0.1, size=64, **place),
            rule(scored(2.1), lr=0.1, **place),
        ),
        "shakespeare",
        "sgd",
    )
    assert field.best_constant(0.1).size == 16
    assert field.regrets("cabs") == pytest.approx([5.0])


def test_a_run_that_diverged_knows_nothing():
    field = Field.of(
        results(rule(scored(0.8, diverged="the loss was nan"), lr=0.01), rule(outcome(), lr=0.03)), "digits", "sgd"
    )
    assert [one.test for one in field.over_rates(kind="rule", rule="cabs")] == [0.1, 0.1]


def test_costs_to_a_target_are_those_of_the_first_evaluation_that_reaches_it(field):
    one = outcome(validation_score=[0.5, 0.8, 0.7, 0.9], seconds=[1.0, 2.0, 3.0, 4.0])
    assert field.to_target(one, 0.75, "samples_seen") == 200
    assert field.to_target(one, 0.75, "seconds") == 2.0
    assert math.isnan(field.to_target(one, 0.95, "seconds"))
