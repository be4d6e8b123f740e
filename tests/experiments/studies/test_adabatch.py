import math

import pytest

import gradbatch as gb
from cases import progress
from experiments.reproduce.outcomes import outcome, results
from gradbatch.experiments.reproduce.experiment import Plot, Table
from gradbatch.experiments.rule_settings import build_rule
from gradbatch.experiments.studies.adabatch import EXPERIMENTS
from gradbatch.experiments.studies.adabatch_page import stage_seconds

CIFAR10, LONG, FASHION = EXPERIMENTS
WITHIN, BETTER, FASTER = (claim.judge for claim in FASHION.claims)
VARIANTS = ("AdaBatch", "fixed small", "fixed large")


def run(score, seconds=range(1, 11), diverged=None):
    """A run of ten epochs of 100 samples, evaluated at the end of each."""
    columns = {"test_score": [score] * 10, "batch_loss": [1.0] * 10, "batch_size": [8.0] * 10}
    one = outcome(**columns, seconds=list(seconds), train_samples=100, diverged=diverged)
    one.values["seconds"] = one.curve("seconds")[-1]
    return one


def network(model, *scores, **seconds):
    """The variants of a network by their accuracies, and the times of AdaBatch's run."""
    runs = [None if score is None else run(score, **(seconds if n == 0 else {})) for n, score in enumerate(scores)]
    return [({"model": model, "variant": name}, own) for name, own in zip(VARIANTS, runs, strict=True)]


QUICKER = [2, 4, 6, 8, 10, 12, 14, 16, 17, 18]


def test_seconds_are_per_epoch_of_each_stage():
    assert stage_seconds(run(0.5, QUICKER)) == pytest.approx([2, 2, 2, 2, 1])


def test_a_run_that_diverged_has_no_stages():
    assert all(map(math.isnan, stage_seconds(run(0.5, QUICKER, diverged="not finite"))))


@pytest.mark.parametrize(
    ("scores", "within", "better"),
    [
        ((0.895, 0.90, 0.889), "holds", "holds"),
        ((0.885, 0.90, 0.5), "does not hold", "holds"),
        ((0.895, 0.90, 0.891), "holds", "does not hold"),
    ],
)
def test_accuracy_is_held_against_both_constant_batches(scores, within, better):
    found = results(*network("net", *scores))
    assert WITHIN(found).answer == within
    assert BETTER(found).answer == better


def test_a_claim_that_holds_for_some_networks_holds_in_part():
    found = results(*network("a", 0.9, 0.9, 0.1), *network("b", 0.8, 0.9, 0.1))
    verdict = WITHIN(found)
    assert verdict.answer == "in part"
    assert verdict.evidence.startswith("a: AdaBatch 90.00 %, fixed small 90.00 %, fixed large 10.00 %; b: ")


def test_faster_is_the_last_stage_against_the_first():
    faster = FASTER(results(*network("net", 0.9, 0.9, 0.9, seconds=QUICKER)))
    assert faster.answer == "holds"
    assert "2.00 times as fast as with the first, the whole run 0.56 times" in faster.evidence
    assert FASTER(results(*network("net", 0.9, 0.9, 0.9))).answer == "does not hold"


def test_a_run_that_diverged_is_no_faster_for_it():
    lost = run(0.9, [0.1] * 10, diverged="not finite")
    found = results(({"model": "net", "variant": "AdaBatch"}, lost), *network("net", None, 0.9, 0.9))
    assert FASTER(found).answer == "does not hold"
    assert "nan times as fast as with the small batch" in FASTER(found).evidence
    assert FASHION.blocks(found)[1].rows[0][2:4] == ["–", "–"]


def test_the_page_has_what_was_run_and_no_more():
    found = results(*network("net", 0.9, 0.8, None, seconds=QUICKER))
    accuracy, times, curves = FASHION.blocks(found)
    assert isinstance(accuracy, Table)
    assert accuracy.rows[0] == ["net", "AdaBatch, 32 to 64", "90.00", "–", "90.00", "10", "1"]
    assert accuracy.rows[2][1:] == ["fixed large, –", *["–"] * 5]
    assert isinstance(times, Table)
    assert [row[2:9] for row in times.rows] == [["18", "0.56"] + ["2.0"] * 4 + ["1.0"], ["10", "1.00"] + ["1.0"] * 5]
    assert [type(block) for block in LONG.blocks(found)] == [Table, Plot]
    assert isinstance(curves, Plot)
    assert [len(panel.curves) for panel in curves.panels] == [2, 2, 2]


def test_a_run_that_diverged_ends_with_guessing():
    lost = ({"model": "net", "variant": "AdaBatch"}, run(0.9, diverged="not finite"))
    table = CIFAR10.blocks(results(lost))[0]
    assert table.rows[0][2:5] == ["90.00", "–", "10.00"]


def test_times_are_shown_of_runs_that_go_one_at_a_time():
    for experiment in EXPERIMENTS:
        assert (FASTER in [claim.judge for claim in experiment.claims]) == experiment.is_timed


def decided(rule, size, epochs, dataset_size=1000):
    """What a rule says of the last batch before each epoch, and the size it had."""
    state, found = rule.init(), []
    for epoch in range(epochs):
        statistics = gb.Statistics(num_samples=size, loss=1.0)
        samples = (epoch + 1) * dataset_size
        decision, state = rule.update(
            statistics, progress(samples_seen=samples, batch_size=size, dataset_size=dataset_size), state
        )
        found.append((size, decision.lr_scale))
        size = decision.batch_size
    return found


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)
def test_sizes_and_rates_are_the_paper_s(experiment):
    for one in experiment.trials("full"):
        settings, variant = one.settings, one.place["variant"]
        assert settings.epochs is not None
        stages = decided(
            build_rule(settings.rule, settings.set), settings.batch_size, settings.epochs, dataset_size=50_000
        )[:: settings.epochs // 5]
        sizes, rates = zip(*stages, strict=True)
        assert rates == pytest.approx([(0.75 if variant == "AdaBatch" else 0.375) ** stage for stage in range(5)])
        first = 256 if settings.model == "alexnet" else 128
        expected = {"AdaBatch": [first << stage for stage in range(5)], "fixed small": [first] * 5}
        assert list(sizes) == expected.get(variant, [16 * first] * 5)


def test_images_of_cifar10_are_augmented_and_three_seeds_are_taken_where_they_are_cheap():
    assert all(one.settings.augment for experiment in (CIFAR10, LONG) for one in experiment.trials("full"))
    assert {one.settings.epochs for one in LONG.trials("full")} == {100}
    assert [one.settings.seed for one in FASHION.trials("full")] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert {one.settings.per_class for one in FASHION.trials("quick")} == {100}
