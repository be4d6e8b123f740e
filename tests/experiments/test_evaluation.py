import math

import pytest
import torch
from torch import nn

from gradbatch.experiments.evaluation import evaluate, evaluate_splits
from gradbatch.experiments.tasks import Dataset, Split


@pytest.fixture
def split():
    inputs = torch.randn(2300, 5, generator=torch.Generator().manual_seed(0))
    return Split(inputs, inputs.argmax(dim=1))


def test_the_mean_is_over_samples_whatever_the_pieces(split):
    expected = nn.functional.cross_entropy(split.inputs, split.targets).item()
    found = evaluate(nn.Identity(), split, "cpu")
    assert found.loss == pytest.approx(expected, rel=1e-5)
    assert found.accuracy == 1.0


def test_every_module_is_left_in_its_own_mode(split):
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(5))
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = evaluate(model, split, "cpu"), evaluate(model, split, "cpu")
    assert first == second
    assert (model.training, model[0].training, model[1].training) == (True, True, False)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_modes_are_restored_after_a_failure(split):
    model = nn.Sequential(nn.Linear(7, 2))
    with pytest.raises(RuntimeError):
        evaluate(model, split, "cpu")
    assert model.training


def test_a_loss_that_is_not_finite_is_none(split):
    broken = Split(split.inputs * math.nan, split.targets)
    results = evaluate_splits(nn.Identity(), Dataset(train=split, test=broken, validation=split), "cpu")
    assert results["test_loss"] is None
    assert results["validation_accuracy"] == 1.0
