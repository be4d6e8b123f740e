"""Numbers as the tables write them."""

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import mean, stdev

from gradbatch.experiments.reproduce.results import Outcome

__all__ = ["NONE", "at_validation_best", "best", "final", "lines", "percent", "spread"]

NONE = "–"
"""Stands where nothing was run."""


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


def percent(value: float) -> str:
    """A share in per cent, as the papers write it."""
    return f"{100 * value:.2f}"


def best(outcome: Outcome, name: str = "test_score") -> float:
    """The largest of a number's evaluations, which is what the papers report; nan where there is none."""
    return max((value for value in outcome.curve(name) if math.isfinite(value)), default=math.nan)


def final(outcome: Outcome, name: str = "test_score") -> float:
    """The last of a number's evaluations; nan where there is none."""
    curve = outcome.curve(name)
    return curve[-1] if curve else math.nan


def at_validation_best(outcome: Outcome, name: str = "test_score", by: str = "validation_score") -> float:
    """A number at the evaluation that the validation set would choose, the first of equals."""
    chosen = outcome.curve(by)
    if not any(map(math.isfinite, chosen)):
        return math.nan
    index = max(range(len(chosen)), key=lambda index: chosen[index] if math.isfinite(chosen[index]) else -math.inf)
    return outcome.curve(name)[index]


def lines(outcomes: Sequence[Outcome]) -> str:
    """Which lines of the log a row is made of, as ``"3–5, 9"``."""
    numbers = sorted({outcome.line for outcome in outcomes})
    if not numbers:
        return NONE
    starts = [number for number in numbers if number - 1 not in numbers]
    ends = [number for number in numbers if number + 1 not in numbers]
    spans = zip(starts, ends, strict=True)
    return ", ".join(str(start) if start == end else f"{start}–{end}" for start, end in spans)
