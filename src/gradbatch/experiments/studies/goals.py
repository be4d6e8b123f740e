"""The goals that a rule must reach to be recommended as a default, and on how many tasks one reaches them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from gradbatch.experiments.reproduce.cells import signed, two_digits
from gradbatch.experiments.studies.contest import BUDGETED, DEVELOPED_ON, OURS
from gradbatch.experiments.studies.gains import Number, cosine_searched, matched, spread_ratio
from gradbatch.experiments.studies.standings import Field

__all__ = ["ENOUGH", "ENOUGH_UNTOUCHED", "GOALS", "JUDGED", "Goal", "Reached", "is_developed_on", "is_ours"]

ENOUGH, ENOUGH_UNTOUCHED = 5, 2
"""Tasks of seven on which a rule must reach a goal, and of those on which it was not developed."""


JUDGED = (
    (OURS, "sgd"),
    (BUDGETED, "sgd"),
    ("cabs", "sgd"),
    (OURS, "adam"),
    (BUDGETED, "adam"),
)
"""Rules that the goals are held against, and the optimizers."""


class Reached(NamedTuple):
    """How far a goal is reached.

    Attributes:
        met: Tasks on which it is.
        missed: Tasks on which it is not.
        is_ours: Whether the rule is ours, so that the tasks it was developed on say less.
    """

    met: Sequence[Field]
    missed: Sequence[Field]
    is_ours: bool

    @property
    def developed(self) -> tuple[int, int]:
        """On how many tasks of the rule's development it is met, and of how many."""
        return self._count(is_developed=True)

    @property
    def untouched(self) -> tuple[int, int]:
        """On how many other tasks it is met, and of how many."""
        return self._count(is_developed=False)

    @property
    def answer(self) -> Literal["holds", "in part", "does not hold"]:
        """Whether that is on enough tasks; in part where too few of them are untouched by our rule's development."""
        if len(self.met) < ENOUGH:
            return "does not hold"
        return "in part" if self.is_ours and self.untouched[0] < ENOUGH_UNTOUCHED else "holds"

    def _count(self, *, is_developed: bool) -> tuple[int, int]:
        met, missed = ([f for f in group if is_developed_on(f) == is_developed] for group in (self.met, self.missed))
        return len(met), len(met) + len(missed)


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a rule should reach on each task.

    Attributes:
        title: In a table.
        claim: In a sentence, with ``{rule}`` and ``{optimizer}``.
        criterion: When it is reached on a task.
        number: What is measured.
        limit: How large that may be on a task.
        write: Writes the number.
    """

    title: str
    claim: str
    criterion: str
    number: Number
    limit: Callable[[Field], float]
    write: Callable[[float], str]

    def reached(self, fields: Sequence[Field], rule: str) -> Reached:
        """Where a rule reaches it.

        Args:
            fields: Tasks with one optimizer, on which the rule and all constant batches were run.
            rule: A name of `RULES`.

        Returns:
            The tasks with and without success.
        """
        met = [field for field in fields if self.number(field, rule) <= self.limit(field)]
        return Reached(met, [field for field in fields if field not in met], is_ours(rule))

    def written(self, field: Field, rule: str) -> str:
        """The number on a task, exact enough to tell it from the limit."""
        value = self.number(field, rule)
        text = self.write(value)
        return text if float(text) != self.limit(field) else f"{value:.4f}"


def is_ours(rule: str) -> bool:
    """Whether a rule is our own, developed on some of the tasks."""
    return rule.startswith(OURS)


def is_developed_on(field: Field) -> bool:
    """Whether our rule was developed on a task."""
    return field.bench.name in DEVELOPED_ON


def _always(value: float) -> Callable[[Field], float]:
    return lambda field: value


GOALS: Sequence[Goal] = (
    Goal(
        title="same rate: no worse than the best constant batch",
        claim="`{rule}` with {optimizer} is as good as the best constant batch at the same nominal rate.",
        criterion="the mean regret over the rates is at most 0",
        number=matched,
        limit=_always(0.0),
        write=signed,
    ),
    Goal(
        title="best rate: at most 0.5 points, or 1 % of the loss, behind the best tuned cosine",
        claim="`{rule}` with {optimizer} is hardly worse than the best tuned cosine.",
        criterion="at its best rate it loses at most 0.5 points, or 1 % of the loss",
        number=cosine_searched,
        limit=lambda field: 0.5 if field.bench.metric.is_higher_better else 1.0,
        write=signed,
    ),
    Goal(
        title="rates 30-fold apart: at most half the spread of a constant batch",
        claim="With `{rule}` and {optimizer} the score depends half as much on the rate as with a constant batch.",
        criterion="its spread over the rates is at most half that of the batch that is best over them",
        number=spread_ratio,
        limit=_always(0.5),
        write=two_digits,
    ),
)
