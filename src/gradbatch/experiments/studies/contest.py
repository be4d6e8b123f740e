"""Who takes part in the comparison of rules: constant batches, the same with a cosine decay, and every rule."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from gradbatch.experiments.reproduce.experiment import Scale
from gradbatch.experiments.reproduce.trial import Trial, trial
from gradbatch.experiments.studies.benches import BENCHES, Bench

__all__ = [
    "BUDGETED",
    "CONTROLS",
    "DEVELOPED_ON",
    "LEFT_ALONE",
    "OURS",
    "RULES",
    "contest",
    "place_of",
    "setup_of",
    "trial_on",
]

OURS, BUDGETED, LEFT_ALONE = "noise-floor", "noise-floor, the budget known", "noise-floor, the rate left alone"
"""Our own rule, its variant that is told when training ends, and that which changes the batch size alone."""

RULES: Mapping[str, Mapping[str, Any]] = {
    OURS: {"rule": "noise-floor"},
    BUDGETED: {"rule": "noise-floor", "set": ("budget={samples}",)},
    LEFT_ALONE: {"rule": "noise-floor", "set": ("max_lr_scale=1",)},
    "cabs": {"rule": "cabs"},
    "cabs, with momentum": {"rule": "cabs", "set": ("with_momentum=true",)},
    "ba": {"rule": "ba", "set": ("momentum=0.9",)},
    "ba, as in the code": {"rule": "ba", "set": ("momentum=0.9", "stop=code", "overshoot=cap")},
    "dba": {"rule": "dba", "batch_size": 128},
    "noise-scale": {"rule": "noise-scale"},
    "norm-test": {"rule": "norm-test"},
    "inner-product-test": {"rule": "inner-product-test"},
    "simigrad": {"rule": "simigrad"},
    "loss-ratio": {"rule": "loss-ratio"},
    "goodput": {"rule": "goodput"},
    "adascale": {"rule": "adascale", "batch_size": 128},
    "adabatch": {"rule": "adabatch", "set": ("interval={interval}",)},
    "divebatch": {"rule": "divebatch", "set": ("interval={interval}",)},
}
"""Rules with their defaults, and what their runs set. All begin with 32 samples but for those that say otherwise.

In braces stand the budget, and a fifth of it in epochs for rules that would plan for 100 or 300 epochs.
"""

CONTROLS: Mapping[str, Mapping[str, Any]] = {
    "constant 4": {"kind": "none", "size": 4},
    "constant 16": {"kind": "none", "size": 16},
    "constant 64": {"kind": "none", "size": 64},
    "constant 4, cosine": {"kind": "cosine", "size": 4},
    "constant 16, cosine": {"kind": "cosine", "size": 16},
}
"""Constant batches that all tasks have, under the names by which they stand beside the rules.

They listen to nothing, and so are what a rule must beat to be worth anything.
"""

DEVELOPED_ON = ("digits", "mnist-1%", "mnist", "fashion-cnn")
"""Tasks that `noise-floor`, our own rule, was developed on."""

_ONLY_SGD = ("ba", "ba, as in the code", "cabs, with momentum", "adascale")
"""Rules that are about SGD's step, or whose momentum Adam has not."""

_ALWAYS_WITH_ADAM = (OURS, BUDGETED, LEFT_ALONE, "cabs")
"""Rules that run with Adam on dear tasks too."""


def place_of(name: str) -> Mapping[str, Any]:
    """Where a contender stands in the results.

    Args:
        name: Of `RULES` or `CONTROLS`.

    Returns:
        Its coordinates, for `Results.at`.
    """
    return CONTROLS.get(name, {"kind": "rule", "rule": name})


def contest(scale: Scale, names: Sequence[str] = tuple(BENCHES)) -> list[Trial]:
    """The runs of the comparison.

    Args:
        scale: The quick one has one task, two rates and two rules.
        names: Of the tasks.

    Returns:
        SGD with a seed on all tasks, then Adam, then the next seed; the constant batches of a task first. What is cut
        short is then a comparison over many tasks.
    """
    trials = [trial for name in names for trial in _of_task(scale, name)]
    return sorted(trials, key=lambda run: (run.place["seed"], run.place["optimizer"] != "sgd"))


@cache  # thousands of settings are checked and hashed, and every page asks for them
def _of_task(scale: Scale, name: str) -> tuple[Trial, ...]:
    """The runs on one task."""
    bench = BENCHES[name]
    if scale == "quick":
        return tuple(_quick(bench)) if name == "digits" else ()
    runs = ((optimizer, rates, seed) for optimizer, rates in bench.rates.items() for seed in range(bench.num_seeds))
    return tuple(trial for run in runs for trial in _trials(bench, *run))


def _trials(bench: Bench, optimizer: str, rates: Sequence[float], seed: int) -> Iterator[Trial]:
    """All contenders at all rates."""
    for rate in rates:
        for schedule in ("none", "cosine"):
            for size in bench.sizes:
                place = {"kind": schedule, "size": size}
                yield trial_on(bench, optimizer, rate, seed, place, batch_size=size, lr_schedule=schedule)
    for name in RULES:
        if _takes_part(name, bench, optimizer):
            for rate in rates:
                yield trial_on(bench, optimizer, rate, seed, place_of(name), **setup_of(name, bench))


def _takes_part(rule: str, bench: Bench, optimizer: str) -> bool:
    """Whether a rule runs on a task with an optimizer."""
    if optimizer == "sgd":
        return True
    return rule not in _ONLY_SGD and (rule in _ALWAYS_WITH_ADAM or not bench.is_dear)


def _quick(bench: Bench) -> Iterator[Trial]:
    """A few runs that have something of everything."""
    for rate in bench.rates["sgd"][1:3]:
        for schedule in ("none", "cosine"):
            for size in (16, 128):
                place = {"kind": schedule, "size": size}
                yield trial_on(bench, "sgd", rate, 0, place, batch_size=size, lr_schedule=schedule, samples=3000)
        for name in (OURS, "cabs"):
            yield trial_on(bench, "sgd", rate, 0, place_of(name), **setup_of(name, bench), samples=3000)


def trial_on(bench: Bench, optimizer: str, rate: float, seed: int, place: Mapping[str, Any], **changes: Any) -> Trial:
    """One run on a task.

    Args:
        bench: The task.
        optimizer: ``"sgd"`` or ``"adam"``.
        rate: The learning rate.
        seed: The seed.
        place: Where it stands in the tables, beside task, optimizer and rate.
        **changes: Fields of `TrainSettings` that tell it from the task's other runs.

    Returns:
        The trial.
    """
    settings: dict[str, Any] = {
        **bench.settings,
        "samples": bench.samples,
        "optimizer": optimizer,
        "lr": rate,
        **({"momentum": 0.9} if optimizer == "sgd" else {}),
        **changes,
    }
    settings["evaluate_every"] = math.ceil(settings["samples"] / bench.num_evaluations)
    where = {"task": bench.name, "optimizer": optimizer, "lr": rate, **place}
    return trial(place=where, seed=seed, **settings)


def setup_of(name: str, bench: Bench) -> dict[str, Any]:
    """What a contender sets on a task, the task's budget where its rule plans for one.

    Args:
        name: Of `RULES` or `CONTROLS`.
        bench: The task.

    Returns:
        Fields of `TrainSettings`.
    """
    if name in CONTROLS:
        return {"batch_size": CONTROLS[name]["size"], "lr_schedule": CONTROLS[name]["kind"]}
    settings = RULES[name]
    plan = {"samples": bench.samples, "interval": max(1, round(bench.samples / bench.train_samples / 5))}
    return {**settings, "set": tuple(text.format(**plan) for text in settings.get("set", ()))}
