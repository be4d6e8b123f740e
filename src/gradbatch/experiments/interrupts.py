"""Stopping between two updates when Ctrl-C is pressed or a batch system asks for it."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from gradbatch.errors import GradbatchError

__all__ = ["StopRequest", "StoppedError", "stop_on_signals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(GradbatchError):
    """A run was asked to stop, and did so with a checkpoint of its last update.

    Attributes:
        signal: Number of the signal that asked.
    """

    def __init__(self, number: int) -> None:
        self.signal = number


@dataclass
class StopRequest:
    """Whether training is to stop.

    Attributes:
        signal: Number of the signal that asked for it; ``None`` as long as none did.
    """

    signal: int | None = None


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Note SIGINT and SIGTERM instead of obeying them; a second one is obeyed at once.

    Only the main thread may handle signals; elsewhere, nothing is changed and nothing noted. A signal that
    is ignored, as under ``nohup``, stays ignored.

    Yields:
        What was asked for so far.
    """
    request, owner = StopRequest(), os.getpid()
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        is_worker = os.getpid() != owner  # forked with this handler in place
        if is_worker and number == signal.SIGINT:
            return  # the terminal sends Ctrl-C to all, and the main process still needs its workers
        if request.signal is None and not is_worker:
            request.signal = number
            return
        signal.signal(number, before[number])
        signal.raise_signal(number)

    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        before = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
    try:
        for number in before:
            signal.signal(number, note)
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
