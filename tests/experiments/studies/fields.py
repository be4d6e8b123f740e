"""A field of contenders made by hand, on digits with SGD."""

from experiments.reproduce.outcomes import outcome
from gradbatch.experiments.reproduce.results import Results
from gradbatch.experiments.studies.benches import BENCHES
from gradbatch.experiments.studies.contest import contest
from gradbatch.experiments.studies.standings import Field

TRIALS = [trial for trial in contest("full", ("digits",)) if trial.place["optimizer"] == "sgd"]
RATES = BENCHES["digits"].rates["sgd"]


def score_of(place):
    """Constant batches of 64 are best at every rate, those of 4 fail at the largest; a cosine adds a point."""
    rank = RATES.index(place["lr"])
    if place["kind"] == "rule":
        return 0.90 + 0.005 * rank + 0.01
    if place["size"] == 4 and rank == 3:
        return 0.1
    base = 0.90 + 0.02 * rank - (0.05 if place["size"] not in (4, 64) else 0.0)
    return base + (0.03 if place["size"] == 4 and rank == 2 else 0.0) + (0.01 if place["kind"] == "cosine" else 0.0)


def field(without=lambda place: False, shift=lambda place: 0.0):
    outcomes = {}
    for n, trial in enumerate(TRIALS):
        if not without(trial.place):
            score = score_of(trial.place) + shift(trial.place)
            updates, seconds = (30, 5.0) if trial.place["kind"] == "rule" else (100, 2.0)
            lists = {"test_score": [score], "validation_score": [score], "seconds": [seconds], "step": [updates]}
            outcomes[trial.key] = outcome(n, **lists, updates=updates, samples=24_000)
            outcomes[trial.key].values["seconds"] = seconds
    return Field.of(Results(TRIALS, outcomes), "digits", "sgd")
