"""The user's question: which rule, and what do I gain over a batch size and a learning rate that were searched for?"""

import math
from collections.abc import Callable, Sequence
from functools import partial

from gradbatch.experiments.reproduce.cells import NONE
from gradbatch.experiments.reproduce.experiment import Block, Claim, Experiment, Table, Verdict
from gradbatch.experiments.reproduce.results import Results
from gradbatch.experiments.studies.benches import BENCHES
from gradbatch.experiments.studies.contest import RULES, contest
from gradbatch.experiments.studies.gains import against, matched, mean_of, spread_ratio, update_ratio
from gradbatch.experiments.studies.regret_task import OPTIMIZERS, plain, task_blocks
from gradbatch.experiments.studies.standings import Field

__all__ = ["EXPERIMENTS"]

DEVELOPED_ON = ("digits", "mnist-1%", "mnist", "fashion-cnn")
"""Tasks that `noise-floor` was developed on; see the page's text."""

_JUDGED = (
    ("noise-floor", "sgd"),
    ("noise-floor, the budget known", "sgd"),
    ("cabs", "sgd"),
    ("noise-floor", "adam"),
    ("noise-floor, the budget known", "adam"),
)
"""Rules that the goals are held against, and the optimizers."""

_NAMES = {"sgd": "SGD", "adam": "Adam"}

_SHOWN = 6
"""Rules in the summary; the page has all."""

_ENOUGH = 5
"""Tasks of seven on which a rule must reach a goal."""


def _fields(results: Results) -> list[Field]:
    """Every task with every optimizer of which something was run."""
    found = [Field.of(results, task, optimizer) for task in BENCHES for optimizer in OPTIMIZERS]
    return [field for field in found if field.rates]


def _signed(value: float) -> str:
    """A loss or gain; a dash for nan."""
    return NONE if math.isnan(value) else f"{value:+.2f}"


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
    heads = (f"{field.bench.name}, {_NAMES[field.optimizer]}" for field in fields)
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
        "### At the same learning rate, against the best cosine decay there",
        _summary(results, f"Mean regret over the rates, in {unit}.", partial(matched, kind="cosine"), _signed),
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
            plain,
        ),
        "### Updates",
        _summary(results, "Updates, as a share of those of the best constant batch at each rate.", update_ratio, plain),
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
        cells = [write(x) for write, x in zip((_signed, _signed, plain, plain), means, strict=True)]
        rows.append((means[0], [f"`{rule}`", *cells]))
    caption = (
        f"The best {_SHOWN} of {len(RULES)} rules by the first number, all with their defaults and SGD; means over "
        f"{', '.join(own.bench.name for own in fields)}. What is lost is in points of accuracy or macro-F1, or per "
        "cent of the loss; below 0 the rule gains. The last two columns, the spread over a 30-fold range of learning "
        "rates and the updates, are shares of what the best constant batch has. Who knows the budget knows when "
        "training ends, as a cosine decay does. More, also with Adam: [the comparison](regret.md)."
    )
    best = sorted(rows, key=lambda own: own[0])[:_SHOWN]
    table = Table(caption=caption, head=["rule", *numbers], rows=[row for _, row in best])
    return ["## Which rule, and what do I gain?", _words(fields), table]


def _words(fields: Sequence[Field]) -> str:
    """The answer in sentences."""
    losses = {rule: mean_of([matched(field, rule) for field in fields]) for rule in RULES}
    best = min(losses, key=losses.__getitem__)
    verdict = "gains on" if losses[best] < 0 else "loses least to"
    untouched = [field.bench.name for field in fields if field.bench.name not in DEVELOPED_ON]
    return (
        f"**Without a search**, `{best}` {verdict} the best constant batch at the same learning rate, by "
        f"{abs(losses[best]):.2f} points in the mean over {len(fields)} of {len(BENCHES)} tasks. "
        + (
            f"Of these tasks {_and(untouched)} had no part in the development of `noise-floor`, our own rule. "
            if untouched
            else "`noise-floor`, our own rule, was developed on all of these, so that they do not test it. "
        )
        + _against_a_search(fields)
    )


def _against_a_search(fields: Sequence[Field]) -> str:
    """What is left of a gain where the baseline was searched for and knows the budget."""
    best = [(field.bench.name, *min((against(field, rule, kind="cosine"), rule) for rule in RULES)) for field in fields]
    lost = _and([f"{task} ({loss:.2f})" for task, loss, _ in best if loss > 0])
    won = _and([f"{task} (`{rule}`, {-loss:.2f})" for task, loss, rule in best if loss <= 0])
    return (
        "**With a search** for a batch size and a rate, under a cosine decay over the known budget, "
        + (f"constant batches are better than every rule on {lost}: there adapting does not pay. " if lost else "")
        + (f"{'Some' if lost else 'some'} rule is no worse than that, in hindsight, on {won}." if won else "")
    ).strip()


def _and(words: Sequence[str]) -> str:
    """Words in a row."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _grid_cost(results: Results) -> Table:
    """What the search for the best constant batch costs."""
    rows = []
    for field in _fields(results):
        grid = [
            one for rate in field.rates for size in field.bench.sizes if (one := field.at(rate, kind="none", size=size))
        ]
        if grid:
            seconds = sum(mean_of([outcome.number("seconds") for outcome in one.outcomes]) for one in grid)
            samples = len(grid) * field.samples
            rows.append(
                [
                    f"{field.bench.name}, {field.optimizer}",
                    f"{len(grid)}",
                    f"{samples:,}",
                    f"{seconds:,.0f}",
                    f"{field.samples:,}",
                ]
            )
    caption = "The cost of the grid, a seed each, against the samples of one run of a rule."
    return Table(caption=caption, head=["", "cells", "samples", "seconds", "samples of a rule"], rows=rows)


def _goal(
    number: Callable[[Field, str], float], most: Callable[[Field], float], rule: str, results: Results
) -> Verdict:
    """Whether a number of a rule is low enough on enough tasks."""
    found = {field.bench.name: (number(field, rule), most(field)) for field in _fields(results)}
    known = {task: value <= limit for task, (value, limit) in found.items() if math.isfinite(value)}
    texts = ", ".join(f"{task} {value:+.2f}" for task, (value, _) in found.items() if math.isfinite(value))
    num_met = sum(known.values())
    evidence = f"met on {num_met} of {len(known)} tasks" + (f": {texts}" if texts else "")
    if num_met >= _ENOUGH:
        return Verdict("holds", evidence)
    num_left = len(BENCHES) - len(known)
    return Verdict("open" if num_met + num_left >= _ENOUGH else "does not hold", evidence)


def _limit_of_cosine(field: Field) -> float:
    return 0.5 if field.bench.metric.is_higher_better else 1.0


def _always(value: float) -> Callable[[Field], float]:
    return lambda field: value


def _claims(rule: str, optimizer: str) -> tuple[Claim, ...]:
    """The goals for a recommended default, for one rule with one optimizer."""
    name = _NAMES[optimizer]
    tasks = f"on at least {_ENOUGH} of the seven tasks"
    place = {"optimizer": optimizer}
    return (
        Claim(
            text=f"`{rule}` with {name} is as good as the best constant batch at the same rate.",
            criterion=f"the mean regret over the rates is at most 0 {tasks}",
            judge=partial(_goal, matched, _always(0.0), rule),
            place=place,
        ),
        Claim(
            text=f"`{rule}` with {name} is hardly worse than the best tuned cosine.",
            criterion=f"at its best rate it loses at most 0.5 points, or 1 % of the loss, {tasks}",
            judge=partial(_goal, partial(against, kind="cosine"), _limit_of_cosine, rule),
            place=place,
        ),
        Claim(
            text=f"With `{rule}` and {name} the score depends half as much on the rate as with a constant batch.",
            criterion=f"its spread over the rates is at most half that of the batch that is best over them, {tasks}",
            judge=partial(_goal, spread_ratio, _always(0.5), rule),
            place=place,
        ),
    )


_ABOUT = """
Every rule with its defaults against constant batches, at the same learning rates and with the same budget of samples.
The tuned baseline is a grid of constant batch sizes and rates, with the rate constant or under a cosine decay to 0 over
the known budget; what is best is chosen on a validation set and reported on the test set, at the end of training. Rules
begin with 32 samples (DBA and AdaScale with 128) and keep their defaults; those that plan by epochs plan for a fifth of
the budget at a time, but for one epoch at least. A run that diverged counts as a model that knows nothing. What was
developed on what: `noise-floor` is our own rule; its equations, horizon and bounds were chosen on validation scores of
digits, mnist-1%, mnist and Fashion-MNIST with a perceptron, in runs of one to three seeds that are not in the log, with
test scores in sight. Then it met fashion-cnn and failed there (79.9 % at rate 0.01, 73.1 % at 0.03, in the log of
commit 69e0f4e), for it raised the rate before it had seen the loss fall; it no longer does, and the numbers here are
those of the mended rule. Its variant that knows the budget, as a cosine decay does and constant rates do not, came
last, tried on digits and fashion-cnn. So only cifar-cnn, semeval and shakespeare test it. `ba` with its default accepts
overshooting steps and then never grows; `ba, as in the code` is its authors' code. On fashion-cnn, cifar-cnn, semeval
and shakespeare the constant sizes are four times apart, not two, and there, as on mnist, there is one seed, and with
Adam only `noise-floor` and `cabs`.
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
        claims=tuple(claim for own in _JUDGED for claim in _claims(*own)),
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
            blocks=partial(task_blocks, task),
        )
        for task in BENCHES
    ),
)
