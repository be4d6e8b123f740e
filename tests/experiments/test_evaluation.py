import math

import pytest
import torch
from torch import nn

from gradbatch.experiments.data import Dataset, Split
from gradbatch.experiments.evaluation import cross_entropy, evaluate, evaluate_splits
from gradbatch.experiments.metrics import BITS_PER_CHARACTER, MACRO_F1


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
    assert "train_loss" not in results


def test_a_score_that_is_not_finite_is_none(split):
    broken = Split(split.inputs * math.nan, split.targets)
    results = evaluate_splits(nn.Identity(), Dataset(train=split, test=broken), "cpu", BITS_PER_CHARACTER)
    assert results["test_score"] is None
    assert results["test_accuracy"] is not None


def test_the_loss_of_single_classes_is_torch_s_bit_for_bit(split):
    assert torch.equal(cross_entropy(split.inputs, split.targets), nn.functional.cross_entropy(*split))


def test_tokens_are_averaged_over_all_of_them():
    inputs, targets = torch.randn(1100, 7, 5), torch.randint(5, (1100, 7))
    expected = nn.functional.cross_entropy(inputs.movedim(2, 1), targets)
    assert cross_entropy(inputs, targets).item() == pytest.approx(expected.item(), rel=1e-6)
    found = evaluate(nn.Identity(), Split(inputs, targets), "cpu", BITS_PER_CHARACTER)
    assert found.loss == pytest.approx(expected.item(), rel=1e-6)
    assert found.accuracy == pytest.approx((inputs.argmax(2) == targets).double().mean().item(), rel=1e-12)
    assert found.score == pytest.approx(found.loss / math.log(2), rel=1e-12)


def test_the_score_is_the_metric_s(split):
    assert evaluate(nn.Identity(), split, "cpu").score == 1.0
    # Two relations of nine: classes 1 and 2, 3 and 4; class 0 is Other.
    assert evaluate(nn.Identity(), split, "cpu", MACRO_F1).score == pytest.approx(2 / 9)


def test_the_training_set_is_evaluated_when_asked_for(split):
    train = Split(split.inputs[:700], split.targets[:700].roll(1))
    results = evaluate_splits(nn.Identity(), Dataset(train=train, test=split), "cpu", with_train=True)
    names = [f"{part}_{name}" for part in ("test", "train") for name in ("loss", "accuracy", "score")]
    assert list(results) == names
    assert results["test_accuracy"] == 1.0
    assert results["train_accuracy"] < 0.5
