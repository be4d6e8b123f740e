"""How far other seeds change what one seed said, on the tasks where the comparison of rules has one."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

from gradbatch.experiments.reproduce.cells import answer_of, lines, mean_of, signed, two_digits
from gradbatch.experiments.reproduce.experiment import Block, Claim, Experiment, Scale, Table, Verdict
from gradbatch.experiments.reproduce.results import Results
from gradbatch.experiments.reproduce.trial import Trial
from gradbatch.experiments.studies.benches import BENCHES, OPTIMIZERS, Bench
from gradbatch.experiments.studies.contest import (
    BUDGETED,
    CONTROLS,
    DEVELOPED_ON,
    OURS,
    place_of,
    settings_of,
    trial_on,
)
from gradbatch.experiments.studies.gains import Number, chance_of, decayed, matched, unsearched
from gradbatch.experiments.studies.standings import Field, fields_of

__all__ = ["EXPERIMENTS"]

_TASKS: Mapping[Scale, Sequence[str]] = {
    "quick": ("digits",),
    "full": tuple(name for name in BENCHES if name not in DEVELOPED_ON),
}
_SEEDS = (0, 1, 2)
_CONTENDERS = (*CONTROLS, OURS, BUDGETED)

_COMPARED: Mapping[str, tuple[Number, str]] = {
    f"`{OURS}`, a batch of 16": (unsearched, OURS),
    f"`{OURS}`, the best constant batch": (matched, OURS),
    f"`{BUDGETED}`, the best cosine decay": (decayed, BUDGETED),
}
"""Who is held against what: the first three answers of the comparison."""


class _Losses(NamedTuple):
    """What a rule loses with each seed.

    Attributes:
        task: On which task.
        against: Whom it is held against.
        each: The losses of the seeds, in the units of `Bench.loss_of`; nan where something was not run.
        chance: How large one must be for its sign to be told with one seed.
        interval: Half the width of the 95 % interval of their mean.
    """

    task: str
    against: str
    each: tuple[float, ...]
    chance: float
    interval: float


def _trials(scale: Scale) -> list[Trial]:
    """Every contender at one rate with every seed, SGD first; the quick ones with SGD and two seeds."""
    optimizers, seeds = (("sgd",), _SEEDS[:2]) if scale == "quick" else (tuple(OPTIMIZERS), _SEEDS)
    benches = [BENCHES[task] for task in _TASKS[scale]]
    return [trial for run in product(optimizers, benches, seeds) for trial in _runs(scale, *run)]


def _runs(scale: Scale, optimizer: str, bench: Bench, seed: int) -> Iterator[Trial]:
    """The contenders on a task with a seed, at the third of its four rates."""
    few = {"samples": 600} if scale == "quick" else {}
    run = partial(trial_on, bench, optimizer, bench.rates[optimizer][2], seed)
    for name in _CONTENDERS:
        yield run(place_of(name), **settings_of(name, bench), **few)


def _losses(field: Field) -> Iterator[_Losses]:
    """What the rules lose on a task, with each seed against the constant batches of that seed."""
    seeds = [field.with_seed(seed) for seed in field.results.values_of("seed")]
    for title, (number, name) in _COMPARED.items():
        each = tuple(number(one, name) for one in seeds)
        yield _Losses(field.bench.name, title, each, chance_of(number, seeds[0], name), chance_of(number, field, name))


def _blocks(results: Results) -> list[Block]:
    """Losses and scores, by seed."""
    return [block for optimizer in OPTIMIZERS for block in _of_optimizer(results.at(optimizer=optimizer), optimizer)]


def _of_optimizer(results: Results, optimizer: str) -> list[Block]:
    """The tables of an optimizer."""
    fields = fields_of(results)
    if not fields:
        return []
    return [f"### {OPTIMIZERS[optimizer]}", _compared(fields), _scores(fields)]


def _compared(fields: Sequence[Field]) -> Table:
    """What is lost, by seed."""
    rows = [
        [
            row.task if number == 0 else "",
            row.against,
            *map(signed, row.each),
            signed(mean_of(row.each)),
            two_digits(row.interval),
            two_digits(row.chance),
        ]
        for field in fields
        for number, row in enumerate(_losses(field))
    ]
    caption = (
        "Lost, in points or per cent of the loss; below 0 it gains. With each seed the constant batch is the one that "
        "its own validation scores choose; the mean has a 95 % interval, which is wide with so few. The last column is "
        "what the comparison takes for the chance of a single seed: two standard errors of the test set, or 1 % of the "
        "loss."
    )
    seeds = (f"seed {seed}" for seed in fields[0].results.values_of("seed"))
    return Table(caption=caption, head=["task", "who, against", *seeds, "mean", "±", "test set"], rows=rows)


def _scores(fields: Sequence[Field]) -> Table:
    """The scores themselves, by seed."""
    rows = []
    for name in _CONTENDERS:
        found = [field.results.of(**place_of(name)) for field in fields]
        cells = [
            " / ".join(field.bench.metric.write(field.score(outcome)) for outcome in outcomes)
            for field, outcomes in zip(fields, found, strict=True)
        ]
        rows.append([name, *cells, lines([outcome for outcomes in found for outcome in outcomes])])
    heads = (f"{field.bench.name}, {field.bench.metric.name}, rate {field.rates[0]:g}" for field in fields)
    caption = "Scores on the test set at the end of training, by seed."
    return Table(caption=caption, head=["", *heads, "log lines"], rows=rows)


def _judge_chance(results: Results) -> Verdict:
    """Whether no seed's loss is further from their mean than the test set can tell."""
    rows = [row for field in fields_of(results) for row in _losses(field)]
    reach = {row: max(abs(loss - mean_of(row.each)) for loss in row.each) / row.chance for row in rows}
    furthest = max(rows, key=reach.__getitem__)
    flags = [value <= 1 for value in reach.values()]
    where = f"{furthest.task} ({furthest.against}: {', '.join(map(signed, furthest.each))})"
    return Verdict(
        answer_of(flags),
        f"in {sum(flags)} of {len(flags)} comparisons; furthest, {reach[furthest]:.2f} times as far, on {where}",
    )


def _judge_signs(results: Results) -> Verdict:
    """Whether every seed has the sign that one seed told."""
    rows = [row for field in fields_of(results) for row in _losses(field)]
    told = [row for row in rows if abs(row.each[0]) > row.chance]
    if not told:
        return Verdict("undecided", "seed 0 tells nothing here")
    flags = [all(math.copysign(1, loss) == math.copysign(1, row.each[0]) for loss in row.each) for row in told]
    texts = (f"{row.task}: {row.against} {', '.join(map(signed, row.each))}" for row in told)
    return Verdict(answer_of(flags), f"{sum(flags)} of {len(told)} that seed 0 tells: {'; '.join(texts)}")


def _claims(optimizer: str) -> tuple[Claim, ...]:
    """What we ask of an optimizer's runs."""
    title, place = OPTIMIZERS[optimizer], {"optimizer": optimizer}
    return (
        Claim(
            text=f"With {title}, what one seed tells of `{OURS}` two more confirm.",
            criterion="each loss or gain that seed 0 has beyond the chance of the test set has the same sign with "
            "seeds 1 and 2",
            judge=_judge_signs,
            is_ours=True,
            place=place,
        ),
        Claim(
            text=f"With {title}, a seed changes what `{OURS}` loses by no more than a test set can tell.",
            criterion="no seed's loss is further from the mean of the three than two standard errors of the test set, "
            "or 1 % of the loss",
            judge=_judge_chance,
            is_ours=True,
            place=place,
        ),
    )


_ABOUT = """
On the three tasks that `noise-floor` was not developed on, the [comparison](regret.md) has one seed, and takes for
chance what the test set cannot tell. Is that enough? Here its first three answers are given anew at one learning rate,
the third of the four, with seeds 0, 1 and 2: those of seed 0 are the comparison's own runs. There are fewer constant
batches, of 4, 16 and 64 samples, and with a cosine decay of 4 and 16.
"""

EXPERIMENTS: Sequence[Experiment] = (
    Experiment(
        name="regret-seeds",
        log="regret",
        title="Which rule, and what do I gain: more seeds",
        source="our own question",
        about=_ABOUT,
        trials=_trials,
        blocks=_blocks,
        claims=tuple(claim for optimizer in OPTIMIZERS for claim in _claims(optimizer)),
    ),
)
