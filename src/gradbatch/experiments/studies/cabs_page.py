"""What the pages of CABS' experiments are drawn from: numbers of their runs, tables and figures."""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import mean
from typing import NamedTuple

from gradbatch.experiments.figures import Panel
from gradbatch.experiments.reproduce.cells import (
    NONE,
    at_validation_best,
    best,
    end,
    final,
    lines,
    mean_of,
    mean_size,
    percent,
    spread,
    spread_of_all,
    whole,
)
from gradbatch.experiments.reproduce.drawing import (
    accuracy_panel,
    batch_loss_panel,
    course_curve,
    curves_of,
)
from gradbatch.experiments.reproduce.experiment import Block, Plot, Table
from gradbatch.experiments.reproduce.results import Outcome, Results

__all__ = [
    "RATE",
    "Phases",
    "blocks",
    "constants_of",
    "level_of",
    "phases_of",
    "samples_to",
    "spread_of",
]

RATE = 0.1
"""The authors' learning rate."""


class Phases(NamedTuple):
    """The course of a run's batch sizes in three numbers, each a mean over twenty-fourths of the updates.

    Attributes:
        first: Over the first quarter of the updates, in samples.
        largest: The largest, in samples.
        after: The smallest after the largest, in samples.
    """

    first: float
    largest: float
    after: float


def phases_of(outcome: Outcome) -> Phases:
    """The course of a run's sizes.

    Args:
        outcome: Of the run.

    Returns:
        In three numbers.
    """
    sizes = outcome.values["course"]["mean"]
    largest = max(sizes)
    return Phases(mean(sizes[: max(1, len(sizes) // 4)]), largest, min(sizes[sizes.index(largest) :]))


def constants_of(results: Results) -> list[str]:
    """Names of the constant batches."""
    return [name for name in results.values_of("variant") if name.startswith("constant")]


def level_of(results: Results, margin: float) -> float:
    """The target: a margin below the best accuracy of a constant batch at the authors' rate.

    Args:
        results: What came out.
        margin: A share.

    Returns:
        A share; nan where no constant batch was run.
    """
    found = [best(outcome) for name in constants_of(results) for outcome in results.of(variant=name, lr=RATE)]
    return max((value for value in found if math.isfinite(value)), default=math.nan) - margin


def spread_of(results: Results, variant: str) -> float:
    """The largest difference between learning rates of the accuracy at the end, a mean over seeds.

    Args:
        results: What came out.
        variant: Of which runs.

    Returns:
        A share; nan where fewer than two rates were run.
    """
    part = results.at(variant=variant)
    found = [mean_of(map(end, outcomes)) for rate in part.values_of("lr") if (outcomes := part.of(lr=rate))]
    return max(found) - min(found) if len(found) > 1 else math.nan


def samples_to(outcome: Outcome, level: float) -> float:
    """Samples until the test accuracy reached a level, on straight lines between the evaluations.

    Args:
        outcome: Of the run.
        level: A share.

    Returns:
        Samples; those of the first evaluation if that reached it, infinity where none did.
    """
    points = list(zip(outcome.curve("samples_seen"), outcome.curve("test_score"), strict=True))
    if points and points[0][1] >= level:
        return points[0][0]
    for (start, low), (stop, high) in pairwise(points):
        if high >= level:
            return start + (stop - start) * (level - low) / (high - low)
    return math.inf


def blocks(results: Results, margin: float) -> list[Block]:
    """The page: a table over the rates, what the authors' rate gives, and the course of the sizes.

    Args:
        results: What came out.
        margin: How far the target is below the best constant batch's accuracy, a share.

    Returns:
        Tables and figures.
    """
    variants = results.values_of("variant")
    return [
        _rates_table(results, variants),
        _speed_table(results, variants, level_of(results, margin)),
        _curves(results, variants),
        *_courses(results),
    ]


def _rates_table(results: Results, variants: Sequence[str]) -> Table:
    """Accuracy by learning rate."""
    rates = sorted(results.values_of("lr"))
    rows = [
        [
            variant,
            *(_accuracies(results.of(variant=variant, lr=rate)) for rate in rates),
            spread([spread_of(results, variant)], percent),
            lines(results.of(variant=variant)),
        ]
        for variant in variants
    ]
    return Table(
        caption="Test accuracy in per cent by learning rate: **at the end** / best / at the evaluation that held-out "
        "images would choose; and the largest difference between the rates at the end. A run that diverged counts as "
        "guessing.",
        head=["", *(f"rate {rate:g}" for rate in rates), "spread, points", "log lines"],
        rows=rows,
    )


def _accuracies(found: Sequence[Outcome]) -> str:
    """The accuracies of a cell."""
    if any(outcome.is_diverged for outcome in found):
        return "diverged"
    columns = [spread(map(number, found), percent) for number in (end, best, at_validation_best)]
    return f"**{columns[0]}** / {columns[1]} / {columns[2]}" if found else NONE


def _speed_table(results: Results, variants: Sequence[str], level: float) -> Table:
    """Samples to the target at the authors' rate."""
    rows = []
    for variant in variants:
        found = results.of(variant=variant, lr=RATE)
        rows.append(
            [
                variant,
                spread_of_all((samples_to(outcome, level) for outcome in found), whole),
                spread((outcome.number("updates") for outcome in found), whole),
                spread(map(mean_size, found), lambda x: f"{x:.1f}"),
                spread((outcome.values["course"]["mean"][-1] for outcome in found), lambda x: f"{x:.1f}"),
                lines(found),
            ]
        )
    return Table(
        caption=f"At rate {RATE:g}: samples until the test accuracy is {spread([level], percent)} %, with straight "
        "lines between the evaluations; updates of the whole run, and samples behind one, on average and over the last "
        "twenty-fourth.",
        head=["", "samples", "updates", "mean size", "last size", "log lines"],
        rows=rows,
    )


def _curves(results: Results, variants: Sequence[str]) -> Plot:
    """Accuracy, loss and size against samples at the authors' rate."""
    rows = [results.of(variant=variant, lr=RATE) for variant in variants]
    sizes = [course_curve(found[0]) if found else None for found in rows]
    panels = [
        accuracy_panel(f"test accuracy, rate {RATE:g}", rows),
        batch_loss_panel(rows),
        Panel(title="batch size", x_label="samples", curves=curves_of(sizes), scale="log2"),
    ]
    caption = "The training loss is the mean over the batches since the evaluation before."
    return Plot(name="samples", caption=caption, legend=variants, panels=panels)


def _courses(results: Results) -> list[Block]:
    """The course of the sizes in the long runs, where there are any."""
    legend = results.values_of("course")
    rows = [results.of(course=variant) for variant in legend]
    if not any(rows):
        return []
    sizes = [course_curve(found[0], along="updates") if found else None for found in rows]
    cells = [
        [
            variant,
            *(f"{size:.0f}" for outcome in found[:1] for size in phases_of(outcome)),
            *(f"{final(outcome, 'batch_loss'):.3g}" for outcome in found[:1]),
            lines(found),
        ]
        for variant, found in zip(legend, rows, strict=True)
        if found
    ]
    return [
        Plot(
            name="course",
            caption=f"The long runs at rate {RATE:g}.",
            legend=legend,
            panels=[
                Panel(title="batch size", x_label="updates", curves=curves_of(sizes), scale="log2"),
                batch_loss_panel(rows),
            ],
        ),
        Table(
            caption="Batch sizes of the long runs, means over twenty-fourths of the updates: the first six of these, "
            "the largest, and the smallest after it; and the mean training loss of the last epoch.",
            head=["", "first quarter", "largest", "smallest after", "loss", "log lines"],
            rows=cells,
        ),
    ]
