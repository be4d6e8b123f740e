"""Hearing one backward pass: hooks that live for a loop at most and leave nothing behind.

A layer's forward hook puts a tensor hook on its output, whose closure holds the layer's input and receives the
output gradient. Module backward hooks would do the same but break under in-place activations.

Others may send backward passes of their own through the same model (``autograd.grad`` for a penalty, a saliency
map). What makes a pass ours is that it accumulates into ``.grad``: what each pass says is kept apart by the
pass's id, and a post-accumulate hook marks the ids that count.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradbatch.probe.coverage import CoveredLayer

__all__ = ["Heard", "Listener", "sqnorm"]

# Private, but what torch.autograd.graph itself tells passes apart by.
_current_pass = torch._C._current_graph_task_id

_OWN = -2
"""In place of a pass's id: the announced pass. The engine's ids begin at 0, and -1 is none."""


class Heard:
    """What one backward pass said, by the parameters' places in the table.

    Attributes:
        sqnorm_sums: Sums over samples of the squared norms of the gradients of what was sent backward, 0-dim.
        grads: The gradient of this pass, where it is kept.
        grad_sums: The same as the layers' formulas give it, where it is checked.
        rounding: Unit rounding of the type in which autograd itself computed, where that is autocast's.
        problem: Why a layer's formula does not apply, or an empty string.
        accumulates: Whether the pass went into ``.grad``.
    """

    __slots__ = ("accumulates", "grad_sums", "grads", "problem", "rounding", "sqnorm_sums")

    def __init__(self, *, accumulates: bool) -> None:
        self.sqnorm_sums: dict[int, Tensor] = {}
        self.grads: dict[int, Tensor] = {}
        self.grad_sums: dict[int, Tensor] = {}
        self.problem = ""
        self.rounding = 0.0
        self.accumulates = accumulates


class Listener:
    """Hooks on layers and parameters that hear one backward pass at a time.

    The layers' forward hooks stay between measurements, silent, until `detach`; all others end with each. A pass
    of our own is known by where it goes (``mark_own``), or by being announced (`is_own`), which costs no hook.

    Args:
        layers: The layers to hear.
        parameters: The parameters whose own gradients may be heard.
    """

    def __init__(self, layers: Sequence[CoveredLayer], parameters: Sequence[nn.Parameter]) -> None:
        self.is_own = False
        self._layers = layers
        self._parameters = parameters
        self._layer_handles: list[RemovableHandle] = []
        self._handles: list[RemovableHandle] = []
        self._passes: dict[int, Heard] | None = None  # of the measurement under way
        self._num_samples = 0
        self._is_checked = False

    def begin(self, num_samples: int, *, by_layers: bool, check: bool, keep_grads: bool, mark_own: bool) -> None:
        """Begin to hear.

        Args:
            num_samples: Samples in the forward pass to come, for which the leading axis must stand.
            by_layers: Hear the layers; else the squared norms of the parameters' whole gradients.
            check: Let the layers' formulas give the summed gradient as well.
            keep_grads: Keep the parameters' whole gradients.
            mark_own: Know a pass that accumulates into ``.grad`` as ours, whoever calls it.
        """
        self._passes = {}
        self._num_samples, self._is_checked = num_samples, check
        try:
            self._attach(by_layers=by_layers, keep_grads=keep_grads, mark_own=mark_own)
        except BaseException:  # nobody would end a measurement that never began
            self.end()
            self.detach()
            raise

    def _attach(self, *, by_layers: bool, keep_grads: bool, mark_own: bool) -> None:
        """Put on the hooks that a measurement needs."""
        if by_layers and not self._layer_handles:
            self._layer_handles = [
                layer.module.register_forward_hook(partial(self._on_forward, layer)) for layer in self._layers
            ]
        if not by_layers:
            self.detach()  # a loop that began by layers may have fallen back
            self._hook_grads(self._square_grad)
        if keep_grads:
            self._hook_grads(self._keep_grad)
        if mark_own:
            self._handles += [
                parameter.register_post_accumulate_grad_hook(self._on_accumulate)
                for parameter in self._parameters
                if parameter.requires_grad
            ]

    def end(self) -> list[Heard]:
        """Hear no more; what tensors of a kept graph still call does nothing.

        Returns:
            What each of our own backward passes said.
        """
        passes, self._passes = self._passes or {}, None
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        return [heard for heard in passes.values() if heard.accumulates]

    def detach(self) -> None:
        """Take the layers' hooks off too."""
        for handle in self._layer_handles:
            handle.remove()
        self._layer_handles.clear()

    def _hook_grads(self, on_grad: Callable[[int, Tensor], None]) -> None:
        """Hear the parameters' own gradients."""
        for place, parameter in enumerate(self._parameters):
            if parameter.requires_grad:  # it may have been frozen since
                self._handles.append(parameter.register_hook(partial(on_grad, place)))

    def _on_forward(self, layer: CoveredLayer, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        passes = self._passes
        if passes is None or not output.requires_grad:
            return
        activations = args[0] if args else None  # a layer called by keyword: `_problem` will say so
        shape = output.shape

        def on_grad(output_grads: Tensor) -> None:
            if passes is self._passes:
                grads = output_grads if output_grads.shape == shape else output_grads.view(shape)
                self._on_output_grad(layer, activations, grads)

        _memory_of(output).register_hook(on_grad)

    def _on_output_grad(self, layer: CoveredLayer, activations: Tensor | None, output_grads: Tensor) -> None:
        heard = self._heard_now()
        heard.problem = heard.problem or self._problem(layer, activations, heard)
        if heard.problem or activations is None:
            return
        device = output_grads.device.type
        if torch.is_autocast_enabled(device):
            heard.rounding = torch.finfo(torch.get_autocast_dtype(device)).eps
        with _plain_arithmetic(output_grads):
            sums = layer.formula.sqnorm_sums(layer.module, activations, output_grads)
            grads = layer.formula.grad_sum(layer.module, activations, output_grads) if self._is_checked else {}
        for name, place in layer.indices.items():  # without parameters that are not observed
            if name in sums:
                heard.sqnorm_sums[place] = sums[name]
            if name in grads:
                heard.grad_sums[place] = grads[name]

    def _problem(self, layer: CoveredLayer, activations: Tensor | None, heard: Heard) -> str:
        """Why the layer's formula does not apply to this call, or an empty string."""
        if activations is None:
            return f'layer "{layer.name}" was called with keyword arguments only'
        if activations.dim() < 2 or activations.shape[0] != self._num_samples:
            return (
                f'layer "{layer.name}" was given {tuple(activations.shape)}, whose leading axis does not count the '
                f"{self._num_samples} samples"
            )
        if layer.first in heard.sqnorm_sums:
            return f'layer "{layer.name}" was called more than once in a forward pass'
        return ""

    def _heard_now(self) -> Heard:
        """What the pass that is running has said so far."""
        assert self._passes is not None
        # Our own pass may run others inside it, as reentrant checkpointing does for each segment: all one to us.
        key = _OWN if self.is_own else _current_pass()
        heard = self._passes.get(key)
        if heard is None:
            heard = self._passes[key] = Heard(accumulates=self.is_own)
        return heard

    def _keep_grad(self, place: int, grad: Tensor) -> None:
        self._heard_now().grads[place] = grad.detach()

    def _square_grad(self, place: int, grad: Tensor) -> None:
        self._heard_now().sqnorm_sums[place] = sqnorm(grad)

    def _on_accumulate(self, parameter: nn.Parameter) -> None:
        self._heard_now().accumulates = True


_NOTHING = nullcontext()


def _plain_arithmetic(tensor: Tensor) -> AbstractContextManager[object]:
    """Neither a graph (under ``create_graph``) nor autocast in what we compute; free where neither is on."""
    device = tensor.device.type
    if not torch.is_grad_enabled() and not torch.is_autocast_enabled(device):
        return _NOTHING
    stack = ExitStack()
    stack.enter_context(torch.no_grad())
    stack.enter_context(torch.autocast(device, enabled=False))
    return stack


def _memory_of(output: Tensor) -> Tensor:
    """The output, or the tensor that it views as a whole.

    An in-place activation on a view (as ``nn.Linear`` returns for sequences) cuts the view's own node out of the
    graph, and a hook on it would never fire; the node of the tensor behind the view stays.

    Returns:
        The tensor whose gradient is the output's, up to its shape.
    """
    base = output._base
    if base is None or not base.requires_grad or base.numel() != output.numel():
        return output
    return base if base.is_contiguous() and output.is_contiguous() else output


def sqnorm(tensor: Tensor) -> Tensor:
    """Squared norm of a tensor, 0-dim, in at least single precision."""
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    flat = tensor if tensor.dim() == 1 else tensor.reshape(-1)
    if flat.dtype in (torch.float16, torch.bfloat16):
        flat = flat.float()
    return torch.dot(flat, flat)
