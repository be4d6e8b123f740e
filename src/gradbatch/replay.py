"""Replay: what a rule would have decided at each update of a run, from the log alone."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from gradbatch._types import QUANTITIES, Decision, Progress, Record, Rule, Statistics
from gradbatch.asking import ask, lacking
from gradbatch.errors import InvalidInputError

__all__ = ["progress_of", "replay", "statistics_of"]


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
        InvalidInputError: If the rule selects among gradients, which are in no log.
    """
    state, lr_scale = rule.init(), 1.0
    for record in records:
        progress = progress_of(record)
        before = replace(progress, samples_seen=record.samples_seen - record.batch_size)
        quantities = rule.requires(replace(before, epoch=before.samples_seen / before.dataset_size))
        if any(":" in name for name in quantities):
            raise InvalidInputError(
                f"{type(rule).__name__} needs gradients, of which a log has none: what it decided in its own runs is "
                "in their logs"
            )
        statistics = statistics_of(record)
        decision, state = ask(rule, statistics, progress, state, lacking(statistics, quantities), lr_scale)
        lr_scale = decision.lr_scale
        yield decision


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
