from functools import partial
from types import SimpleNamespace

import pytest

from experiments.reproduce.outcomes import results
from gradbatch.experiments.reproduce.experiment import Table
from gradbatch.experiments.reproduce.results import Outcome
from gradbatch.experiments.reproduce.trial import trial
from gradbatch.experiments.studies.racers import RACERS
from gradbatch.experiments.studies.speed import EXPERIMENTS, race, ratios

SPEED, _ = EXPERIMENTS


def raced(**seconds):
    """A race whose contenders take a step in 0.1 s in the first round and 0.2 s in the second, or some times that."""
    contenders = {name: {"steps": 5, "seconds": [0.1, 0.2]} for name in RACERS}
    for name, factor in seconds.items():
        contenders[name]["seconds"] = [0.1 * factor, 0.2 * factor]
    values = {"batch_size": 100, "train_samples": 1000, "contenders": contenders}
    return Outcome(line=1, values=values, provenance={})


def answers(*outcomes):
    found = results(*(({"subject": f"net {n}"}, own) for n, own in enumerate(outcomes)))
    return [claim.judge(found).answer for claim in SPEED.claims]


def test_ratios_are_those_of_the_same_round():
    assert ratios(raced(CABS=1.5), "CABS") == pytest.approx([1.5, 1.5])


def test_claims_hold_on_all_subjects_or_in_part():
    ways = ("DBA norm, materialised", "DBA variance, materialised")
    slower = {**dict.fromkeys(ways, 9), **{f"{way}, sums": 2 for way in ways}, "BA, sample by sample": 3}
    fast, slow = raced(CABS=1.5, **slower), raced(CABS=2.5)
    assert answers(fast) == ["holds"] * 4
    assert answers(fast, slow) == ["in part"] * 4
    assert answers(slow) == ["does not hold"] * 4


def test_nothing_is_said_without_a_contender():
    lacking = raced(CABS=1.5)
    del lacking.values["contenders"]["DBA norm"]
    assert answers(lacking) == ["holds", "undecided", "undecided", "does not hold"]
    verdict = SPEED.claims[1].judge(results(({"subject": "net"}, lacking)))
    assert verdict.evidence == "net: DBA norm took no part"


def test_the_table_has_times_in_four_units():
    title, table = SPEED.blocks(results(({"subject": "net"}, raced(CABS=2))))
    assert title == "### net"
    assert isinstance(table, Table)
    row = next(row for row in table.rows if row[0] == "CABS")
    assert row == ["CABS", "300", "3", "30", "**2.00** (2.00–2.00)", "5", "1"]


def test_a_race_times_every_contender_in_every_round():
    notes = []
    work = partial(race, rounds=2, seconds=0.0)
    one = trial(work, place={}, task="digits", batch_size=32, lr=0.01)
    values = work(one.settings, SimpleNamespace(note=notes.append))
    assert notes == ["round 1 of 2", "round 2 of 2"]
    assert list(values["contenders"]) == list(RACERS)
    for contender in values["contenders"].values():
        assert contender["steps"] == 1
        assert len(contender["seconds"]) == 2
        assert min(contender["seconds"]) > 0


def test_other_rounds_are_another_trial_and_all_subjects_are_in_the_full_one():
    assert len(SPEED.trials("quick")) == 1
    full = SPEED.trials("full")
    assert len({one.key for one in [*full, *SPEED.trials("quick")]}) == 4
    assert not any(one.command for one in full)
