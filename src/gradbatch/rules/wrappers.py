"""Rules that hold a rule: bounds, rounding, spacing, a warm-up and a dead band around any other."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from gradbatch._types import Decision, Progress, Rule, Statistics
from gradbatch.rules._check import check_at_least, check_bounds, check_from, check_held

__all__ = ["Clip", "Every", "Hysteresis", "RoundTo", "Warmup"]


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
        check_held(self, self.rule)

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
        check_held(self, self.rule)

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


class EveryState(TypedDict):
    """The last factor on the learning rate, and the held rule's own state."""

    lr_scale: float
    held: Any


@dataclass(frozen=True, kw_only=True)
class Every(Rule[EveryState]):
    """Ask a rule at every ``steps``-th step only, and measure nothing in between.

    Steps 0, ``steps``, 2 ``steps``, ... are measured. Running averages advance once per asking, so their memory
    is in askings, not in steps. In between the batch size and the factor on the learning rate stay as they were
    answered last; gradients are not selected.

    Attributes:
        rule: The rule held; not one that decides within a step, which must be asked each time.
        steps: Distance between askings, in updates.
    """

    rule: Rule[Any]
    steps: int

    def __post_init__(self) -> None:
        check_at_least("steps", self.steps, 1)
        check_held(self, self.rule)

    def requires(self, progress: Progress) -> frozenset[str]:
        """What the held rule requires, at the steps at which it is asked."""
        return self.rule.requires(progress) if progress.step % self.steps == 0 else frozenset()

    def init(self) -> EveryState:
        """The rate as it is, and the held rule's state."""
        return EveryState(lr_scale=1.0, held=self.rule.init())

    def update(self, statistics: Statistics, progress: Progress, state: EveryState) -> tuple[Decision, EveryState]:
        """The held rule's decision, or the requested size and the last factor again in between."""
        if progress.step % self.steps == 0:
            decision, held = self.rule.update(statistics, progress, state["held"])
            return decision, EveryState(lr_scale=decision.lr_scale, held=held)
        between = f"every {self.steps} steps: held until step {-(-progress.step // self.steps) * self.steps}"
        return Decision(batch_size=progress.batch_size, lr_scale=state["lr_scale"], reason=between), state


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
        check_held(self, self.rule)

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


@dataclass(frozen=True, kw_only=True)
class Hysteresis(Rule[Any]):
    r"""Follow a rule only where it asks for a size that differs enough from the present one.

    The requested size $b$ is kept while the held rule's answer $p$ lies in $[b/r, br]$ with ratio $r$, bounds
    included. The rest of the decision, such as the learning-rate scale, is the held rule's. A rule that moves in
    steps smaller than the ratio, from the present size, is never followed: give it a ratio below its step.

    Attributes:
        rule: The rule held.
        ratio: $r\ge1$; 1 follows each move.
    """

    rule: Rule[Any]
    ratio: float = 1.1

    def __post_init__(self) -> None:
        check_held(self, self.rule)
        check_from("ratio", self.ratio, 1)

    def requires(self, progress: Progress) -> frozenset[str]:
        """What the held rule requires."""
        return self.rule.requires(progress)

    def init(self) -> Any:
        """The held rule's state."""
        return self.rule.init()

    def update(self, statistics: Statistics, progress: Progress, state: Any) -> tuple[Decision, Any]:
        """The held rule's decision, with the requested size where it differs too little from it."""
        decision, state = self.rule.update(statistics, progress, state)
        present, asked = progress.batch_size, decision.batch_size
        if asked == present or max(asked, present) > self.ratio * min(asked, present):
            return decision, state
        reason = f"{decision.reason}; held within a factor of {self.ratio:g} at {present} instead of {asked}"
        return replace(decision, batch_size=present, reason=reason), state


def _resize(decision: Decision, resize: Callable[[int], int], verb: str) -> Decision:
    """The decision with another size, and the reason for it."""
    size = resize(decision.batch_size)
    if size == decision.batch_size:
        return decision
    return replace(decision, batch_size=size, reason=f"{decision.reason}; {verb} from {decision.batch_size}")
