"""The learning-rate schedules of the experiments, all counted in samples."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from gradbatch._types import Record
from gradbatch.experiments.budget import Budget
from gradbatch.schedules import BySamples

__all__ = ["LrSchedule"]


class LrSchedule:
    """One of the schedules by name, together with the training loss that ``plateau`` looks at.

    Args:
        name: ``"none"``, ``"cosine"``, ``"step"`` or ``"plateau"``.
        optimizer: Whose learning rate is scheduled.
        budget: What ``cosine`` and ``step`` are laid over.
        reference_batch_size: Samples between two changes of ``cosine`` and ``step``.
    """

    def __init__(self, name: str, optimizer: Optimizer, budget: Budget, *, reference_batch_size: int) -> None:
        self._is_plateau = name == "plateau"
        self._dataset_size = budget.dataset_size
        self._loss_sum = 0.0
        self._num_samples = 0
        if self._is_plateau:
            # Source: Simionescu et al. 2022 (DBA), experiments: factor 0.5, patience 25 epochs, 0.05 %, 1e-7.
            plateau = ReduceLROnPlateau(optimizer, factor=0.5, patience=25, threshold=5e-4, min_lr=1e-7)
            self._schedule = BySamples(plateau, reference_batch_size=budget.dataset_size)
            return
        num_steps = max(1, (budget.samples or 0) // reference_batch_size)
        factors = {"none": _none, "cosine": _cosine, "step": _step}
        scheduler = LambdaLR(optimizer, lambda step: factors[name](step / num_steps))
        self._schedule = BySamples(scheduler, reference_batch_size=reference_batch_size)

    def step(self, record: Record) -> None:
        """Bring the learning rate to where the samples seen put it."""
        if not self._is_plateau:
            self._schedule.step(record)
            return
        if math.isfinite(record.loss):
            self._loss_sum += record.loss * record.batch_size
            self._num_samples += record.batch_size
        # Takes effect with the last update of an epoch, when the mean is the epoch's.
        self._schedule.step(record, self._loss_sum / max(1, self._num_samples))
        if record.samples_seen % self._dataset_size == 0:
            self._loss_sum, self._num_samples = 0.0, 0

    def state_dict(self) -> dict[str, object]:
        """The schedule and the part of an epoch's loss."""
        return {
            "schedule": self._schedule.state_dict(),
            "loss_sum": self._loss_sum,
            "num_samples": self._num_samples,
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restore what `state_dict` returned."""
        self._schedule.load_state_dict(state["schedule"])  # pyrefly: ignore
        self._loss_sum, self._num_samples = state["loss_sum"], state["num_samples"]  # pyrefly: ignore


def _none(progress: float) -> float:
    return 1.0


def _cosine(progress: float) -> float:
    """From 1 to 0 over the budget."""
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def _step(progress: float) -> float:
    """A tenth from half of the budget on, a hundredth from three quarters on."""
    return 0.1 ** ((progress >= 0.5) + (progress >= 0.75))
