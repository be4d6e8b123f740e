from pathlib import Path

import pytest

from gradbatch.experiments.metrics import ACCURACY, BITS_PER_CHARACTER
from gradbatch.experiments.run import Run
from gradbatch.experiments.scores import Score, Spread, columns_of, common_target, score_of, spread_of
from gradbatch.experiments.summary import summary_of


def run(scores, losses=(1.0, 1.0, 1.0), *, task="mnist", **last):
    """Batches of 10 samples, and an evaluation after each from the first on."""
    steps = [
        {"step": n, "samples_seen": 10 * (n + 1), "epoch": 0.1 * n, "seconds": n + 0.5, "batch_size": 10, "loss": loss}
        for n, loss in enumerate(losses)
    ]
    steps[-1] |= last
    evaluations = [
        {"step": n + 1, "samples_seen": 10 * (n + 1), "seconds": n + 0.5, "test_score": score}
        for n, score in enumerate(scores)
    ]
    return Run(folder=Path("run"), manifest={"settings": {"task": task}}, steps=steps, evaluations=evaluations)


def test_the_target_counts_where_it_is_first_reached():
    score = score_of(run([0.5, 0.8, 0.7]), 0.8)
    assert (score.samples, score.updates, score.seconds) == (20, 2, 1.5)
    assert (score.best_score, score.mean_batch_size) == (0.8, 10)


def test_where_lower_is_better_the_target_is_reached_from_above():
    score = score_of(run([3.0, None, 2.4, 2.6], task="shakespeare"), 2.5)
    assert (score.samples, score.best_score) == (30, 2.4)
    assert summary_of(run([2.4, None], task="shakespeare")).final_score is None
    assert common_target([run([3.0, 2.4], task="shakespeare"), run([2.8], task="shakespeare")]) == 2.8


@pytest.mark.parametrize(("accuracies", "target"), [([0.5, 0.8], 0.81), ([], 0.1), ([0.5], None)])
def test_a_target_that_was_not_reached_has_no_cost(accuracies, target):
    score = score_of(run(accuracies), target)
    assert (score.samples, score.updates, score.seconds) == (None, None, None)


def test_the_final_loss_is_that_of_the_last_samples():
    # The window is 30/50 samples, so that the batch before counts e^(-10/0.6) times as much.
    assert score_of(run([], losses=(9.0, 5.0, 2.0)), None).final_loss == pytest.approx(2.0, abs=1e-6)
    assert score_of(run([], losses=(9.0, 5.0, None), skipped=True), None).final_loss == pytest.approx(5.0, abs=1e-6)
    assert score_of(run([], losses=(None, None)), None).final_loss is None


def test_all_runs_reach_the_common_target():
    assert common_target([run([0.5, 0.9]), run([0.8, 0.7]), run([])]) == 0.8
    assert common_target([run([])]) is None


def score(samples):
    return Score(samples=samples, updates=None, seconds=None, best_score=0.5, final_loss=None, mean_batch_size=1234.5)


@pytest.mark.parametrize(
    ("samples", "num_runs", "text"),
    [
        ([1000], 1, "1,000"),
        ([1000, 1200, 1400], 3, "1,200 ± 200"),
        ([1000, None, 1400], 3, "1,200 ± 283 (2 of 3)"),
        ([1000, None], 2, "1,000 (1 of 2)"),
        ([1000], 2, "1,000 (1 of 2)"),  # the other failed
        ([None, None], 2, "–"),
    ],
)
def test_mean_and_spread(samples, num_runs, text):
    column = columns_of(ACCURACY)[0]
    assert spread_of([score(number) for number in samples], column.name, num_runs).text(column) == text


def test_how_numbers_are_written():
    values = {"samples": 12345, "updates": 12345, "seconds": 1.26, "best_score": 0.98765, "final_loss": 0.01234}
    columns = columns_of(ACCURACY)
    texts = [Spread(values=(values.get(column.name, 1234.56),), num_runs=1).text(column) for column in columns]
    assert texts == ["12,345", "12,345", "1.3", "98.77 %", "0.0123", "1,234.6"]
    bits = next(column for column in columns_of(BITS_PER_CHARACTER) if column.name == "best_score")
    assert (bits.title, Spread(values=(2.3456,), num_runs=1).text(bits)) == ("Best bits per character", "2.346")
