from pathlib import Path

import numpy as np
import pytest

from experiments.reproduce.outcomes import Silent, outcome, results
from gradbatch.experiments.settings import TrainSettings
from gradbatch.experiments.studies.ba_covariance import EXPERIMENTS, variances_along

(COVARIANCE,) = EXPERIMENTS
TREND, VARIANCE = (claim.judge for claim in COVARIANCE.claims)
BA = ("BA, code's stop", "BA, paper's stop")


def run(loss, updates=10, diverged=None):
    return outcome(train_loss=[loss], test_score=[0.9], updates=updates, diverged=diverged)


def both(diagonal, exact, variants=BA):
    return [
        ({"variant": variant, "covariance": name}, own)
        for variant in variants
        for name, own in (("diagonal", diagonal), ("exact", exact))
    ]


def ratios(*values):
    own = outcome(updates=0)
    own.values.update(
        updates=[10 * (n + 1) for n in range(len(values))], exact=list(values), diagonal=[1.0] * len(values)
    )
    return ({"what": "one run, both variances"}, own)


@pytest.mark.parametrize(
    ("exact", "answer"),
    [
        (run(0.3), "holds"),
        (run(1.0), "in part"),
        (run(0.3, diverged="not finite"), "in part"),
        (run(1.0, updates=1), "does not hold"),
    ],
)
def test_the_same_trend_is_a_loss_and_a_size_within_a_half(exact, answer):
    assert TREND(results(*both(run(0.25), exact))).answer == answer


def test_variances_are_compared_along_the_run():
    assert VARIANCE(results(ratios(0.6, 1.9))).answer == "holds"
    assert VARIANCE(results(ratios(0.6, 50.0))).evidence.endswith("from 0.60 to 50.00 along the run")


def test_the_page_has_runs_and_the_ratio():
    blocks = COVARIANCE.blocks(results(*both(run(0.25), run(0.3)), ratios(0.6, 1.9)))
    assert [getattr(block, "name", "table") for block in blocks] == ["code", "paper", "table", "ratio"]
    assert [row[2] for row in blocks[2].rows] == ["0.25", "0.3"] * 2
    np.testing.assert_allclose(blocks[-1].panels[0].curves[0].points.y, [0.6, 1.9])


def test_both_variances_of_the_same_batches():
    settings = TrainSettings(task="digits", per_class=10, steps=50, lr=0.1, out=Path()).resolved()
    found = variances_along(settings, Silent())
    assert found["updates"] == [10, 20, 30, 40, 50]
    assert all(value > 0 for name in ("exact", "diagonal") for value in found[name])


def test_runs_differ_in_the_covariance_alone():
    runs = [item for item in COVARIANCE.trials("full") if "variant" in item.place]
    assert len({item.key for item in runs}) == len(runs) == 8
    assert {len(item.settings.set) for item in runs} == {4}
