"""The variants of Chen, Wu and Luo's experiments, and what is said of them on any task: tables, figures, verdicts."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

from gradbatch.experiments.curves import Points
from gradbatch.experiments.figures import Panel
from gradbatch.experiments.reproduce.cells import (
    NONE,
    answer_of,
    at_validation_best,
    best,
    last_loss,
    lines,
    mean_of,
    mean_size,
    percent,
    spread,
)
from gradbatch.experiments.reproduce.drawing import course_curve, curves_of, mean_curve
from gradbatch.experiments.reproduce.experiment import Claim, Plot, Table, Verdict
from gradbatch.experiments.reproduce.results import Results

__all__ = [
    "BA",
    "BA_ACCEPTS",
    "BA_CODE",
    "BA_PAPER",
    "GROWN",
    "IF_DREW",
    "MOMENTA",
    "SOURCE",
    "STOPS",
    "VARIANTS",
    "hardly_drew",
    "judge_falling",
    "judge_level",
    "judge_loss_rank",
    "loss_panel",
    "score_table",
    "size_plot",
    "variant_settings",
]

SOURCE = "Chen, Wu and Luo, submission to ICLR 2018 ([openreview SybqeKgA-](https://openreview.net/forum?id=SybqeKgA-))"

MOMENTA: Mapping[str, float] = {"Momentum": 0.9, "SGD": 0.0}

_FIXED = ("Mini-32", "Mini-64", "Mini-128", "Mini-256")
BA_CODE, BA_PAPER = "BA, code's stop", "BA, paper's stop"
BA = (BA_CODE, BA_PAPER)
BA_ACCEPTS = "BA, accepts overshoots"
"""The paper's stop, where the batch is accepted as it is once its step would be over twice the distance."""

_MANUAL = "Manual"
VARIANTS = (*_FIXED, _MANUAL, *BA)
"""In the order of the tables."""

STOPS = (
    "BA is run in two ways, for paper and code disagree: it stops drawing at m ≥ m\\*, as the paper prints it, or at "
    "m ≥ m\\*/m, as the authors' code does (it divides σ by √m twice), from which the paper's numbers probably are. "
    "Where neither draws, or both draw alike, the two are one. Both draw on where the step would be over twice the "
    "distance to a loss of 0, as the formula says and the code does (`overshoot=cap`; the library's own default "
    "accepts such a batch)."
)
"""What a page says of the two stopping rules."""

_PAPER_ROW: Mapping[str, str] = {BA_CODE: "BA", BA_PAPER: "BA"}


def variant_settings(variant: str, *, momentum: float, epochs: int) -> dict[str, Any]:
    """What a variant sets.

    Args:
        variant: One of `VARIANTS`, or `BA_ACCEPTS`.
        momentum: Of the optimizer.
        epochs: The budget, over whose quarters Manual doubles the batch.

    Returns:
        Fields of `TrainSettings`.
    """
    common = {"momentum": momentum, "epochs": epochs, "batch_size": 32}
    if variant in _FIXED:
        return common | {"batch_size": int(variant.removeprefix("Mini-"))}
    if variant == _MANUAL:
        milestones = (f"{quarter * epochs / 4:g}:{32 * 2**quarter}" for quarter in range(4))
        return common | {"rule": "schedule", "set": (f"table={' '.join(milestones)}",)}
    stop = "code" if variant == BA_CODE else "paper"
    overshoot = "accept" if variant == BA_ACCEPTS else "cap"
    return common | {"rule": "ba", "set": (f"momentum={momentum:g}", f"stop={stop}", f"overshoot={overshoot}")}


def score_table(
    results: Results, paper: Mapping[str, Mapping[str, str]], *, place: Mapping[str, Any], caption: str
) -> Table:
    """Table 1, ours beside the paper's.

    Args:
        results: What came out.
        paper: Its numbers, by variant and optimizer.
        place: What the rows have in common.
        caption: Of the table.

    Returns:
        A row for each variant that was run.
    """
    head = ["", *(f"{name}: paper / ours, best / ours, chosen" for name in MOMENTA), "samples an update", "log lines"]
    rows = []
    for variant in VARIANTS:
        cells = []
        for optimizer in MOMENTA:
            found = results.of(variant=variant, optimizer=optimizer, **place)
            ours = spread(map(best, found), percent), spread(map(at_validation_best, found), percent)
            theirs = paper[_PAPER_ROW.get(variant, variant)].get(optimizer, NONE)
            cells.append(f"{theirs} / **{ours[0]}** / {ours[1]}")
        found = results.of(variant=variant, **place)
        if found:
            sizes = " and ".join(
                spread(map(mean_size, runs), lambda x: f"{x:.0f}")
                for optimizer in MOMENTA
                if (runs := results.of(variant=variant, optimizer=optimizer, **place))
            )
            rows.append([variant, *cells, sizes, lines(found)])
    return Table(caption=caption, head=head, rows=rows)


def loss_panel(results: Results, title: str, **place: Any) -> Panel:
    """The training loss of all variants along training.

    Args:
        results: What came out.
        title: Of the panel.
        **place: Where in the tables.

    Returns:
        A curve for each of `VARIANTS` that was run there.
    """
    points = [mean_curve(results.of(variant=variant, **place), "train_loss") for variant in VARIANTS]
    return Panel(title=title, x_label="samples", curves=curves_of(points), scale="log")


def size_plot(results: Results, *, name: str, caption: str, **place: Any) -> Plot:
    """The batch sizes of BA along training, one panel for each stopping rule.

    Args:
        results: What came out.
        name: Of the figure.
        caption: Of the figure.
        **place: Where in the tables.

    Returns:
        The figure; solid are the means of stretches, dashed the largest.
    """
    panels = []
    for variant in BA:
        found = {optimizer: results.of(variant=variant, optimizer=optimizer, **place) for optimizer in MOMENTA}
        middle: list[Points | None] = [course_curve(runs[0]) if runs else None for runs in found.values()]
        most: list[Points | None] = [course_curve(runs[0], name="largest") if runs else None for runs in found.values()]
        curves = [*curves_of(most, style="dashed"), *curves_of(middle)]
        panels.append(Panel(title=f"batch size: {variant}", x_label="samples", curves=curves, scale="log2"))
    return Plot(name=name, caption=caption, legend=[f"BA-{optimizer}" for optimizer in MOMENTA], panels=panels)


GROWN = 1.25
"""Times another size: from which on batches count as grown."""


def hardly_drew(results: Results, optimizer: str) -> str:
    """Why nothing can be said of BA where a stop's batches are hardly larger than those of Mini-32.

    Args:
        results: What came out with one optimizer, of Mini-32 and both stops.
        optimizer: Its name, of `MOMENTA`.

    Returns:
        A sentence; empty where the mean batch of both stops is larger by a hundredth.
    """
    sizes = {variant: mean_of(map(mean_size, results.of(variant=variant))) for variant in ("Mini-32", *BA)}
    if all(sizes[variant] > _DREW * sizes["Mini-32"] for variant in BA):
        return ""
    texts = ", ".join(f"{variant} {size:.2f}" for variant, size in sizes.items())
    return f"BA-{optimizer} hardly draws (samples an update: {texts})"


_DREW = 1.01
"""Times Mini-32's mean batch: from which on BA counts as more than that."""

IF_DREW = "undecided where a stop's mean batch is not a hundredth larger than Mini-32's"
"""For criteria."""


def judge_level(optimizer: str, *, num_test: int, score: str, **place: Any) -> Claim:
    """Whether BA's best score is level with the best fixed batch's.

    Args:
        optimizer: Of `MOMENTA`.
        num_test: Samples that it is measured on.
        score: What is compared, in words.
        **place: Where in the tables.

    Returns:
        The claim.
    """

    def judge(results: Results) -> Verdict:
        means = {v: mean_of(map(best, results.of(variant=v))) for v in VARIANTS}
        top = max(_FIXED, key=means.__getitem__)
        texts = ", ".join(f"{name} {percent(means[name])}" for name in BA)
        manual = f"{_MANUAL} {percent(means[_MANUAL])}"
        evidence = f"{texts}; best fixed batch: {top} {percent(means[top])}; {manual}; in per cent"
        if idle := hardly_drew(results, optimizer):
            return Verdict("undecided", f"{idle}. {evidence}")
        chance = 2 * math.sqrt(2 * means[top] * (1 - means[top]) / num_test)
        return Verdict(
            answer_of([means[name] > means[top] - chance for name in BA]),
            f"{evidence}; two standard errors are {100 * chance:.2f} points",
        )

    return Claim(
        text=f"BA-{optimizer}'s best {score} is level with that of the best fixed batch.",
        criterion=f"with each stop, it lies less than two standard errors of a difference on {num_test:,} test samples "
        f"below; {IF_DREW}",
        judge=judge,
        place={**place, "optimizer": optimizer},
    )


def judge_falling(text: str, optimizer: str, **place: Any) -> Claim:
    """Whether the best score falls from each fixed batch to the next larger one.

    Args:
        text: The claim.
        optimizer: Of `MOMENTA`.
        **place: Where in the tables.

    Returns:
        The claim.
    """

    def judge(results: Results) -> Verdict:
        means = [mean_of(map(best, results.of(variant=variant))) for variant in _FIXED]
        texts = ", ".join(f"{name} {percent(value)}" for name, value in zip(_FIXED, means, strict=True))
        is_falling = all(after < before for before, after in itertools.pairwise(means))
        return Verdict("holds" if is_falling else "does not hold", f"{texts} %")

    return Claim(
        text=text,
        criterion="each fixed batch scores below the next smaller one",
        judge=judge,
        place={**place, "optimizer": optimizer},
    )


def judge_loss_rank(text: str, optimizer: str, *, rank: int, **place: Any) -> Claim:
    """Whether BA ends with one of the lowest training losses; a run that diverged has none of the lowest.

    Args:
        text: The claim.
        optimizer: Of `MOMENTA`.
        rank: The worst place among the other variants and BA that still counts, 1 for the lowest loss.
        **place: Where in the tables.

    Returns:
        The claim.
    """

    def judge(results: Results) -> Verdict:
        losses = {variant: mean_of(map(last_loss, results.of(variant=variant))) for variant in VARIANTS}
        ordered = sorted(losses.items(), key=lambda item: item[1])
        evidence = "final training losses: " + ", ".join(f"{name} {loss:.3g}" for name, loss in ordered)
        if idle := hardly_drew(results, optimizer):
            return Verdict("undecided", f"{idle}. {evidence}")
        others = [loss for name, loss in losses.items() if name not in BA]
        places = {name: 1 + sum(other < losses[name] for other in others) for name in BA}
        return Verdict(answer_of([math.isfinite(losses[name]) and places[name] <= rank for name in BA]), evidence)

    most = "none" if rank == 1 else f"at most {rank - 1}"
    criterion = f"with each stop, of the fixed batches and Manual {most} ends with a lower training loss; {IF_DREW}"
    return Claim(text=text, criterion=criterion, judge=judge, place={**place, "optimizer": optimizer})
