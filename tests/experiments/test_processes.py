import multiprocessing
import signal
from types import SimpleNamespace

import pytest
import torch

from gradbatch.experiments.interrupts import StoppedError, stop_on_signals
from gradbatch.experiments.loop import train
from gradbatch.experiments.processes import _Teller, train_all
from gradbatch.experiments.run import RunFolder, read_run, settings_of
from gradbatch.experiments.settings import TrainSettings

pytestmark = pytest.mark.xdist_group("processes")


class Display:
    """Keeps what it is told, and does something when a run is under way."""

    def __init__(self, act=None):
        self.told, self.act = [], act

    def begin(self, run):
        self.told.append(("begin", run))

    def advance(self, run, samples, text):
        self.told.append(("advance", run, samples, text))
        if self.act is not None:
            self.act()

    def say(self, run, text):
        self.told.append(("say", run, text))

    def end(self, run, failure):
        self.told.append(("end", run, failure))


def settings(out, **changes):
    return TrainSettings(**{"out": out, "epochs": 2, "lr": 0.5, "device": "cpu"} | changes).resolved()


def without_clock(lines):
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def test_runs_are_those_of_a_process_alone_and_failures_stop_no_other(tmp_path):
    good = settings(tmp_path / "good", rule="cabs")
    diverging = settings(tmp_path / "diverging", lr=1e30)
    defect = SimpleNamespace()  # no settings at all
    display = Display()
    failures = train_all([diverging, defect, good], jobs=2, display=display)
    assert failures[0].startswith("the loss was nan and the update skipped 10 times in a row")
    assert failures[1] == "AttributeError: 'types.SimpleNamespace' object has no attribute 'resolved'"
    assert failures[2] is None
    alone = read_run(train(settings(tmp_path / "alone", rule="cabs")))
    run = read_run(tmp_path / "good")
    assert without_clock(run.steps) == without_clock(alone.steps)
    assert run.manifest["hardware"]["num_threads"] == 1
    told = display.told
    assert [entry[1] for entry in told if entry[0] == "begin"] == [0, 1, 2]
    assert {entry[1:] for entry in told if entry[0] == "end"} == set(enumerate(failures))
    said = {entry[1]: entry[2] for entry in told if entry[0] == "say"}
    assert "update 1 was skipped" in said[0]
    assert "Traceback" in said[1]
    accuracy = run.evaluations[-1]["test_accuracy"]
    assert ("advance", 2, 2874, f"test accuracy {accuracy:.2%}") in told


def test_a_process_that_is_killed_is_a_failure(tmp_path):
    display = Display(act=lambda: [child.kill() for child in multiprocessing.active_children()])
    failures = train_all([settings(tmp_path / "run", epochs=100_000)], jobs=1, display=display)
    assert failures == ["its process was ended from outside (exit code -9)"]


def test_ctrl_c_ends_all_and_each_run_goes_on_from_its_last_update(tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    runs = [settings(tmp_path / name, epochs=100_000) for name in ("one", "two", "never")]
    seen = set()

    def interrupt():
        seen.update(entry[1] for entry in display.told if entry[0] == "advance")
        if seen == {0, 1} and not is_sent:
            is_sent.append(True)
            signal.raise_signal(signal.SIGINT)

    is_sent = []
    display = Display(act=interrupt)
    with pytest.raises(StoppedError) as stop:
        train_all(runs, jobs=2, display=display)
    assert stop.value.signal == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is handler
    assert multiprocessing.active_children() == []
    for run in runs[:2]:
        folder = RunFolder(run.folder)
        num_steps = len(read_run(run.folder).steps)
        assert torch.load(folder.checkpoint, weights_only=True)["step"] == num_steps
        train(settings_of(run.folder, {"steps": num_steps + 3}))
        assert [line["step"] for line in read_run(run.folder).steps] == list(range(num_steps + 3))
    assert not runs[2].folder.exists()


def test_a_run_that_nobody_hears_is_asked_once_to_save_and_end():
    ours, theirs = multiprocessing.Pipe(duplex=False)
    ours.close()
    teller = _Teller(theirs)
    with stop_on_signals() as stop:
        teller.tell("said", "a warning")
        assert stop.signal == signal.SIGTERM
        teller.note("test accuracy 50 %")  # a second signal would be obeyed at once
