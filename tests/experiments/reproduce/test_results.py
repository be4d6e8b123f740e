import json
import math

import pytest

from experiments.reproduce.outcomes import outcome, results
from gradbatch.errors import InvalidInputError
from gradbatch.experiments.reproduce.results import Results, ResultsLog
from gradbatch.experiments.reproduce.trial import trial


def test_what_was_appended_is_read(tmp_path):
    log = ResultsLog(tmp_path / "full" / "x.jsonl")
    assert log.read() == {}
    first, second = trial(place={"n": 1}, seed=1), trial(place={"n": 2}, seed=2)
    log.append(first, {"updates": 3}, {"commit": "abc"})
    log.append(second, {"updates": 4}, {"commit": "abc"})
    found = log.read()
    assert [found[one.key].line for one in (first, second)] == [1, 2]
    assert found[second.key].number("updates") == 4
    line = json.loads(log.path.read_text().splitlines()[1])
    assert line["command"] == second.command
    assert line["settings"]["seed"] == 2


def test_a_line_of_something_else_is_refused(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"step": 1}\n')
    with pytest.raises(InvalidInputError, match="line 1 has no 'key'"):
        ResultsLog(path).read()


def test_outcomes_are_found_by_their_place():
    found = results(
        ({"rule": "a", "lr": 1}, outcome(1)),
        ({"rule": "a", "lr": 2}, outcome(2)),
        ({"rule": "b", "lr": 1}, None),
    )
    assert [one.line for one in found.of(rule="a")] == [1, 2]
    assert [one.line for one in found.of(lr=1)] == [1]
    assert found.of(rule="b") == []
    assert [one.line for one in found.of(lr=frozenset({2, 3}))] == [2]
    assert [one.line for one in found.of(rule="a", batch=frozenset({None, 16}))] == [1, 2]  # neither has one
    assert found.num_run == 2
    assert found.values_of("rule") == ["a", "b"]


def test_what_stands_at_two_places_is_one_run():
    first, second = (trial(place={"table": n}, seed=0) for n in (1, 2))
    found = Results([first, second], {first.key: outcome()})
    assert (found.num_trials, found.num_run, found.is_complete) == (1, 1, True)
    assert not Results([], {}).is_complete


def test_what_is_missing_is_nan():
    one = outcome(test_score=[0.5, None], numbers={"utilisation": 0.6})
    assert one.curve("test_score")[0] == 0.5
    assert math.isnan(one.curve("test_score")[1])
    assert one.curve("nothing") == []
    assert math.isnan(one.number("nothing"))
    assert one.said("utilisation") == 0.6
    assert math.isnan(one.said("nothing"))
    assert not one.is_diverged
    assert outcome(diverged="the loss was nan").is_diverged
