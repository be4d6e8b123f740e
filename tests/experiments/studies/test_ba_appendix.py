import math

import pytest

from experiments.reproduce.outcomes import outcome, results
from gradbatch.experiments.studies.ba_appendix import EXPERIMENTS
from gradbatch.experiments.studies.ba_decrease import PROBABILITIES

(DECREASE,) = EXPERIMENTS
NORMAL, MEAN, EXACT, *_ = (claim.judge for claim in DECREASE.claims)
AUTHORS, SMALL = "authors' network, 10 updates", "small network, 10 updates"
NAMES = (
    *("true_mean", "true_spread", "mean", "spread", "measured_mean", "measured_spread", "same_mean", "same_spread"),
    *("predicted_mean", "one_mean", "one_spread", "own_spread", "trace_of_square", "skewness", "kurtosis", "distance"),
)


def measured(*, exact, diagonal, mean=1.0, distance=0.02, skewness=0.0, kurtosis=0.0):
    shape = {"skewness": skewness, "kurtosis": kurtosis, "num_draws": 600}
    own = outcome(**dict.fromkeys(NAMES, 1.0) | shape)
    spreads = {"predicted_spread": 1 / exact, "diagonal_spread": 1 / diagonal, "predicted_mean": mean}
    own.values.update(spreads, distance=distance, critical=0.04, batch_size=100)
    own.values.update(projection_variance=0.5, predicted_variance=2.0, quantiles=[0.0] * len(PROBABILITIES))
    return own


def test_ratios_of_the_measured_spread_to_the_predicted_ones():
    found = results(
        ({"at": AUTHORS}, measured(exact=0.8, diagonal=7.0)), ({"at": SMALL}, measured(exact=0.3, diagonal=0.8))
    )
    assert EXACT(found).answer == "in part"
    for claim in DECREASE.claims[3:]:  # judged with the authors' network alone
        verdict = claim.judge(found.at(**claim.place))
        assert verdict.answer == "holds"
        assert verdict.evidence.endswith(("10 updates 7.00", "10 updates 8.00"))


@pytest.mark.parametrize(("distance", "mean", "answer"), [(0.03, 1.05, "holds"), (0.05, 1.2, "does not hold")])
def test_normality_and_the_mean(distance, mean, answer):
    found = results(({"at": SMALL}, measured(exact=1, diagonal=1, distance=distance, mean=mean)))
    assert (NORMAL(found).answer, MEAN(found).answer) == (answer, answer)


@pytest.mark.parametrize(
    # Of 600 draws: 100 (skewness² + kurtosis² / 4), against 5.99.
    ("skewness", "kurtosis", "answer"),
    [(0.24, 0.0, "holds"), (0.25, 0.0, "does not hold"), (0.0, -0.5, "does not hold"), (0.17, 0.34, "holds")],
)
def test_moments_speak_against_normality_as_well(skewness, kurtosis, answer):
    own = measured(exact=1, diagonal=1, skewness=skewness, kurtosis=kurtosis)
    assert NORMAL(results(({"at": SMALL}, own))).answer == answer


def test_the_page_says_what_the_bias_is_made_of():
    spreads, parts, plot, shapes = DECREASE.blocks(results(({"at": AUTHORS}, measured(exact=2, diagonal=4))))
    assert spreads.rows[0][5:9] == ["2.00", "4.00", "20.00", "40.00"]
    assert spreads.rows[-1][0] == "paper"
    assert parts.rows[0][3:6] == ["4.00", "2.00", "+1.00"]
    assert [curve.run for curve in plot.panels[0].curves] == [0, 3]
    assert shapes.rows[0][-1] == "0.020 / 0.040"
    assert math.isclose(plot.panels[0].curves[-1].points.y[-1], 2.326, abs_tol=1e-3)


def test_each_place_is_measured_by_its_own_work():
    trials = DECREASE.trials("full")
    assert len({item.key for item in trials}) == 3
    assert {item.command for item in trials} == {""}  # more than `gradbatch train`
