"""The batch under way: what is in it, how its parts weigh, and the record that it ends in."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradbatch._types import QUANTITIES, Decision, Progress, Record, Statistics

__all__ = ["Batch", "cut"]


@dataclass(slots=True)
class Batch:
    """The batch under way.

    Attributes:
        before: Where training stood when it began.
        quantities: What is measured on it.
        size: Samples that it will hold; fewer than requested at an epoch's or a budget's end.
        most: Samples that it may grow to when an in-step rule draws more.
        started: When it began, on the performance counter.
        state: The rule's state, which becomes the controller's with the update.
        drawn: Samples whose gradients are in ``.grad``, each with weight 1/``size``.
        weight: The user's weights of the passes so far, which share the gradient by them; ``None`` without.
        micro_batches: Passes so far.
        loss: Sum of the samples' losses so far, each with weight 1/``size``.
        is_recorded: Whether its update was made and counted.
    """

    before: Progress
    quantities: frozenset[str]
    size: int
    most: int
    started: float
    state: Any
    drawn: int = 0
    weight: float | None = None
    micro_batches: int = 0
    loss: Tensor | float = 0.0
    is_recorded: bool = False

    def weigh_in(self, weight: float) -> float:
        """Let one more pass have its weight.

        Returns:
            The factor by which the gradients there are make room for it.
        """
        before = self.weight
        self.weight = weight + (before or 0.0)
        if before is None:
            return 1.0
        self.loss = self.loss * (before / self.weight)
        return before / self.weight

    def grow(self, more: int) -> float:
        """Plan with ``more`` samples than there are.

        Returns:
            The factor by which the gradients there are make room for them.
        """
        self.size = self.drawn + more
        if self.weight is not None:  # each weight makes its own room
            return 1.0
        # The mean is over more samples than was planned.
        self.loss = self.loss * (self.drawn / self.size)
        return self.drawn / self.size

    def add(self, loss: Tensor, count: int) -> None:
        """Count a pass over some samples, with their share of the batch's loss."""
        value = loss.detach()
        if value.dim() > 0 or value.dtype in (torch.float16, torch.bfloat16):
            value = value.reshape(()).float()
        self.loss = value if self.drawn == 0 else self.loss + value
        self.drawn += count
        self.micro_batches += 1

    def record(
        self,
        statistics: Statistics,
        progress: Progress,
        decision: Decision,
        shadows: Mapping[str, int],
        *,
        is_updated: bool,
    ) -> Record:
        """The line of the log.

        Args:
            statistics: What was measured.
            progress: Where training stood when the rule was asked.
            decision: Its answer.
            shadows: Sizes that the shadows answered.
            is_updated: Whether the update was made.

        Returns:
            The record.
        """
        return Record(
            step=progress.step,
            samples_seen=progress.samples_seen,
            epoch=progress.epoch,
            batch_size=self.drawn,
            requested=progress.batch_size,
            # A rule that would have drawn more, where none were left, said nothing of the next batch.
            next_batch_size=decision.batch_size if decision.step else progress.batch_size,
            micro_batches=self.micro_batches,
            lr=progress.lr,
            momentum=progress.momentum,
            lr_scale=decision.lr_scale,
            loss=statistics.loss,
            seconds=progress.seconds,
            reason=decision.reason,
            skipped=not is_updated,
            group_lrs=progress.group_lrs,
            groups=statistics.groups,
            numbers=decision.numbers,
            shadows=shadows,
            **{name: getattr(statistics, name) for name in QUANTITIES},
        )


def cut(size: int, *, min_pieces: int, micro_batch_size: int | None) -> list[int]:
    """Sizes of the passes over ``size`` samples, as even as can be.

    As many as memory and the estimator need; a pass has two samples at least, if it can, since a layer such as
    BatchNorm cannot train on one.

    Args:
        size: Samples in all.
        min_pieces: Passes that the estimator needs.
        micro_batch_size: Samples that fit into one pass; ``None`` for any number.

    Returns:
        The sizes, in order.
    """
    count = max(1, min(min_pieces, size // 2))
    if micro_batch_size is not None:
        count = max(count, math.ceil(size / micro_batch_size))
    return [size * (k + 1) // count - size * k // count for k in range(count)]
