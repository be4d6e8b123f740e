"""Hearing one backward pass: hooks that live for one measurement and leave nothing behind.

A layer's forward hook puts a tensor hook on its output, whose closure holds the layer's input and receives the
output gradient. Module backward hooks would do the same but break under in-place activations.

Others may send backward passes of their own through the same model (``autograd.grad`` for a penalty, a saliency
map). What makes a pass ours is that it accumulates into ``.grad``: what each pass says is kept apart by the
pass's id, and a post-accumulate hook marks the ids that count.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradbatch.errors import MeasurementError
from gradbatch.probe.coverage import CoveredLayer

__all__ = ["Heard", "Listener", "sqnorm"]

# Private, but what torch.autograd.graph itself tells passes apart by.
_current_pass = torch._C._current_graph_task_id


class Heard:
    """What one backward pass said, by the parameters' places in the table.

    Attributes:
        sqnorm_sums: Sums over samples of the squared norms of the gradients of what was sent backward, 0-dim.
        grads: The gradient of this pass, where it is kept.
        grad_sums: The same as the layers' formulas give it, where it is checked.
        problem: Why a layer's formula does not apply, or an empty string.
        accumulates: Whether the pass went into ``.grad``.
    """

    __slots__ = ("accumulates", "grad_sums", "grads", "problem", "sqnorm_sums")

    def __init__(self) -> None:
        self.sqnorm_sums: dict[int, Tensor] = {}
        self.grads: dict[int, Tensor] = {}
        self.grad_sums: dict[int, Tensor] = {}
        self.problem = ""
        self.accumulates = False


@dataclass(slots=True)
class _Call:
    """One call of a covered layer: what it was given and the shape of what it returned."""

    layer: CoveredLayer
    activations: Tensor | None
    shape: torch.Size


class Listener:
    """Hooks on layers and parameters, until `close`.

    A pass of our own is known by where it goes (`mark_accumulation`), or by being announced (`is_own`), which
    costs no hook.

    Args:
        num_samples: Samples in the forward passes to come, for which the leading axis must stand.
    """

    def __init__(self, num_samples: int) -> None:
        self.is_own = False
        self._num_samples = num_samples
        self._passes: defaultdict[int, Heard] = defaultdict(Heard)
        self._handles: list[RemovableHandle] = []
        self._is_closed = False

    def hook_layers(self, layers: Iterable[CoveredLayer], *, check: bool) -> None:
        """Hear the covered layers; with ``check``, let their formulas give the summed gradient as well."""
        for layer in layers:
            forward = partial(self._on_forward, layer, check)
            self._handles.append(layer.module.register_forward_hook(forward))

    def hook_grads(self, places: Iterable[tuple[int, nn.Parameter]], *, keep: bool) -> None:
        """Hear the parameters' own gradients: kept whole, or only their squared norms."""
        on_grad = self._keep_grad if keep else self._square_grad
        for place, parameter in places:
            self._handles.append(parameter.register_hook(partial(on_grad, place)))

    def mark_accumulation(self, parameters: Iterable[nn.Parameter]) -> None:
        """Know a pass that accumulates into one of these as ours."""
        for parameter in parameters:
            self._handles.append(parameter.register_post_accumulate_grad_hook(self._on_accumulate))

    def close(self) -> None:
        """Take every hook off; what tensors of a kept graph still call does nothing any more."""
        self._is_closed = True
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def heard(self) -> Heard | None:
        """What our own backward pass said; ``None`` if there was none.

        Raises:
            MeasurementError: If there were several.
        """
        own = [heard for heard in self._passes.values() if heard.accumulates]
        if len(own) > 1:
            raise MeasurementError(
                f"{len(own)} backward passes accumulated gradients within one measurement, which needs exactly "
                "one: call backward once, on the sum of the losses"
            )
        return own[0] if own else None

    def _on_forward(
        self, layer: CoveredLayer, check: bool, module: nn.Module, args: tuple[Tensor, ...], output: Tensor
    ) -> None:
        if output.requires_grad:
            # A layer called by keyword leaves nothing here; `_problem` then reports it.
            call = _Call(layer, args[0] if args else None, output.shape)
            _own_memory(output).register_hook(partial(self._on_output_grad, call, check))

    def _on_output_grad(self, call: "_Call", check: bool, output_grads: Tensor) -> None:
        if self._is_closed:
            return
        heard = self._heard_now()
        heard.problem = heard.problem or self._problem(call, heard)
        if heard.problem or call.activations is None:
            return
        layer = call.layer
        if output_grads.shape != call.shape:
            output_grads = output_grads.view(call.shape)
        sums = layer.formula.sqnorm_sums(layer.module, call.activations, output_grads)
        for name, value in sums.items():
            heard.sqnorm_sums[layer.indices[name]] = value
        if check:
            for name, grad in layer.formula.grad_sum(layer.module, call.activations, output_grads).items():
                heard.grad_sums[layer.indices[name]] = grad

    def _problem(self, call: "_Call", heard: Heard) -> str:
        """Why the layer's formula does not apply to this call, or an empty string."""
        name, activations = call.layer.name, call.activations
        if activations is None:
            return f'layer "{name}" was called with keyword arguments only'
        if activations.dim() < 2 or activations.shape[0] != self._num_samples:
            return (
                f'layer "{name}" was given {tuple(activations.shape)}, whose leading axis does not count the '
                f"{self._num_samples} samples"
            )
        if call.layer.first in heard.sqnorm_sums:
            return f'layer "{name}" was called more than once in a forward pass'
        return ""

    def _heard_now(self) -> Heard:
        """What the pass that is running has said so far."""
        heard = self._passes[_current_pass()]
        heard.accumulates |= self.is_own
        return heard

    def _keep_grad(self, place: int, grad: Tensor) -> None:
        self._heard_now().grads[place] = grad.detach()

    def _square_grad(self, place: int, grad: Tensor) -> None:
        self._heard_now().sqnorm_sums[place] = sqnorm(grad)

    def _on_accumulate(self, parameter: nn.Parameter) -> None:
        self._passes[_current_pass()].accumulates = True


def _own_memory(output: Tensor) -> Tensor:
    """The tensor on which to hear the output's gradient.

    An in-place activation on a view (as ``nn.Linear`` returns for sequences) cuts the view's own node out of the
    graph; the node of the tensor behind the view stays.
    """
    base = output._base
    same = base is not None and base.numel() == output.numel() and output.is_contiguous() and base.is_contiguous()
    return base if base is not None and same and base.requires_grad else output


def sqnorm(tensor: Tensor) -> Tensor:
    """Squared norm of a tensor, 0-dim, in at least single precision."""
    flat = tensor if tensor.dim() == 1 else tensor.reshape(-1)
    if flat.dtype in (torch.float16, torch.bfloat16):
        flat = flat.float()
    return torch.dot(flat, flat)
