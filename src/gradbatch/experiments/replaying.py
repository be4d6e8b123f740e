"""What another rule would have chosen along a run: `gradbatch replay`."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gradbatch._types import Decision, Record, Rule
from gradbatch.asking import lacking
from gradbatch.errors import InvalidInputError
from gradbatch.experiments.choices import choose
from gradbatch.experiments.rule_settings import build_rule, rule_parameters
from gradbatch.experiments.run import read_run
from gradbatch.replay import replay, required, statistics_of
from gradbatch.rules import RULES

__all__ = ["Replay", "replay_run"]

_NUM_ROWS = 12
"""Updates in the table that is printed."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A log, and what a rule answers to it.

    Attributes:
        title: The rule, its settings and the run, in words.
        name: What the command line calls the rule.
        records: The log.
        decisions: The rule's, one for each record.
        is_recorded: Whether the decisions were read from the log, since nothing in it would give them again.
        is_own: Whether the rule, settings and all, is the one that drove the run.
    """

    title: str
    name: str
    records: Sequence[Record]
    decisions: Sequence[Decision]
    is_recorded: bool
    is_own: bool

    def lines(self) -> str:
        """One line of JSON for each update, with the names that a run log has for the same."""
        texts = []
        for record, decision in zip(self.records, self.decisions, strict=True):
            line: dict[str, Any] = {
                "step": record.step,
                "samples_seen": record.samples_seen,
                "batch_size": decision.batch_size,
                "lr_scale": decision.lr_scale,
                "reason": decision.reason,
            }
            if not decision.step:
                line["draws_more"] = True  # `batch_size` then counts samples to add to this batch
            line |= {f"numbers.{name}": value for name, value in decision.numbers.items()}
            texts.append(json.dumps(line) + "\n")
        return "".join(texts)

    def summary(self) -> str:
        """For people: the sizes, how often they are the run's, what was held, and some updates."""
        parts = [self.title, *self._sizes(), *self._held(), "", *self._table()]
        return "\n".join(parts)

    def _sizes(self) -> list[str]:
        records, decisions = self.records, self.decisions
        asked = [decision.batch_size for decision in decisions if decision.step or self.is_own]
        num_equal = sum(
            decision.batch_size == record.next_batch_size and (decision.step or self.is_own)
            for record, decision in zip(records, decisions, strict=True)
        )
        used = records[-1].samples_seen / len(records)
        texts = [f"the run: {len(records):,} updates, {records[-1].samples_seen:,} samples, mean batch {used:.1f}"]
        if asked:
            mean = sum(asked) / len(asked)
            texts.append(
                f"{self.name}: asks for {mean:.1f} on the mean, from {min(asked):,} to {max(asked):,}; "
                f"the run's own next size in {num_equal:,} of {len(records):,} updates"
            )
        if num_more := len(decisions) - len(asked):
            texts.append(
                f"{self.name}: would have drawn more samples into the batch in {num_more:,} of {len(records):,} updates"
            )
        return texts

    def _held(self) -> list[str]:
        reasons = Counter(decision.reason for decision in self.decisions if decision.reason.startswith("held: "))
        counts = [f"{reason.removeprefix('held: ')} ({count:,})" for reason, count in reasons.most_common(3)]
        if len(reasons) > 3:
            counts.append("and others")
        return [f"held in {reasons.total():,} of {len(self.records):,} updates: {'; '.join(counts)}"] if reasons else []

    def _table(self) -> list[str]:
        has_scale = any(decision.lr_scale != 1 for decision in self.decisions)
        rows = [["step", "samples", "batch", "run's next", self.name, *(["lr scale"] if has_scale else []), "reason"]]
        places = np.linspace(0, len(self.records) - 1, min(_NUM_ROWS, len(self.records))).round().astype(int)
        for place in map(int, places):
            record, decision = self.records[place], self.decisions[place]
            numbers = (record.step, record.samples_seen, record.batch_size, record.next_batch_size)
            size = f"{decision.batch_size:,}" if decision.step or self.is_own else f"+{decision.batch_size:,}"
            scale = [f"{decision.lr_scale:.3g}"] if has_scale else []
            rows.append([*(f"{number:,}" for number in numbers), size, *scale, decision.reason])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return [
            "  ".join([*(cell.rjust(width) for cell, width in zip(row[:-1], widths, strict=False)), row[-1]])
            for row in rows
        ]


def replay_run(folder: Path, name: str, assignments: Sequence[str]) -> Replay:
    """Ask a rule along the log of a run.

    The rule that drove the run begins with the settings that it had there; ``assignments`` change them.

    Args:
        folder: Of the run.
        name: The rule.
        assignments: Its hyper-parameters, as ``"key=value"`` texts.

    Returns:
        The rule's answers.

    Raises:
        InvalidInputError: If the log has a gap, or cannot answer for this rule.
    """
    choose("rule", name, RULES)
    run = read_run(folder)
    driver = run.manifest["settings"]
    own = tuple(driver["set"]) if name == driver["rule"] else ()
    build_rule(name, assignments)  # refuses what cannot be set, whatever the run had
    changed = {_key(assignment) for assignment in assignments}
    rule = build_rule(name, [*(text for text in own if _key(text) not in changed), *assignments])
    is_own = name == driver["rule"] and rule == build_rule(name, own)
    records = [Record.from_dict(line) for line in run.steps]
    if [record.step for record in records] != list(range(len(records))):
        raise InvalidInputError(
            f"the log of {folder} does not go from its first update on without a gap: a rule needs all that came before"
        )
    is_recorded = is_own and _selects(records, rule)
    if is_recorded:
        decisions = [_recorded(record) for record in records]
    else:
        decisions = list(replay(records, rule))
        _check_answers(folder, records, name, rule)
    source = ", as the run recorded it: gradients, which it selects among, are in no log" if is_recorded else ""
    return Replay(
        title=f"{_described(name, rule)} on the log of {folder}, driven by {driver['rule']}{source}",
        name=name,
        records=records,
        decisions=decisions,
        is_recorded=is_recorded,
        is_own=is_own,
    )


def _key(assignment: str) -> str:
    """What an assignment sets."""
    return assignment.partition("=")[0].strip()


def _described(name: str, rule: Rule[Any]) -> str:
    """A rule and its settings, where they are not the defaults."""
    defaults = rule_parameters(type(rule))
    changed = [f"{key}={getattr(rule, key)}" for key, value in defaults.items() if getattr(rule, key) != value]
    return f"{name} ({', '.join(changed)})" if changed else name


def _selects(records: Sequence[Record], rule: Rule[Any]) -> bool:
    """Whether the rule selects among gradients."""
    return any(":" in name for name in required(records[0], rule))


def _recorded(record: Record) -> Decision:
    """The decision that was made in the run."""
    return Decision(
        batch_size=record.next_batch_size,
        lr_scale=record.lr_scale,
        reason=record.reason,
        numbers=record.numbers,
    )


def _check_answers(folder: Path, records: Sequence[Record], name: str, rule: Rule[Any]) -> None:
    """Refuse a log in which all is missing that the rule asks about."""
    absent: set[str] = set()
    for record in records:
        quantities = required(record, rule)
        missing = lacking(statistics_of(record), quantities)
        if quantities and not missing:
            return
        absent |= missing
    if not absent:  # a rule that measures nothing
        return
    ways = [f"--rule {name}"]
    if not rule.in_step and rule == build_rule(name, ()):  # a shadow has the defaults
        ways.insert(0, f"--shadow {name}")
    raise InvalidInputError(
        f"the log of {folder} lacks {', '.join(sorted(absent))}, which {name} needs and the run did not measure: "
        f"make the run again with {' or '.join(ways)}, and its log has it"
    )
