"""Contenders that take turns, in rounds whose order is drawn anew each time."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from contenders import CONTENDERS, EVERY
from limits import LeftOutError, first_step, reasons
from memory import peak_mib
from models import Data
from training import Round, Setting

__all__ = ["Entry", "enter_all", "measure"]


@dataclass(frozen=True)
class Entry:
    """A contender that takes part."""

    run: Round
    steps: int
    mib: float | None

    def turn(self) -> float:
        """Seconds a step."""
        return self.run(self.steps) / self.steps


def steps_of_a_turn(run: Round, seconds: float) -> int:
    """Steps that fill so many seconds, after a warm-up; one if the first alone took long."""
    few = min(5, int(2 / first_step(run)))
    if few == 0:
        return 1
    run(few)
    steps = max(1, round(seconds * few / run(few)))
    return steps - steps % EVERY if steps > EVERY else steps


def enter(setting: Setting, contender: str, data: Data, *, seconds: float, with_memory: bool) -> Entry:
    """Warm a contender up on a model of its own, and find out how many steps make a turn."""
    mib = peak_mib(setting, contender) if with_memory else None
    with reasons(contender):
        run = CONTENDERS[contender].start(setting.make_case(data))
        return Entry(run, steps_of_a_turn(run, seconds), mib)


def enter_all(setting: Setting, contenders: Iterable[str], *, seconds: float, with_memory: bool) -> dict[str, Entry]:
    """Those contenders that can take part, on the same data; the others are named."""
    data, entries = setting.make_data(), {}
    for contender in contenders:
        try:
            entries[contender] = enter(setting, contender, data, seconds=seconds, with_memory=with_memory)
        except LeftOutError as error:
            print(f"left out: {contender} on {setting.model} ({error})", flush=True)
    return entries


def measure(entries: dict[str, Entry], num_rounds: int) -> Iterator[dict[str, float]]:
    """Seconds a step of every contender, round by round."""
    shuffled = random.Random(0)
    for _ in range(num_rounds):
        names = list(entries)
        shuffled.shuffle(names)
        turns = {name: entries[name].turn() for name in names}
        yield {name: turns[name] for name in entries}
