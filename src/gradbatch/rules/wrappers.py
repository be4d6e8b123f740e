"""Rules that hold a rule: bounds, rounding, spacing and a warm-up around any other."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from gradbatch._types import Decision, Progress, Rule, Statistics
from gradbatch.errors import InvalidInputError
from gradbatch.rules._check import check_at_least, check_bounds

__all__ = ["Clip", "Every", "RoundTo", "Warmup"]


@dataclass(frozen=True, kw_only=True)
class Clip(Rule[Any]):
    """Keep the batch sizes of a rule within bounds; the reason says what was moved.

    Attributes:
        rule: The rule held.
        min_batch_size: Smallest batch size, in samples.
        max_batch_size: Largest batch size, in samples; ``None`` for no bound.
    """

    rule: Rule[Any]
    min_batch_size: int = 1
    max_batch_size: int | None = None

    def __post_init__(self) -> None:
        check_bounds(self.min_batch_size, self.max_batch_size)
        _refuse_in_step(self, self.rule)

    def requires(self, progress: Progress) -> frozenset[str]:
        """What the held rule requires."""
        return self.rule.requires(progress)

    def init(self) -> Any:
        """The held rule's state."""
        return self.rule.init()

    def update(self, statistics: Statistics, progress: Progress, state: Any) -> tuple[Decision, Any]:
        """The held rule's decision, within bounds."""
        decision, state = self.rule.update(statistics, progress, state)
        return _resize(decision, self._clip, "clipped"), state

    def _clip(self, size: int) -> int:
        largest = size if self.max_batch_size is None else min(size, self.max_batch_size)
        return max(self.min_batch_size, largest)


@dataclass(frozen=True, kw_only=True)
class RoundTo(Rule[Any]):
    """Round the batch sizes of a rule to the nearest multiple, up on a tie, never to 0.

    For shapes that compile well, or for multiples of world size times micro-batch.

    Attributes:
        rule: The rule held.
        multiple: The multiple, in samples.
    """

    rule: Rule[Any]
    multiple: int

    def __post_init__(self) -> None:
        check_at_least("multiple", self.multiple, 1)
        _refuse_in_step(self, self.rule)

    def requires(self, progress: Progress) -> frozenset[str]:
        """What the held rule requires."""
        return self.rule.requires(progress)

    def init(self) -> Any:
        """The held rule's state."""
        return self.rule.init()

    def update(self, statistics: Statistics, progress: Progress, state: Any) -> tuple[Decision, Any]:
        """The held rule's decision, rounded."""
        decision, state = self.rule.update(statistics, progress, state)
        return _resize(decision, self._round, "rounded"), state

    def _round(self, size: int) -> int:
        return max(1, math.floor(size / self.multiple + 0.5)) * self.multiple


@dataclass(frozen=True, kw_only=True)
class Every(Rule[Any]):
    """Ask a rule at every ``steps``-th step only, and measure nothing in between.

    Steps 0, ``steps``, 2 ``steps``, ... are measured. Running averages advance once per asking, so their memory
    is in askings, not in steps.

    Attributes:
        rule: The rule held; not one that decides within a step, which must be asked each time.
        steps: Distance between askings, in updates.
    """

    rule: Rule[Any]
    steps: int

    def __post_init__(self) -> None:
        check_at_least("steps", self.steps, 1)
        _refuse_in_step(self, self.rule)

    def requires(self, progress: Progress) -> frozenset[str]:
        """What the held rule requires, at the steps at which it is asked."""
        return self.rule.requires(progress) if progress.step % self.steps == 0 else frozenset()

    def init(self) -> Any:
        """The held rule's state."""
        return self.rule.init()

    def update(self, statistics: Statistics, progress: Progress, state: Any) -> tuple[Decision, Any]:
        """The held rule's decision, or the requested size again in between."""
        if progress.step % self.steps == 0:
            return self.rule.update(statistics, progress, state)
        between = f"every {self.steps} steps: held until step {-(-progress.step // self.steps) * self.steps}"
        return Decision(batch_size=progress.batch_size, reason=between), state


class WarmupState(TypedDict):
    """Updates that the held rule has watched so far, and its own state."""

    watched: int
    held: Any


@dataclass(frozen=True, kw_only=True)
class Warmup(Rule[WarmupState]):
    """Let a rule watch for a number of updates before it is obeyed.

    Its running averages fill while the batch size and the learning rate stay as they are.

    Attributes:
        rule: The rule held; not one that decides within a step.
        steps: Length of the warm-up, in updates.
    """

    rule: Rule[Any]
    steps: int

    def __post_init__(self) -> None:
        check_at_least("steps", self.steps, 0)
        _refuse_in_step(self, self.rule)

    def requires(self, progress: Progress) -> frozenset[str]:
        """What the held rule requires."""
        return self.rule.requires(progress)

    def init(self) -> WarmupState:
        """Nothing watched yet."""
        return WarmupState(watched=0, held=self.rule.init())

    def update(self, statistics: Statistics, progress: Progress, state: WarmupState) -> tuple[Decision, WarmupState]:
        """The requested size during the warm-up, the held rule's decision after it."""
        decision, held = self.rule.update(statistics, progress, state["held"])
        watched = state["watched"]
        if watched < self.steps:
            reason = f"warm-up {watched + 1} of {self.steps}; {decision.reason}"
            decision = Decision(batch_size=progress.batch_size, reason=reason)
        return decision, WarmupState(watched=min(watched + 1, self.steps), held=held)


def _resize(decision: Decision, resize: Callable[[int], int], verb: str) -> Decision:
    """The decision with another size, and the reason for it."""
    size = resize(decision.batch_size)
    if size == decision.batch_size:
        return decision
    return replace(decision, batch_size=size, reason=f"{decision.reason}; {verb} from {decision.batch_size}")


def _refuse_in_step(wrapper: Rule[Any], rule: object) -> None:
    """Refuse what is no rule, and a rule whose ``batch_size`` may mean "draw that many more"."""
    name = type(wrapper).__name__
    if not isinstance(rule, Rule):
        raise InvalidInputError(f"`rule` of {name} must be a rule such as CABS(), got {rule!r}")
    if rule.in_step:
        raise InvalidInputError(
            f"{name} cannot hold {type(rule).__name__}, which decides within a step how many more samples to "
            "draw: use that rule's own bounds"
        )
