import pytest
import torch

from gradbatch.errors import InvalidInputError, MissingDataError
from gradbatch.experiments.data import Dataset, InputSpec, Split, data_root


@pytest.fixture
def data():
    """Three classes of 10, 20 and 30 samples in a random order; the inputs are the samples' places."""
    targets = torch.tensor([0] * 10 + [1] * 20 + [2] * 30)[torch.randperm(60)]
    test = Split(torch.arange(5), torch.zeros(5, dtype=torch.long))
    return Dataset(train=Split(torch.arange(60), targets), test=test, num_tokens=60)


def test_validation_is_taken_out_of_the_training_set(data):
    held = data.with_validation(0.1, seed=3)
    assert len(held.validation.targets) == 6
    assert held.train.inputs.tolist() == sorted(held.train.inputs.tolist())
    assert sorted([*held.train.inputs.tolist(), *held.validation.inputs.tolist()]) == list(range(60))
    assert torch.equal(held.train.targets, data.train.targets[held.train.inputs])
    assert torch.equal(held.validation.targets, data.train.targets[held.validation.inputs])
    assert held.test is data.test
    assert torch.equal(held.validation.inputs, data.with_validation(0.1, seed=3).validation.inputs)
    assert not torch.equal(held.validation.inputs, data.with_validation(0.1, seed=4).validation.inputs)


def test_no_validation_changes_nothing(data):
    assert data.with_validation(0.0, seed=0) is data


@pytest.mark.parametrize("fraction", [1e-5, 0.9999])
def test_a_fraction_that_leaves_nothing_is_refused(data, fraction):
    with pytest.raises(InvalidInputError, match="`validation`"):
        data.with_validation(fraction, seed=0)


def test_a_part_holds_as_many_of_each_class_in_their_old_order(data):
    part = data.with_per_class(7, seed=1)
    assert torch.bincount(part.train.targets).tolist() == [7, 7, 7]
    assert part.train.inputs.tolist() == sorted(part.train.inputs.tolist())
    assert torch.equal(part.train.targets, data.train.targets[part.train.inputs])
    assert part.test is data.test
    assert torch.equal(part.train.inputs, data.with_per_class(7, seed=1).train.inputs)
    assert not torch.equal(part.train.inputs, data.with_per_class(7, seed=2).train.inputs)


def test_which_samples_of_a_class_are_kept_is_random(data):
    zeros = {
        int(place)
        for seed in range(40)
        for place in data.with_per_class(1, seed=seed).train.inputs
        if data.train.targets[place] == 0
    }
    assert len(zeros) > 5


def test_the_held_out_part_does_not_shrink(data):
    held = data.with_validation(0.1, seed=0)
    part = held.with_per_class(3, seed=0)
    assert part.validation is held.validation
    assert not set(part.train.inputs.tolist()) & set(held.validation.inputs.tolist())


def test_a_class_too_rare_is_named(data):
    assert len(data.with_per_class(10, seed=0).train.targets) == 30
    with pytest.raises(InvalidInputError, match="`per_class` 11 .* class 0 has 10"):
        data.with_per_class(11, seed=0)


def test_a_part_without_samples_is_refused(data):
    with pytest.raises(InvalidInputError, match="at least 1, got 0"):
        data.with_per_class(0, seed=0)


def test_targets_of_tokens_have_no_classes_to_balance(data):
    text = Dataset(train=Split(torch.zeros(9, 4), torch.zeros(9, 4, dtype=torch.long)), test=data.test)
    with pytest.raises(InvalidInputError, match="`per_class` needs one class a sample, .* has 4 targets"):
        text.with_per_class(2, seed=0)


def test_what_an_input_looks_like_survives_every_change(data):
    images = Dataset(train=Split(torch.zeros(8, 3, 4, 5), torch.zeros(8, dtype=torch.long)), test=data.test)
    assert images.input_spec == InputSpec((3, 4, 5))
    assert images.input_spec.num_features == 60
    for changed in (data.to("cpu"), data.with_validation(0.2, seed=0), data.with_per_class(2, seed=0)):
        assert changed.input_spec == InputSpec((), num_tokens=60)


def test_the_folder_that_was_named_wins(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / name).mkdir()
    monkeypatch.setenv("GRADBATCH_DATA", str(tmp_path / "a"))
    assert data_root(None, task="x", needs="y") == tmp_path / "a"
    assert data_root(tmp_path / "a" / ".." / "b", task="x", needs="y") == tmp_path / "b"
    monkeypatch.delenv("GRADBATCH_DATA")
    with pytest.raises(MissingDataError, match='task "x" .* --data-dir or GRADBATCH_DATA, and put y below it'):
        data_root(None, task="x", needs="y")
    with pytest.raises(MissingDataError, match=f"looks for its data in {tmp_path / 'c'}, which is no folder"):
        data_root(tmp_path / "c", task="x", needs="y")
