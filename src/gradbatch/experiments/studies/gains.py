"""What a contender gains or loses on a task, in one number each; nan unless everything that it takes was run."""

import math
from collections.abc import Callable
from statistics import stdev

from gradbatch.experiments.reproduce.cells import mean_of
from gradbatch.experiments.studies.contest import place_of
from gradbatch.experiments.studies.standings import Field, Standing

__all__ = [
    "Number",
    "against",
    "chance_of",
    "cosine_searched",
    "decayed",
    "is_told",
    "matched",
    "of_learned",
    "searched",
    "spread_ratio",
    "time_ratio",
    "unsearched",
    "untuned",
    "update_ratio",
]

Number = Callable[[Field, str], float]
"""From a task and a contender, a name of `RULES` or `CONTROLS`, to what it gains or loses there."""

_T_975 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}
"""How many standard errors a 95 % interval reaches to each side of a mean, by the number of values (Student's t)."""


def chance_of(regret: Number, field: Field, name: str) -> float:
    """How large a regret must be for its sign to be told.

    With several seeds it is the half-width of a 95 % interval over them, each seed's regret being that of its own
    grid. With one it is what the test set can tell of two models, see `Bench.resolution`: too much in that both are
    tested on the same samples and the regret may be a mean over rates, too little in that the chance of training is
    not in it.

    Args:
        regret: In the units of `Bench.loss_of`.
        field: The task.
        name: Of the contender.

    Returns:
        In the same units; nan where the regret is.
    """
    if math.isnan(regret(field, name)):
        return math.nan
    if field.num_seeds > 1:
        each = [regret(field.with_seed(seed), name) for seed in field.results.values_of("seed")]
        return _T_975[len(each)] * stdev(each) / math.sqrt(len(each))
    best = field.best_of_grid("none", "cosine")
    assert best is not None, "a regret is known where a grid is"
    return field.bench.resolution(best.test)


def is_told(regret: Number, field: Field, name: str) -> bool:
    """Whether the sign of a regret is more than chance, see `chance_of`; not where it is nan.

    Args:
        regret: In the units of `Bench.loss_of`.
        field: The task.
        name: Of the contender.

    Returns:
        Whether it is.
    """
    return abs(regret(field, name)) > chance_of(regret, field, name)


def of_learned(regret: Number, field: Field, name: str) -> float:
    """A regret as a share of what there is to learn, which can be averaged over tasks with different metrics.

    Args:
        regret: In the units of `Bench.loss_of`.
        field: The task.
        name: Of the contender.

    Returns:
        In per cent of what the best of the grid has learned, see `Field.learned`.
    """
    return 100 * regret(field, name) / field.learned


def matched(field: Field, name: str) -> float:
    """Regret against the best constant batch at the same rate, a mean over the rates.

    Args:
        field: The task.
        name: Of the contender.

    Returns:
        In the units of `Bench.loss_of`; below 0 the contender gains.
    """
    return mean_of(field.regrets(name)) if _is_known(field, name) else math.nan


def decayed(field: Field, name: str) -> float:
    """Regret against the best constant batch at the same rate with a cosine decay, a mean over the rates.

    Args:
        field: The task.
        name: Of the contender.

    Returns:
        In the units of `Bench.loss_of`; below 0 the contender gains.
    """
    return mean_of(field.regrets(name, "cosine")) if _is_known(field, name) and field.has(kind="cosine") else math.nan


def against(field: Field, name: str, *kinds: str) -> float:
    """Regret of a contender at its own best rate against the best cell of the grid, both chosen on the validation set.

    Args:
        field: The task.
        name: Of the contender.
        *kinds: ``"none"`` for constant rates in the grid, ``"cosine"`` for those that decay; or both.

    Returns:
        In the units of `Bench.loss_of`; below 0 the contender gains.
    """
    mine = field.best(field.over_rates(**place_of(name)))
    best = field.best_of_grid(*kinds)
    if mine is None or best is None or not (_is_known(field, name) and all(field.has(kind=kind) for kind in kinds)):
        return math.nan
    return field.bench.loss_of(mine.test, best.test)


def searched(field: Field, name: str) -> float:
    """Regret of a contender at its own best rate against a search over sizes, rates, and constant rates or a cosine.

    Args:
        field: The task.
        name: Of the contender.

    Returns:
        In the units of `Bench.loss_of`; below 0 the contender gains.
    """
    return against(field, name, "none", "cosine")


def untuned(field: Field, name: str) -> float:
    """Regret of a contender at a rate that nobody searched for against the same search; a mean over the rates.

    Args:
        field: The task.
        name: Of the contender.

    Returns:
        In the units of `Bench.loss_of`; below 0 the contender gains.
    """
    best = field.best_of_grid("none", "cosine")
    if best is None or not (_is_known(field, name) and field.has(kind="cosine")):
        return math.nan
    return mean_of(field.bench.loss_of(one.test, best.test) for one in field.over_rates(**place_of(name)))


def cosine_searched(field: Field, name: str) -> float:
    """Regret of a contender at its own best rate against the best size and rate with a cosine decay.

    Args:
        field: The task.
        name: Of the contender.

    Returns:
        In the units of `Bench.loss_of`; below 0 the contender gains.
    """
    return against(field, name, "cosine")


def unsearched(field: Field, name: str) -> float:
    """What a contender loses against batches of 16, which nobody searched for, at the same rate; a mean over the rates.

    Args:
        field: The task.
        name: Of the contender.

    Returns:
        In the units of `Bench.loss_of`; below 0 the contender gains.
    """
    if not _is_known(field, name):
        return math.nan
    pairs = ((one, field.at(one.rate, **place_of("constant 16"))) for one in field.over_rates(**place_of(name)))
    return mean_of(field.bench.loss_of(one.test, constant.test) for one, constant in pairs if constant is not None)


def spread_ratio(field: Field, name: str) -> float:
    """Spread of the score over the rates, as a share of that of the constant batch that is best over the rates.

    That is the batch size with the best mean validation score over all rates: the one to take where the rate is not
    known. (The size of the grid's best single cell may train at one rate and not at another.)

    Args:
        field: The task.
        name: Of the contender.

    Returns:
        The share.
    """
    mine = field.spread(field.over_rates(**place_of(name)))
    constant = field.spread(field.constant_over_rates())
    return mine / constant if _is_known(field, name) and constant > 0 else math.nan


def update_ratio(field: Field, name: str) -> float:
    """Updates, as a share of those of the best constant batch at each rate, a mean over the rates.

    Args:
        field: The task.
        name: Of the contender.

    Returns:
        The share.
    """
    return _ratio(field, name, lambda one: one.updates)


def time_ratio(field: Field, name: str) -> float:
    """Seconds of training, as a share of those of the best constant batch at each rate, a mean over the rates.

    Args:
        field: The task.
        name: Of the contender.

    Returns:
        The share, over the rates at which both had their cores to themselves; rough, for the runs shared the machine.
    """
    return _ratio(field, name, field.seconds)


def _ratio(field: Field, name: str, of: Callable[[Standing], float]) -> float:
    """A number of a contender over that of the best constant batch at each rate, a mean over the rates."""
    if not _is_known(field, name):
        return math.nan
    pairs = ((one, field.best_constant(one.rate)) for one in field.over_rates(**place_of(name)))
    ratios = (of(one) / of(constant) for one, constant in pairs if constant is not None)
    return mean_of(ratio for ratio in ratios if not math.isnan(ratio))


def _is_known(field: Field, name: str) -> bool:
    """Whether the contender and all constant batches have all their rates and seeds."""
    return field.has(**place_of(name)) and field.has(kind="none")
