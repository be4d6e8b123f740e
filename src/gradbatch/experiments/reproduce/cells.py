"""Numbers as the tables write them, and as claims are judged by."""

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import mean, stdev
from typing import Literal

from gradbatch.experiments.reproduce.results import Outcome

__all__ = [
    "CHANCE",
    "NONE",
    "answer_of",
    "at_validation_best",
    "best",
    "cost_to",
    "end",
    "final",
    "last_loss",
    "lines",
    "mean_of",
    "mean_size",
    "one_digit",
    "percent",
    "signed",
    "spread",
    "spread_of_all",
    "two_digits",
    "whole",
]

NONE = "–"
"""Stands where nothing was run."""

CHANCE = 0.1
"""The accuracy of guessing, with ten classes."""


def spread(values: Iterable[float], write: Callable[[float], str]) -> str:
    """Mean and standard deviation over seeds.

    Args:
        values: One for each run; nan is left out.
        write: Writes one number.

    Returns:
        As ``"97.42 ± 0.20"``; a dash where there is no number, and the number alone where there is one.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return NONE
    text = write(mean(finite))
    return f"{text} ± {write(stdev(finite))}" if len(finite) > 1 else text


def spread_of_all(values: Iterable[float], write: Callable[[float], str]) -> str:
    """The same where every value is finite; a dash where one is not, as of a run that never came so far."""
    known = list(values)
    return spread(known, write) if all(map(math.isfinite, known)) else NONE


def mean_of(values: Iterable[float]) -> float:
    """The mean; nan of nothing.

    Args:
        values: Any number of them.

    Returns:
        Their mean.
    """
    known = list(values)
    return mean(known) if known else math.nan


def cost_to(costs: Iterable[float], scores: Iterable[float], target: float) -> float:
    """What it cost to come to a target.

    Args:
        costs: At each evaluation.
        scores: At the same evaluations; the higher, the better.
        target: A score.

    Returns:
        The cost at the first evaluation with a score as high as that; nan where none has it.
    """
    return next((cost for cost, score in zip(costs, scores, strict=True) if score >= target), math.nan)


def percent(value: float) -> str:
    """A share in per cent, as the papers write it."""
    return f"{100 * value:.2f}"


def signed(value: float) -> str:
    """A loss or gain; a dash for nan."""
    return NONE if math.isnan(value) else f"{round(value, 2) + 0.0:+.2f}"  # no -0.00


def two_digits(value: float) -> str:
    """A distance or a share; a dash for nan."""
    return NONE if math.isnan(value) else f"{value:.2f}"


def one_digit(value: float) -> str:
    """A time; a dash for nan."""
    return NONE if math.isnan(value) else f"{value:,.1f}"


def whole(value: float) -> str:
    """A count; a dash where there is none."""
    return f"{value:,.0f}" if math.isfinite(value) else NONE


def best(outcome: Outcome, name: str = "test_score") -> float:
    """The largest of a number's evaluations, which is what the papers report; nan where there is none."""
    return max((value for value in outcome.curve(name) if math.isfinite(value)), default=math.nan)


def final(outcome: Outcome, name: str = "test_score") -> float:
    """The last of a number's evaluations; nan where there is none."""
    curve = outcome.curve(name)
    return curve[-1] if curve else math.nan


def end(outcome: Outcome) -> float:
    """The accuracy at the end; a run that diverged counts as guessing, whatever it had reached before."""
    return CHANCE if outcome.is_diverged else final(outcome)


def last_loss(outcome: Outcome) -> float:
    """The training loss at the end, infinite where the run diverged; nan where there is none."""
    return math.inf if outcome.is_diverged else final(outcome, "train_loss")


def mean_size(outcome: Outcome) -> float:
    """Samples behind an update, on average over the run."""
    return outcome.number("samples") / outcome.number("updates")


def at_validation_best(outcome: Outcome, name: str = "test_score", by: str = "validation_score") -> float:
    """A number at the evaluation that the validation set would choose, the first of equals."""
    chosen = outcome.curve(by)
    if not any(map(math.isfinite, chosen)):
        return math.nan
    index = max(range(len(chosen)), key=lambda index: chosen[index] if math.isfinite(chosen[index]) else -math.inf)
    return outcome.curve(name)[index]


def answer_of(checks: Sequence[bool]) -> Literal["holds", "in part", "does not hold"]:
    """The answer to a claim of several parts.

    Args:
        checks: Whether each part holds; at least one.

    Returns:
        As for a `Verdict`.
    """
    return "holds" if all(checks) else "in part" if any(checks) else "does not hold"


def lines(outcomes: Sequence[Outcome]) -> str:
    """Which lines of the log a row is made of, as ``"3–5, 9"``."""
    numbers = sorted({outcome.line for outcome in outcomes})
    if not numbers:
        return NONE
    starts = [number for number in numbers if number - 1 not in numbers]
    ends = [number for number in numbers if number + 1 not in numbers]
    spans = zip(starts, ends, strict=True)
    return ", ".join(str(start) if start == end else f"{start}–{end}" for start, end in spans)
