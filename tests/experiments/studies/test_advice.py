import pytest

from experiments.reproduce.outcomes import outcome
from experiments.studies.fields import field
from gradbatch.experiments.reproduce.results import Results
from gradbatch.experiments.studies.advice import advice, by_task
from gradbatch.experiments.studies.benches import BENCHES
from gradbatch.experiments.studies.contest import BUDGETED, DEVELOPED_ON, OURS, contest


def test_the_answer_names_one_rule_and_says_what_cannot_be_told():
    own = field().results
    (_, text, answers, goals), (tasks, costs) = advice(own), by_task(own)
    # All rules lose 2 points at the same rate, 3 to a decay and 5.5 to a search, with every seed alike.
    assert [row[1:] for row in answers.rows] == [
        ["SGD", "**-3.75**", "1 / 0"],
        ["SGD", "**+2.00**", "0 / 1"],
        ["SGD", "**+3.00**", "0 / 1"],
        ["SGD", "**+5.50**", "0 / 1"],
        ["SGD", "**+6.25**", "0 / 1"],
        ["SGD", "+0.00", "0 / 0"],
        ["SGD", "0.25", ""],
        ["SGD", "2.50", ""],
    ]
    assert "1 of 7 tasks are in, with 3 seeds (digits);" in answers.caption
    assert "A search is 64 runs" in answers.caption
    assert "in 1 of 1 the best has the first or last size or rate" in answers.caption  # 4 samples
    assert "recommend" not in text  # not before all tasks are in
    assert goals.head == ["goal", "`NoiseFloor()`, SGD", "`NoiseFloor(budget=…)`, SGD", "`CABS()`, SGD"]
    assert [row[1] for row in goals.rows] == ["0 of 1 (no † is in)", "0 of 1 (no † is in)", "1 of 1 (no † is in)"]
    numbers = {(row[0], row[1]): row[2] for row in tasks.rows}
    assert numbers["lost at its best rate to a search", "`noise-floor`"] == "**+5.50**"
    assert numbers["spread, share of a constant batch's", "`noise-floor`"] == "0.25"
    # The best constant batch has a validation score of 0.97, that of the rule is 0.925.
    assert {row[0]: row[1] for row in costs.rows} == {
        "best constant batch": "100 / 100 / 2 s",
        "tuned cosine": "100 / 100 / 2 s",
        "`noise-floor`": "0 of 3",
        "`noise-floor, the budget known`": "0 of 3",
    }


def test_what_the_seeds_do_not_agree_on_is_undecided():
    def jittered(place):
        return 0.05 * (place["seed"] - 1) if place["kind"] == "rule" else 0.0

    answers = advice(field(shift=jittered).results)[2]
    assert answers.rows[1][2:] == ["+2.00", "0 / 0"]


def test_with_both_optimizers_every_question_has_two_rows():
    def found(trial):
        scores = [0.9 if trial.place["kind"] == "rule" else 0.8]
        return outcome(test_score=scores, validation_score=scores, seconds=[1.0], step=[1])

    trials = contest("full", ("digits",))
    answers = advice(Results(trials, {trial.key: found(trial) for trial in trials}))[2]
    assert [row[1] for row in answers.rows] == ["SGD", "Adam"] * 8
    assert [bool(row[0]) for row in answers.rows] == [True, False] * 8
    half = Results(trials, {trial.key: found(trial) for trial in trials if trial.place["optimizer"] == "sgd"})
    assert [row[1] for row in advice(half)[2].rows] == ["SGD"] * 8


@pytest.mark.parametrize(
    ("rule", "tasks", "words"),
    [
        ("cabs", BENCHES, "With SGD all of the goals below are reached by `CABS()`, which we recommend there."),
        (OURS, BENCHES, "With SGD all of the goals below are reached by `NoiseFloor()`, which we recommend there."),
        (
            OURS,
            (*DEVELOPED_ON, "semeval"),
            "With SGD, `NoiseFloor()` reaches each of the goals on 5 tasks or more, but",
        ),
        (BUDGETED, BENCHES, "With SGD all of the goals below are reached by `NoiseFloor(budget=…)`, which"),
        ("cabs", DEVELOPED_ON, "With SGD no rule reaches all of the goals below"),
    ],
)
def test_a_rule_is_recommended_once_it_reaches_all_goals(rule, tasks, words):
    def score(trial):
        bench = BENCHES[trial.place["task"]]
        size = trial.place.get("size", 16)
        best = (0.5 if size == 16 else 0.4) - 0.01 * bench.rates["sgd"].index(trial.place["lr"])
        if trial.place["kind"] == "rule":
            best = 0.5 + (0.01 if trial.place["rule"] == rule and bench.name in tasks else -0.01)
        return best if bench.metric.is_higher_better else 1 / best

    trials = [trial for trial in contest("full") if trial.place["optimizer"] == "sgd" and trial.place["seed"] == 0]
    outcomes = {
        trial.key: outcome(test_score=[score(trial)], validation_score=[score(trial)], seconds=[1.0], step=[1])
        for trial in trials
    }
    text = advice(Results(trials, outcomes))[1]
    assert words in text
    assert ("nowhere beats a search" in text) == (rule != BUDGETED)


def test_nothing_is_said_before_a_task_is_whole():
    begun = field(lambda place: place.get("rule") == "cabs").results
    assert advice(begun) == by_task(begun) == []
