"""Names typed by people, and what to say when there is no such thing."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

from gradbatch.errors import InvalidInputError

__all__ = ["choose"]

T = TypeVar("T")


def choose(kind: str, name: str, known: Mapping[str, T], *, scope: str = "") -> T:
    """The thing of that name.

    Args:
        kind: What the name is meant to name, for the message.
        name: As it was typed.
        known: All there is.
        scope: Words behind the name that say where it was looked for, with a space before them.

    Returns:
        What stands under the name.

    Raises:
        InvalidInputError: If nothing does; the message lists the names and guesses the one that was meant.

    Example:
        >>> choose("rule", "fixd", {"cabs": 1, "fixed": 2})
        Traceback (most recent call last):
        ...
        gradbatch.errors.InvalidInputError: there is no rule "fixd", did you mean "fixed"? Known: cabs, fixed
    """
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    guess = f', did you mean "{close[0]}"?' if close else "."
    listing = f"Known: {', '.join(known)}" if known else "There are none"
    raise InvalidInputError(f'there is no {kind} "{name}"{scope}{guess} {listing}')
