"""Learning rate times gradient variance where parameter groups have rates of their own."""

from collections.abc import Sequence
from operator import mul
from typing import TypeVar

from gradbatch._types import LayerStatistics, Progress, Statistics
from gradbatch.errors import InvalidInputError

__all__ = ["averages_of", "parts_of", "with_groups", "with_rates"]

Average = TypeVar("Average")


def with_groups(quantities: frozenset[str], progress: Progress) -> frozenset[str]:
    """What to ask for so that `parts_of` has it: the quantities per parameter group, where there are several."""
    return quantities | {"groups"} if progress.group_lrs else quantities


def parts_of(statistics: Statistics, progress: Progress) -> Sequence[Statistics | LayerStatistics]:
    """The statistics of each parameter group, or of the whole where there is one."""
    return (statistics.groups or ()) if progress.group_lrs else (statistics,)


def averages_of(rule: str, averages: list[Average], num_groups: int, nothing: Average) -> list[Average]:
    """The running averages of the groups, ``nothing`` each at the start; refused if their number has changed.

    Returns:
        The averages, one for each group.

    Raises:
        InvalidInputError: If the optimizer was given another group meanwhile.
    """
    averages = averages or [nothing] * num_groups
    if len(averages) != num_groups:
        raise InvalidInputError(
            f"{rule} has averaged over {len(averages)} parameter groups and `optimizer` now has {num_groups}: make "
            "a new controller after adding a group"
        )
    return averages


def with_rates(variances: Sequence[float], progress: Progress) -> float:
    r"""$\sum_g\eta_g\operatorname{tr}\Sigma_g$, in units of the loss."""
    return sum(map(mul, progress.group_lrs or (progress.lr,), variances))
