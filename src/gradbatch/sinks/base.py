"""What the controller needs of a sink."""

from typing import Protocol

from gradbatch._types import Record

__all__ = ["Sink"]


class Sink(Protocol):
    """Anything that takes records: two methods, no base class needed."""

    def log(self, record: Record) -> None:
        """Take the record of one update, in order."""

    def close(self) -> None:
        """Write out what is held back; no record follows."""
