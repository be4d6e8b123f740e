import pytest

from gradbatch.experiments.budget import Budget
from gradbatch.experiments.settings import TrainSettings


@pytest.mark.parametrize(
    ("values", "samples", "left"),
    [
        ({"epochs": 3}, 300, {"epochs": 2}),
        ({"samples": 250}, 250, {"samples": 100}),
        ({"steps": 9}, None, {"steps": 5}),
    ],
)
def test_what_is_left_is_counted_in_the_budgets_own_unit(values, samples, left):
    budget = Budget.of(TrainSettings(**values).resolved(), 100)
    assert budget.samples == samples
    assert budget.left(step=4, samples_seen=150) == left
    assert not budget.is_spent(step=4, samples_seen=150)
    assert budget.is_spent(step=9, samples_seen=300)
