"""Learning-rate schedules that count samples instead of updates."""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from gradbatch._types import Record
from gradbatch.errors import InvalidInputError
from gradbatch.rules._check import check_at_least

__all__ = ["BySamples"]


class BySamples:
    r"""Step any torch scheduler by samples seen instead of by updates.

    A schedule counted in updates loses its meaning when the batch size changes: a batch twice as large would
    take twice as many samples through the same schedule. Here one step of the schedule stands for
    ``reference_batch_size`` samples: after $n$ samples the schedule has made
    $\lfloor n/B_\text{ref}\rfloor$ steps, however they were cut into batches.

    Args:
        scheduler: Any ``torch.optim.lr_scheduler``.
        reference_batch_size: Samples that one step of the schedule stands for, $B_\text{ref}$. Without it, the
            size requested for the first batch: the schedule then keeps its meaning from a run at that size.

    Raises:
        InvalidInputError: If ``scheduler`` is none, or ``reference_batch_size`` is not a positive whole number.

    Example:
        ``schedule = BySamples(CosineAnnealingLR(optimizer, T_max=1000))`` and, in the loop,
        ``schedule.step(controller.step())``.
    """

    def __init__(self, scheduler: LRScheduler, *, reference_batch_size: int | None = None) -> None:
        if not callable(getattr(scheduler, "step", None)) or isinstance(scheduler, Optimizer):
            raise InvalidInputError(
                "`scheduler` must be one of torch.optim.lr_scheduler, such as CosineAnnealingLR(optimizer, "
                f"T_max=1000), got {type(scheduler).__name__}"
            )
        if reference_batch_size is not None:
            check_at_least("reference_batch_size", reference_batch_size, 1)
        self._scheduler = scheduler
        self._reference_batch_size = reference_batch_size
        self._steps = 0

    def step(self, record: Record | None, *args: Any) -> None:
        """Bring the schedule up to the samples seen.

        Args:
            record: What ``controller.step()`` returned; ``None`` (the batch is not complete) does nothing.
            *args: Handed to the scheduler's own ``step``, as the metric of ``ReduceLROnPlateau``.

        Raises:
            InvalidInputError: If ``record`` is something else.
        """
        if record is None:
            return
        if not isinstance(record, Record):
            raise InvalidInputError(f"`step` takes what `controller.step()` returned, got {record!r}")
        if self._reference_batch_size is None:
            self._reference_batch_size = record.requested
        target = record.samples_seen // self._reference_batch_size
        while self._steps < target:
            self._scheduler.step(*args)
            self._steps += 1

    def state_dict(self) -> dict[str, Any]:
        """The schedule's state and how far it has come."""
        return {
            "scheduler": self._scheduler.state_dict(),
            "reference_batch_size": self._reference_batch_size,
            "steps": self._steps,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._scheduler.load_state_dict(state_dict["scheduler"])
        self._reference_batch_size = state_dict["reference_batch_size"]
        self._steps = state_dict["steps"]
