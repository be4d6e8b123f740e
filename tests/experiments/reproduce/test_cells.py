import math

import pytest

from experiments.reproduce.outcomes import outcome
from gradbatch.experiments.reproduce.cells import (
    NONE,
    at_validation_best,
    best,
    cost_to,
    final,
    lines,
    mean_of,
    percent,
    spread,
)


def test_the_mean_and_the_deviation_over_seeds():
    assert spread([0.97, 0.98, 0.99], percent) == "98.00 ± 1.00"
    assert spread([0.97, math.nan], percent) == "97.00"
    assert spread([math.nan], percent) == NONE


def test_the_mean_of_nothing_is_nan():
    assert mean_of(n / 2 for n in (1, 2)) == 0.75
    assert math.isnan(mean_of([]))


def test_the_cost_to_a_target_is_that_of_the_first_evaluation_that_has_it():
    assert cost_to([10, 20, 30, 40], [0.1, 0.5, 0.4, 0.6], 0.5) == 20
    assert math.isnan(cost_to([10, 20], [0.1, math.nan], 0.5))


def test_the_best_is_not_what_validation_chooses():
    one = outcome(test_score=[0.5, 0.9, 0.7], validation_score=[0.4, 0.5, 0.6])
    assert best(one) == 0.9
    assert at_validation_best(one) == 0.7
    assert final(one) == 0.7


def test_of_equal_validation_scores_the_first_counts():
    assert at_validation_best(outcome(test_score=[0.1, 0.2, 0.3], validation_score=[0.4, 0.6, 0.6])) == 0.2


def test_gaps_are_left_out():
    one = outcome(test_score=[0.5, None], validation_score=[None, None])
    assert best(one) == 0.5
    assert math.isnan(final(one))
    assert math.isnan(at_validation_best(one))
    assert math.isnan(best(outcome()))


@pytest.mark.parametrize(
    ("numbers", "text"), [([3, 4, 5, 9], "3–5, 9"), ([9, 3, 3], "3, 9"), ([1, 2], "1–2"), ([], NONE)]
)
def test_lines_are_named_in_spans(numbers, text):
    assert lines([outcome(number) for number in numbers]) == text
