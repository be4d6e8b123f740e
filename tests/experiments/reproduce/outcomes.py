"""Outcomes made by hand, and what other processes can import."""

from gradbatch.experiments.reproduce.results import Outcome, Results
from gradbatch.experiments.reproduce.trial import trial


def outcome(line=1, *, diverged=None, numbers=None, **values):
    """An outcome whose lists are evaluations and whose numbers are totals."""
    evaluations = {name: value for name, value in values.items() if isinstance(value, list)}
    totals = {name: value for name, value in values.items() if not isinstance(value, list)}
    length = max(map(len, evaluations.values()), default=0)
    evaluations.setdefault("samples_seen", [100 * (n + 1) for n in range(length)])
    found = {"updates": 10, "samples": 100 * length, "seconds": 1.0, "train_samples": 1000, **totals}
    course = {"updates": [5, 10], "samples": [50, 100], "mean": [32, 64], "largest": [32, 64]}
    found |= {"evaluations": evaluations, "course": course, "numbers": numbers or {}}
    if diverged is not None:
        found["diverged"] = diverged
    return Outcome(line=line, values=found, provenance={"commit": "abc", "torch": "2", "jobs": 1})


def results(*entries):
    """Results of pairs of a place and its outcome; ``None`` was not run."""
    trials = [trial(place=place, seed=n) for n, (place, _) in enumerate(entries)]
    pairs = zip(trials, entries, strict=True)
    return Results(trials, {own.key: found for own, (_, found) in pairs if found is not None})


def fails_at_seed_one(settings, progress):
    """Work that fails for one of several seeds."""
    if settings.seed == 1:
        raise ValueError("it broke")
    return {"seed": settings.seed}


class Silent:
    """Progress that nobody looks at."""

    def log(self, record): ...

    def note(self, text): ...

    def close(self): ...
