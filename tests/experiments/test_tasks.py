import pytest

from gradbatch.errors import MissingDataError
from gradbatch.experiments.models import MODELS
from gradbatch.experiments.tasks import TASKS

FROM_DISK = sorted(set(TASKS) - {"digits"})


@pytest.mark.parametrize("name", FROM_DISK)
def test_missing_data_say_what_to_put_where(name, tmp_path, monkeypatch):
    monkeypatch.delenv("GRADBATCH_DATA", raising=False)
    with pytest.raises(MissingDataError, match=rf'"{name}".*--data-dir or GRADBATCH_DATA, and put .* below it'):
        TASKS[name].load(None)
    with pytest.raises(MissingDataError, match=r"not (there|in).*: put "):
        TASKS[name].load(tmp_path)


# CIFAR-10 has tests of its own, in which it is read once.
@pytest.mark.data
@pytest.mark.parametrize("name", sorted(set(TASKS) - {"cifar10", "cifar10-crop"}))
def test_every_model_suits_its_task(name, load_task):
    task, data = TASKS[name], load_task(name)
    assert len(data.train.targets) == task.train_samples
    assert int(data.train.targets.max()) == int(data.test.targets.max()) == task.num_classes - 1
    for model in task.models:
        outputs = MODELS[model](data.input_spec, task.num_classes)(data.test.inputs[:2])
        assert outputs.shape == (*data.test.targets[:2].shape, task.num_classes)


def test_every_model_has_a_task():
    assert {model for task in TASKS.values() for model in task.models} == set(MODELS)
