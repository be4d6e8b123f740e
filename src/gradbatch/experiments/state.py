"""What a checkpoint holds: all that decides how training goes on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from gradbatch.checkpoint import save_checkpoint
from gradbatch.controller import Controller
from gradbatch.experiments.lr_schedules import LrSchedule

__all__ = ["TrainingState"]


@dataclass(kw_only=True)
class TrainingState:
    """The parts that change while training, and where training stands.

    Attributes:
        model: The model.
        optimizer: Its optimizer.
        schedule: The learning rate's schedule.
        controller: What chooses the batch sizes.
        step: Updates done.
        samples_seen: Samples drawn.
    """

    model: nn.Module
    optimizer: Optimizer
    schedule: LrSchedule
    controller: Controller
    step: int = 0
    samples_seen: int = 0

    def save(self, path: Path) -> None:
        """Write a checkpoint, in the middle of an epoch as well as at its end."""
        save_checkpoint(
            path,
            {
                "step": self.step,
                "samples_seen": self.samples_seen,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "controller": self.controller.state_dict(),
                "rng": torch.get_rng_state(),
            },
        )

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Go on where the run stood that wrote the checkpoint."""
        self.step, self.samples_seen = checkpoint["step"], checkpoint["samples_seen"]
        self.model.load_state_dict(checkpoint["model"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.schedule.load_state_dict(checkpoint["schedule"])
        self.controller.load_state_dict(checkpoint["controller"])
        torch.set_rng_state(checkpoint["rng"])
