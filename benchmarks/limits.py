"""What leaves a contender out of a comparison, with the reason in words."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from training import Round

__all__ = ["MAX_BYTES", "MAX_SECONDS", "LeftOutError", "first_step", "reasons"]

MAX_SECONDS = 60.0
"""A step that takes longer leaves its contender out."""
MAX_BYTES = 8 << 30
"""The same for what two steps may add to memory."""


class LeftOutError(Exception):
    """A contender cannot take part; the message is the reason."""


@contextmanager
def reasons(contender: str) -> Iterator[None]:
    """Make whatever keeps a contender from working the reason why it is left out."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise LeftOutError(f"{error.name} is not installed") from error
    except LeftOutError:
        raise
    except Exception as error:
        if contender.startswith("gradbatch"):
            traceback.print_exc()  # ours should not
        raise LeftOutError(f"{type(error).__name__}: {' '.join(str(error).split())[:150]}") from error


def first_step(run: Round) -> float:
    """Seconds that the first step took, unless they are too many."""
    seconds = run(1)
    if seconds > MAX_SECONDS:
        raise LeftOutError(f"a step took {seconds:.0f} s")
    return seconds
