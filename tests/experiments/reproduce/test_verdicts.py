"""A claim is judged when the full runs it rests on are all in, and not before."""

from experiments.reproduce.outcomes import outcome, results
from gradbatch.experiments.reproduce.experiment import Claim, Experiment, Verdict
from gradbatch.experiments.reproduce.verdicts import verdicts


def judge(found):
    assert found.is_complete
    return Verdict("holds", f"{found.num_run} runs")


def judged(scale, found, *places):
    claims = [Claim(text="It holds.", criterion="it does", judge=judge, place=place) for place in places]
    own = Experiment(
        name="own",
        log="own",
        title="Own",
        source="ours",
        about="",
        trials=lambda scale: [],
        blocks=lambda results: [],
        claims=claims,
    )
    return [verdict for _, verdict in verdicts(own, scale, found)]


FOUND = results(({"net": "small"}, outcome()), ({"net": "small"}, outcome()), ({"net": "large"}, None))


def test_a_claim_waits_only_for_the_runs_that_it_rests_on():
    assert judged("full", FOUND, {"net": "small"}, {"net": "large"}, {}) == [
        ("holds", "2 runs"),
        ("open", "0 of 1 runs are in"),
        ("open", "2 of 3 runs are in"),
    ]


def test_quick_runs_decide_nothing():
    assert judged("quick", FOUND, {"net": "small"}) == [("open", "quick runs only")]
