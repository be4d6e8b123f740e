import json
import signal
import sys

import pytest
import torch

from gradbatch.checkpoint import load_checkpoint
from gradbatch.errors import GradbatchError, InvalidInputError, MissingDataError, OutputError
from gradbatch.experiments import loop
from gradbatch.experiments.interrupts import StoppedError
from gradbatch.experiments.loop import train
from gradbatch.experiments.run import RunFolder, read_run, settings_of
from gradbatch.experiments.settings import TrainSettings
from gradbatch.sinks.jsonl import JsonlSink


def settings(out, **changes):
    values = {"rule": "cabs", "lr": 1.0, "epochs": 2, "set": ("min_batch_size=24",), "out": out}
    return TrainSettings(**values | changes)


def without_clock(lines):
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def interrupt_at(monkeypatch, step):
    """Ctrl-C while the update at that step is logged."""

    def log(self, record):
        if record.step == step:
            raise KeyboardInterrupt
        self.write(record.to_dict())

    monkeypatch.setattr(JsonlSink, "log", log)


def signal_at(monkeypatch, step, number):
    """A signal while the update at that step is logged."""

    def log(self, record):
        self.write(record.to_dict())
        if record.step == step:
            signal.raise_signal(number)

    monkeypatch.setattr(JsonlSink, "log", log)


RUNS = pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adam", "lr": 0.01, "lr_schedule": "cosine", "micro_batch_size": 20},
        {"momentum": 0.9, "lr": 0.2, "lr_schedule": "plateau", "validation": 0.2, "rule": "fixed", "set": ()},
    ],
)


@RUNS
def test_an_interrupted_run_that_goes_on_is_the_uninterrupted_run(tmp_path, monkeypatch, changes):
    whole = read_run(train(settings(tmp_path / "whole", **changes)))
    first_epoch = next(line["step"] for line in whole.evaluations)
    with monkeypatch.context() as patch:
        interrupt_at(patch, first_epoch + 7)
        with pytest.raises(KeyboardInterrupt):
            train(settings(tmp_path / "cut", **changes))
    assert len(read_run(tmp_path / "cut").steps) == first_epoch + 7
    resumed = read_run(train(settings_of(tmp_path / "cut", {})))
    assert_equal_runs(resumed, whole)


def assert_equal_runs(resumed, whole):
    assert without_clock(resumed.steps) == without_clock(whole.steps)
    assert without_clock(resumed.evaluations) == without_clock(whole.evaluations)
    ours = load_checkpoint(resumed.folder / "checkpoint.pt")["model"]
    theirs = load_checkpoint(whole.folder / "checkpoint.pt")["model"]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@RUNS
def test_a_run_that_was_stopped_within_epochs_goes_on_from_there(tmp_path, monkeypatch, changes):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    whole = read_run(train(settings(tmp_path / "whole", **changes)))
    first_epoch = next(line["step"] for line in whole.evaluations)
    run = settings(tmp_path / "cut", **changes)
    for step, number in ((3, signal.SIGTERM), (first_epoch + 7, signal.SIGINT)):
        with monkeypatch.context() as patch:
            signal_at(patch, step, number)
            with pytest.raises(StoppedError) as stop:
                train(run)
        assert stop.value.signal == number
        assert len(read_run(tmp_path / "cut").steps) == step + 1
        assert load_checkpoint(tmp_path / "cut" / "checkpoint.pt")["step"] == step + 1
        run = settings_of(tmp_path / "cut", {})
    assert_equal_runs(read_run(train(run)), whole)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_second_ctrl_c_is_obeyed_at_once(tmp_path, monkeypatch):
    def log(self, record):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(JsonlSink, "log", log)
    with pytest.raises(KeyboardInterrupt):
        train(settings(tmp_path / "run"))
    assert not RunFolder(tmp_path / "run").is_begun


def test_a_budget_below_what_was_done_is_refused_and_changes_nothing(tmp_path):
    folder = train(settings(tmp_path / "run"))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    for budget, spent in (({"epochs": 1}, "2 epochs"), ({"samples": 2873}, "2874 samples"), ({"steps": 3}, "steps")):
        with pytest.raises(InvalidInputError, match=f"the run has done .*{spent}, more than the budget of"):
            train(settings_of(folder, budget))
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_a_run_that_goes_on_keeps_its_start(tmp_path):
    folder = train(settings(tmp_path / "run", epochs=1))
    manifest = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(manifest | {"started": "2001-01-01"}))
    train(settings_of(folder, {"epochs": 2}))
    assert json.loads((folder / "run.json").read_text())["started"] == "2001-01-01"


def test_a_refused_run_leaves_no_folder(tmp_path):
    with pytest.raises(InvalidInputError, match="`batch_size`"):
        train(settings(tmp_path / "run", batch_size=5000))
    assert not (tmp_path / "run").exists()


def test_a_folder_whose_run_never_made_an_update_is_free(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "steps.jsonl").touch()
    (tmp_path / "evaluations.jsonl").touch()
    assert len(read_run(train(settings(tmp_path, epochs=None, steps=2))).steps) == 2


def test_a_lost_part_of_the_log_is_noticed(tmp_path):
    folder = train(settings(tmp_path / "run"))
    log = folder / "steps.jsonl"
    num_lines = log.read_bytes()[:2000].count(b"\n")
    log.write_bytes(log.read_bytes()[:2000])
    with pytest.raises(InvalidInputError, match=f"ends after {num_lines} updates .* put the whole log back, or delete"):
        train(settings_of(folder, {}))
    log.unlink()
    with pytest.raises(InvalidInputError, match="ends after 0 updates"):
        train(settings_of(folder, {}))


def test_a_damaged_checkpoint_can_be_deleted(tmp_path):
    folder = train(settings(tmp_path / "run", epochs=1))
    before = read_run(folder)
    checkpoint = folder / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(InvalidInputError, match="only the newest checkpoint is kept: delete it"):
        train(settings_of(folder, {}))
    checkpoint.unlink()
    assert without_clock(read_run(train(settings_of(folder, {}))).steps) == without_clock(before.steps)


def test_a_run_stopped_before_its_first_checkpoint_begins_anew(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train(settings(tmp_path / "cut", epochs=1))
    resumed = read_run(train(settings_of(tmp_path / "cut", {})))
    whole = read_run(train(settings(tmp_path / "whole", epochs=1)))
    assert without_clock(resumed.steps) == without_clock(whole.steps)


def test_a_finished_run_takes_a_longer_budget(tmp_path):
    train(settings(tmp_path / "run", epochs=1))
    before = read_run(tmp_path / "run")
    train(settings_of(tmp_path / "run", {}))
    assert read_run(tmp_path / "run").steps == before.steps
    longer = read_run(train(settings_of(tmp_path / "run", {"epochs": 2})))
    whole = read_run(train(settings(tmp_path / "whole")))
    assert without_clock(longer.steps) == without_clock(whole.steps)
    assert longer.manifest["settings"]["epochs"] == 2


def test_the_logs_say_what_happened(tmp_path):
    run = read_run(train(settings(tmp_path / "run", validation=0.1)))
    sizes = [line["batch_size"] for line in run.steps]
    assert sum(sizes) == run.steps[-1]["samples_seen"] == 2 * 1293
    assert [line["step"] for line in run.steps] == list(range(len(sizes)))
    assert [line["epoch"] for line in run.evaluations] == [1.0, 2.0]
    last = run.evaluations[-1]
    assert last["step"] == len(sizes)
    assert last["test_accuracy"] > 0.8
    assert last["validation_accuracy"] > 0.8
    manifest = run.manifest
    assert manifest["rule"]["parameters"]["min_batch_size"] == 24
    assert manifest["task"] == {
        "name": "digits",
        "train_samples": 1293,
        "validation_samples": 144,
        "test_samples": 360,
    }
    assert manifest["model"]["num_parameters"] == 4810
    assert manifest["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize(("budget", "epochs"), [({"samples": 500}, 500 / 1437), ({"steps": 9}, None)])
def test_a_budget_that_ends_within_an_epoch_is_evaluated_at_its_end(tmp_path, budget, epochs):
    run = read_run(train(settings(tmp_path / "run", epochs=None, **budget)))
    assert len(run.evaluations) == 1
    assert run.evaluations[0]["step"] == len(run.steps)
    if epochs is None:
        assert len(run.steps) == 9
    else:
        assert run.evaluations[0]["epoch"] == pytest.approx(epochs)


def test_a_seed_fixes_a_run(tmp_path):
    first, same, other = (
        read_run(train(settings(tmp_path / str(number), epochs=1, seed=seed))) for number, seed in enumerate((1, 1, 2))
    )
    assert without_clock(first.steps) == without_clock(same.steps)
    assert without_clock(first.steps) != without_clock(other.steps)


def test_a_folder_with_a_run_is_refused(tmp_path):
    (tmp_path / "steps.jsonl").write_text("{}\n")
    with pytest.raises(OutputError, match=r"already holds a run: go on with it \(--resume\)"):
        train(settings(tmp_path))


def test_an_unusable_folder_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(loop.Controller, "run", None)  # training would fail otherwise
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be made"):
        train(settings(tmp_path / "file" / "run"))


def test_resuming_refuses_another_run(tmp_path):
    train(settings(tmp_path / "run", epochs=1, lr_schedule="cosine"))
    with pytest.raises(InvalidInputError, match=r"begun with `lr` 1\.0, got 0\.5: leave it out"):
        settings_of(tmp_path / "run", {"lr": 0.5})
    with pytest.raises(InvalidInputError, match=r"cosine schedule of the run .* whole budget"):
        settings_of(tmp_path / "run", {"epochs": 3})
    with pytest.raises(InvalidInputError, match="begun with `seed` 0, got 1"):
        train(settings(tmp_path / "run", epochs=1, lr_schedule="cosine", seed=1, resume=True))
    with pytest.raises(MissingDataError, match="not the folder of a run"):
        settings_of(tmp_path / "nothing", {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "run.json is damaged"),
        ('{"settings": {}}', "run.json lacks model, rule, task"),
        ("3", "damaged"),
    ],
)
def test_a_damaged_manifest_is_a_sentence(tmp_path, content, message):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InvalidInputError, match=message):
        RunFolder(tmp_path).read_manifest()


def test_a_log_of_something_else_is_a_sentence(tmp_path):
    train(settings(tmp_path / "run", epochs=None, steps=1))
    path = tmp_path / "run" / "steps.jsonl"
    path.write_text(json.dumps({"step": 0}) + "\n")
    with pytest.raises(InvalidInputError, match="lines without `samples_seen`"):
        read_run(tmp_path / "run")
    path.write_text("")
    with pytest.raises(InvalidInputError, match="has no steps yet"):
        read_run(tmp_path / "run")


def test_training_that_diverges_ends_in_a_sentence_with_its_log_intact(tmp_path):
    with pytest.raises(GradbatchError):
        train(settings(tmp_path / "run", rule="fixed", set=(), lr=1e30))
    assert read_run(tmp_path / "run").steps


@pytest.mark.data
@pytest.mark.parametrize("model", ["cnn", "mlp"])
def test_fashion_mnist_trains(tmp_path, data_dir, model):
    chosen = settings(
        tmp_path / "run",
        task="fashion-mnist",
        model=model,
        set=(),
        lr=0.02,
        epochs=None,
        steps=2,
        data_dir=data_dir,
    )
    run = read_run(train(chosen))
    assert run.manifest["model"]["num_parameters"] == {"cnn": 818_698, "mlp": 50_890}[model]
    assert run.steps[-1]["sample_sqnorm"] > 0


def test_the_loop_stays_short_enough_to_read():
    with open(sys.modules[train.__module__].__file__) as file:
        assert len(file.readlines()) <= 120


@pytest.mark.parametrize("setting", ["shadow", "even_ends"])
def test_a_run_of_before_there_was_the_setting_goes_on(tmp_path, setting):
    folder = train(settings(tmp_path / "run", epochs=1))
    manifest = json.loads((folder / "run.json").read_text())
    del manifest["settings"][setting]
    (folder / "run.json").write_text(json.dumps(manifest))
    assert read_run(train(settings_of(folder, {"epochs": 2}))).steps[-1]["epoch"] == 2


def test_shadows_go_on_with_their_run(tmp_path, monkeypatch):
    whole = read_run(train(settings(tmp_path / "whole", rule="fixed", set=(), shadow=("cabs",))))
    with monkeypatch.context() as patch:
        signal_at(patch, 7, signal.SIGINT)
        with pytest.raises(StoppedError):
            train(settings(tmp_path / "cut", rule="fixed", set=(), shadow=("cabs",)))
    resumed = read_run(train(settings_of(tmp_path / "cut", {})))
    assert_equal_runs(resumed, whole)
    assert len({line["shadows.CABS"] for line in whole.steps}) > 1


def test_evaluations_come_as_often_as_asked_for(tmp_path):
    settings = TrainSettings(
        out=tmp_path / "run",
        samples=700,
        batch_size=64,
        per_class=30,
        validation=0.2,
        evaluate_every=150,
        evaluate_training=True,
        device="cpu",
    )
    run = read_run(train(settings))
    assert run.manifest["task"]["train_samples"] == 300
    # Whenever a multiple of 150 was passed, at batch ends of epochs of 300 samples, and at the end.
    assert [line["samples_seen"] for line in run.evaluations] == [192, 300, 492, 600, 700]
    assert all(
        0 <= line["train_accuracy"] <= 1 and line["train_score"] == line["train_accuracy"] for line in run.evaluations
    )


def test_a_task_without_augmentation_refuses_it(tmp_path):
    with pytest.raises(InvalidInputError, match='the task "digits" has no augmentation: leave --augment out'):
        TrainSettings(augment=True, out=tmp_path)
