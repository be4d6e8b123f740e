"""What the controller reads from an optimizer, and what it borrows from it for one update."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["borrowed_lr", "forget_gradients", "learning_rates", "momentum_of", "parameters_of"]


def parameters_of(optimizer: Optimizer) -> list[list[nn.Parameter]]:
    """The parameters of an optimizer, by parameter group."""
    return [list(group["params"]) for group in optimizer.param_groups]


def forget_gradients(optimizer: Optimizer) -> None:
    """Set every gradient to ``None``, as ``optimizer.zero_grad()`` does, without its cost of profiling itself."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def learning_rates(optimizer: Optimizer) -> tuple[float, ...]:
    """The scheduled learning rate of each parameter group."""
    return tuple(float(group["lr"]) for group in optimizer.param_groups)


def momentum_of(optimizer: Optimizer) -> float:
    """The heavy-ball momentum of the first parameter group; 0 for optimizers without one."""
    return float(optimizer.param_groups[0].get("momentum", 0.0))


@contextmanager
def borrowed_lr(optimizer: Optimizer, scale: float) -> Iterator[None]:
    """Multiply every learning rate by ``scale`` and give the old ones back, whatever happens in between.

    Editing the rates for good would work under some torch schedulers and be overwritten by others. A tensor's value
    is replaced in place, so that captured and compiled optimizers see it.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    kept = [rate.clone() if isinstance(rate, Tensor) else rate for rate in rates]
    try:
        for group, rate in zip(optimizer.param_groups, kept, strict=True):
            _set(group, rate * scale)
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, kept, strict=True):
            _set(group, rate)


def _set(group: dict[str, object], rate: float | Tensor) -> None:
    """Give a group a rate, in the form in which it holds one."""
    held = group["lr"]
    if isinstance(held, Tensor):
        held.copy_(rate if isinstance(rate, Tensor) else held.new_tensor(rate))
    else:
        group["lr"] = rate
