import json

import numpy as np
import pytest

from experiments.reproduce.outcomes import Silent
from gradbatch.experiments.loop import train
from gradbatch.experiments.reproduce.distil import distil, train_and_distil
from gradbatch.experiments.run import read_run
from gradbatch.experiments.settings import TrainSettings


def settings(out, **changes):
    values = {"out": out, "epochs": 40, "rule": "cabs", "lr": 1.0, "device": "cpu", "validation": 0.1} | changes
    return TrainSettings(**values).resolved()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return read_run(train(settings(tmp_path_factory.mktemp("run") / "run"), Silent()))


def test_totals_are_the_logs(run):
    values = distil(run)
    assert values["updates"] == len(run.steps)
    assert values["samples"] == run.steps[-1]["samples_seen"]
    assert values["train_samples"] == 1293
    assert values["skipped"] == 0
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_thinned_evaluations_keep_every_best_and_the_last(run):
    values = distil(run)["evaluations"]
    assert len(run.evaluations) == 40
    assert len(values["step"]) < 40
    for name in ("test_score", "validation_score", "test_loss"):
        all_of_them = [line[name] for line in run.evaluations]
        assert max(values[name]) == pytest.approx(max(all_of_them), rel=1e-4)
        assert min(values[name]) == pytest.approx(min(all_of_them), rel=1e-4)
        assert values[name][-1] == pytest.approx(all_of_them[-1], rel=1e-4)
    chosen = int(np.argmax([line["validation_score"] for line in run.evaluations]))
    assert run.evaluations[chosen]["step"] in values["step"]


def test_means_between_evaluations_are_over_samples(run):
    values = distil(run)["evaluations"]
    first = run.steps[: values["step"][0]]
    total = sum(line["batch_size"] for line in first)
    expected = sum(line["loss"] * line["batch_size"] for line in first) / total
    assert values["batch_loss"][0] == pytest.approx(expected, rel=1e-4)
    assert values["batch_size"][0] == pytest.approx(total / len(first), rel=1e-4)


def test_the_course_covers_the_run(run):
    course = distil(run)["course"]
    assert course["updates"][-1] == len(run.steps)
    assert course["samples"][-1] == run.steps[-1]["samples_seen"]
    assert len(course["updates"]) <= 24
    assert max(course["largest"]) == max(line["batch_size"] for line in run.steps)


def test_what_the_rule_said_is_averaged(run):
    numbers = distil(run)["numbers"]
    said = [line["numbers.variance"] for line in run.steps]
    assert numbers["variance"] == pytest.approx(np.mean(said), rel=1e-4)
    assert numbers["last_variance"] == pytest.approx(said[-1], rel=1e-4)


def test_a_run_that_diverged_is_a_result(tmp_path):
    values = train_and_distil(settings(tmp_path / "run", lr=1e30, rule="fixed"), Silent())
    assert "10 times in a row" in values["diverged"]
    assert values["evaluations"] == {"batch_loss": [], "batch_size": []}
    json.dumps(values, allow_nan=False)
