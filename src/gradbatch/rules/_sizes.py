"""What rules share on the way from measured numbers to a batch size."""

import math
from collections.abc import Mapping

from gradbatch._types import Decision, Progress, Statistics
from gradbatch.errors import InvalidInputError

__all__ = ["after_test", "bounded", "hold", "largest_size", "measured", "ratio"]


def hold(rule: str, progress: Progress, because: str) -> Decision:
    """The requested size again, where a batch says nothing."""
    return Decision(batch_size=progress.batch_size, reason=f"{rule}: held, {because}")


def measured(statistics: Statistics, *names: str) -> list[float]:
    """The quantities of these names, in their order; refused where one was not measured."""
    values = [getattr(statistics, name) for name in names]
    if None in values:
        raise InvalidInputError(f"this rule needs {', '.join(f'`{name}`' for name in names)}: measure all of them")
    return values


def ratio(numerator: float, denominator: float) -> float:
    """Noise over signal: 0 where there is no noise, infinite where there is noise and no signal."""
    if numerator <= 0:
        return 0.0
    return numerator / denominator if denominator > 0 else math.inf


def largest_size(max_batch_size: int | None, progress: Progress) -> int:
    """The bound on a batch size: the data set's size, and the rule's own where it has one."""
    return progress.dataset_size if max_batch_size is None else min(max_batch_size, progress.dataset_size)


def bounded(size: float, smallest: int, largest: int) -> int:
    """A size that may be infinite, clipped and then rounded up. The smallest wins over a data set smaller than it."""
    return math.ceil(max(smallest, min(size, largest)))


def after_test(
    rule: str,
    asked: float,
    statistics: Statistics,
    progress: Progress,
    *,
    monotone: bool,
    min_batch_size: int,
    max_batch_size: int,
    numbers: Mapping[str, float],
) -> Decision:
    """The decision after a test that holds from ``asked`` samples on, which may be infinitely many."""
    verdict = "passed" if asked <= statistics.num_samples else "failed"
    least = progress.batch_size if monotone else 0
    return Decision(
        batch_size=bounded(max(asked, least), min_batch_size, largest_size(max_batch_size, progress)),
        reason=f"{rule}: {verdict} at {statistics.num_samples} samples, holds from {asked:.4g}",
        numbers=numbers,
    )
