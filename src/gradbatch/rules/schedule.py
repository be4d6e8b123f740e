"""Batch sizes planned in advance, by epochs or by samples."""

import itertools
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Literal

from gradbatch._types import Decision, Progress, Rule, Statistics
from gradbatch.errors import InvalidInputError
from gradbatch.rules._check import check_choice

__all__ = ["Schedule"]

_SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_ENTRY = re.compile(r"(\d+(?:\.\d+)?)([KMBT]?):(\d+)")


@dataclass(frozen=True, kw_only=True)
class Schedule(Rule[None]):
    """Batch sizes from a table of milestones.

    The table is text, ``"<start>:<batch size>"`` entries with growing starts, the first of them 0. A start
    counts epochs or samples (``unit``) and may carry a suffix K, M, B or T, as in Megatron-LM's
    ``"0:768 250B:1536"``. A size takes effect with the first batch that begins at or after its start.

    Source: the default is the "Manual" baseline of Chen, Wu and Luo (BA-Momentum, ICLR 2018 submission,
    section 4.1), after Smith et al. 2018 (arXiv:1711.00489): 32, doubled after every quarter of 100 epochs,
    at an unchanged learning rate.

    Attributes:
        table: The milestones.
        unit: What the starts count, ``"epochs"`` or ``"samples"``.

    Example:
        >>> Schedule(table="0:32 10K:64", unit="samples").batch_size_at(samples_seen=10_000, dataset_size=500)
        64
    """

    table: str = "0:32 25:64 50:128 75:256"
    unit: Literal["epochs", "samples"] = "epochs"

    def __post_init__(self) -> None:
        check_choice("unit", self.unit, ("epochs", "samples"))
        _parse(self.table)

    def batch_size_at(self, *, samples_seen: int, dataset_size: int) -> int:
        """The planned size of the batch that begins after ``samples_seen`` samples.

        Args:
            samples_seen: Samples drawn so far.
            dataset_size: Samples in an epoch.

        Returns:
            The batch size, in samples.
        """
        unit = dataset_size if self.unit == "epochs" else 1
        # In fractions: a start of 0.3 epochs must not be missed by a rounding error.
        return [size for start, size in _parse(self.table) if start * unit <= samples_seen][-1]

    def requires(self, progress: Progress) -> frozenset[str]:
        """Nothing."""
        return frozenset()

    def init(self) -> None:
        """No state."""
        return

    def update(self, statistics: Statistics, progress: Progress, state: None) -> tuple[Decision, None]:
        """The size planned for the next batch."""
        size = self.batch_size_at(samples_seen=progress.samples_seen, dataset_size=progress.dataset_size)
        return Decision(batch_size=size, reason=f"schedule: {size} from epoch {progress.epoch:.4g}"), None


@cache
def _parse(table: str) -> list[tuple[Fraction, int]]:
    """The (start, batch size) pairs of a table."""
    entries = [_ENTRY.fullmatch(entry) for entry in table.split()]
    milestones = [(Fraction(e[1]) * _SUFFIXES[e[2]], int(e[3])) for e in entries if e is not None]
    starts = [start for start, _ in milestones]
    if not milestones or len(milestones) < len(entries):
        raise InvalidInputError(
            f'`table` must hold entries like "0:32 25:64" (start, colon, batch size), got {table!r}'
        )
    if starts[0] != 0 or any(b <= a for a, b in itertools.pairwise(starts)):
        raise InvalidInputError(f"`table` must start at 0 and its starts must grow, got {table!r}")
    if any(size < 1 for _, size in milestones):
        raise InvalidInputError(f"`table` must hold batch sizes of at least 1, got {table!r}")
    return milestones
