"""Checks that hyper-parameters share, each answering with one sentence."""

from gradbatch.errors import InvalidInputError

__all__ = ["check_at_least", "check_bounds"]


def check_at_least(name: str, value: int, minimum: int) -> None:
    """Refuse a count that is not a whole number of at least ``minimum``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise InvalidInputError(f"`{name}` must be a whole number of at least {minimum}, got {value!r}")


def check_bounds(min_batch_size: int, max_batch_size: int | None) -> None:
    """Refuse bounds that no batch size can meet."""
    check_at_least("min_batch_size", min_batch_size, 1)
    if max_batch_size is not None:
        check_at_least("max_batch_size", max_batch_size, min_batch_size)
