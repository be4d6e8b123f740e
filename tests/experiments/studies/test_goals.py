from experiments.reproduce.outcomes import outcome, results
from gradbatch.experiments.studies.goals import GOALS
from gradbatch.experiments.studies.standings import Field


def test_a_number_next_to_its_limit_is_written_out():
    entries = [
        ({"task": "digits", "optimizer": "sgd", "lr": 0.1, **place}, outcome(test_score=[own], validation_score=[own]))
        for place, own in (({"kind": "none", "size": 16}, 0.90004), ({"kind": "rule", "rule": "cabs"}, 0.9))
    ]
    own = Field.of(results(*entries), "digits", "sgd")
    assert GOALS[0].written(own, "cabs") == "0.0040"  # 0.00 would be met
    assert GOALS[0].reached([own], "cabs").missed == [own]
