import pytest

from experiments.reproduce.outcomes import outcome
from gradbatch.experiments.reproduce.results import Results
from gradbatch.experiments.studies.contest import contest
from gradbatch.experiments.studies.regret_floor import EXPERIMENTS

(FLOOR,) = EXPERIMENTS


def test_rows_of_the_comparison_are_not_run_again():
    keys = {trial.key for trial in contest("full", ("shakespeare",))}
    new = [trial for trial in FLOOR.trials("full") if trial.key not in keys]
    assert len(new) == 3 * 4
    assert all(trial.rule_parameters["min_batch_size"] == 4 for trial in new)


@pytest.mark.parametrize(("bits", "answer"), [(2.9, "holds"), (3.1, "does not hold")])
def test_a_rule_is_held_against_constant_batches_of_its_minimum(bits, answer):
    def found(trial):
        is_low = "at least" in trial.place.get("rule", "")
        score = bits if is_low else 3.0 if trial.place.get("size") == 4 else 3.5
        return outcome(test_score=[score], validation_score=[score])

    trials = FLOOR.trials("full")
    verdict = FLOOR.claims[0].judge(Results(trials, {trial.key: found(trial) for trial in trials}))
    assert verdict.answer == answer
    assert "noise-floor +16.67" in verdict.evidence
