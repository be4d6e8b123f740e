"""Apply: what is read from an optimizer, and how it is made to step."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradbatch.errors import MeasurementError

__all__ = [
    "Updater",
    "borrowed_lr",
    "description_of",
    "learning_rates",
    "momenta_of",
    "momentum_of",
    "parameters_of",
    "preconditioners_of",
]


def parameters_of(optimizer: Optimizer) -> list[list[nn.Parameter]]:
    """The parameters of an optimizer, by parameter group."""
    return [list(group["params"]) for group in optimizer.param_groups]


def learning_rates(optimizer: Optimizer) -> tuple[float, ...]:
    """The scheduled learning rate of each parameter group."""
    return tuple([float(group["lr"]) for group in optimizer.param_groups])


def momentum_of(optimizer: Optimizer) -> float:
    """The heavy-ball momentum of the first parameter group; 0 for optimizers without one."""
    return float(optimizer.param_groups[0].get("momentum", 0.0))


def description_of(optimizer: Optimizer) -> str:
    """What the optimizer is, as `Progress` says it."""
    name, first = type(optimizer).__name__, optimizer.param_groups[0]
    if name == "SGD" and first.get("nesterov"):
        return "SGD with Nesterov momentum"
    if name == "SGD" and first.get("dampening"):
        return f"SGD with dampening {first['dampening']}"
    return name


def momenta_of(optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
    r"""What heavy-ball momentum carries over to the coming update, $\rho\,b$, for each parameter."""
    decays = {p: group.get("momentum", 0.0) for group in optimizer.param_groups for p in group["params"]}
    buffers = [optimizer.state[p].get("momentum_buffer") if p in optimizer.state else None for p in parameters]
    return [
        None if buffer is None else buffer * decays[parameter]
        for parameter, buffer in zip(parameters, buffers, strict=True)
    ]


def preconditioners_of(optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
    r"""The factor that the coming update puts on each number of the gradient, but for the learning rate and averages.

    It is $1/(\sqrt{\hat v}+\epsilon)$ for Adam, with the bias-corrected second moment $\hat v$ that the coming update
    divides by, the parameter's own gradient in it, and 1 for SGD. Without this gradient a weight whose inputs were
    never seen before, as a pixel at the margin, would have a factor of $1/\epsilon$ at their first sight.

    Returns:
        A tensor for each parameter. It is ``None`` for other optimizers, which are not known here, and for Adam in its
        first steps, in which $\hat v$ is little more than the noise of a few gradients (AdaptDL, too, waits for five).
    """
    if isinstance(optimizer, torch.optim.SGD):
        return [torch.ones_like(parameter) for parameter in parameters]
    groups = {p: group for group in optimizer.param_groups for p in group["params"]}
    return [_of_adam(optimizer.state.get(p, {}), groups[p], p.grad) for p in parameters]


def _of_adam(state: Mapping[str, Any], group: Mapping[str, Any], grad: Tensor | None) -> Tensor | None:
    """The factor for one parameter, from what Adam keeps for it and its gradient."""
    moment, step = state.get("exp_avg_sq"), float(state.get("step", 0))
    if moment is None or step < _ADAM_STEPS:
        return None
    if grad is not None:
        decay, step = group["betas"][1], step + 1
        moment = torch.lerp(moment, grad.to_dense().square(), 1 - decay)
    if "max_exp_avg_sq" in state:
        moment = torch.maximum(moment, state["max_exp_avg_sq"])
    correction = 1 - group["betas"][1] ** step
    return (moment / correction).sqrt_().add_(group["eps"]).reciprocal_()


_ADAM_STEPS = 5
"""Updates after which Adam's second moments are taken for what they estimate."""


@contextmanager
def borrowed_lr(optimizer: Optimizer, scale: float) -> Iterator[None]:
    """Multiply every learning rate by ``scale``, and give the old ones back in any case.

    Editing the rates for good would work under some torch schedulers and be overwritten by others. A tensor's
    value is replaced in place, so that captured and compiled optimizers see it.
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


class Updater:
    """An optimizer with clipping and loss scaling, as the controller steps it.

    Args:
        optimizer: The optimizer.
        clip_grad_norm: Clip the gradient's norm to this before the step.
        scaler: Scales losses, and skips steps whose gradients overflowed.
    """

    def __init__(self, optimizer: Optimizer, clip_grad_norm: float | None, scaler: torch.amp.GradScaler | None) -> None:
        self._optimizer = optimizer
        self._clip_grad_norm = clip_grad_norm
        self._scaler = scaler
        self._witness: tuple[nn.Parameter, int, Tensor, int] | None = None

    @property
    def loss_scale(self) -> float:
        """The scaler's factor on losses; 1 without a scaler."""
        return 1.0 if self._scaler is None else self._scaler.get_scale()

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss as it goes backward."""
        return loss if self._scaler is None else self._scaler.scale(loss)

    def unscale(self) -> None:
        """Divide the scaler's factor out of the gradients."""
        if self._scaler is not None:
            self._scaler.unscale_(self._optimizer)

    def forget_gradients(self) -> None:
        """Set every gradient to ``None``: ``zero_grad`` without its cost of profiling itself."""
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        self._witness = None

    def remember_gradients(self) -> None:
        """Keep what tells whether the gradients are still those of the last backward."""
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._witness = parameter, parameter._version, parameter.grad, parameter.grad._version
                    return

    def check_gradients(self, *, may_be_edited: bool) -> None:
        """Notice a ``zero_grad``, a backward or an ``optimizer.step`` of the user's own in the middle of a batch.

        Args:
            may_be_edited: Only ask that the gradients are there. Once the batch is complete the user may clip them.

        Raises:
            MeasurementError: If the gradients are no longer those of the last backward, or the weights are others.
        """
        if self._witness is None:
            return
        parameter, weights, grad, version = self._witness
        if parameter._version != weights:
            raise MeasurementError(
                "weights were changed in the middle of a batch: leave out `optimizer.step()`, which `controller.step` "
                "does"
            )
        if parameter.grad is not grad or (grad._version != version and not may_be_edited):
            raise MeasurementError(
                "gradients were changed in the middle of a batch: leave out `zero_grad()`, which the controller does "
                "when a batch begins, and send one loss backward, through `controller.backward`"
            )

    def shrink_gradients(self, factor: float) -> None:
        """Multiply every gradient."""
        grads = [p.grad for group in parameters_of(self._optimizer) for p in group if p.grad is not None]
        torch._foreach_mul_(grads, factor)
        self.remember_gradients()

    def step(self, lr_scale: float) -> bool:
        """Update with the gradients as they are.

        Args:
            lr_scale: Factor on the learning rates, for this step only.

        Returns:
            Whether it was done: not where the gradients are not finite, as far as clipping or scaling saw them.
        """
        if self._clip_grad_norm is not None:
            parameters = [p for group in parameters_of(self._optimizer) for p in group]
            if not math.isfinite(nn.utils.clip_grad_norm_(parameters, self._clip_grad_norm)):
                return self.skip()
        if lr_scale == 1:
            return self._step()
        with borrowed_lr(self._optimizer, lr_scale):
            return self._step()

    def skip(self) -> bool:
        """No step, which the scaler takes into account; false, as `step` says it."""
        if self._scaler is not None:
            self._scaler.update()
        return False

    def _step(self) -> bool:
        """The step itself, through the scaler if there is one."""
        if self._scaler is None:
            self._optimizer.step()
            return True
        before = self._scaler.get_scale()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return self._scaler.get_scale() >= before  # it shrinks where it skipped


def _set(group: dict[str, object], rate: float | Tensor) -> None:
    """Give a group a rate, in the form in which it holds one."""
    held = group["lr"]
    if isinstance(held, Tensor):
        held.copy_(rate if isinstance(rate, Tensor) else held.new_tensor(rate))
    else:
        group["lr"] = rate
