"""What the controller refuses, one sentence each."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradbatch._types import Rule
from gradbatch.errors import InvalidInputError
from gradbatch.stream import SampleStream
from gradbatch.updating import parameters_of

__all__ = [
    "check_budget",
    "check_fraction",
    "check_loss",
    "check_parts",
    "check_rules",
    "check_single_rank",
    "check_sinks",
    "check_size",
    "check_weight",
]


def check_rules(rule: Any, shadows: Any) -> None:
    """Refuse what is no rule, and shadows that only a driving rule can be."""
    if not isinstance(rule, Rule):
        raise InvalidInputError(f"`rule` must be a rule such as gradbatch.CABS(), got {rule!r}")
    if not isinstance(shadows, (list, tuple)) or not all(isinstance(s, Rule) and not s.in_step for s in shadows):
        raise InvalidInputError(
            f"`shadows` must be a list of rules that decide once a batch, such as [gradbatch.CABS()], got {shadows!r}"
        )


def check_sinks(sinks: Any) -> None:
    """Refuse what cannot take records."""
    if not isinstance(sinks, (list, tuple)) or not all(callable(getattr(sink, "log", None)) for sink in sinks):
        raise InvalidInputError(
            f"`sinks` must be a list of sinks, such as [gradbatch.sinks.JsonlSink(path)], got {sinks!r}"
        )


def check_parts(model: nn.Module, optimizer: Any, stream: Any) -> None:
    """Refuse parts that cannot train together."""
    if not isinstance(optimizer, Optimizer):
        raise InvalidInputError(f"`optimizer` must be a torch.optim.Optimizer, got {optimizer!r}")
    if not isinstance(stream, SampleStream):
        raise InvalidInputError(
            f"`stream` must be a SampleStream, got {type(stream).__name__}: wrap it, SampleStream(dataset)"
        )
    trainable = [p for p in model.parameters() if p.requires_grad]
    held = {p for group in parameters_of(optimizer) for p in group}
    if not trainable:
        raise InvalidInputError("`model` has no trainable parameters: set requires_grad=True on some")
    if held.isdisjoint(trainable):
        raise InvalidInputError(
            f"`optimizer` holds {len(held)} parameters and none of the {len(trainable)} trainable ones of `model`: "
            "make it with model.parameters() of this very model"
        )


def check_size(name: str, value: object, dataset_size: int) -> None:
    """Refuse a size that no batch of this data set can have."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= dataset_size:
        raise InvalidInputError(
            f"`{name}` must be a whole number of samples from 1 to the data set's {dataset_size}, got {value!r}"
        )


def check_single_rank() -> None:
    """Refuse several ranks, which would each decide on their own."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        world_size = torch.distributed.get_world_size()
        if world_size > 1:
            raise InvalidInputError(
                f"torch.distributed runs {world_size} ranks, and a controller drives a single one so far: train on one"
            )


def check_budget(**budgets: int | None) -> tuple[str, int]:
    """The one budget given, and its unit."""
    given = [(unit, budget) for unit, budget in budgets.items() if budget is not None]
    if len(given) != 1 or type(given[0][1]) is not int or given[0][1] < 1:
        got = ", ".join(f"{unit}={budget!r}" for unit, budget in given) or "none"
        raise InvalidInputError(
            "`run` needs one budget, a whole number of at least 1, as `epochs=10`, `samples=300_000` or "
            f"`steps=1000`; got {got}"
        )
    return given[0]


def check_loss(loss: Any, reduction: str) -> None:
    """Refuse what cannot go backward as the mean or the sum over a micro-batch."""
    if reduction not in ("mean", "sum"):
        raise InvalidInputError(f'`reduction` must be "mean" or "sum", got {reduction!r}')
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
        raise InvalidInputError(
            f"`loss` must be a scalar tensor, got {got}: take the mean over the samples given (or the sum, with "
            'reduction="sum")'
        )
    if not loss.requires_grad:
        raise InvalidInputError(
            "`loss` has no graph behind it: compute it from the model's output, outside of `torch.no_grad()`"
        )


def check_fraction(sample_fraction: float) -> None:
    """A part of a batch is more than nothing and at most all of it."""
    if not 0 < sample_fraction <= 1:
        raise InvalidInputError(f"`sample_fraction` must be above 0 and at most 1, got {sample_fraction}")


def check_weight(weight: float | None) -> None:
    """What a loss is a mean over is a positive number."""
    if weight is not None and not 0 < weight < math.inf:
        raise InvalidInputError(
            f"`weight` must be what the loss is a mean over, such as the number of tokens, got {weight!r}"
        )
