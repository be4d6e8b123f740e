"""What came out of trials: a log with one line for each, and the lines that belong to an experiment."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gradbatch.errors import InvalidInputError
from gradbatch.experiments.reproduce.trial import Trial
from gradbatch.sinks.jsonl import JsonlSink, read_jsonl

__all__ = ["Outcome", "Results", "ResultsLog"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came out of one trial.

    Attributes:
        line: Its line in the log, counted from 1.
        values: What its work found; see `distil` for training.
        provenance: Commit, versions, machine and date.
    """

    line: int
    values: Mapping[str, Any]
    provenance: Mapping[str, Any]

    @property
    def is_diverged(self) -> bool:
        """Whether training was stopped for losses or gradients that were not finite."""
        return "diverged" in self.values

    def curve(self, name: str) -> list[float]:
        """One number at each evaluation, nan where there is none."""
        values = self.values.get("evaluations", {}).get(name, [])
        return [math.nan if value is None else float(value) for value in values]

    def number(self, name: str) -> float:
        """One of the work's numbers, nan where there is none."""
        value = self.values.get(name)
        return math.nan if value is None else float(value)

    def said(self, name: str) -> float:
        """A number behind the rule's decisions, nan where there is none.

        Args:
            name: Of the number, for its mean over the run; with ``last_`` before it, for the last.

        Returns:
            The number.
        """
        value = self.values.get("numbers", {}).get(name)
        return math.nan if value is None else float(value)


@dataclass(frozen=True)
class ResultsLog:
    """The log of a family of experiments.

    Attributes:
        path: Its file; one line of JSON a trial, in the order in which they ended.
    """

    path: Path

    def read(self) -> dict[str, Outcome]:
        """The outcomes by the keys of their trials; of two with one key, the later.

        Returns:
            Nothing where there is no log yet.

        Raises:
            InvalidInputError: If a line is none of such a log.
        """
        if not self.path.exists():
            return {}
        outcomes: dict[str, Outcome] = {}
        for number, line in enumerate(read_jsonl(self.path), start=1):
            try:
                key, values, provenance = line["key"], line["values"], line["provenance"]
            except KeyError as error:
                raise InvalidInputError(
                    f"{self.path}, line {number} has no {error}: it is no log of `gradbatch reproduce`"
                ) from None
            outcomes[key] = Outcome(line=number, values=values, provenance=provenance)
        return outcomes

    def touch(self) -> None:
        """Make the file; an `OutputError` where it cannot be written."""
        JsonlSink(self.path, append=True).close()

    def append(self, trial: Trial, values: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        """Add a line."""
        sink = JsonlSink(self.path, append=True)
        try:
            sink.write(
                {
                    "key": trial.key,
                    "command": trial.command,
                    "settings": trial.decisive,
                    "rule": trial.rule_parameters,
                    "provenance": dict(provenance),
                    "values": dict(values),
                }
            )
        finally:
            sink.close()


@dataclass(frozen=True)
class Results:
    """The trials of an experiment and what came out of them.

    Attributes:
        trials: All of them.
        outcomes: By the keys of the trials; those that were not run are missing.
    """

    trials: Sequence[Trial]
    outcomes: Mapping[str, Outcome]

    @property
    def num_trials(self) -> int:
        """Trials, each counted once where it stands at several places."""
        return len(self._keys)

    @property
    def num_run(self) -> int:
        """Trials with an outcome, counted likewise."""
        return len(self._keys & self.outcomes.keys())

    @cached_property
    def _keys(self) -> set[str]:
        return {trial.key for trial in self.trials}

    def of(self, **place: Any) -> list[Outcome]:
        """The outcomes at a place of the tables, over whatever the place leaves open.

        Args:
            **place: Values that a trial's own place must have.

        Returns:
            In the order of the trials; of those that were run.
        """
        return [outcome for _, outcome in self.pairs(**place)]

    def pairs(self, **place: Any) -> Iterator[tuple[Trial, Outcome]]:
        """The same with the trials."""
        for trial in self.at(**place).trials:
            if trial.key in self.outcomes:
                yield trial, self.outcomes[trial.key]

    def at(self, **place: Any) -> "Results":
        """The part at a place of the tables, with what was not run there.

        Args:
            **place: Values that a trial's own place must have; of a frozenset, one of them.

        Returns:
            The results of these trials.
        """
        fits = [t for t in self.trials if all(_is(t.place.get(name), value) for name, value in place.items())]
        return Results(fits, self.outcomes)

    @property
    def is_complete(self) -> bool:
        """Whether every trial was run, and there is one."""
        return bool(self.trials) and self.num_run == self.num_trials

    def values_of(self, name: str) -> list[Any]:
        """What a coordinate of the tables can be, in the order of the trials."""
        return list(dict.fromkeys(trial.place[name] for trial in self.trials if name in trial.place))


def _is(value: Any, wanted: Any) -> bool:
    """Whether a coordinate is what is wanted, or one of these."""
    return value in wanted if isinstance(wanted, frozenset) else value == wanted
