"""Checks that hyper-parameters share, each answering with one sentence."""

import math
from typing import Any

from gradbatch._types import Rule
from gradbatch.errors import InvalidInputError
from gradbatch.estimators import Ema

__all__ = [
    "check_above",
    "check_at_least",
    "check_at_most",
    "check_below",
    "check_between",
    "check_bounds",
    "check_choice",
    "check_decay",
    "check_finite",
    "check_from",
    "check_held",
    "check_positive",
]


def check_at_least(name: str, value: int, minimum: int) -> None:
    """Refuse a count that is not a whole number of at least ``minimum``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise InvalidInputError(f"`{name}` must be a whole number of at least {minimum}, got {value!r}")


def check_bounds(min_batch_size: int, max_batch_size: int | None) -> None:
    """Refuse bounds that no batch size can meet."""
    check_at_least("min_batch_size", min_batch_size, 1)
    if max_batch_size is None:
        return
    check_at_least("max_batch_size", max_batch_size, 1)
    if max_batch_size < min_batch_size:
        raise InvalidInputError(
            f"`max_batch_size` must be at least `min_batch_size`, {min_batch_size}, got {max_batch_size}"
        )


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a word that is none of the choices."""
    if value not in choices:
        raise InvalidInputError(f"`{name}` must be {' or '.join(map(repr, choices))}, got {value!r}")


def check_positive(name: str, value: float) -> None:
    """Refuse a number that is not positive and finite."""
    if not 0 < value < math.inf:
        raise InvalidInputError(f"`{name}` must be positive and finite, got {value}")


def check_at_most(name: str, value: float, most: float) -> None:
    """Refuse a positive number beyond ``most``."""
    if not 0 < value <= most:
        raise InvalidInputError(f"`{name}` must be above 0 and at most {most}, got {value}")


def check_above(name: str, value: float, bound: float) -> None:
    """Refuse what is not a finite number above a bound."""
    if not (value > bound and math.isfinite(value)):
        raise InvalidInputError(f"`{name}` must be a finite number above {bound:g}, got {value}")


def check_from(name: str, value: float, minimum: float, maximum: float = math.inf) -> None:
    """Refuse what is not a finite number of at least ``minimum`` and at most ``maximum``."""
    if not (minimum <= value <= maximum and math.isfinite(value)):
        most = f" and at most {maximum:g}" if maximum < math.inf else ""
        raise InvalidInputError(f"`{name}` must be a finite number of at least {minimum:g}{most}, got {value}")


def check_below(name: str, value: float, minimum: float, bound: float) -> None:
    """Refuse what is not at least ``minimum`` and below a bound."""
    if not minimum <= value < bound:
        raise InvalidInputError(f"`{name}` must be at least {minimum:g} and below {bound:g}, got {value}")


def check_between(name: str, value: float, low: float, high: float) -> None:
    """Refuse what is not above one bound and below another."""
    if not low < value < high:
        raise InvalidInputError(f"`{name}` must be above {low:g} and below {high:g}, got {value}")


def check_decay(decay: float) -> None:
    """Refuse a coefficient of the past that is none."""
    Ema(decay=decay)


def check_finite(name: str, value: float) -> None:
    """Refuse nan and the infinities."""
    if not math.isfinite(value):
        raise InvalidInputError(f"`{name}` must be finite, got {value}")


def check_held(wrapper: Rule[Any], rule: object) -> None:
    """Refuse to hold what is no rule, and a rule whose ``batch_size`` may mean "draw that many more"."""
    name = type(wrapper).__name__
    if not isinstance(rule, Rule):
        raise InvalidInputError(f"`rule` of {name} must be a rule such as CABS(), got {rule!r}")
    if rule.in_step:
        raise InvalidInputError(
            f"{name} cannot hold {type(rule).__name__}, which decides within a step how many more samples to "
            "draw: use that rule by itself, with its own bounds"
        )
