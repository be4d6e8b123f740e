"""Asking a rule, and not asking it where the statistics say too little."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gradbatch._types import Decision, Progress, Rule, Statistics
from gradbatch.errors import InvalidInputError

__all__ = ["MAX_BATCH_SIZE", "ask", "kind_of", "lacking", "named"]

MAX_BATCH_SIZE = 10**9
"""Samples; a rule that asks for more has gone astray."""


def ask(
    rule: Rule[Any],
    statistics: Statistics,
    progress: Progress,
    state: Any,
    absent: frozenset[str],
    lr_scale: float = 1.0,
) -> tuple[Decision, Any]:
    """The rule's decision and next state; or size and rate as they were, where the batch or the answer is of no use.

    An answer that is nan, infinite, not positive or absurdly large is held, with the number ``held`` for the log.

    Args:
        rule: The rule.
        statistics: The batch's statistics.
        progress: Where training stands.
        state: The rule's state.
        absent: Quantities that the rule required and this batch cannot give.
        lr_scale: The last factor on the learning rate.

    Returns:
        Decision and state.

    Raises:
        InvalidInputError: If the rule's answer is none, which is a mistake in its code.
    """
    held = Decision(batch_size=progress.batch_size, lr_scale=lr_scale)
    if not statistics.is_finite:
        return replace(held, reason="held: loss or gradient is not finite"), state
    if absent:
        return replace(held, reason=f"held: this batch cannot give {', '.join(sorted(absent))}"), state
    decision, state = _checked(rule, rule.update(statistics, progress, state))
    if absurd := _what_is_absurd(decision):
        reason = f"held: {type(rule).__name__} answered with {absurd} ({decision.reason})"
        return replace(held, reason=reason, numbers={"held": 1.0}), state
    return decision, state


def _checked(rule: Rule[Any], answer: Any) -> tuple[Decision, Any]:
    """What a rule answered, if it is an answer at all."""
    name = type(rule).__name__
    if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[0], Decision):
        raise InvalidInputError(f"{name} answered with {answer!r}: `update` must return (Decision(...), state)")
    decision, state = answer
    if not decision.step and not rule.in_step:
        raise InvalidInputError(
            f"{name} answered with step=False, to draw more samples first: a rule that may do so says `in_step = True`"
        )
    size, scale = decision.batch_size, decision.lr_scale
    if type(size) is not int and not (isinstance(size, float) and not math.isfinite(size)):
        raise InvalidInputError(
            f"{name} answered with batch_size={size!r}: a rule must answer with a whole number of samples of at least 1"
        )
    if not isinstance(scale, int | float):
        raise InvalidInputError(f"{name} answered with lr_scale={scale!r}: a rule must answer with a factor")
    if not all(map(math.isfinite, decision.numbers.values())):
        raise InvalidInputError(f"{name} answered with numbers={dict(decision.numbers)}: they must be finite")
    return decision, state


def _what_is_absurd(decision: Decision) -> str:
    """What a decision asks for that cannot be, or an empty string."""
    if not 1 <= decision.batch_size <= MAX_BATCH_SIZE:
        return f"batch_size={decision.batch_size}"
    return "" if 0 <= decision.lr_scale < math.inf else f"lr_scale={decision.lr_scale}"


def lacking(statistics: Statistics, quantities: frozenset[str]) -> frozenset[str]:
    """The quantities that were asked for and that this batch cannot give."""
    fields = {name: "strides" if ":" in name else name for name in quantities - {"noise_scale"}}
    absent = [name for name, field in fields.items() if getattr(statistics, field) is None]
    # With a variance at hand, a `noise_scale` of None says that the corrected squared norm was not positive.
    if "noise_scale" in quantities and statistics.noise_scale is None and statistics.grad_variance is None:
        absent.append("noise_scale")
    return frozenset(absent)


def named(rules: Sequence[Rule[Any]]) -> dict[str, Rule[Any]]:
    """The rules by name; a second of a kind gets a number."""
    names: dict[str, Rule[Any]] = {}
    for rule in rules:
        kind = type(rule).__name__
        same = sum(type(other).__name__ == kind for other in names.values())
        names[kind if same == 0 else f"{kind}-{same + 1}"] = rule
    return names


def kind_of(rule: Rule[Any]) -> str:
    """The rule's class and, for a wrapper, that of what it holds: two states of one kind fit each other."""
    held = getattr(rule, "rule", None)
    return type(rule).__name__ + (f"({kind_of(held)})" if isinstance(held, Rule) else "")
