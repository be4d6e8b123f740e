"""The comparison of rules on one task: scores by learning rate, and what it costs to get there."""

import math
from collections.abc import Sequence

import numpy as np

from gradbatch.experiments.curves import Points
from gradbatch.experiments.figures import Panel
from gradbatch.experiments.reproduce.cells import NONE, lines, mean_of, one_digit, two_digits, whole
from gradbatch.experiments.reproduce.drawing import curves_of
from gradbatch.experiments.reproduce.experiment import Block, Plot, Table
from gradbatch.experiments.reproduce.results import Results
from gradbatch.experiments.studies.contest import BUDGETED, CONTROLS, LEFT_ALONE, OURS, RULES, place_of
from gradbatch.experiments.studies.costs import costs, target_of
from gradbatch.experiments.studies.standings import Field, Standing

__all__ = ["task_blocks"]

_OPTIMIZERS = {"sgd": "SGD with momentum 0.9", "adam": "Adam"}

_DRAWN = (
    OURS,
    BUDGETED,
    LEFT_ALONE,
    "cabs",
    "ba",
    "divebatch",
    "simigrad",
)
"""Rules in the figures, which hold no more."""

_SHOWN = 0.12
"""How far below the best score the figures go, as a share."""


def _scores_table(field: Field) -> Table:
    """The score of everybody at every rate."""
    rows = []
    if field.has(kind="none"):
        best = [field.best_constant(rate) for rate in field.rates]
        steady = field.constant_over_rates()
        rows.append(_row("best constant batch at each rate", field, best, shows_size=True))
        rows.append(_row(f"constant batch of {steady[0].size}, best over the rates", field, steady))
    if field.has(kind="cosine"):
        decayed = [field.best_constant(rate, "cosine") for rate in field.rates]
        rows.append(_row("best cosine decay at each rate", field, decayed, shows_size=True))
    for name in (*CONTROLS, *RULES):
        standings = field.over_rates(**place_of(name))
        if standings:
            rows.append(_row(f"{name}{_settled(standings)}", field, standings))
    seeds = field.num_seeds
    caption = (
        f"{field.bench.name}, {_OPTIMIZERS[field.optimizer]}, {field.samples:,} samples: "
        f"{field.bench.metric.name} on the test set at the end of training, the constant batch's size in brackets "
        f"(chosen on the validation set); {seeds} seed{'s' if seeds > 1 else ''}; mean updates over the rates; spread "
        f"over the rates, in {field.bench.unit}.{_missing(field)}{_chosen(field)}{_chance(field)}"
    )
    return Table(
        caption=caption,
        head=["", *(f"{rate:g}" for rate in field.rates), "updates", "spread", "log lines"],
        rows=rows,
    )


def _settled(standings: Sequence[Standing]) -> str:
    """The one batch size that a contender had at all rates, if there was one, where its name does not say so."""
    sizes = {one.settled_size for one in standings}
    if len(sizes) > 1 or None in sizes or standings[0].size is not None:
        return ""
    return f" (all but its start at {sizes.pop()})"


def _missing(field: Field) -> str:
    """How much of the grid is still to come."""
    grid = field.results.at(kind=frozenset({"none", "cosine"}))
    if grid.is_complete:
        return ""
    return (
        f" **{grid.num_run} of {grid.num_trials} runs of constant batches are in: what is best is said once all are.**"
    )


def _chosen(field: Field) -> str:
    """What validation chooses of the grid, and whether the grid goes far enough."""
    texts = []
    for kind, name in (("none", "Of the grid"), ("cosine", "With a cosine decay")):
        best = field.best_of_grid(kind)
        if best is not None and field.has(kind=kind):
            edges = field.edges(best)
            at_edge = f", {' and '.join(edges)} being the last of the grid" if edges else ""
            score = field.bench.metric.write(best.test)
            texts.append(f" {name} validation chooses {best.size} samples at rate {best.rate:g}: {score}{at_edge}.")
    return "".join(texts)


def _chance(field: Field) -> str:
    """How much of a difference may be chance."""
    best = field.best_of_grid("none", "cosine")
    of_test = ""
    if best is not None and field.bench.test_samples is not None:
        of_test = (
            f" Two standard errors of a difference, for {field.bench.test_samples:,} test samples, are "
            f"{field.bench.resolution(best.test):.2f} points."
        )
    deviation = field.seed_deviation()
    if math.isnan(deviation):
        return of_test
    return (
        f"{of_test} One run's score has a standard deviation over seeds of {deviation:.2f} {field.bench.unit} (the "
        "median over contenders and rates); a cell is a mean over seeds."
    )


def _row(label: str, field: Field, standings: Sequence[Standing | None], *, shows_size: bool = False) -> list[str]:
    """A contender's scores by rate, updates and spread."""
    found = {one.rate: one for one in standings if one is not None}
    cells = []
    for rate in field.rates:
        one = found.get(rate)
        size = f" ({one.size})" if one is not None and shows_size else ""
        cells.append(NONE if one is None else f"{field.bench.metric.write(one.test)}{size}")
    updates = mean_of(one.updates for one in found.values())
    spread = field.spread(list(found.values()))
    used = [outcome for one in found.values() for outcome in one.outcomes]
    shown = NONE if math.isnan(updates) else f"{updates:,.0f}"
    return [label, *cells, shown, two_digits(spread), lines(used)]


def _cost_table(field: Field) -> Table | None:
    """Samples, updates and seconds to a target, each contender at its own best rate."""
    found = costs(field)
    if not found:
        return None
    rows = []
    for name, cost in found.items():
        size = f" ({cost.standing.size})" if cost.standing.size is not None else ""
        reached = f"{cost.num_reached} of {len(cost.standing.outcomes)}"
        numbers = (whole(cost.samples), whole(cost.updates), one_digit(cost.seconds))
        rows.append([f"{name}{size}", f"{cost.standing.rate:g}", reached, *numbers])
    caption = (
        f"{field.bench.name}, {_OPTIMIZERS[field.optimizer]}: cost to a validation score of "
        f"{field.bench.metric.write(target_of(field))}, that of the grid's best "
        f"{'less half a point' if field.bench.metric.is_higher_better else 'and 1 %'}, for each at the rate that its "
        "own validation score chooses. Seconds are of runs that shared the machine, without those that something "
        "held up."
    )
    return Table(caption=caption, head=["", "rate", "reached", "samples", "updates", "seconds"], rows=rows)


def task_blocks(task: str, results: Results) -> list[Block]:
    """The page of one task.

    Args:
        task: A name of `BENCHES`.
        results: All there are.

    Returns:
        Tables and a figure for each optimizer of which something was run.
    """
    blocks: list[Block] = []
    for optimizer, title in _OPTIMIZERS.items():
        field = Field.of(results, task, optimizer)
        if optimizer in field.bench.rates and not field.rates:
            blocks += [f"### {title}", "Nothing was run yet."]
        if field.rates:
            later = (_plot(field), _cost_table(field))
            blocks += [f"### {title}", _scores_table(field), *(block for block in later if block is not None)]
    return blocks


def _plot(field: Field) -> Plot | None:
    """Scores against rates, of the best constant batches and of a few rules."""
    rules = [rule for rule in _DRAWN if field.has(kind="rule", rule=rule)]
    kinds = {"best constant batch": "none", "the same, cosine decay": "cosine"}
    grids = {name: kind for name, kind in kinds.items() if field.has(kind=kind)}
    legend = [*grids, *rules]
    rows = [
        *([field.best_constant(rate, kind) for rate in field.rates] for kind in grids.values()),
        *(field.over_rates(kind="rule", rule=rule) for rule in rules),
    ]
    if not legend:
        return None
    points = [_points([one for one in row if one is not None]) for row in rows]
    scores = [score for curve in points if curve is not None for score in curve.y]
    is_share = field.bench.metric.is_share
    panel = Panel(
        title=f"{field.bench.name}: {field.bench.metric.name}",
        x_label="learning rate",
        curves=curves_of(points, style="marked"),
        x_scale="log",
        percent=is_share,
        y_limits=_shown(scores) if is_share and scores else None,
    )
    name = field.bench.metric.name
    cut = f"; what is more than {100 * _SHOWN:g} points below the best is cut off" if is_share else ""
    caption = f"{name[0].upper()}{name[1:]} on the test set by learning rate, {_OPTIMIZERS[field.optimizer]}{cut}."
    return Plot(name=field.optimizer, caption=caption, legend=legend, panels=[panel])


def _shown(scores: Sequence[float]) -> tuple[float, float]:
    """The lowest and the highest share that a figure shows."""
    best = max(scores)
    return max(min(scores), best - _SHOWN) - 0.005, best + 0.005


def _points(standings: Sequence[Standing]) -> Points | None:
    """A contender's curve; nothing where it was not run."""
    if not standings:
        return None
    return Points(np.array([one.rate for one in standings]), np.array([one.test for one in standings]))
