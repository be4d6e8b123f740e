"""Replay: what a rule would have decided at each update of a run, from the log alone."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from gradbatch._types import QUANTITIES, Decision, Progress, Record, Rule, Statistics
from gradbatch.asking import ask, lacking
from gradbatch.errors import InvalidInputError

__all__ = ["progress_of", "replay", "required", "statistics_of"]


def replay(records: Iterable[Record], rule: Rule[Any]) -> Iterator[Decision]:
    """Ask a rule along a log.

    The rule sees what a shadow in that run would have seen: the run's own batches and batch sizes, whatever it would
    have answered. So the rule that drove the run answers as it did, bit for bit; one that may draw more samples within
    a step is asked about the whole batch, at which it stopped.

    Args:
        records: The log, from its first update on, without gaps.
        rule: The rule.

    Yields:
        Its decision at each update. Where the log lacks what the rule needs it holds, and the reason says so.

    Raises:
        InvalidInputError: If these are no records, updates are missing between them, or the rule selects among
            gradients, which are in no log.

    Example:
        ``replay(map(Record.from_dict, gradbatch.sinks.read_jsonl("steps.jsonl")), CABS())``
    """
    state, lr_scale = rule.init(), 1.0
    for record in _in_order(records):
        quantities = required(record, rule)
        if any(":" in name for name in quantities):
            raise InvalidInputError(
                f"{type(rule).__name__} needs gradients, of which a log has none: what it decided in its own runs is "
                "in their logs"
            )
        statistics = statistics_of(record)
        decision, state = ask(rule, statistics, progress_of(record), state, lacking(statistics, quantities), lr_scale)
        lr_scale = decision.lr_scale
        yield decision


def _in_order(records: Iterable[Record]) -> Iterator[Record]:
    """The records, if they are all of them."""
    for step, record in enumerate(records):
        if not isinstance(record, Record):
            raise InvalidInputError(
                f"`records` must hold records, got a {type(record).__name__}: read a log with "
                "map(Record.from_dict, gradbatch.sinks.read_jsonl(path))"
            )
        if record.step != step:
            raise InvalidInputError(
                f"`records` must hold every update from the first on, got update {record.step} in place of {step}: a "
                "rule's averages need them all"
            )
        yield record


def progress_of(record: Record) -> Progress:
    """Where training stood when a rule was asked about an update.

    Args:
        record: The update.

    Returns:
        What the rule was told.
    """
    return Progress(
        step=record.step,
        samples_seen=record.samples_seen,
        epoch=record.epoch,
        lr=record.lr,
        momentum=record.momentum,
        batch_size=record.requested,
        dataset_size=round(record.samples_seen / record.epoch),
        seconds=record.seconds,
        group_lrs=record.group_lrs,
    )


def required(record: Record, rule: Rule[Any]) -> frozenset[str]:
    """What a rule wanted measured for an update.

    Args:
        record: The update.
        rule: The rule, which is asked before the update's batch counts as seen.

    Returns:
        Names of quantities.
    """
    after = progress_of(record)
    samples_seen = record.samples_seen - record.batch_size
    return rule.requires(replace(after, samples_seen=samples_seen, epoch=samples_seen / after.dataset_size))


def statistics_of(record: Record) -> Statistics:
    """What was measured on the batch of an update, as far as the log has it.

    Args:
        record: The update.

    Returns:
        The statistics.
    """
    return Statistics(
        num_samples=record.batch_size,
        loss=record.loss,
        groups=record.groups,
        **{name: getattr(record, name) for name in QUANTITIES},
    )
