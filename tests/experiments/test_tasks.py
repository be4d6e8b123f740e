import pytest
import torch

from gradbatch.errors import InvalidInputError, MissingDataError
from gradbatch.experiments.tasks import TASKS


@pytest.fixture(scope="module")
def digits():
    return TASKS["digits"].load(None)


def test_digits_are_split_once_and_for_all(digits):
    torch.manual_seed(123)
    again = TASKS["digits"].load(None)
    assert len(digits.train.targets) == 1437
    assert len(digits.test.targets) == 360
    assert torch.equal(digits.test.inputs, again.test.inputs)
    everything = torch.cat([digits.train.inputs, digits.test.inputs])
    assert everything.min() == 0
    assert everything.max() == 1
    assert set(digits.test.targets.tolist()) == set(range(10))


def test_no_test_image_is_trained_on(digits):
    train = {tuple(image) for image in digits.train.inputs.tolist()}
    assert not any(tuple(image) in train for image in digits.test.inputs.tolist())


def test_validation_is_taken_out_of_the_training_set(digits):
    held = digits.with_validation(0.1, seed=3)
    assert len(held.validation.targets) == 144
    assert len(held.train.targets) == 1437 - 144
    assert torch.equal(held.test.inputs, digits.test.inputs)
    parts = torch.cat([held.train.inputs, held.validation.inputs])
    assert sorted(parts.tolist()) == sorted(digits.train.inputs.tolist())
    assert torch.equal(held.validation.inputs, digits.with_validation(0.1, seed=3).validation.inputs)
    assert not torch.equal(held.validation.inputs, digits.with_validation(0.1, seed=4).validation.inputs)


def test_no_validation_changes_nothing(digits):
    assert digits.with_validation(0.0, seed=0) is digits


@pytest.mark.parametrize("fraction", [1e-5, 0.9999])
def test_a_fraction_that_leaves_nothing_is_refused(digits, fraction):
    with pytest.raises(InvalidInputError, match="`validation`"):
        digits.with_validation(fraction, seed=0)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_missing_images_say_what_to_put_where(name, tmp_path, monkeypatch):
    monkeypatch.delenv("GRADBATCH_DATA", raising=False)
    with pytest.raises(MissingDataError, match=r"--data-dir or GRADBATCH_DATA.*MNIST/raw"):
        TASKS[name].load(None)
    with pytest.raises(MissingDataError, match="put the four original files"):
        TASKS[name].load(tmp_path)


@pytest.mark.data
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_images_are_read_and_scaled(name, data_dir):
    data = TASKS[name].load(data_dir)
    assert data.train.inputs.shape == (60_000, 1, 28, 28)
    assert data.test.inputs.shape == (10_000, 1, 28, 28)
    assert data.train.inputs.max() == 1
    assert torch.bincount(data.test.targets).sum() == 10_000
    # Published means of the training pixels: 0.1307 and 0.2860.
    expected = {"mnist": 0.1307, "fashion-mnist": 0.2860}[name]
    assert data.train.inputs.mean().item() == pytest.approx(expected, abs=1e-4)
