"""Several runs at once, each in a process of its own."""

import logging
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, TypeVar

import torch

from gradbatch._types import Record
from gradbatch.errors import GradbatchError
from gradbatch.experiments.interrupts import StoppedError, stop_on_signals
from gradbatch.experiments.logs import RunProgress
from gradbatch.experiments.loop import train
from gradbatch.experiments.settings import TrainSettings

__all__ = ["RunsDisplay", "train_all", "work_all"]

Item = TypeVar("Item")

_MESSAGE_SECONDS = 0.2
"""A run tells how far it is at most this often, so that telling costs nothing."""


class RunsDisplay(Protocol):
    """What shows how far several runs are. Runs go by their numbers."""

    def begin(self, run: int) -> None:
        """The run's process was started."""

    def advance(self, run: int, samples: int, text: str) -> None:
        """The run has seen so many samples; the text says more."""

    def say(self, run: int, text: str) -> None:
        """The run has a warning."""

    def end(self, run: int, failure: str | None) -> None:
        """The run is over; ``failure`` says why, if it is not complete."""


@dataclass(kw_only=True)
class _Child:
    """A process that works, and what it has told of the run that it has in hand.

    Attributes:
        process: The process.
        run: The number of its run; ``None`` while it waits for one.
        failure: Why the last run is not complete, once it said so.
    """

    process: BaseProcess
    run: int | None = None
    failure: str | None = None


def train_all(runs: Sequence[TrainSettings], *, jobs: int, display: RunsDisplay) -> list[str | None]:
    """Train every run to its end. One that fails does not stop the others.

    Args:
        runs: Resolved settings.
        jobs: Most processes at a time.
        display: What shows how far they are.

    Returns:
        For each run ``None``, or the sentence with which it failed.
    """
    return work_all(train, runs, jobs=jobs, display=display)


def work_all(
    work: Callable[[Item, RunProgress], object],
    items: Sequence[Item],
    *,
    jobs: int,
    display: RunsDisplay,
    after: Callable[[int], None] = lambda number: None,
) -> list[str | None]:
    """Do the same work on every item. One that fails does not stop the others.

    The processes are spawned, not forked, so that threads and devices are whole in each, and have one torch thread.
    Each takes one item after the other, since starting one takes as long as a short run.

    Args:
        work: What is done; a function that a fresh process can import.
        items: What to work on, ready to be pickled.
        jobs: Most processes at a time.
        display: What shows how far they are.
        after: Called here, with the item's number, when its work has ended without a failure.

    Returns:
        For each item ``None``, or the sentence with which it failed.

    Raises:
        StoppedError: If Ctrl-C or SIGTERM stopped it; what trained saved checkpoints of its last updates.
    """
    assert jobs >= 1
    waiting = deque(enumerate(items))
    children: dict[Connection, _Child] = {}
    failures: list[str | None] = [None] * len(items)
    with stop_on_signals() as stop:
        is_stopping = False
        try:
            while any(child.run is not None for child in children.values()) or (waiting and not is_stopping):
                if stop.signal is not None and not is_stopping:
                    is_stopping = True
                    for child in children.values():
                        child.process.terminate()  # SIGTERM: it saves and ends
                if not is_stopping:
                    _employ(work, waiting, children, jobs, display)
                for connection in wait(list(children), timeout=_MESSAGE_SECONDS):
                    assert isinstance(connection, Connection)
                    child, is_over = children[connection], _hear(connection, children, display)
                    if is_over and child.run is not None:
                        number, child.run = child.run, None
                        failures[number] = child.failure
                        if not is_stopping:
                            display.end(number, child.failure)
                        if child.failure is None:
                            after(number)
        finally:
            for child in children.values():
                child.process.kill()
                child.process.join()
    if stop.signal is not None:
        raise StoppedError(stop.signal)
    return failures


def _employ(
    work: Callable[[Item, RunProgress], object],
    waiting: deque[tuple[int, Item]],
    children: dict[Connection, _Child],
    jobs: int,
    display: RunsDisplay,
) -> None:
    """Give every process that waits the next item, and start processes while there is more to do."""
    while waiting:
        idle = next((connection for connection, child in children.items() if child.run is None), None)
        if idle is None:
            if len(children) >= jobs:
                return
            idle, process = _start(work)
            children[idle] = _Child(process=process)
        number, item = waiting.popleft()
        children[idle].run = number
        display.begin(number)
        with suppress(OSError):  # it has died meanwhile, which is heard next
            idle.send(item)


def _start(work: Callable[[Any, RunProgress], object]) -> tuple[Connection, BaseProcess]:
    """A process that waits for items, and where it is heard."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    # Not a daemon: those may not have workers that load data.
    process = context.Process(target=_serve, args=(work, theirs))
    with _ctrl_c_ignored():
        process.start()
    theirs.close()  # the end of the process is then the end of what can be heard
    return ours, process


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """Processes that are started here ignore Ctrl-C, which a terminal sends to all: this one tells them to end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _hear(connection: Connection, children: dict[Connection, _Child], display: RunsDisplay) -> bool:
    """Take one message; true when the run in hand is over, or its process gone."""
    child = children[connection]
    try:
        kind, *content = connection.recv()
    except (EOFError, OSError):
        connection.close()
        del children[connection]
        child.process.join()
        child.failure = f"its process was ended from outside (exit code {child.process.exitcode})"
        return True
    if kind == "ended":
        child.failure = content[0]
        return True
    assert child.run is not None
    if kind == "said":
        display.say(child.run, *content)
    else:
        display.advance(child.run, *content)
    return False


def _serve(work: Callable[[Any, RunProgress], object], connection: Connection) -> None:
    """What a child does: one item after the other, until nobody sends any."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    logging.captureWarnings(True)
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        teller = _Teller(connection)
        teller.tell("ended", _failure_of(work, item, teller))


def _failure_of(work: Callable[[Any, RunProgress], object], item: Any, teller: "_Teller") -> str | None:
    """Do the work; the sentence with which it failed, if it did."""
    handler = _TellingHandler(teller)
    logging.getLogger().addHandler(handler)
    try:
        work(item, teller)
        return None
    except StoppedError:
        return "it was stopped from outside"
    except GradbatchError as error:
        return " ".join(str(error).split())
    except Exception as error:  # a defect, or too little memory: the other runs go on
        teller.tell("said", traceback.format_exc())
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    finally:
        logging.getLogger().removeHandler(handler)


class _Teller:
    """A run's progress, told to the process that started it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._is_heard = True
        self._next_time = 0.0
        self._samples = 0
        self._note = ""

    def tell(self, *message: Any) -> None:
        """Send a message; with nobody left to hear it, ask the run to save and end."""
        if not self._is_heard:
            return
        try:
            self._connection.send(message)
        except OSError:
            self._is_heard = False  # asked once: a second SIGTERM would end the run before it saved
            signal.raise_signal(signal.SIGTERM)

    def log(self, record: Record) -> None:
        """Take the record of one update."""
        self._samples = record.samples_seen
        if time.monotonic() >= self._next_time:
            self._next_time = time.monotonic() + _MESSAGE_SECONDS
            text = f"batch {record.batch_size}  loss {record.loss:.3g}  {self._note}"
            self.tell("advanced", self._samples, text)

    def note(self, text: str) -> None:
        """Take an accuracy."""
        self._note = text
        self.tell("advanced", self._samples, text)

    def close(self) -> None:
        """Nothing is open here."""


class _TellingHandler(logging.Handler):
    """Warnings of a run, told to the process that started it, whose display they would tear."""

    def __init__(self, teller: _Teller) -> None:
        logging.Handler.__init__(self, logging.WARNING)
        self._teller = teller

    # `typing.override` needs Python 3.12.
    def emit(self, record: logging.LogRecord) -> None:  # pyrefly: ignore[missing-override-decorator]
        """Send the warning's text."""
        self._teller.tell("said", record.getMessage())
