"""The page above all: an experiment's main claim and what became of it, and of its others."""

from dataclasses import replace

from experiments.reproduce.pretended import experiment, run
from gradbatch.experiments.reproduce.experiment import Table
from gradbatch.experiments.reproduce.index import index_of


def row_of(text, title):
    return next(line for line in text.splitlines() if title in line)


def test_the_main_claim_is_told_and_the_others_are_counted(tmp_path):
    own = experiment("dba", "holds", "in part", "does not hold", "open", "does not hold")
    run(own, tmp_path, "full")
    row = row_of(index_of([own], tmp_path), "dba")
    assert row == "| [dba](dba.md) | It holds. | **holds** | 1 in part, 2 do not, 1 open | 2 |"


def test_claims_wait_for_all_full_runs(tmp_path):
    begun, quick, none = (
        experiment("begun", "holds", "holds"),
        experiment("quick", "holds"),
        experiment("none", "holds"),
    )
    run(begun, tmp_path, "full", seeds=(0,))
    run(quick, tmp_path, "quick")
    text = index_of([begun, quick, none], tmp_path)
    assert row_of(text, "begun") == "| [begun](begun.md) | It holds. | **open** | 1 open | 1 of 2 |"
    assert row_of(text, "quick.md") == "| [quick](quick.md) | It holds. | **open** | – | quick |"
    assert row_of(text, "| none") == "| none | It holds. | **open** | – | none |"


def test_pages_without_claims_are_linked_and_summaries_shown(tmp_path):
    summary = Table(caption="In short.", head=["rule"], rows=[["cabs"]])
    own = experiment("plain", summary=lambda results: [summary])
    text = index_of([own], tmp_path)
    assert "plain" not in text
    assert "cabs" not in text  # nothing was run that a summary could be of
    run(own, tmp_path, "quick")
    assert "cabs" not in index_of([own], tmp_path)  # quick runs give no advice
    run(own, tmp_path, "full")
    text = index_of([own], tmp_path)
    assert "More pages: [plain](plain.md)." in text
    assert "| cabs |" in text


def test_the_claims_of_each_paper_are_counted_without_ours(tmp_path):
    first, second = experiment("one", "holds", "undecided", paper="DBA"), experiment("two", "holds", paper="DBA")
    ours = experiment("three", "does not hold")
    mixed = experiment("four", "in part", paper="CABS")
    question = replace(mixed.claims[0], is_ours=True)
    own = [first, second, ours, replace(mixed, claims=(*mixed.claims, question))]
    for one in own:
        run(one, tmp_path, "full")
    text = index_of(own, tmp_path)
    assert "| claims of the paper on | holds | in part | does not hold | undecided | open |" in text
    assert "| DBA | 2 | – | – | 1 | – |\n| CABS | – | 1 | – | – | – |\n" in text
    assert "claims of the paper" not in index_of([ours], tmp_path)
