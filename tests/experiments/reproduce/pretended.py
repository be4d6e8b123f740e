"""Experiments of two runs, and logs that pretend that they are in."""

from gradbatch.experiments.reproduce.experiment import Claim, Experiment, Verdict
from gradbatch.experiments.reproduce.trial import trial
from gradbatch.sinks.jsonl import JsonlSink

SEEDS = (0, 1)


def experiment(name, *answers, **changes):
    """An experiment of two runs whose claims have these answers."""
    claims = tuple(
        Claim(text=f"It {answer}.", criterion="it does", judge=lambda _, own=answer: Verdict(own, "seen"))
        for answer in answers
    )
    fields = {"log": name, "title": name.title(), "source": "ours", "about": "", "claims": claims, **changes}
    return Experiment(
        name=name,
        trials=lambda scale: [trial(place={}, seed=seed, epochs=1 if scale == "quick" else 2) for seed in SEEDS],
        blocks=lambda results: [],
        **fields,
    )


def run(own, folder, scale, seeds=SEEDS):
    """Pretend that runs are in."""
    path = folder / scale / f"{own.log}.jsonl"
    path.parent.mkdir(exist_ok=True)
    sink = JsonlSink(path)
    for one in own.trials(scale)[: len(seeds)]:
        sink.write({"key": one.key, "values": {"seconds": 1800.0}, "provenance": {"commit": "abc"}})
    sink.close()
