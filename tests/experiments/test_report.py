import dataclasses
import json
import logging
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from gradbatch.errors import InvalidInputError, MissingDataError, OutputError
from gradbatch.experiments.figures import COLOURS
from gradbatch.experiments.loop import train
from gradbatch.experiments.page import chip
from gradbatch.experiments.panels import FIGURES
from gradbatch.experiments.report import render_report, write_report
from gradbatch.experiments.run import read_run
from gradbatch.experiments.settings import TrainSettings
from gradbatch.experiments.summary import summarize


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    fixed = TrainSettings(rule="fixed", lr=0.5, epochs=2, out=root / "plain")
    cabs = TrainSettings(rule="cabs", lr=0.5, epochs=2, validation=0.1, out=root / "<script>cabs")
    return [train(fixed), train(cabs)]


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.outside, self.ids, self.inside, self.tags = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href"):
                (self.inside if value.startswith("#") else self.outside).append(value)
            if name == "id":
                self.ids.append(value)


def parsed(page):
    links = Links()
    links.feed(page)
    return links


def test_the_page_needs_nothing_from_outside(folders):
    page = render_report([read_run(folder) for folder in folders])
    links = parsed(page)
    assert links.outside == ["data:,"]
    assert len(links.ids) == len(set(links.ids))
    assert {link.removeprefix("#") for link in links.inside} <= set(links.ids)
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(links.ids)
    assert "@import" not in page
    assert "script" not in links.tags
    assert links.tags.count("svg") == 12


def test_names_from_outside_are_escaped(folders):
    page = render_report([read_run(folder) for folder in folders])
    assert "&lt;script&gt;cabs" in page


def test_results_and_settings_are_told(folders):
    runs = [read_run(folder) for folder in folders]
    page = render_report(runs)
    best = max(line["test_score"] for line in runs[0].evaluations)
    assert f"<strong>{best:.2%}</strong>" in page
    rows = re.findall(r"<tr( class=\"differs\")?><th scope=\"row\">([^<]+)</th>(.*?)</tr>", page)
    marked = {name.removeprefix("≠ ") for mark, name, _ in rows if mark}
    assert {"rule", "validation", "cabs: decay"} <= marked
    assert not {"lr", "epochs", "optimizer"} & marked
    assert "Not shown, since no gradient statistics were logged: plain." in page


def test_a_run_without_statistics_has_no_noise_scale(folders):
    page = render_report([read_run(folders[0])])
    assert parsed(page).tags.count("svg") == 10
    assert "≠" not in page


def test_runs_of_one_name_are_told_apart(folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "other" / "plain")
    page = render_report([read_run(folders[0]), read_run(tmp_path / "other" / "plain")])
    assert "other/plain" in page
    with pytest.raises(InvalidInputError, match="plain was named more than once"):
        render_report([read_run(folders[0])] * 2)


def test_a_run_that_was_not_evaluated_yet_is_shown(folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "run")
    (tmp_path / "run" / "evaluations.jsonl").unlink()
    assert "No run has been evaluated yet." in render_report([read_run(tmp_path / "run")])


def test_thousands_of_steps_stay_small(folders, tmp_path):
    shutil.copytree(folders[1], tmp_path / "run")
    lines = read_run(folders[1]).steps
    with (tmp_path / "run" / "steps.jsonl").open("w") as file:
        for step in range(20_000):
            line = lines[step % len(lines)] | {"step": step, "samples_seen": 32 * step, "seconds": step / 100}
            file.write(json.dumps(line) + "\n")
    page = render_report([read_run(tmp_path / "run"), *map(read_run, folders)])
    assert len(page) < 1_000_000


def test_writing_replaces_the_page_and_leaves_nothing_else(folders, tmp_path):
    output = tmp_path / "report.html"
    output.write_text("old")
    write_report(folders, output)
    assert output.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert list(tmp_path.iterdir()) == [output]


def test_a_page_that_cannot_be_written_is_a_sentence(folders, tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(folders[:1], tmp_path / "missing" / "report.html")


def test_a_folder_that_is_a_file_is_a_sentence(folders, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(folders[:1], tmp_path / "file" / "report.html")


def test_skipped_updates_are_told(folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "run")
    lines = read_run(folders[0]).steps
    for line in lines[-3:]:
        line.update(skipped=True, loss=None)
    (tmp_path / "run" / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = read_run(tmp_path / "run")
    page = render_report([run, read_run(folders[1])])
    assert f"<td>{len(lines)} (3 skipped)</td>" in page
    assert f"Updates were skipped: 3 of {len(lines)} in run; " in page
    assert "skipped)" in summarize(tmp_path / "run")
    raw, mean = FIGURES["loss"]([run], ["run"], "seconds").panel.curves
    assert np.isnan(raw.points.y[-3:]).all()
    assert np.isnan(mean.points.y[-3:]).all()
    assert np.isfinite(mean.points.y[:-3]).all()
    assert FIGURES["updates"]([run], ["run"], "seconds").panel.curves[0].points.y[-1] == len(lines) - 3
    assert "Updates were skipped" not in render_report([read_run(folders[0])])


def test_the_accuracy_axis_cuts_off_at_most_a_tenth(folders):
    run = read_run(folders[0])
    accuracies = [0.51] * 2 + [0.8] * 5 + [0.98, 0.99] * 12
    evaluations = [{"samples_seen": n, "seconds": n, "test_score": y} for n, y in enumerate(accuracies)]
    figure = FIGURES["score"]([dataclasses.replace(run, evaluations=evaluations)], ["run"], "seconds")
    floor, _ = figure.panel.y_limits
    assert 0.51 < floor < 0.8


def test_runs_are_drawn_by_the_metric_of_their_task_and_by_accuracy_where_tasks_differ(folders):
    run = read_run(folders[0])
    evaluations = [{"samples_seen": n, "seconds": n, "test_score": 3 - n, "test_accuracy": 0.1} for n in range(2)]
    bits = dataclasses.replace(run, evaluations=evaluations, manifest={"settings": {"task": "shakespeare"}})
    alone = FIGURES["score"]([bits], ["bits"], "seconds")
    assert alone.title == "Test bits per character"
    assert alone.panel.y_limits is None
    assert alone.panel.curves[0].points.y.tolist() == [3, 2]
    both = FIGURES["score"]([run, bits], ["run", "bits"], "seconds")
    assert both.title == "Test accuracy"
    assert both.panel.curves[1].points.y.tolist() == [0.1, 0.1]


def test_the_table_names_the_metric_that_all_share(folders):
    runs = [read_run(folder) for folder in folders]
    assert "Best test accuracy" in render_report(runs)
    settings = runs[1].manifest["settings"] | {"task": "shakespeare"}
    text = dataclasses.replace(runs[1], manifest=runs[1].manifest | {"settings": settings})
    assert "Best test bits per character" in render_report([text])
    assert "Best test score" in render_report([runs[0], text])


def test_a_score_that_was_not_finite_in_the_end_is_said(folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "run")
    path = tmp_path / "run" / "evaluations.jsonl"
    first, last = map(json.loads, path.read_text().splitlines())
    path.write_text(f"{json.dumps(first)}\n{json.dumps(last | {'test_score': None})}\n")
    assert f"test accuracy not finite (best {first['test_score']:.2%})" in summarize(tmp_path / "run")
    path.write_text("")
    assert summarize(tmp_path / "run").startswith("not evaluated, ")


def test_what_matters_most_comes_first(folders):
    page = render_report([read_run(folder) for folder in folders])
    assert page.index(">Mean batch<") < page.index(">Final<")
    shown, _, folded = page.partition("<details>")
    assert "≠ rule" in shown
    assert "≠" not in folded
    assert '<th scope="row">optimizer</th>' in folded


def test_what_is_no_run_is_a_sentence(folders, tmp_path):
    with pytest.raises(MissingDataError, match=r"not the folder of a run, it has no run\.json"):
        write_report([tmp_path], tmp_path / "report.html")
    shutil.copytree(folders[0], tmp_path / "run")
    (tmp_path / "run" / "steps.jsonl").unlink()
    with pytest.raises(InvalidInputError, match="has no steps yet"):
        write_report([tmp_path / "run"], tmp_path / "report.html")
    with pytest.raises(InvalidInputError, match="at least one run"):
        render_report([])


def test_a_log_that_was_cut_short_is_drawn_with_a_warning(folders, tmp_path, caplog):
    shutil.copytree(folders[0], tmp_path / "run")
    path = tmp_path / "run" / "steps.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    with caplog.at_level(logging.WARNING):
        write_report([tmp_path / "run"], tmp_path / "report.html")
    assert "cut short" in caplog.text


def test_many_runs_are_drawn_without_their_single_batches(folders):
    run = read_run(folders[0])
    few, many = (FIGURES["loss"]([run] * count, ["run"] * count, "seconds") for count in (4, 5))
    assert [curve.style for curve in few.panel.curves] == ["raw"] * 4 + ["line"] * 4
    assert [curve.style for curve in many.panel.curves] == ["line"] * 5
    assert "faint" in few.caption
    assert "faint" not in many.caption


def test_shadows_are_told(folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    manifest["settings"]["shadow"] = ["cabs", "norm-test"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(manifest))
    page = render_report([read_run(folders[0]), read_run(tmp_path / "run")])
    assert '<th scope="row">≠ shadow</th><td>none</td><td>cabs, norm-test</td>' in page


def test_colours_that_come_again_are_striped():
    assert chip(0) != chip(len(COLOURS))
    assert COLOURS[0] in chip(len(COLOURS))
    assert len({chip(number) for number in range(2 * len(COLOURS))}) == 2 * len(COLOURS)
