"""What it costs to come to a target: samples, updates and seconds, each contender at its own best rate."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gradbatch.experiments.reproduce.cells import mean_of
from gradbatch.experiments.studies.contest import RULES
from gradbatch.experiments.studies.standings import Field, Standing

__all__ = ["CONSTANT", "COSINE", "Cost", "costs", "target_of"]

CONSTANT, COSINE = "best constant batch", "tuned cosine"
"""What a search over constant batches finds, with constant rates and with a cosine decay."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a contender pays.

    Attributes:
        standing: At the rate that its validation score chooses.
        num_reached: Runs that came to the target, of those in the standing.
        samples: Mean over the runs; nan unless all came to the target.
        updates: Likewise.
        seconds: Likewise; nan also where one did not have its core to itself.
    """

    standing: Standing
    num_reached: int
    samples: float
    updates: float
    seconds: float


def target_of(field: Field) -> float:
    """The validation score to come to: that of the best constant batch and rate, less half a point, or and 1 %.

    Args:
        field: A task with an optimizer, all of whose constant batches were run.

    Returns:
        The score.
    """
    best = field.best_of_grid("none")
    assert best is not None, "the constant batches were run"
    return best.validation - 0.005 if field.bench.metric.is_higher_better else 1.01 * best.validation


def costs(field: Field) -> Mapping[str, Cost]:
    """What each contender pays.

    Args:
        field: A task with an optimizer.

    Returns:
        By `CONSTANT`, `COSINE` and the names of `RULES`; nothing unless all constant batches were run, and of those
        contenders alone that were run at all rates.
    """
    if not (field.has(kind="none") and field.has(kind="cosine")):
        return {}
    contenders = {CONSTANT: field.best_of_grid("none"), COSINE: field.best_of_grid("cosine")}
    for rule in RULES:
        if field.has(kind="rule", rule=rule):
            contenders[rule] = field.best(field.over_rates(kind="rule", rule=rule))
    target = target_of(field)
    return {name: _cost(field, one, target) for name, one in contenders.items() if one is not None}


def _cost(field: Field, one: Standing, target: float) -> Cost:
    """What a contender pays at one rate."""
    samples = [field.to_target(outcome, target, "samples_seen") for outcome in one.outcomes]
    return Cost(
        standing=one,
        num_reached=sum(map(math.isfinite, samples)),
        samples=mean_of(samples),
        updates=mean_of([field.to_target(outcome, target, "step") for outcome in one.outcomes]),
        seconds=mean_of([field.seconds_to_target(outcome, target) for outcome in one.outcomes]),
    )
