import json
import shutil

import pytest

from gradbatch._types import Decision, Record
from gradbatch.errors import InvalidInputError
from gradbatch.experiments.loop import train
from gradbatch.experiments.replaying import Replay, replay_run
from gradbatch.experiments.run import read_run
from gradbatch.experiments.settings import TrainSettings


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of runs by the name of their rule."""
    root = tmp_path_factory.mktemp("runs")
    common = {"lr": 1.0, "samples": 2000, "device": "cpu"}
    settings = {
        "fixed": TrainSettings(rule="fixed", out=root / "fixed", **common),
        "cabs": TrainSettings(rule="cabs", set=("min_batch_size=24",), out=root / "cabs", **common),
        "ba": TrainSettings(rule="ba", batch_size=16, set=("m0=16",), out=root / "ba", **common),
        "dba": TrainSettings(rule="dba", out=root / "dba", **common),
        "shadowed": TrainSettings(rule="fixed", shadow=("cabs", "norm-test"), out=root / "shadowed", **common),
    }
    return {name: train(value) for name, value in settings.items()}


@pytest.mark.parametrize("name", ["fixed", "cabs", "ba", "dba"])
def test_the_runs_own_rule_gives_its_own_sizes(runs, name):
    replay = replay_run(runs[name], name, [])
    lines = read_run(runs[name]).steps
    assert [decision.batch_size for decision in replay.decisions] == [line["next_batch_size"] for line in lines]
    assert [decision.reason for decision in replay.decisions] == [line["reason"] for line in lines]
    assert replay.is_recorded == (name == "dba")
    assert f"the run's own next size in {len(lines):,} of {len(lines):,} updates" in replay.summary()


def test_a_changed_setting_changes_the_answers(runs):
    own = replay_run(runs["cabs"], "cabs", [])
    assert own.title.startswith("cabs (min_batch_size=24) on the log of ")
    changed = replay_run(runs["cabs"], "cabs", ["min_batch_size=40"])
    sizes = [max(40, decision.batch_size) for decision in own.decisions]
    assert [decision.batch_size for decision in changed.decisions] == sizes
    assert not changed.is_own
    assert replay_run(runs["cabs"], "cabs", ["decay=0.5"]).title.startswith("cabs (decay=0.5, min_batch_size=24)")


def test_a_replay_is_what_the_shadow_said(runs):
    lines = read_run(runs["shadowed"]).steps
    for rule, name in (("cabs", "CABS"), ("norm-test", "NormTest")):
        replay = replay_run(runs["shadowed"], rule, [])
        assert [decision.batch_size for decision in replay.decisions] == [line[f"shadows.{name}"] for line in lines]
    plain = read_run(runs["fixed"]).steps
    assert [line["loss"] for line in lines] == [line["loss"] for line in plain]  # shadows are not obeyed


@pytest.mark.parametrize(
    ("run", "rule", "assignments", "message"),
    [
        (
            "fixed",
            "cabs",
            [],
            "lacks grad_sqnorm, sample_sqnorm, which cabs needs .* with --shadow cabs or --rule cabs, and its",
        ),
        ("fixed", "ba", [], "make the run again with --rule ba, and its log has it"),
        ("shadowed", "cabs", ["moment=position"], "lacks position_sqnorm, .* with --rule cabs, and its log has it"),
        ("cabs", "dba", [], "DBA needs gradients, of which a log has none"),
        ("dba", "dba", ["stride=8"], "DBA needs gradients, of which a log has none"),
        ("cabs", "cab", [], 'there is no rule "cab", did you mean "cabs"'),
        ("cabs", "cabs", ["deca=1"], 'no hyper-parameter "deca"'),
        ("cabs", "cabs", ["decay=0.1", "decay=0.2"], "more than once"),
    ],
)
def test_what_a_log_cannot_answer_is_a_sentence(runs, run, rule, assignments, message):
    with pytest.raises(InvalidInputError, match=message):
        replay_run(runs[run], rule, assignments)


def test_a_log_with_a_gap_is_refused(runs, tmp_path):
    shutil.copytree(runs["cabs"], tmp_path / "run")
    lines = (tmp_path / "run" / "steps.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "steps.jsonl").write_text("".join(lines[:5] + lines[6:]))
    with pytest.raises(InvalidInputError, match="without a gap"):
        replay_run(tmp_path / "run", "cabs", [])


def test_a_log_with_some_of_it_is_answered_and_what_was_held_is_told(runs, tmp_path):
    shutil.copytree(runs["cabs"], tmp_path / "run")
    lines = read_run(runs["cabs"]).steps
    for line in lines[3:6]:
        del line["sample_sqnorm"]
    (tmp_path / "run" / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = replay_run(tmp_path / "run", "cabs", []).summary()
    assert f"held in 3 of {len(lines)} updates: this batch cannot give sample_sqnorm (3)" in summary


def test_the_summary_and_the_lines_by_hand():
    records = [
        Record(
            step=step,
            samples_seen=10 * (step + 1),
            epoch=0.1,
            batch_size=10,
            requested=10,
            next_batch_size=10,
            micro_batches=1,
            lr=0.1,
            lr_scale=1.0,
            loss=1.0,
            seconds=0.0,
        )
        for step in range(4)
    ]
    decisions = [
        Decision(batch_size=10, reason="same"),
        Decision(batch_size=32, lr_scale=2.0, reason="larger", numbers={"target": 31.5}),
        Decision(batch_size=10, step=False, reason="more"),
        Decision(batch_size=12, reason="held: nothing given"),
    ]
    replay = Replay(
        title="rule on a run", name="rule", records=records, decisions=decisions, is_recorded=False, is_own=False
    )
    assert replay.summary().splitlines() == [
        "rule on a run",
        "the run: 4 updates, 40 samples, mean batch 10.0",
        "rule: asks for 18.0 on the mean, from 10 to 32; the run's own next size in 1 of 4 updates",
        "rule: would have drawn more samples into the batch in 1 of 4 updates",
        "held in 1 of 4 updates: nothing given (1)",
        "",
        "step  samples  batch  run's next  rule  lr scale  reason",
        "   0       10     10          10    10         1  same",
        "   1       20     10          10    32         2  larger",
        "   2       30     10          10   +10         1  more",
        "   3       40     10          10    12         1  held: nothing given",
    ]
    lines = [json.loads(line) for line in replay.lines().splitlines()]
    assert lines[1] == {
        "step": 1,
        "samples_seen": 20,
        "batch_size": 32,
        "lr_scale": 2.0,
        "reason": "larger",
        "numbers.target": 31.5,
    }
    assert [line.get("draws_more", False) for line in lines] == [False, False, True, False]


def test_the_table_is_about_a_dozen_lines(runs):
    lines = replay_run(runs["cabs"], "cabs", []).summary().partition("\n\n")[2].splitlines()
    num_steps = len(read_run(runs["cabs"]).steps)
    assert num_steps > 40
    assert len(lines) == 13
    assert int(lines[-1].split()[0]) == num_steps - 1
