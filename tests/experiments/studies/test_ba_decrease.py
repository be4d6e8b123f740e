import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from experiments.reproduce.outcomes import Silent
from gradbatch.experiments.data import Split
from gradbatch.experiments.settings import TrainSettings
from gradbatch.experiments.studies import ba_decrease
from gradbatch.experiments.studies.ba_decrease import measure_decreases, normality, shape_of


def test_the_test_of_normality_refuses_as_often_as_it_says():
    generator = np.random.default_rng(0)
    refused = [np.greater(*normality(generator.normal(3, 2, 200))) for _ in range(400)]
    assert 0.02 < np.mean(refused) < 0.08
    assert np.greater(*normality(generator.exponential(size=200)))


def test_the_shape_of_numbers():
    shape = shape_of(np.random.default_rng(0).exponential(size=20_000))
    assert shape["skewness"] == pytest.approx(2, rel=0.1)
    assert shape["kurtosis"] == pytest.approx(6, rel=0.3)
    median = shape["quantiles"][ba_decrease.PROBABILITIES.index(0.5)]
    assert median == pytest.approx(math.log(2) - 1, abs=0.02)


def test_the_objective_agrees_with_a_loop_over_samples():
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    inputs, targets = torch.randn(230, 4, dtype=torch.float64), torch.randint(3, (230,))  # more than one piece
    objective = ba_decrease._Objective(model, Split(inputs, targets))
    gradients = []
    for x, y in zip(inputs.split(1), targets.split(1), strict=True):
        own = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
        gradients.append(torch.cat([part.flatten() for part in own]))
    rows = torch.stack(gradients)
    mean = torch.cat([part.flatten() for part in objective.gradient])
    torch.testing.assert_close(mean, rows.mean(0))
    variance = objective.variance_along(objective.gradient)
    assert variance == pytest.approx((rows @ mean).var(correction=0).item())
    step = [1e-6 * own for own in objective.gradient]
    decrease = objective.value - objective.after(step)
    assert decrease == pytest.approx(1e-6 * mean.square().sum().item(), rel=1e-4)


def test_measured_spreads_are_those_of_the_formula():
    settings = TrainSettings(
        task="digits", per_class=30, steps=20, batch_size=20, lr=0.01, momentum=0.0, out=Path()
    ).resolved()
    found = measure_decreases(settings, Silent(), num_draws=400, num_measured=40)
    assert found == measure_decreases(settings, Silent(), num_draws=400, num_measured=40)
    assert found["mean"] == pytest.approx(found["true_mean"], abs=4 * found["true_spread"] / 20)
    assert found["spread"] == pytest.approx(found["true_spread"], rel=4 / math.sqrt(800))
    assert found["measured_mean"] == pytest.approx(found["same_mean"], rel=0.1)
    # What batches put for both is too large, by the noise.
    assert found["predicted_mean"] > found["true_mean"]
    assert found["predicted_variance"] > found["projection_variance"]
