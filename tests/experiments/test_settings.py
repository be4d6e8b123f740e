from pathlib import Path

import pytest

from gradbatch.errors import InvalidInputError
from gradbatch.experiments.settings import TrainSettings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task": "digts"}, 'no task "digts", did you mean "digits"[?] Known: digits, mnist, fashion-mnist'),
        ({"rule": "cab"}, 'no rule "cab", did you mean "cabs"'),
        ({"model": "cnn"}, 'there is no model "cnn" for the task "digits". Known: mlp'),
        ({"set": ("x=1",)}, 'no hyper-parameter "x" of the rule "fixed". There are none'),
        ({"epochs": 0}, "`epochs` must be at least 1, got 0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"micro_batch_size": 0}, "`micro_batch_size`"),
        ({"num_workers": -1}, "`num_workers` must be at least 0"),
        ({"epochs": 1, "steps": 2}, "one budget, got epochs and steps"),
        ({"steps": 5, "lr_schedule": "cosine"}, "the cosine schedule is laid over samples"),
        ({"lr": float("nan")}, "`lr` must be a number of at least 0, got nan"),
        ({"weight_decay": -1.0}, "`weight_decay`"),
        ({"clip_grad_norm": 0.0}, "`clip_grad_norm` must be positive"),
        ({"optimizer": "sdg"}, 'no optimizer "sdg", did you mean "sgd"'),
        ({"optimizer": "adam", "momentum": 0.9}, "belong to sgd, got adam"),
        ({"nesterov": True}, "`nesterov` needs a momentum above 0"),
        ({"lr_schedule": "linear"}, 'no learning-rate schedule "linear"'),
        ({"estimator": "magic"}, 'no estimator "magic"'),
        ({"validation": 1.0}, "`validation` must be at least 0 and below 1"),
        ({"device": "abacus"}, 'the device "abacus" cannot be used'),
        ({"seed": 2**63}, "`seed` must be from 0 to 9223372036854775807, got 9223372036854775808"),
        ({"momentum": 1.0}, "`momentum` must be at least 0 and below 1, got 1.0"),
        ({"resume": True}, "--resume needs the folder"),
    ],
)
def test_a_setting_that_cannot_be_used_is_a_sentence(values, message):
    with pytest.raises(InvalidInputError, match=message):
        TrainSettings(**values)


def test_resolving_takes_defaults_from_the_task_and_keeps_what_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = TrainSettings(task="fashion-mnist", rule="cabs").resolved()
    chosen = (settings.model, settings.lr, settings.momentum, settings.epochs)
    assert chosen == ("cnn", 0.02, 0.9, 10)
    assert settings.folder == Path("runs/fashion-mnist-cabs-1")
    assert settings.resolved() == settings
    given = TrainSettings(lr=0.0, samples=5, optimizer="adamw", out=tmp_path).resolved()
    assert (given.lr, given.samples, given.epochs, given.momentum) == (0.0, 5, None, 0.0)
    assert TrainSettings(optimizer="adam").resolved().lr == 0.001


def test_the_default_folder_is_fresh(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/digits-fixed-1").mkdir(parents=True)
    assert TrainSettings().resolved().folder == Path("runs/digits-fixed-2")
