"""A page says what a claim's verdict rests on, how long its runs took, and where their log lies."""

from pathlib import Path

import pytest

from experiments.reproduce.pretended import experiment, run
from gradbatch.experiments.reproduce.pages import drawn, page_of, results_of, table, write_pages


def page(own, folder, *logs):
    return page_of(own, *drawn(own, folder), *logs).text.splitlines()


def test_the_page_says_when_a_claim_holds(tmp_path):
    own = experiment("dba", "in part")
    run(own, tmp_path, "full")
    lines = page(own, tmp_path)
    assert "| claim | verdict | what we see | it holds if |" in lines
    assert "| It in part. | **in part** | seen | it does |" in lines


def test_a_page_of_quick_runs_says_that_it_has_no_results(tmp_path):
    own = experiment("dba", "holds")
    run(own, tmp_path, "quick")
    lines = page(own, tmp_path)
    assert any(line.startswith("**Quick runs, to show that the machinery works") for line in lines)
    assert "| It holds. | **open** | quick runs only | it does |" in lines
    run(own, tmp_path, "full")
    assert not any("Quick runs" in line for line in page(own, tmp_path))


@pytest.mark.parametrize(
    ("scale", "seeds", "is_given"), [("quick", (0, 1), False), ("full", (0,), False), ("full", (0, 1), True)]
)
def test_reasons_are_given_once_all_full_runs_are_in(scale, seeds, is_given, tmp_path):
    own = experiment("dba", "holds", why="There is no more to learn from few images.")
    run(own, tmp_path, scale, seeds=seeds)
    text = page_of(own, scale, results_of(own, scale, tmp_path)).text
    assert ("## Why, as far as we can tell\n\nThere is no more" in text) == is_given


def test_a_page_says_how_long_the_runs_took_and_links_their_log(tmp_path):
    own = experiment("dba", "holds")
    run(own, tmp_path, "full", seeds=(0,))
    last = page(own, tmp_path)[-1]
    assert last.startswith("runs everything anew; ")
    assert "1 of 2 runs are in" in last
    (tmp_path / "full" / "dba.jsonl").unlink()
    run(own, tmp_path, "full")
    last = page(own, tmp_path, Path("../logs"))[-1]
    assert last.startswith("runs everything anew (1.0 hours of training in all, without evaluations); ")
    assert "[dba.jsonl](../logs/full/dba.jsonl)" in last
    assert "commits abc" in last


def test_pages_link_logs_from_wherever_they_lie(tmp_path):
    own = experiment("dba", "holds")
    run(own, tmp_path, "full")
    (path,) = write_pages([own], tmp_path, tmp_path / "some" / "pages")
    assert "(../../full/dba.jsonl)" in path.read_text(encoding="utf-8")


def test_a_bar_in_a_cell_ends_no_column():
    assert table(["a|b"], [["c|d"]]) == "| a\\|b |\n| --- |\n| c\\|d |"
