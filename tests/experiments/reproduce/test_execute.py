import json
from dataclasses import replace

import pytest
import torch

from experiments.reproduce.outcomes import Silent, fails_at_seed_one
from gradbatch.experiments.loop import train
from gradbatch.experiments.reproduce import execute
from gradbatch.experiments.reproduce.execute import run_trials
from gradbatch.experiments.reproduce.results import ResultsLog
from gradbatch.experiments.reproduce.trial import trial

pytestmark = pytest.mark.xdist_group("processes")


def trials(*seeds, work=None, **settings):
    works = () if work is None else (work,)
    return [trial(*works, place={"n": n}, seed=n, **{"epochs": 1, "device": "cpu"} | settings) for n in seeds]


@pytest.fixture
def log(tmp_path):
    return ResultsLog(tmp_path / "results" / "log.jsonl")


def run(own, log, tmp_path, jobs=2):
    return run_trials(own, log, folder=tmp_path / "runs", jobs=jobs, data_dir=None, device="cpu")


def test_each_trial_becomes_a_line_and_its_folder_goes(log, tmp_path):
    own = trials(0, 1)
    assert run([*own, own[0]], log, tmp_path) == {}  # one key is run once
    found = log.read()
    assert set(found) == {one.key for one in own}
    assert len(log.path.read_text().splitlines()) == 2
    assert found[own[0].key].number("updates") == 45
    assert found[own[0].key].provenance["jobs"] == 2
    assert list((tmp_path / "runs").iterdir()) == []


def test_what_the_log_has_is_not_run_again(log, tmp_path, monkeypatch):
    own = trials(0)
    log.append(own[0], {"updates": 7}, {})
    monkeypatch.setattr(execute, "work_all", None)
    assert run(own, log, tmp_path) == {}
    assert log.read()[own[0].key].number("updates") == 7


def test_a_failure_leaves_no_line_and_the_others_go_on(log, tmp_path):
    own = trials(0, 1, 2, work=fails_at_seed_one)
    failures = run(own, log, tmp_path, jobs=1)
    assert failures == {"1 1": "ValueError: it broke"}
    assert set(log.read()) == {own[0].key, own[2].key}


def test_an_interrupted_trial_does_not_go_on_elsewhere(log, tmp_path):
    own = trials(0)[0]
    train(replace(own.settings, out=tmp_path / "runs" / own.key), Silent())
    manifest = tmp_path / "runs" / own.key / "run.json"
    manifest.write_text(manifest.read_text().replace('"device": "cpu"', '"device": "cuda"'))
    failures = run([own], log, tmp_path)
    assert "was begun with `device` cuda, got cpu" in failures["0 0"]


def test_an_interrupted_trial_goes_on_where_it_was(log, tmp_path):
    own = trials(0, epochs=4)[0]
    half = trials(0, epochs=2)[0]
    folder = tmp_path / "runs" / own.key
    # A run that was stopped after two of its four epochs.
    train(replace(half.settings, out=folder), Silent())
    manifest = json.loads((folder / "run.json").read_text())
    manifest["settings"]["epochs"] = 4
    (folder / "run.json").write_text(json.dumps(manifest))
    assert run([own], log, tmp_path) == {}
    resumed = log.read()[own.key].values
    other = ResultsLog(tmp_path / "other.jsonl")
    run_trials([own], other, folder=tmp_path / "other", jobs=1, data_dir=None, device="cpu")
    alone = other.read()[own.key].values
    assert resumed["evaluations"]["test_loss"] == alone["evaluations"]["test_loss"]
    assert resumed["updates"] == alone["updates"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_a_device_that_is_not_there_is_refused(log, tmp_path):
    failures = run_trials(trials(0), log, folder=tmp_path / "runs", jobs=1, data_dir=None, device="cuda")
    assert failures["0 0"].startswith('the device "cuda" cannot be used')
    assert log.read() == {}
