import math

import pytest

from experiments.reproduce.outcomes import outcome, results
from gradbatch.experiments.reproduce.experiment import Plot, Table
from gradbatch.experiments.studies.cabs import EXPERIMENTS
from gradbatch.experiments.studies.cabs_page import level_of, phases_of, samples_to, spread_of

CABS = ("CABS, exact", "CABS, position")
CONSTANTS = ("constant 16", "constant 64")
MNIST, CIFAR10 = EXPERIMENTS
SPEED, SENSITIVITY, COURSE, MOMENTS = (claim.judge for claim in MNIST.claims)


def run(*scores, diverged=None):
    return outcome(test_score=list(scores), batch_loss=[1.0] * len(scores), diverged=diverged)


def with_course(*sizes, updates=10, samples=1000):
    own = outcome(test_score=[0.5], batch_loss=[1.0], updates=updates, samples=samples)
    steps = list(range(1, len(sizes) + 1))
    own.values["course"].update(updates=steps, samples=steps, mean=list(sizes), largest=list(sizes))
    return own


def at_rate(lr, **scores):
    return [({"variant": name, "lr": lr}, own) for name, own in scores.items()]


def test_samples_are_read_off_straight_lines():
    assert samples_to(run(0.5, 0.9), 0.7) == pytest.approx(150)
    assert samples_to(run(0.5, 0.9), 0.3) == 100
    assert samples_to(run(0.5, 0.9), 0.95) == math.inf
    assert samples_to(run(), 0.5) == math.inf


def test_the_target_is_below_the_best_constant_batch_whatever_the_rule_reached():
    entries = at_rate(0.1, **{"constant 16": run(0.9, 0.8), "constant 64": run(0.7), CABS[0]: run(0.99)})
    assert level_of(results(*entries), 0.02) == pytest.approx(0.88)
    assert math.isnan(level_of(results(), 0.02))


@pytest.mark.parametrize(
    ("exact", "position", "answer"),
    [
        (run(0.9, 0.9), run(0.9, 0.9), "holds"),
        (run(0.9, 0.9), run(0.5, 0.9), "in part"),
        (run(0.5, 0.9), run(0.5, 0.6), "does not hold"),
    ],
)
def test_faster_means_fewer_samples_than_the_best_constant_batch(exact, position, answer):
    constants = {"constant 16": run(0.5, 0.9), "constant 64": run(0.3, 0.7)}
    verdict = SPEED(results(*at_rate(0.1, **constants, **{CABS[0]: exact, CABS[1]: position})))
    assert verdict.answer == answer
    if answer == "does not hold":  # the target is 0.895
        assert "constant 16 199, constant 64 –" in verdict.evidence


@pytest.mark.parametrize(
    ("exact", "position", "answer"),
    [((0.9, 0.8), (0.9, 0.8), "holds"), ((0.9, 0.8), (0.9, 0.2), "in part"), ((0.9, 0.2), (0.9, 0.3), "does not hold")],
)
def test_less_sensitive_means_less_spread_than_the_steadiest_constant_batch(exact, position, answer):
    at = {"constant 16": (0.9, 0.6), "constant 64": (0.5, 0.1), CABS[0]: exact, CABS[1]: position}
    entries = [one for n, lr in enumerate((0.1, 0.3)) for one in at_rate(lr, **{k: run(v[n]) for k, v in at.items()})]
    verdict = SENSITIVITY(results(*entries))
    assert verdict.answer == answer
    assert "the most accurate constant batch is constant 16" in verdict.evidence


@pytest.mark.parametrize(
    ("constant", "exact", "position", "answer"),
    [
        ((0.9, 0.6), (0.9, 0.8), (0.9, 0.8), "holds"),  # though the other constant batch is as steady as can be
        ((0.9, 0.6), (0.9, 0.8), (0.1, 0.1), "in part"),
        ((0.9, 0.6), (None, None), (0.1, 0.1), "does not hold"),
        ((0.3, 0.2), (0.9, 0.8), (0.9, 0.8), "undecided"),
    ],
)
def test_what_stays_at_chance_is_not_steady(constant, exact, position, answer):
    def at(score):
        return run(0.9, diverged="nan") if score is None else run(score)

    scores = {"constant 16": constant, "constant 64": (0.1, 0.1), CABS[0]: exact, CABS[1]: position}
    entries = [one for n in (0, 1) for one in at_rate((0.1, 0.3)[n], **{k: at(v[n]) for k, v in scores.items()})]
    assert SENSITIVITY(results(*entries)).answer == answer


def test_a_run_that_diverged_counts_as_guessing():
    entries = [*at_rate(0.1, **{"constant 16": run(0.9)}), *at_rate(0.3, **{"constant 16": run(diverged="nan")})]
    assert spread_of(results(*entries), "constant 16") == pytest.approx(0.8)


def test_a_spread_over_rates_is_none_over_seeds():
    entries = [at_rate(0.1, **{"constant 16": run(score)})[0] for score in (0.8, 0.9)]
    assert math.isnan(spread_of(results(*entries), "constant 16"))
    entries += [at_rate(0.3, **{"constant 16": run(0.8)})[0]]
    assert spread_of(results(*entries), "constant 16") == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("exact", "position", "answer"),
    [
        ([16, 16, 300, 40], [16, 16, 200, 40], "holds"),
        ([16, 16, 300, 40], [16, 16, 16, 16], "in part"),
        ([16, 16, 70, 20], [16, 16, 60, 60], "in part"),
        ([16, 16, 300, 300], [16, 16, 30, 16], "does not hold"),
        ([64, 300, 300, 16], [64, 300, 300, 16], "does not hold"),
        ([21, 300, 300, 16], [21, 300, 300, 16], "does not hold"),
    ],
)
def test_the_course_is_long_then_large_then_small_again(exact, position, answer):
    found = results(({"course": CABS[0]}, with_course(*exact)), ({"course": CABS[1]}, with_course(*position)))
    assert COURSE(found).answer == answer


def test_phases_of_a_course():
    assert phases_of(with_course(10, 20, 90, 5, 40, 60, 70, 80)) == (15, 90, 5)


@pytest.mark.parametrize(("updates", "answer"), [(20, "holds"), (11, "does not hold")])
def test_moments_are_told_apart_by_mean_sizes(updates, answer):
    place = [{"course": name} for name in CABS]
    found = results((place[0], with_course(16)), (place[1], with_course(16, updates=updates)))
    assert MOMENTS(found).answer == answer


def test_the_page_has_what_was_run_and_no_more():
    few = results(*at_rate(0.1, **{"constant 16": run(0.5, 0.9), CABS[0]: None}))
    rates, speed, curves = MNIST.blocks(few)
    assert isinstance(rates, Table)
    assert [row[1] for row in rates.rows] == ["**90.00** / 90.00 / –", "–"]
    assert isinstance(speed, Table)
    assert [row[1] for row in speed.rows] == ["199", "–"]
    assert isinstance(curves, Plot)
    assert [len(panel.curves) for panel in curves.panels] == [1, 1, 1]
    *_, course, table = MNIST.blocks(
        results(({"course": CABS[0]}, with_course(16, 64, 32)), ({"course": CABS[1]}, None))
    )
    assert isinstance(course, Plot)
    assert isinstance(table, Table)
    assert table.rows == [[CABS[0], "16", "64", "32", "1", "1"]]


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)
def test_the_grid_has_equal_samples_and_begins_at_the_authors_rate(experiment):
    trials = experiment.trials("full")
    grid = [one for one in trials if "variant" in one.place]
    assert len({one.key for one in trials}) == len(trials) == 3 * 5 + 1 + 2
    assert len({one.settings.samples for one in grid}) == 1
    assert [one.place.get("lr", 0.1) for one in trials[:8]] == [0.1] * 8
    assert all(one.settings.momentum == 0 for one in trials)
    smith = next(one for one in grid if one.settings.rule == "schedule")
    quarter = smith.settings.samples // 4
    assert smith.settings.set[0].startswith(f"table=0:16 {quarter}:32 ")


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)
def test_the_quick_scale_is_two_runs(experiment):
    assert len({one.key for one in experiment.trials("quick")}) == 2
