"""The variants of Chen, Wu and Luo's experiments, and what is said of them on any task: tables, figures, verdicts."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import mean
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
    "FIXED",
    "MOMENTA",
    "SOURCE",
    "STOPS",
    "VARIANTS",
    "judge_falling",
    "judge_level",
    "judge_loss_rank",
    "loss_panel",
    "mean_of",
    "not_run",
    "score_table",
    "size_plot",
    "variant_settings",
]

SOURCE = "Chen, Wu and Luo, submission to ICLR 2018 ([openreview SybqeKgA-](https://openreview.net/forum?id=SybqeKgA-))"

MOMENTA: Mapping[str, float] = {"Momentum": 0.9, "SGD": 0.0}

FIXED = ("Mini-32", "Mini-64", "Mini-128", "Mini-256")
BA_CODE, BA_PAPER = "BA, code's stop", "BA, paper's stop"
BA = (BA_CODE, BA_PAPER)
BA_ACCEPTS = "BA, accepts overshoots"
"""The paper's stop, where the batch is accepted as it is once its step would be over twice the distance."""

VARIANTS = (*FIXED, "Manual", *BA)
"""In the order of the tables."""

STOPS = (
    "BA stands twice: it stops drawing at m ≥ m\\* as the paper prints it, or at m ≥ m\\*/m as the authors' code does "
    "(it divides σ by √m twice), from which the paper's numbers probably are. Both draw on where the step would be "
    "over twice the distance to a loss of 0, as the formula says and the code does (`overshoot=cap`; the library's own "
    "default accepts such a batch)."
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
    if variant in FIXED:
        return common | {"batch_size": int(variant.removeprefix("Mini-"))}
    if variant == "Manual":
        milestones = (f"{quarter * epochs / 4:g}:{32 * 2**quarter}" for quarter in range(4))
        return common | {"rule": "schedule", "set": (f"table={' '.join(milestones)}",)}
    stop = "code" if variant == BA_CODE else "paper"
    overshoot = "accept" if variant == BA_ACCEPTS else "cap"
    return common | {"rule": "ba", "set": (f"momentum={momentum:g}", f"stop={stop}", f"overshoot={overshoot}")}


def mean_of(results: Results, of: Callable[[Any], float], **place: Any) -> float:
    """A number's mean over seeds, infinite or nan where one run's is, and nan where nothing was run.

    Args:
        results: What came out.
        of: The number of an outcome.
        **place: Where in the tables.

    Returns:
        The mean.
    """
    found = [of(outcome) for outcome in results.of(**place)]
    return mean(found) if found else math.nan


def not_run(results: Results, variants: Sequence[str], **place: Any) -> list[str]:
    """Variants of which a trial is still to be run, so that it is too early to compare them.

    Args:
        results: What came out, and of which trials.
        variants: Those that are compared; what the experiment does not run at that place is not waited for.
        **place: Where in the tables.

    Returns:
        Their names.
    """
    waiting = {own.place.get("variant") for own in results.at(**place).trials if own.key not in results.outcomes}
    return [variant for variant in variants if variant in waiting]


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
                spread(map(mean_size, own), lambda x: f"{x:.0f}")
                for optimizer in MOMENTA
                if (own := results.of(variant=variant, optimizer=optimizer, **place))
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
        middle: list[Points | None] = [course_curve(own[0]) if own else None for own in found.values()]
        most: list[Points | None] = [course_curve(own[0], name="largest") if own else None for own in found.values()]
        curves = [*curves_of(most, style="dashed"), *curves_of(middle)]
        panels.append(Panel(title=f"batch size: {variant}", x_label="samples", curves=curves, scale="log2"))
    return Plot(name=name, caption=caption, legend=[f"BA-{optimizer}" for optimizer in MOMENTA], panels=panels)


def judge_level(optimizer: str, *, within: float, score: str, **place: Any) -> Claim:
    """Whether BA's best score is level with the best fixed batch's.

    Args:
        optimizer: Of `MOMENTA`.
        within: How far it may lie below, as a share.
        score: What is compared, in words.
        **place: Where in the tables.

    Returns:
        The claim.
    """

    def judge(results: Results) -> Verdict:
        means = {v: mean_of(results, best, variant=v, optimizer=optimizer, **place) for v in (*FIXED, *BA)}
        fixed = {name: means[name] for name in FIXED if math.isfinite(means[name])}
        ours = {name: means[name] for name in BA if results.of(variant=name, optimizer=optimizer, **place)}
        waiting = not_run(results, (*FIXED, *BA), optimizer=optimizer, **place)
        if waiting or not fixed or not ours:
            return Verdict("open", _waiting_text(waiting))
        top = max(fixed, key=fixed.__getitem__)
        texts = ", ".join(f"{name} {percent(value)}" for name, value in ours.items())
        answer = answer_of([value > fixed[top] - within for value in ours.values()])
        return Verdict(answer, f"{texts}; best fixed batch: {top} {percent(fixed[top])}, in per cent")

    return Claim(
        text=f"BA-{optimizer}'s best {score} is level with that of the best fixed batch.",
        criterion=f"with each stop, it lies less than {100 * within:g} points below",
        judge=judge,
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
        means = [mean_of(results, best, optimizer=optimizer, variant=variant, **place) for variant in FIXED]
        if not all(map(math.isfinite, means)):
            return Verdict("open", "not run")
        texts = ", ".join(f"{name} {percent(value)}" for name, value in zip(FIXED, means, strict=True))
        return Verdict(answer_of([after < before for before, after in itertools.pairwise(means)]), f"{texts} %")

    return Claim(text=text, criterion="each fixed batch scores below the next smaller one", judge=judge)


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
        losses = {
            variant: mean_of(results, last_loss, variant=variant, optimizer=optimizer, **place) for variant in VARIANTS
        }
        others = {name: loss for name, loss in losses.items() if name not in BA and not math.isnan(loss)}
        ours = {name: losses[name] for name in BA if not math.isnan(losses[name])}
        waiting = not_run(results, VARIANTS, optimizer=optimizer, **place)
        if waiting or not ours or len(others) < rank:  # among so few others every loss would have the rank
            return Verdict("open", _waiting_text(waiting))
        places = {name: 1 + sum(other < loss for other in others.values()) for name, loss in ours.items()}
        ordered = sorted({**others, **ours}.items(), key=lambda item: item[1])
        evidence = "final training losses: " + ", ".join(f"{name} {loss:.3g}" for name, loss in ordered)
        return Verdict(answer_of([math.isfinite(ours[name]) and places[name] <= rank for name in ours]), evidence)

    most = "none" if rank == 1 else f"at most {rank - 1}"
    criterion = f"with each stop, of the fixed batches and Manual {most} ends with a lower training loss"
    return Claim(text=text, criterion=criterion, judge=judge)


def _waiting_text(waiting: Sequence[str]) -> str:
    return ": ".join(["not run", *([", ".join(waiting)] if waiting else [])])
