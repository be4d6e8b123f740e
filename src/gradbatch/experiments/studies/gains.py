"""What a rule gains or loses on a task, in one number each; nan unless everything that it takes was run."""

import math
from collections.abc import Callable

from gradbatch.experiments.reproduce.cells import mean_of
from gradbatch.experiments.studies.standings import Field, Standing

__all__ = ["Number", "against", "matched", "of_learned", "spread_ratio", "time_ratio", "update_ratio"]

Number = Callable[[Field, str], float]
"""From a task and a rule to what the rule gains or loses there."""


def of_learned(regret: Number, field: Field, rule: str) -> float:
    """A regret as a share of what there is to learn, which can be averaged over tasks with different metrics.

    Args:
        regret: In the units of `Bench.loss_of`.
        field: The task.
        rule: A name of `RULES`.

    Returns:
        In per cent of what the best of the grid has learned, see `Field.learned`.
    """
    return 100 * regret(field, rule) / field.learned


def matched(field: Field, rule: str, *, kind: str = "none") -> float:
    """Regret against the best constant batch at the same rate, a mean over the rates.

    Args:
        field: The task.
        rule: A name of `RULES`.
        kind: ``"none"`` for a constant rate, ``"cosine"`` for one that decays.

    Returns:
        In the units of `Bench.loss_of`; below 0 the rule gains.
    """
    is_known = _is_known(field, rule) and field.has(kind=kind)
    return mean_of(field.regrets(rule, kind)) if is_known else math.nan


def against(field: Field, rule: str, *kinds: str) -> float:
    """Regret of a rule at its own best rate against the best cell of the grid, both chosen on the validation set.

    Args:
        field: The task.
        rule: A name of `RULES`.
        *kinds: ``"none"`` for constant rates in the grid, ``"cosine"`` for those that decay; or both.

    Returns:
        In the units of `Bench.loss_of`; below 0 the rule gains.
    """
    mine = field.best(field.over_rates(kind="rule", rule=rule))
    best = field.best_of_grid(*kinds)
    if mine is None or best is None or not (_is_known(field, rule) and all(field.has(kind=kind) for kind in kinds)):
        return math.nan
    return field.bench.loss_of(mine.test, best.test)


def spread_ratio(field: Field, rule: str) -> float:
    """Spread of the score over the rates, as a share of that of the constant batch that is best over the rates.

    That is the batch size with the best mean validation score over all rates: the one to take where the rate is not
    known. (The size of the grid's best single cell may train at one rate and not at another.)

    Args:
        field: The task.
        rule: A name of `RULES`.

    Returns:
        The share.
    """
    mine = field.spread(field.over_rates(kind="rule", rule=rule))
    constant = field.spread(field.constant_over_rates())
    return mine / constant if _is_known(field, rule) and constant > 0 else math.nan


def update_ratio(field: Field, rule: str) -> float:
    """Updates, as a share of those of the best constant batch at each rate, a mean over the rates.

    Args:
        field: The task.
        rule: A name of `RULES`.

    Returns:
        The share.
    """
    return _ratio(field, rule, lambda one: one.updates)


def time_ratio(field: Field, rule: str) -> float:
    """Seconds of training, as a share of those of the best constant batch at each rate, a mean over the rates.

    Args:
        field: The task.
        rule: A name of `RULES`.

    Returns:
        The share; rough, for the runs shared the machine.
    """
    return _ratio(field, rule, lambda one: one.seconds)


def _ratio(field: Field, rule: str, of: Callable[[Standing], float]) -> float:
    """A number of a rule over that of the best constant batch at each rate, a mean over the rates."""
    if not _is_known(field, rule):
        return math.nan
    pairs = ((one, field.best_constant(one.rate)) for one in field.over_rates(kind="rule", rule=rule))
    return mean_of(of(one) / of(constant) for one, constant in pairs if constant is not None)


def _is_known(field: Field, rule: str) -> bool:
    """Whether the rule and all constant batches have all their rates and seeds."""
    return field.has(kind="rule", rule=rule) and field.has(kind="none")
