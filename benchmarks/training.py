"""What all contenders share: the setting of a comparison, a model each, the data, and the loop that is timed."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import SUBJECTS, Data

__all__ = ["BATCH_SIZE", "Case", "GoBackward", "Round", "Setting", "loss_of", "timed", "training"]

BATCH_SIZE = 128

Round = Callable[[int], float]
"""Takes that many steps and returns the seconds they took."""
GoBackward = Callable[[Tensor, Tensor], object]
"""Turns a batch into gradients, and into statistics."""


def loss_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy over samples, or over their tokens, of which all have equally many."""
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


@dataclass(frozen=True)
class Case:
    """A model of a contender's own, the data that all share, and how to compute."""

    model: nn.Module
    data: Data
    dtype: torch.dtype
    batch_size: int = BATCH_SIZE

    @property
    def device(self) -> torch.device:
        """Where the data is, and the model."""
        return self.data[0].device

    def autocast(self) -> torch.autocast:
        """The context of each forward pass; it does nothing in single precision."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch."""
        with self.autocast():
            return loss_of(self.model(inputs), targets)

    def optimizer(self) -> torch.optim.Optimizer:
        """The same for everybody."""
        return torch.optim.SGD(self.model.parameters(), lr=0.01)


@dataclass(frozen=True)
class Setting:
    """What is fixed while contenders are compared; `dtype` is the name of one of torch's."""

    model: str
    threads: int
    device: str
    dtype: str

    def make_data(self) -> Data:
        """The data set for the model."""
        torch.manual_seed(0)
        inputs, targets = SUBJECTS[self.model].data()
        return inputs.to(self.device), targets.to(self.device)

    def make_case(self, data: Data) -> Case:
        """A new model, the same each time."""
        torch.manual_seed(0)
        return Case(SUBJECTS[self.model].model().to(self.device), data, getattr(torch, self.dtype))


def batches(data: Data, steps: int, size: int) -> Iterator[Data]:
    """Shuffled batches of in-memory data, the fastest plain way."""
    order = torch.randperm(len(data[0]), device=data[0].device)
    for step in range(steps):
        start = step * size % (len(order) - size)
        indices = order[start : start + size]
        yield data[0].index_select(0, indices), data[1].index_select(0, indices)


def now(device: torch.device) -> float:
    """The time when all work given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(device: torch.device, take: Callable[[int], None]) -> Round:
    """A loop over so many steps, with a clock around it."""

    def run(steps: int) -> float:
        start = now(device)
        take(steps)
        return now(device) - start

    return run


def training(case: Case, go_backward: GoBackward) -> Round:
    """A plain loop around a backward pass."""
    optimizer = case.optimizer()

    def take(steps: int) -> None:
        for inputs, targets in batches(case.data, steps, case.batch_size):
            optimizer.zero_grad()
            go_backward(inputs, targets)
            optimizer.step()

    return timed(case.device, take)
