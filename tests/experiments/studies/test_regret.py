import pytest

from experiments.reproduce.outcomes import outcome, results
from experiments.studies.fields import field
from gradbatch.experiments.studies.benches import BENCHES
from gradbatch.experiments.studies.regret import EXPERIMENTS


def goals(rule):
    regret = {experiment.name: experiment for experiment in EXPERIMENTS}["regret"]
    return [claim for claim in regret.claims if f"`{rule}`" in claim.text and claim.place["optimizer"] == "sgd"]


def test_a_goal_waits_for_constant_batches_and_its_own_rule_alone():
    lacking = field(lambda place: place.get("rule") not in (None, "cabs")).results
    (mine,), (other,) = (
        {lacking.at(**claim.place).is_complete for claim in goals(rule)} for rule in ("cabs", "noise-floor")
    )
    assert (mine, other) == (True, False)
    lacking = field(lambda place: place.get("size") == 8).results
    assert not any(lacking.at(**claim.place).is_complete for claim in goals("cabs"))


def test_a_goal_on_one_task_is_not_reached():
    verdicts = [claim.judge(field().results) for claim in goals("cabs")]
    assert verdicts == [
        ("does not hold", "met on 0 of 1 tasks: digits +2.00 (not met)"),
        ("does not hold", "met on 0 of 1 tasks: digits +5.50 (not met)"),
        ("does not hold", "met on 1 of 1 tasks: digits 0.25"),
    ]


def test_of_our_own_rule_the_tasks_of_its_development_are_told_apart():
    (verdict, *_) = (claim.judge(field().results) for claim in goals("noise-floor"))
    assert verdict.evidence == (
        "met on 0 of 1 tasks, 0 of the 1 of its development and 0 of the 0 others: digits +2.00 (not met)"
    )


@pytest.mark.parametrize(
    ("gaining", "noise_floor", "cabs"),
    [
        (("digits", "mnist-1%", "mnist", "fashion-cnn", "cifar-cnn"), "in part", "holds"),
        (("digits", "mnist-1%", "mnist", "cifar-cnn", "semeval"), "holds", "holds"),
        (("digits", "mnist-1%", "cifar-cnn", "semeval"), "does not hold", "does not hold"),
    ],
)
def test_a_rule_of_our_own_must_gain_where_it_was_not_developed(gaining, noise_floor, cabs):
    entries = []
    for task in BENCHES:
        sign = 1 if BENCHES[task].metric.is_higher_better else -1
        for kind, extra in (("none", {"size": 16}), *(("rule", {"rule": rule}) for rule in ("noise-floor", "cabs"))):
            score = 0.5 + sign * 0.1 * (kind == "rule") * (1 if task in gaining else -1)
            own = outcome(test_score=[score], validation_score=[score])
            entries.append(({"task": task, "optimizer": "sgd", "lr": 0.1, "kind": kind, **extra}, own))
    found = results(*entries)
    assert goals("noise-floor")[0].judge(found).answer == noise_floor
    assert goals("cabs")[0].judge(found).answer == cabs
