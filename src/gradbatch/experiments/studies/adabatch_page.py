"""How AdaBatch's experiments are shown: accuracy, time by stage, and curves of each network."""

import math
from collections.abc import Mapping, Sequence
from statistics import mean

import numpy as np

from gradbatch.experiments.figures import Panel
from gradbatch.experiments.reproduce.cells import NONE, at_validation_best, best, end, lines, percent, spread
from gradbatch.experiments.reproduce.drawing import accuracy_panel, batch_loss_panel, curves_of, mean_curve
from gradbatch.experiments.reproduce.experiment import Block, Plot, Table
from gradbatch.experiments.reproduce.results import Outcome, Results

__all__ = [
    "ADA",
    "LARGE",
    "NUM_STAGES",
    "SMALL",
    "VARIANTS",
    "blocks",
    "runs_of",
    "speed_up",
    "stage_seconds",
    "timed_blocks",
]

NUM_STAGES = 5
"""Batch sizes of a run: the first, and one after each of four doublings."""

ADA, SMALL, LARGE = "AdaBatch", "fixed small", "fixed large"
VARIANTS = (ADA, SMALL, LARGE)
"""What is compared."""


def stage_seconds(outcome: Outcome) -> list[float]:
    """Seconds of training per epoch at each of the batch sizes.

    Args:
        outcome: Of a run that was evaluated at least at the end of each stage.

    Returns:
        One for each stage, without evaluations; nan where training diverged, for then the stages are others.
    """
    if outcome.is_diverged:
        return [math.nan] * NUM_STAGES
    samples, seconds = ([0.0, *outcome.curve(name)] for name in ("samples_seen", "seconds"))
    edges = np.interp(np.linspace(0, samples[-1], NUM_STAGES + 1), samples, seconds)
    epochs = samples[-1] / outcome.number("train_samples") / NUM_STAGES
    return [float(stage) / epochs for stage in np.diff(edges)]


def runs_of(results: Results, model: str) -> dict[str, list[Outcome]]:
    """The runs of a network by variant.

    Args:
        results: What came out.
        model: The network.

    Returns:
        By `VARIANTS`, also of those that were not run.
    """
    return {variant: results.of(model=model, variant=variant) for variant in VARIANTS}


def blocks(results: Results) -> list[Block]:
    """The page where runs shared a machine.

    Args:
        results: What came out.

    Returns:
        Accuracy, and curves of each network.
    """
    return [_accuracy_table(results), *(_curves(results, model) for model in _models(results))]


def timed_blocks(results: Results) -> list[Block]:
    """The page where each run had a machine to itself.

    Args:
        results: What came out.

    Returns:
        Accuracy, time, and curves.
    """
    accuracy, *curves = blocks(results)
    return [accuracy, _time_table(results), *curves]


def _models(results: Results) -> list[str]:
    """The networks of which something was run."""
    return [model for model in results.values_of("model") if results.of(model=model)]


def _accuracy_table(results: Results) -> Table:
    """Accuracy and updates of whole runs."""
    rows = []
    for model in _models(results):
        runs = runs_of(results, model)
        for variant, found in runs.items():
            numbers = (best, at_validation_best, end)
            rows.append(
                [
                    model,
                    f"{variant}, {_sizes_text(found)}",
                    *(spread(map(number, found), percent) for number in numbers),
                    spread((outcome.number("updates") for outcome in found), lambda x: f"{x:,.0f}"),
                    lines(found),
                ]
            )
    return Table(
        caption="Test accuracy in per cent: the best, that at the epoch which held-out images would choose, and the "
        "last, for which a run that diverged counts as guessing.",
        head=["", "", "best", "chosen", "final", "updates", "log lines"],
        rows=rows,
    )


def _sizes_text(found: Sequence[Outcome]) -> str:
    """The first and the last batch size that were seen."""
    if not found:
        return NONE
    sizes = found[0].values["course"]["largest"]
    return f"{sizes[0]:,}" if sizes[0] == max(sizes) else f"{sizes[0]:,} to {max(sizes):,}"


def speed_up(runs: Mapping[str, Sequence[Outcome]], variant: str) -> float:
    """How many times as fast a variant is as the small batch.

    Args:
        runs: Of a network, by `VARIANTS`.
        variant: One of these.

    Returns:
        Mean seconds of the small batch over the variant's; nan where either was not run or diverged.
    """
    if not runs[SMALL] or not runs[variant]:
        return math.nan
    small, other = (mean(map(_seconds, runs[name])) for name in (SMALL, variant))
    return small / other


def _seconds(outcome: Outcome) -> float:
    """Of training; nan where it diverged, for then it is shorter than the others."""
    return math.nan if outcome.is_diverged else outcome.number("seconds")


def _time_table(results: Results) -> Table:
    """Seconds of whole runs, and per epoch by stage."""
    rows = []
    for model in results.values_of("model"):
        runs = runs_of(results, model)
        for variant, found in runs.items():
            if found:
                by_stage = zip(*map(stage_seconds, found), strict=True)
                rows.append(
                    [
                        model,
                        variant,
                        spread(map(_seconds, found), lambda x: f"{x:.0f}"),
                        spread([speed_up(runs, variant)], lambda x: f"{x:.2f}"),
                        *(spread(seconds, lambda x: f"{x:.1f}") for seconds in by_stage),
                        lines(found),
                    ]
                )
    return Table(
        caption="Seconds of training without evaluations, how much faster the run was than with the small batch, and "
        "seconds per epoch in each of the five stages, as AdaBatch's batch doubles. One run at a time, but with "
        "whatever else the machine did: seconds are rough.",
        head=["", "", "seconds", "speed-up", *(f"stage {n}" for n in range(1, NUM_STAGES + 1)), "log lines"],
        rows=rows,
    )


def _curves(results: Results, model: str) -> Plot:
    """Accuracy and loss of a network against samples."""
    rows = list(runs_of(results, model).values())
    panels = [
        accuracy_panel(f"{model}: test accuracy", rows),
        batch_loss_panel(rows),
        Panel(
            title="batch size",
            x_label="samples",
            curves=curves_of([mean_curve(found, "batch_size") for found in rows]),
            scale="log2",
        ),
    ]
    caption = "Means over seeds. Loss and size are means over the batches of an epoch."
    return Plot(name=model, caption=caption, legend=VARIANTS, panels=panels)
