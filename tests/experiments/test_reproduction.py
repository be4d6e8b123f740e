"""`gradbatch reproduce`: every experiment runs at the quick scale, and the committed pages say what their logs say."""

import math
import re
from pathlib import Path

import pytest

from gradbatch.cli import main
from gradbatch.errors import InvalidInputError
from gradbatch.experiments.reproduce.index import index_of
from gradbatch.experiments.reproduce.pages import drawn, page_of, results_of
from gradbatch.experiments.reproduction import chosen, draw, reproduce
from gradbatch.experiments.studies.benches import BENCHES
from gradbatch.experiments.studies.catalogue import EXPERIMENTS
from gradbatch.experiments.studies.contest import BUDGETED, RULES
from gradbatch.experiments.studies.gains import is_told, matched, searched
from gradbatch.experiments.studies.standings import fields_of

ROOT = Path(__file__).parents[2]
LOGS = list(dict.fromkeys(experiment.log for experiment in EXPERIMENTS.values()))


def shape(svg):
    """The words of a figure and how much is drawn; its numbers may differ in their last digits between machines."""
    return re.findall(r">([^<>\n]+)</text>", svg), svg.count("<path"), svg.count("<use")


@pytest.mark.data
@pytest.mark.parametrize("log", [pytest.param(log, marks=pytest.mark.xdist_group(f"quick {log}")) for log in LOGS])
def test_every_experiment_runs_at_the_quick_scale(log, tmp_path, data_dir, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = [experiment for experiment in EXPERIMENTS.values() if experiment.log == log]
    results = tmp_path / "results"
    assert reproduce(own, "quick", results=results, jobs=1, data_dir=data_dir) == {}
    for experiment in own:
        found = results_of(experiment, "quick", results)
        assert {trial.key for trial in found.trials} <= set(found.outcomes)
        page = page_of(experiment, "quick", found)
        assert page.text.startswith(f"# {experiment.title}\n")
        if found.trials:
            assert "nan" not in re.findall(r"\w+", page.text)
            assert page.text.count("| **open** | quick runs only |") == len(experiment.claims)
            assert all(figure.rstrip().endswith("</svg>") for figure in page.figures.values())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_committed_page_is_what_the_committed_log_says(name):
    scale, results = drawn(EXPERIMENTS[name], ROOT / "results")
    path = ROOT / "docs" / "results" / f"{name}.md"
    assert path.exists() == (results.num_run > 0)
    if results.num_run:
        page = page_of(EXPERIMENTS[name], scale, results)
        assert path.read_text(encoding="utf-8") == page.text, "draw the pages anew: gradbatch reproduce all --draw"
        for figure, content in page.figures.items():
            assert shape((path.parent / figure).read_text(encoding="utf-8")) == shape(content)


def test_the_committed_index_is_what_the_committed_logs_say():
    text = (ROOT / "docs" / "results" / "index.md").read_text(encoding="utf-8")
    assert text == index_of(EXPERIMENTS.values(), ROOT / "results"), "draw it anew: gradbatch reproduce all --draw"


def test_the_committed_log_bears_out_what_the_readme_says_of_rules():
    fields = fields_of(results_of(EXPERIMENTS["regret"], "full", ROOT / "results"))
    known = [(field, rule) for field in fields for rule in RULES if math.isfinite(searched(field, rule))]
    assert len(known) > len(BENCHES) * len(RULES)  # all rules on all tasks with SGD, and some with Adam
    gaining = [(field, rule) for field, rule in known if searched(field, rule) < 0]
    better = [(field.bench.name, rule) for field, rule in gaining if is_told(searched, field, rule)]
    assert not better, "none of the rules that we ran beats a search by more than chance"
    with_adam = [field for field in fields if field.optimizer == "adam"]
    assert len(with_adam) == len(BENCHES)
    assert all(matched(field, BUDGETED) <= 0 for field in with_adam), "no worse than the best constant batch"


def test_no_page_or_figure_is_left_over():
    folder = ROOT / "docs" / "results"
    pages = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    assert pages.keys() <= {*EXPERIMENTS, "index"}
    shown = {name for text in pages.values() for name in re.findall(r"\(([^()/]+\.svg)\)", text)}
    assert {path.name for path in folder.glob("*.svg")} == shown


def test_every_line_of_the_committed_logs_belongs_to_a_trial():
    for scale in ("quick", "full"):
        for log in LOGS:
            own = [experiment for experiment in EXPERIMENTS.values() if experiment.log == log]
            keys = {trial.key for experiment in own for trial in experiment.trials(scale)}
            lines = results_of(own[0], scale, ROOT / "results").outcomes
            assert set(lines) <= keys, f"{scale} {log}"


def test_pages_are_drawn_where_something_was_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = [EXPERIMENTS["regret-digits"], EXPERIMENTS["regret-semeval"]]
    assert reproduce(own, "quick", results=tmp_path / "results", jobs=1, data_dir=None) == {}
    written = draw(own, results=tmp_path / "results", pages=tmp_path / "pages")
    # Some of these runs are runs of other experiments, too.
    assert [path.name for path in written] == ["regret.md", "regret-digits.md", "regret-floor.md", "index.md"]
    links = re.findall(r"\]\(([a-z0-9-]+\.md)\)", (tmp_path / "pages" / "index.md").read_text())
    assert {*links, "index.md"} == {path.name for path in written}
    text = (tmp_path / "pages" / "regret-digits.md").read_text()
    assert "![" in text
    assert (tmp_path / "pages" / "regret-digits-sgd.svg").exists()
    assert "[regret.jsonl](../results/quick/regret.jsonl)" in text


def test_other_results_are_drawn_beside_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "regret-digits", "--results", "mine"]) == 0
    assert not (tmp_path / "docs").exists()
    pages = tmp_path / "mine" / "pages"
    drawn_before = {path.name for path in pages.iterdir()}
    assert {"index.md", "regret-digits.md", "regret-digits-sgd.svg"} <= drawn_before
    # What is not run any more loses its page and the figures in it.
    log = tmp_path / "mine" / "quick" / "regret.jsonl"
    log.write_text("")
    assert main(["reproduce", "regret-digits", "--results", "mine", "--draw"]) == 0
    assert [path.name for path in pages.iterdir()] == ["index.md"]
    log.unlink()
    assert main(["reproduce", "regret-digits", "--results", "mine", "--draw"]) == 2
    assert "there is no log of these experiments in mine" in capsys.readouterr().err


def test_the_command_prints_the_page_and_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "regret-digits", "--jobs", "1"]) == 0
    first = capsys.readouterr().out
    assert "# Which rule, and what do I gain: digits" in first
    assert "(12 of 12 runs)" in first
    assert (tmp_path / "docs" / "results" / "regret-digits.md").exists()
    assert main(["reproduce", "regret-digits", "--draw"]) == 0
    assert "runs)" not in capsys.readouterr().out
    lines = (tmp_path / "results" / "quick" / "regret.jsonl").read_text().splitlines()
    assert main(["reproduce", "regret-digits"]) == 0
    assert (tmp_path / "results" / "quick" / "regret.jsonl").read_text().splitlines() == lines


def test_what_cannot_be_run_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GRADBATCH_DATA", raising=False)
    with pytest.raises(InvalidInputError, match='no experiment "dba-table2", did you mean "dba-table1"'):
        chosen(["dba-table2"])
    assert main(["reproduce", "nothing"]) == 2
    assert 'there is no experiment "nothing"' in capsys.readouterr().err
    assert main(["reproduce", "regret-digits", "--jobs", "0"]) == 2
    assert "`jobs` must be at least 1" in capsys.readouterr().err
    assert len(chosen(["all"])) == len(EXPERIMENTS)


def test_without_a_gpu_what_needs_one_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    own = [one for one in EXPERIMENTS.values() if one.device == "cuda"]
    assert {"adabatch-gpu", "speed-gpu"} <= {one.name for one in own}
    failures = reproduce(own, "full", results=tmp_path, jobs=1, data_dir=None)
    assert list(failures) == [one.name for one in own]
    assert all("need a GPU that torch can use" in why for why in failures.values())
    assert list(tmp_path.iterdir()) == []
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "adabatch-gpu", "--scale", "full"]) == 2
    assert capsys.readouterr().err.startswith("gradbatch: adabatch-gpu failed: its full runs need a GPU")
    assert list(tmp_path.iterdir()) == []


def test_runs_that_fail_for_one_reason_are_told_together(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GRADBATCH_DATA", raising=False)
    assert main(["reproduce", "dba-table1", "--jobs", "1"]) == 2
    failed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("gradbatch: ")]
    assert len(failed) == 1
    assert "and 7 more failed: " in failed[0]
