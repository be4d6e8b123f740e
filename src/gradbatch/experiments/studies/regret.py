"""The user's question: which rule, and what do I gain over a batch size and a learning rate that were searched for?"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from statistics import mean

import numpy as np

from gradbatch.experiments.curves import Points
from gradbatch.experiments.figures import Panel
from gradbatch.experiments.reproduce.cells import NONE, lines
from gradbatch.experiments.reproduce.drawing import curves_of
from gradbatch.experiments.reproduce.experiment import Block, Claim, Experiment, Plot, Table, Verdict
from gradbatch.experiments.reproduce.results import Results
from gradbatch.experiments.studies.benches import BENCHES
from gradbatch.experiments.studies.contest import RULES, contest
from gradbatch.experiments.studies.gains import against, matched, mean_of, spread_ratio, update_ratio
from gradbatch.experiments.studies.standings import Field, Standing

__all__ = ["EXPERIMENTS"]

_OPTIMIZERS = {"sgd": "SGD with momentum 0.9", "adam": "Adam"}

_DRAWN = ("noise-floor", "noise-floor, the rate left alone", "cabs", "ba", "divebatch", "simigrad", "noise-scale")
"""Rules in the figures, which hold no more."""

_SHOWN = 0.12
"""How far below the best score the figures go, as a share."""

DEVELOPED_ON = ("digits", "mnist-1%", "mnist")
"""Tasks that `noise-floor` was developed on; see the page's text."""

_ENOUGH = 5
"""Tasks of seven on which a rule must reach a goal."""


def _fields(results: Results) -> list[Field]:
    """Every task with every optimizer of which something was run."""
    found = [Field.of(results, task, optimizer) for task in BENCHES for optimizer in _OPTIMIZERS]
    return [field for field in found if field.rates]


def _signed(value: float) -> str:
    """A loss or gain; a dash for nan."""
    return NONE if math.isnan(value) else f"{value:+.2f}"


def _plain(value: float) -> str:
    """A distance; a dash for nan."""
    return NONE if math.isnan(value) else f"{value:.2f}"


def _scores_table(field: Field) -> Table:
    """The score of everybody at every rate."""
    write = field.bench.metric.write
    rows = [
        _row("best constant batch at each rate", field, [field.best_constant(rate) for rate in field.rates]),
        _row("the same, cosine decay", field, [field.best_constant(rate, "cosine") for rate in field.rates]),
    ]
    best = field.best_of_grid()
    if best is not None:
        rows.append(_row(f"constant batch of {best.size}", field, field.constant_over_rates()))
    for rule in RULES:
        standings = field.over_rates(kind="rule", rule=rule)
        if standings:
            rows.append(_row(rule, field, standings))
    seeds = max((len(one.outcomes) for rate in field.rates if (one := field.best_constant(rate))), default=0)
    chosen = (
        ""
        if best is None
        else (f" Of the whole grid validation chooses {best.size} samples at rate {best.rate:g}: {write(best.test)}.")
    )
    caption = (
        f"{field.bench.name}, {_OPTIMIZERS[field.optimizer]}, {field.bench.samples:,} samples: "
        f"{field.bench.metric.name} on the test set at the end of training, the constant batch's size in brackets "
        f"(chosen on the validation set), means of up to {seeds} seeds; mean updates over the rates; spread over the "
        f"rates, in "
        f"{field.bench.unit}.{chosen}"
    )
    return Table(
        caption=caption,
        head=["", *(f"{rate:g}" for rate in field.rates), "updates", "spread", "log lines"],
        rows=rows,
    )


def _row(label: str, field: Field, standings: Sequence[Standing | None]) -> list[str]:
    """A contender's scores by rate, updates and spread."""
    found = {one.rate: one for one in standings if one is not None}
    cells = []
    for rate in field.rates:
        one = found.get(rate)
        size = "" if one is None or one.size is None or "batch of" in label else f" ({one.size})"
        cells.append(NONE if one is None else f"{field.bench.metric.write(one.test)}{size}")
    updates = mean_of([one.updates for one in found.values()])
    spread = field.spread(list(found.values()))
    used = [outcome for one in found.values() for outcome in one.outcomes]
    shown = NONE if math.isnan(updates) else f"{updates:,.0f}"
    return [label, *cells, shown, _plain(spread), lines(used)]


def _cost_table(field: Field) -> Table | None:
    """Samples, updates and seconds to a target, each contender at its own best rate."""
    best = field.best_of_grid()
    if best is None:
        return None
    slack = 0.005 if field.bench.metric.is_higher_better else -0.01 * best.validation
    target = best.validation - slack
    contenders = {f"constant batch of {best.size}": best, "tuned cosine": field.best_of_grid("cosine")}
    for rule in RULES:
        contenders[rule] = field.best(field.over_rates(kind="rule", rule=rule))
    rows = []
    for label, one in contenders.items():
        if one is not None:
            costs = [
                [field.to_target(outcome, target, name) for outcome in one.outcomes]
                for name in ("samples_seen", "step", "seconds")
            ]
            reached = sum(math.isfinite(value) for value in costs[0])
            cells = [
                f"{mean(values):,.{digits}f}" if reached == len(values) else NONE
                for values, digits in zip(costs, (0, 0, 1), strict=True)
            ]
            rows.append([label, f"{one.rate:g}", f"{reached} of {len(one.outcomes)}", *cells])
    caption = (
        f"{field.bench.name}, {_OPTIMIZERS[field.optimizer]}: cost to a validation score of "
        f"{field.bench.metric.write(target)}, that of the grid's best "
        f"{'less half a point' if field.bench.metric.is_higher_better else 'and 1 %'}, for each at the rate that its "
        "own validation score chooses. Seconds are of runs that shared the machine."
    )
    return Table(caption=caption, head=["", "rate", "reached", "samples", "updates", "seconds"], rows=rows)


def _task_blocks(task: str, results: Results) -> list[Block]:
    """The page of one task."""
    blocks: list[Block] = []
    for optimizer, title in _OPTIMIZERS.items():
        field = Field.of(results, task, optimizer)
        if field.rates:
            blocks += [f"### {title}", _scores_table(field), _plot(field)]
            costs = _cost_table(field)
            if costs is not None:
                blocks.append(costs)
    return blocks


def _plot(field: Field) -> Plot:
    """Scores against rates, of the best constant batches and of a few rules."""
    rules = [rule for rule in _DRAWN if field.has(kind="rule", rule=rule)]
    legend = ["best constant batch", "the same, cosine decay", *rules]
    rows = [
        [field.best_constant(rate) for rate in field.rates],
        [field.best_constant(rate, "cosine") for rate in field.rates],
        *(field.over_rates(kind="rule", rule=rule) for rule in rules),
    ]
    points = [_points([one for one in row if one is not None]) for row in rows]
    scores = [score for own in points if own is not None for score in own.y]
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
    caption = (
        f"{name[0].upper()}{name[1:]} on the test set by learning rate, {_OPTIMIZERS[field.optimizer]}; what is more "
        f"than {100 * _SHOWN:g} points below the best is cut off."
    )
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


def _summary(
    results: Results, title: str, number: Callable[[Field, str], float], write: Callable[[float], str]
) -> Table:
    """One number of every rule on every task; means over what all rules have."""
    fields = _fields(results)
    values = {rule: [number(field, rule) for field in fields] for rule in RULES}
    known = [n for n, field in enumerate(fields) if field.optimizer == "sgd" and _is_complete(field)]
    rows = []
    for rule, own in values.items():
        if any(map(math.isfinite, own)):
            rows.append([rule, *map(write, own), write(mean_of([own[n] for n in known]))])
    heads = (f"{field.bench.name}, {'SGD' if field.optimizer == 'sgd' else 'Adam'}" for field in fields)
    caption = f"{title} The mean is over the {len(known)} tasks with SGD on which everything was run."
    return Table(caption=caption, head=["", *heads, "mean, SGD"], rows=rows)


def _is_complete(field: Field) -> bool:
    """Whether all contenders were run at all rates with all seeds."""
    return field.results.is_complete


def _blocks(results: Results) -> list[Block]:
    """All tasks in a few tables."""
    unit = "points of accuracy or macro-F1, or per cent of the loss; below 0 the rule gains"
    return [
        "### At the same learning rate, against the best constant batch there",
        _summary(results, f"Mean regret over the rates, in {unit}.", matched, _signed),
        "### At its best rate, against the best of the whole grid",
        _summary(results, f"Regret in {unit}.", partial(against, kind="none"), _signed),
        "### At its best rate, against the best cosine decay of the whole grid",
        _summary(results, f"Regret in {unit}.", partial(against, kind="cosine"), _signed),
        "### How much the learning rate matters",
        _summary(
            results,
            "Spread of the score over a 30-fold range of rates, as a share of that of the constant batch with the best "
            "mean validation score over the rates.",
            spread_ratio,
            _plain,
        ),
        "### Updates",
        _summary(
            results, "Updates, as a share of those of the best constant batch at each rate.", update_ratio, _plain
        ),
        _grid_cost(results),
    ]


def _advice(results: Results) -> list[Block]:
    """The rules in a few numbers, means over the tasks with SGD on which everything was run."""
    fields = [field for field in _fields(results) if field.optimizer == "sgd" and _is_complete(field)]
    if not fields:
        return []
    numbers: dict[str, Callable[[Field, str], float]] = {
        "lost to the best constant batch at the same rate": matched,
        "lost, at its best rate, to the best tuned cosine": partial(against, kind="cosine"),
        "how much the rate matters": spread_ratio,
        "updates": update_ratio,
    }
    rows = []
    for rule in RULES:
        means = [mean_of([number(field, rule) for field in fields]) for number in numbers.values()]
        cells = [write(x) for write, x in zip((_signed, _signed, _plain, _plain), means, strict=True)]
        rows.append((means[0], [f"`{rule}`", *cells]))
    caption = (
        f"Means over {len(fields)} of {len(BENCHES)} tasks with SGD: {', '.join(own.bench.name for own in fields)}. "
        "The first two columns are what is lost, in points of accuracy (per cent of a loss); below 0 the rule gains. "
        "The last two are shares of what the best constant batch has: the spread over a 30-fold range of learning "
        "rates, and the updates. Rules have their defaults; the constant batches were searched for. See [the page of "
        "the comparison](regret.md), also for what `noise-floor` was developed on."
    )
    table = Table(caption=caption, head=["rule", *numbers], rows=[row for _, row in sorted(rows, key=lambda x: x[0])])
    return ["## Which rule, and what do I gain?", _words(fields), table]


def _words(fields: Sequence[Field]) -> str:
    """The answer in sentences."""
    losses = {rule: mean_of([matched(field, rule) for field in fields]) for rule in RULES}
    best = min(losses, key=losses.__getitem__)
    untouched = [field.bench.name for field in fields if field.bench.name not in DEVELOPED_ON]
    verdict = "gains on" if losses[best] < 0 else "loses least to"
    return (
        f"So far, on {len(fields)} of {len(BENCHES)} tasks: without any search `{best}` {verdict} the best constant batch "
        f"of a grid, by {abs(losses[best]):.2f} points at the same learning rate. "
        + (
            f"Of these tasks {', '.join(untouched)} had no part in its development."
            if untouched
            else "But `noise-floor` was developed on all of these tasks, so that they do not test it."
        )
    )


def _grid_cost(results: Results) -> Table:
    """What the search for the best constant batch costs."""
    rows = []
    for field in _fields(results):
        grid = [
            one for rate in field.rates for size in field.bench.sizes if (one := field.at(rate, kind="none", size=size))
        ]
        if grid:
            seconds = sum(mean_of([outcome.number("seconds") for outcome in one.outcomes]) for one in grid)
            samples = len(grid) * field.bench.samples
            rows.append(
                [
                    f"{field.bench.name}, {field.optimizer}",
                    f"{len(grid)}",
                    f"{samples:,}",
                    f"{seconds:,.0f}",
                    f"{field.bench.samples:,}",
                ]
            )
    caption = "The cost of the grid, a seed each, against the samples of one run of a rule."
    return Table(caption=caption, head=["", "cells", "samples", "seconds", "samples of a rule"], rows=rows)


def _goal(
    number: Callable[[Field, str], float], most: Callable[[Field], float], rule: str, results: Results
) -> Verdict:
    """Whether a number of a rule is low enough on enough tasks, with SGD."""
    found = {
        field.bench.name: (number(field, rule), most(field)) for field in _fields(results) if field.optimizer == "sgd"
    }
    known = {task: value <= limit for task, (value, limit) in found.items() if math.isfinite(value)}
    texts = ", ".join(f"{task} {value:+.2f}" for task, (value, _) in found.items() if math.isfinite(value))
    num_met = sum(known.values())
    evidence = f"with SGD met on {num_met} of {len(known)} tasks: {texts}"
    if num_met >= _ENOUGH:
        return Verdict("holds", evidence)
    num_left = len(BENCHES) - len(known)
    return Verdict("open" if num_met + num_left >= _ENOUGH else "does not hold", evidence)


def _limit_of_cosine(field: Field) -> float:
    return 0.5 if field.bench.metric.is_higher_better else 1.0


def _always(value: float) -> Callable[[Field], float]:
    return lambda field: value


def _claims(rule: str) -> tuple[Claim, ...]:
    """The goals for a recommended default, for one rule."""
    tasks = f"on at least {_ENOUGH} of the seven tasks"
    return (
        Claim(
            text=f"`{rule}` is as good as the best constant batch at the same rate (mean regret at most 0), {tasks}.",
            judge=partial(_goal, matched, _always(0.0), rule),
        ),
        Claim(
            text=f"`{rule}` is at most 0.5 points, or 1 % of the loss, behind the best tuned cosine, {tasks}.",
            judge=partial(_goal, partial(against, kind="cosine"), _limit_of_cosine, rule),
        ),
        Claim(
            text=f"With `{rule}` the score depends half as much on the rate as with the best constant batch, {tasks}.",
            judge=partial(_goal, spread_ratio, _always(0.5), rule),
        ),
    )


_ABOUT = """
Every rule with its defaults against constant batches, at the same learning rates and with the same budget of samples.
The tuned baseline is a grid of constant batch sizes and rates, with the rate constant or under a cosine decay to 0
over the known budget; what is best is chosen on a validation set and reported on the test set, at the end of
training. Rules begin with 32 samples (DBA and AdaScale with 128) and keep their defaults; those that plan by epochs
plan for a fifth of the budget at a time, but for one epoch at least. A run that diverged counts as a model that knows
nothing. What was developed on what: `noise-floor` is our own rule; its equations, horizon and bounds were chosen on
validation scores of digits, mnist-1%, mnist and Fashion-MNIST with a perceptron, in runs of one to three seeds that
are not in the log, with test scores in sight. So only the other tasks test it. `ba` with its default accepts
overshooting steps and then never grows; `ba, as in the code` is its authors' code.
"""

EXPERIMENTS: Sequence[Experiment] = (
    Experiment(
        name="regret",
        log="regret",
        title="Which rule, and what do I gain?",
        source="our own question",
        about=_ABOUT,
        trials=contest,
        blocks=_blocks,
        claims=(*_claims("noise-floor"), *_claims("cabs")),
        summary=_advice,
    ),
    *(
        Experiment(
            name=f"regret-{task.replace('%', '')}",
            log="regret",
            title=f"Which rule, and what do I gain: {task}",
            source="our own question",
            about=_ABOUT,
            trials=partial(contest, names=(task,)),
            blocks=partial(_task_blocks, task),
        )
        for task in BENCHES
    ),
)
