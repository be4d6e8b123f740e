import math

import pytest
import torch

from gradbatch.experiments.budget import Budget
from gradbatch.experiments.lr_schedules import LrSchedule
from sinks.records import record

BUDGET = Budget(unit="epochs", total=10, dataset_size=100)


def rates(name, batch_size, *, loss=1.0, num_epochs=10):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = LrSchedule(name, optimizer, BUDGET, reference_batch_size=10)
    found = {}
    for step in range(num_epochs * 100 // batch_size):
        optimizer.step()
        samples = batch_size * (step + 1)
        schedule.step(record(step, samples_seen=samples, batch_size=batch_size, loss=loss))
        found[samples] = optimizer.param_groups[0]["lr"]
    return found


@pytest.mark.parametrize("batch_size", [10, 50])
def test_the_schedules_depend_on_samples_alone(batch_size):
    cosine = rates("cosine", batch_size)
    assert cosine[500] == pytest.approx(0.5)
    assert cosine[1000] == pytest.approx(0)
    assert cosine[250] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    steps = rates("step", batch_size)
    assert [steps[n] for n in (450, 500, 700, 750)] == pytest.approx([1, 0.1, 0.1, 0.01])
    assert set(rates("none", batch_size).values()) == {1.0}


def test_plateau_halves_after_25_epochs_without_progress():
    found = rates("plateau", 50, num_epochs=60)
    assert found[2600] == 1.0
    assert found[2700] == 0.5
    assert found[2750] == 0.5
    assert found[5300] == 0.25


def test_plateau_sees_the_mean_over_samples_of_an_epoch_and_resumes_within_it():
    def make():
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        return LrSchedule("plateau", optimizer, BUDGET, reference_batch_size=10)

    schedule = make()
    schedule.step(record(0, samples_seen=90, batch_size=90, loss=1.0))
    resumed = make()
    resumed.load_state_dict(schedule.state_dict())
    resumed.step(record(1, samples_seen=100, batch_size=10, loss=2.0))
    assert resumed.state_dict()["schedule"]["scheduler"]["best"] == pytest.approx(1.1)
