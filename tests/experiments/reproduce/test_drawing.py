import pytest

from experiments.reproduce.outcomes import outcome
from gradbatch.experiments.reproduce.drawing import course_curve, curves_of, mean_curve


def test_the_mean_over_seeds_is_between_evaluations_at_other_places():
    one = outcome(samples_seen=[100, 300], test_score=[0.1, 0.3])
    other = outcome(samples_seen=[100, 200, 400], test_score=[0.2, 0.4, 0.8])
    curve = mean_curve([one, other], "test_score")
    assert curve.x.tolist() == [100, 200, 300]  # as far as both go
    assert curve.y.tolist() == pytest.approx([0.15, 0.3, 0.45])


def test_what_was_not_run_has_no_curve_and_keeps_its_colour():
    assert mean_curve([], "test_score") is None
    assert mean_curve([outcome(test_score=[0.1])], "train_loss") is None
    first = mean_curve([outcome(test_score=[0.1])], "test_score")
    assert [curve.run for curve in curves_of([None, first])] == [1]


def test_the_course_of_sizes():
    curve = course_curve(outcome(), along="updates")
    assert (curve.x.tolist(), curve.y.tolist()) == ([5, 10], [32, 64])
