import dataclasses
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gradbatch.errors import InvalidInputError, MissingDataError, OutputError
from gradbatch.experiments import compare as module
from gradbatch.experiments.compare import compare, read_results
from gradbatch.experiments.comparison import Comparison, comparison_in
from gradbatch.experiments.comparison_page import write_comparison
from gradbatch.experiments.loop import train
from gradbatch.experiments.metrics import BITS_PER_CHARACTER
from gradbatch.experiments.run import read_run

SETTINGS = {"epochs": 2, "lr": 0.5, "device": "cpu", "seed": 3}


@pytest.fixture
def here(monkeypatch):
    """Runs in this process, one after another, which is quicker where processes are not the matter."""
    trained = []

    def train_all(runs, *, jobs, display):
        for run in runs:
            train(run)
            trained.append(run)
        return [None] * len(runs)

    monkeypatch.setattr(module, "train_all", train_all)
    return trained


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two rules with two seeds, trained without processes."""
    folder = tmp_path_factory.mktemp("comparisons") / "done"
    comparison = Comparison(folder=folder, rules="cabs,fixed:batch_size=64", seeds=2, settings=SETTINGS)
    for run in comparison.begin():
        train(run.settings)
    return comparison


def test_the_runs_share_all_but_rule_and_seed(compared):
    runs = compared.runs()
    assert [run.name for run in runs] == [
        "cabs seed 3",
        "fixed:batch_size=64 seed 3",
        "cabs seed 4",
        "fixed:batch_size=64 seed 4",
    ]
    assert [run.settings.folder.name for run in runs][:2] == ["cabs-seed-3", "fixed-batch_size=64-seed-3"]
    assert [run.settings.batch_size for run in runs] == [32, 64, 32, 64]
    assert [run.settings.seed for run in runs] == [3, 3, 4, 4]
    assert {(run.settings.lr, run.settings.epochs) for run in runs} == {(0.5, 2)}


def test_a_rule_with_another_optimizer_has_its_learning_rate(tmp_path):
    comparison = Comparison(folder=tmp_path, rules="fixed,fixed:optimizer=adam")
    assert [run.settings.lr for run in comparison.runs()] == [0.5, 0.001]
    assert [run.settings.folder.name for run in comparison.runs()] == ["fixed", "fixed-optimizer=adam"]


def test_the_table_has_the_numbers_of_the_logs(compared):
    results = read_results(compared, {})
    logs = [read_run(run.settings.folder) for run in compared.runs()]
    best = [max(line["test_accuracy"] for line in log.evaluations) for log in logs]
    assert results.target == min(best)
    assert results.contenders == [0, 0, 1, 1]
    assert results.names[0] == "cabs seed 3"
    mean = (best[1] + best[3]) / 2
    lines = results.table().splitlines()
    assert lines[0].split()[:4] == ["rule", "Samples", "to", f"{100 * min(best):.4g}"]
    assert lines[2].startswith("fixed:batch_size=64 ")
    assert f"{100 * mean:.2f} ± " in lines[2]
    assert "is the best test score of the worst run" in results.table()
    assert "over 2 seeds" in results.table()


def test_a_target_that_is_named_is_not_called_that_of_the_worst(compared):
    named = Comparison(folder=compared.folder, rules=compared.rules, seeds=2, target=0.999, settings=SETTINGS)
    results = read_results(named, {})
    assert results.rows[0].cells(results.columns)[0] == "–"
    assert "Samples to 99.9 %" in results.table()
    assert "worst run" not in results.table()


def test_other_tasks_are_compared_by_their_own_metric(compared):
    results = dataclasses.replace(read_results(compared, {}), metric=BITS_PER_CHARACTER, target=2.5)
    assert results.titles[0] == "Samples to 2.5 bits per character"
    assert results.titles[3] == "Best bits per character"
    assert results.notes[0] == "2.5 bits per character is the best test score of the worst run, so that all reach it."


def test_what_failed_stands_in_its_row(compared):
    why = {"cabs seed 3": "it broke", "cabs seed 4": "it broke", "fixed:batch_size=64 seed 4": "<other>"}
    results = read_results(compared, why)
    assert results.rows[0].cells(results.columns)[0] == "failed"
    assert results.rows[1].cells(results.columns)[0].endswith("(1 of 2)")
    assert results.failures == {"cabs seed 3, cabs seed 4": "it broke", "fixed:batch_size=64 seed 4": "<other>"}
    assert "cabs seed 3, cabs seed 4 failed: it broke" in results.table()


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.outside = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.outside += [v for k, v in attrs if k in ("src", "href", "xlink:href") and not v.startswith("#")]


def test_the_page_is_a_report_led_by_the_table(compared, tmp_path):
    shutil.copytree(compared.folder, tmp_path / "copy")
    copy = Comparison(folder=tmp_path / "copy", rules=compared.rules, seeds=2, settings=SETTINGS)
    results = read_results(copy, {"cabs seed 4": "<broken>"})
    output = write_comparison(results)
    assert output == tmp_path / "copy" / "comparison.html"
    text = output.read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.count("svg") == 12
    assert len(page.ids) == len(set(page.ids))
    assert page.outside == ["data:,"]
    assert "&lt;broken&gt;" in text
    for row in results.rows:
        for cell in row.cells(results.columns):
            assert f"<td>{cell}</td>" in text
    legend = text.partition('<div class="legend">')[2].partition("</div>")[0]
    assert legend.count("chip") == 2  # a colour for each rule, not for each run
    assert text.index("<h2>Rules</h2>") < text.index("Each run by itself") < text.index("<svg")
    assert "Made by <code>gradbatch compare</code>" in text
    assert "no gradient statistics were logged: fixed:batch_size=64." in text  # once, not for each seed
    # Both seeds of the second rule are drawn in its one colour.
    accuracy = text.partition('aria-label="Test accuracy"')[2].partition("</svg>")[0]
    assert accuracy.count("stroke: #d55e00") == 2
    assert accuracy.count("stroke: #0072b2") == 1


def test_what_is_finished_is_kept_and_the_rest_goes_on(tmp_path, here):
    comparison = Comparison(folder=tmp_path, rules="fixed,cabs,schedule", settings=SETTINGS)
    runs = comparison.begin()
    train(runs[0].settings)
    # Another budget, as of a run that was stopped half-way: it has a checkpoint of its first epoch.
    folder = train(Comparison(folder=tmp_path, rules="cabs", settings=SETTINGS | {"epochs": 1}).runs()[0].settings)
    manifest = json.loads((folder / "run.json").read_text())
    manifest["settings"]["epochs"] = 2
    (folder / "run.json").write_text(json.dumps(manifest))
    kept = (tmp_path / "fixed" / "steps.jsonl").stat().st_mtime_ns
    begun = len(read_run(folder).steps)
    assert [run.is_complete() for run in runs] == [True, False, False]
    results = compare(comparison_in(tmp_path, {"num_workers": 0}), resume=True, jobs=1)
    assert [(run.rule, run.resume) for run in here] == [("cabs", True), ("schedule", False)]
    assert (tmp_path / "fixed" / "steps.jsonl").stat().st_mtime_ns == kept
    steps = read_run(folder).steps
    assert [line["step"] for line in steps] == list(range(len(steps)))
    assert len(steps) > begun
    assert [len(row.scores) for row in results.rows] == [1, 1, 1]
    assert compare(comparison_in(tmp_path, {"target": 0.5}), resume=True, jobs=1).target == 0.5
    assert len(here) == 2  # nothing was left to do


def test_a_comparison_that_goes_on_stays_what_it_was(compared):
    for change in ({"rules": "cabs"}, {"seeds": 3}, {"lr": 0.1}, {"batch_size": 16}):
        with pytest.raises(InvalidInputError, match=f"leave `{next(iter(change))}` out"):
            comparison_in(compared.folder, change)
    same = comparison_in(compared.folder, {"rules": compared.rules, "lr": 0.5})
    assert same.runs() == compared.runs()


def test_what_cannot_go_on_is_a_sentence(tmp_path, compared):
    with pytest.raises(MissingDataError, match="there is no comparison in"):
        comparison_in(tmp_path, {})
    (tmp_path / "comparison.json").write_text('{"rules": "cabs"}')
    with pytest.raises(InvalidInputError, match=r"comparison\.json is damaged"):
        comparison_in(tmp_path, {})
    with pytest.raises(OutputError, match="already holds a comparison: go on with it"):
        Comparison(folder=compared.folder, rules="cabs").begin()


def test_of_two_that_begin_at_once_one_gets_the_folder(tmp_path, monkeypatch):
    first, second = (Comparison(folder=tmp_path / "c", rules="fixed", seeds=seeds) for seeds in (1, 2))
    planned = second.runs

    def runs():  # the other begins after this one looked
        monkeypatch.undo()
        first.begin()
        return planned()

    monkeypatch.setattr(Comparison, "runs", lambda self: runs())
    with pytest.raises(OutputError, match="already holds a comparison"):
        second.begin()
    assert comparison_in(tmp_path / "c", {}).seeds == 1


def test_a_folder_with_a_run_is_not_taken(tmp_path):
    train(Comparison(folder=tmp_path, rules="fixed", settings=SETTINGS).runs()[0].settings)
    with pytest.raises(OutputError, match="already holds a run"):
        Comparison(folder=tmp_path, rules="cabs,fixed").begin()
    assert not (tmp_path / "comparison.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "`seeds` must be at least 1"),
        ({"target": 97.0}, "write 0.97 for 97 %"),
        ({"target": 0.0}, "`target` must be above 0"),
        ({"target": -1.0, "settings": {"task": "shakespeare"}}, "name it in bits per character"),
        ({"settings": {"task": "digts"}}, 'there is no task "digts"'),
        ({"rules": "fixed:lr=-1"}, "`lr` must be a number of at least 0"),
        ({"seeds": 2, "settings": {"seed": 2**63 - 1}}, "`seed` must be from 0"),
    ],
)
def test_nonsense_is_refused_before_anything_is_made(tmp_path, changes, message):
    values = {"folder": tmp_path / "c", "rules": "fixed"} | changes
    with pytest.raises(InvalidInputError, match=message):
        Comparison(**values)


def test_a_target_in_bits_may_be_above_one(tmp_path):
    values = {"folder": tmp_path / "c", "rules": "fixed", "target": 2.5}
    assert Comparison(**values, settings={"task": "shakespeare"}).target == 2.5
    with pytest.raises(InvalidInputError, match="at most 1, got 2.5"):
        Comparison(**values, settings={"task": "semeval"})


def test_data_that_is_missing_is_said_once_and_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.delenv("GRADBATCH_DATA", raising=False)
    comparison = Comparison(folder=tmp_path / "c", rules="fixed,cabs", settings={"task": "mnist"})
    with pytest.raises(MissingDataError, match="name a folder with --data-dir"):
        compare(comparison, resume=False, jobs=1)
    assert not Path(tmp_path / "c").exists()
