"""Several runs at once, each in a process of its own."""

import logging
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import torch

from gradbatch._types import Record
from gradbatch.errors import GradbatchError
from gradbatch.experiments.interrupts import StoppedError, stop_on_signals
from gradbatch.experiments.loop import train
from gradbatch.experiments.settings import TrainSettings

__all__ = ["RunsDisplay", "train_all"]

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
    """A process and what it has told.

    Attributes:
        run: The number of its run.
        process: The process.
        has_ended: Whether it said that it came to an end.
        failure: Why, where that is not the end of its budget.
    """

    run: int
    process: BaseProcess
    has_ended: bool = False
    failure: str | None = None


def train_all(runs: Sequence[TrainSettings], *, jobs: int, display: RunsDisplay) -> list[str | None]:
    """Train every run to its end. One that fails does not stop the others.

    The processes are spawned, not forked, so that threads and devices are whole in each, and have one torch thread.

    Args:
        runs: Resolved settings.
        jobs: Most processes at a time.
        display: What shows how far they are.

    Returns:
        For each run ``None``, or the sentence with which it failed.

    Raises:
        StoppedError: If Ctrl-C or SIGTERM stopped it; the runs that trained saved checkpoints of their last updates.
    """
    assert jobs >= 1
    waiting = deque(enumerate(runs))
    children: dict[Connection, _Child] = {}
    failures: list[str | None] = [None] * len(runs)
    with stop_on_signals() as stop:
        is_stopping = False
        try:
            while children or (waiting and not is_stopping):
                if stop.signal is not None and not is_stopping:
                    is_stopping = True
                    for child in children.values():
                        child.process.terminate()  # SIGTERM: it saves and ends
                while waiting and len(children) < jobs and not is_stopping:
                    number, settings = waiting.popleft()
                    connection, process = _start(settings)
                    children[connection] = _Child(run=number, process=process)
                    display.begin(number)
                for connection in wait(list(children), timeout=_MESSAGE_SECONDS):
                    assert isinstance(connection, Connection)
                    if not _hear(connection, children[connection], display):
                        child = children.pop(connection)
                        failures[child.run] = _farewell(child)
                        if not is_stopping:
                            display.end(child.run, failures[child.run])
        finally:
            for child in children.values():
                child.process.kill()
                child.process.join()
    if stop.signal is not None:
        raise StoppedError(stop.signal)
    return failures


def _start(settings: TrainSettings) -> tuple[Connection, BaseProcess]:
    """A process that trains, and where it is heard."""
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    # Not a daemon: those may not have workers that load data.
    process = context.Process(target=_train, args=(settings, theirs))
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


def _hear(connection: Connection, child: _Child, display: RunsDisplay) -> bool:
    """Take one message; false when there are no more."""
    try:
        kind, *content = connection.recv()
    except (EOFError, OSError):
        connection.close()
        return False
    if kind == "ended":
        child.has_ended, child.failure = True, content[0]
    elif kind == "said":
        display.say(child.run, *content)
    else:
        display.advance(child.run, *content)
    return True


def _farewell(child: _Child) -> str | None:
    """Why a child's run is not complete, once its process is gone."""
    child.process.join()
    if child.has_ended:
        return child.failure
    return f"its process was ended from outside (exit code {child.process.exitcode})"


def _train(settings: TrainSettings, connection: Connection) -> None:
    """What a child does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    teller = _Teller(connection)
    logging.captureWarnings(True)
    logging.getLogger().addHandler(_TellingHandler(teller))
    try:
        train(settings, teller)
        failure = None
    except StoppedError:
        failure = "it was stopped from outside"
    except GradbatchError as error:
        failure = " ".join(str(error).split())
    except Exception as error:  # a defect, or too little memory: the other runs go on
        teller.tell("said", traceback.format_exc())
        failure = f"{type(error).__name__}: {' '.join(str(error).split())}"
    teller.tell("ended", failure)


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
