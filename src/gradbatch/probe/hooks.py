"""Hearing one backward pass: hooks on the nodes of its graph, which go with the graph and leave nothing behind.

Others may send backward passes of their own through the same model (``autograd.grad`` for a penalty, a saliency
map). What makes a pass ours is that it was announced, or that it accumulates into ``.grad``: what each pass says is
kept apart by the pass's id, and a post-accumulate hook marks the ids that count.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import GraphExecGroup
from torch.utils.hooks import RemovableHandle

from gradbatch.errors import GradbatchError, InvalidInputError, MeasurementError
from gradbatch.probe.chains import carried
from gradbatch.probe.coverage import ParameterTable
from gradbatch.probe.forms import Dense, Rows
from gradbatch.probe.graph import Junction, Tracer
from gradbatch.probe.heard import Heard, Plan
from gradbatch.probe.layout import LayoutError, Packed
from gradbatch.probe.learning import Learner, sentence
from gradbatch.probe.nodes import UnknownOperationError, current_pass
from gradbatch.probe.operations import Call, per_sample_gradients
from gradbatch.probe.own_layers import FORMULAS, OWN_FORMULA

__all__ = ["Listener", "sqnorm"]

_OWN = -2
"""In place of a pass's id: the announced pass. The engine's ids begin at 0, and -1 is none."""


class Listener:
    """Hooks that hear one backward pass at a time.

    Args:
        model: The model, whose forward is followed.
        table: Its parameters.
    """

    def __init__(self, model: nn.Module, table: ParameterTable) -> None:
        self.is_own = False
        self._model = model
        self._parts = [module for module in model.modules() if module is not model]
        self._table = table
        places = {id(parameter): place for place, parameter in enumerate(table.parameters)}
        self._own_places: dict[nn.Module, dict[str, int]] = {
            module: {name: places[id(p)] for name, p in module.named_parameters(recurse=False) if id(p) in places}
            for module in model.modules()
            if type(module) in FORMULAS
        }
        claimed = {place for owned in self._own_places.values() for place in owned.values()}
        self._learner = Learner(Tracer(model, table, claimed))
        self._recurrent = [module for module in model.modules() if isinstance(module, nn.RNNBase)]
        self._handles: list[RemovableHandle] = []
        self._clear()

    def _clear(self) -> None:
        """Forget the measurement; nodes hold our hooks, so that we must not go on holding them."""
        self.plan: Plan | None = None
        self._passes: dict[int, Heard] | None = None
        self._junctions: list[Junction] = []
        self._hooked: set[Node] = set()
        self._leaves: dict[Node, int] = {}
        self._num_uses: dict[int, int] = {}
        self._unknown: set[int] = set()
        self._outputs: list[Tensor] = []
        self._was_called = False
        self._packings: list[Packed] = []
        self._problem = ""

    def begin(self, plan: Plan) -> None:
        """Begin to hear."""
        self._clear()
        self.plan, self._group = plan, GraphExecGroup()
        self._passes = dict[int, Heard]()
        try:
            self._put_on(plan)
        except BaseException:  # nobody would end a measurement that never began
            self.end()
            raise

    def _put_on(self, plan: Plan) -> None:
        """Put on the hooks that a measurement needs beside those on nodes."""
        is_split = plan.by_layers and plan.num_samples > 1
        if is_split and (plan.learn or self._learner.has_doubts or not plan.is_announced):
            self._handles.append(self._model.register_forward_hook(self._on_forward))
        if is_split and plan.learn and not plan.is_announced:
            self._handles += [module.register_forward_hook(self._on_part) for module in self._parts]
        if is_split:
            self._handles += [module.register_forward_pre_hook(self._on_recurrent) for module in self._recurrent]
            self._handles += [module.register_forward_hook(self._on_own_layer) for module in self._own_places]
        if not plan.by_layers:
            self._hook_grads(self._square_grad)
        if plan.keep_grads or (plan.by_layers and not is_split):
            self._hook_grads(self._keep_grad)
        if not plan.is_announced:
            self._handles += [
                parameter.register_post_accumulate_grad_hook(self._on_accumulate)
                for parameter in self._table.parameters
                if parameter.requires_grad
            ]

    def end(self) -> list[Heard]:
        """Hear no more; what the nodes of a kept graph still call does nothing.

        Returns:
            What each of our own backward passes said.

        Raises:
            MeasurementError: If there was one, and no forward of the model before it.
        """
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        passes = self._passes or {}
        own = [heard for heard in passes.values() if heard.accumulates]
        if self.plan is not None and self.plan.by_layers:
            for heard in own:
                self._round_up(heard, self.plan)
        is_misplaced = bool(own) and self._is_forward_missing()
        passes.clear()  # the nodes' hooks hold it
        self._clear()
        if is_misplaced:
            raise MeasurementError(
                "the model was not called between the beginning of this measurement and its backward pass: put the "
                "forward into the `with probe.measure(...)` block, too"
            )
        return own

    def _is_forward_missing(self) -> bool:
        """Whether the model's forward was to be followed and never came."""
        plan = self.plan
        follows = plan is not None and plan.by_layers and plan.num_samples > 1 and not plan.is_announced
        return follows and not self._was_called

    def attach(self, roots: Iterable[Tensor]) -> None:
        """Hook the nodes below some tensors in which parameters meet samples."""
        plan = self.plan
        if plan is None or not plan.by_layers or plan.num_samples == 1:
            return
        nodes = [root.grad_fn for root in roots if root.grad_fn is not None]
        trace, problem = self._learner.trace(nodes, self._outputs, self._packings, plan)
        self._problem = self._problem or problem
        self._leaves.update(trace.leaves)
        self._unknown |= trace.unknown
        if not plan.learn:  # else the sums of the gradients tell
            for node, places in trace.outside:
                node.register_prehook(partial(self._on_outside, self._passes, places))
        for junction in trace.junctions:
            if junction.node in self._hooked:
                continue
            self._hooked.add(junction.node)
            self._junctions.append(junction)
            for places in junction.operands.values():
                for place in places:
                    self._num_uses[place] = self._num_uses.get(place, 0) + 1
            junction.node.register_prehook(partial(self._on_node, self._passes, len(self._junctions) - 1))

    def _on_own_layer(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Listen to a layer that has a formula of its own."""
        passes = self._passes
        if passes is None or not isinstance(output, Tensor) or output.grad_fn is None:
            return
        owned = self._own_places[module]
        for place in owned.values():
            self._num_uses[place] = self._num_uses.get(place, 0) + 1

        def on_node(grads: tuple[Tensor | None, ...]) -> None:
            if passes is self._passes and grads[0] is not None:
                self._take_own(module, inputs, grads[0])

        output.grad_fn.register_prehook(on_node)

    def _take_own(self, module: nn.Module, inputs: Any, output_grads: Tensor) -> None:
        """Take what a layer's own formula says."""
        plan, heard = self.plan, self._heard_now()
        assert plan is not None
        heard.rounding = max(heard.rounding, _rounding(output_grads))
        with _plain_arithmetic(output_grads):
            written = FORMULAS[type(module)](module, inputs, output_grads)
            if not isinstance(written, Mapping):
                raise InvalidInputError(
                    f"the formula for {type(module).__name__} gave a {type(written).__name__}: it must give a mapping "
                    "from the names of the layer's parameters to their per-sample gradients"
                )
            for name, place in self._own_places[module].items():
                own, shape = written.get(name), self._table.parameters[place].shape
                if own is None or own.shape != (plan.num_samples, *shape):
                    raise InvalidInputError(
                        f"the formula for {type(module).__name__} gave {None if own is None else tuple(own.shape)} for "
                        f'parameter "{name}": it must give per-sample gradients {(plan.num_samples, *shape)}'
                    )
                rows = own[: plan.count].reshape(plan.count, -1)
                heard.use(place, Dense(Rows(rows), shape, OWN_FORMULA), self._num_uses[place], plan)

    def _on_recurrent(self, module: nn.Module, args: Any) -> None:
        """Take down how sequences of unequal length are packed; layers pass one packing on to each other."""
        if self._passes is not None and args and isinstance(args[0], PackedSequence):
            data, sizes, order, _ = args[0]
            packing = Packed(sizes, order, data.device)
            if not any(torch.equal(packing.samples, other.samples) for other in self._packings):
                self._packings.append(packing)

    def _on_forward(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._passes is None or not torch.is_grad_enabled():
            return
        self._was_called = True
        output = vars(output) if is_dataclass(output) and not isinstance(output, dict) else output
        tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
        self._outputs += tensors
        if self.plan is not None and not self.plan.is_announced:
            self.attach(tensors)

    def _on_part(self, module: nn.Module, args: Any, output: Any) -> None:
        """Notice that parts of the model are called, which then goes by chunks."""
        self._was_called = True

    def _hook_grads(self, on_grad: Callable[[int, Tensor], None]) -> None:
        """Hear the parameters' own gradients."""
        for place, parameter in enumerate(self._table.parameters):
            if parameter.requires_grad:  # it may have been frozen since
                self._handles.append(parameter.register_hook(partial(on_grad, place)))

    def _on_node(self, passes: object, index: int, grads: tuple[Tensor | None, ...]) -> None:
        """Take the per-sample gradients at a junction."""
        if passes is not self._passes or self.plan is None:
            return
        heard = self._heard_now()
        if heard.problem:
            return
        heard.problem = self._problem or self._take(self._junctions[index], heard, grads)

    def _on_outside(self, passes: object, places: frozenset[int], grads: tuple[Tensor | None, ...]) -> None:
        """Notice a gradient where there were no samples when the model was learned."""
        if passes is self._passes and any(grad is not None for grad in grads):
            self._heard_now().unsettled |= places

    def _take(self, junction: Junction, heard: Heard, grads: tuple[Tensor | None, ...]) -> str:
        """Take the per-sample gradients at a junction; why it cannot be done, or an empty string."""
        plan = self.plan
        assert plan is not None
        first = next((grad for grad in grads if grad is not None), None)
        if first is None:
            return ""
        if plan.learn:
            heard.rounding = max(heard.rounding, _rounding(first))
        node, operands = junction.node, junction.node.next_functions
        operands_here, layout = list(junction.operands), junction.layout
        by_position = plan.position_sqnorms or plan.learn  # the check must know how much cancels between positions
        call = Call(node, grads, operands_here, layout, plan.num_samples, plan.count, by_position, self._group)
        try:
            with _plain_arithmetic(first):
                for place, form in per_sample_gradients(call).items():
                    child, output = operands[place]
                    assert child is not None
                    for owner, carried_form in carried(form, child, output, self._leaves, call).items():
                        heard.use(owner, carried_form, self._num_uses[owner], plan)
        except LayoutError:  # another number of positions: what was learned does not tell where they lie
            self._learner.tracer.forget(junction)
            heard.unsettled |= junction.places
        except GradbatchError:
            raise
        except Exception as error:  # whatever it is, the user's training goes on
            name = self._table.names[min(junction.places)]
            return f'parameter "{name}" has no per-sample gradients: {sentence(error)}'
        return ""

    def _round_up(self, heard: Heard, plan: Plan) -> None:
        """Settle what was used less often than the graph would have it, and what has one sample only."""
        if plan.num_samples == 1:
            for place, grad in heard.grads.items():
                own = grad.to_dense() if grad.is_sparse else grad
                own = own.clone() if plan.keep_forms else own  # the sum over passes takes it over
                rows = own.reshape(1, -1)
                heard.uses[place] = [Dense(Rows(rows.float() if rows.element_size() < 4 else rows), own.shape)]
        for place in list(heard.uses):
            try:
                heard.settle(place, plan)
            except UnknownOperationError as error:
                heard.problem = heard.problem or f'parameter "{self._table.names[place]}": {error}'
        for place in self._unknown:
            grad = heard.grads.get(place)
            if grad is None or bool(grad.any()):
                heard.unsettled.add(place)
        heard.problem = heard.problem or self._problem

    def _heard_now(self) -> Heard:
        """What the pass that is running has said so far."""
        assert self._passes is not None
        # Our own pass may run others inside it, as reentrant checkpointing does for each segment: all one to us.
        key = _OWN if self.is_own else current_pass()
        heard = self._passes.get(key)
        if heard is None:
            heard = self._passes[key] = Heard(accumulates=self.is_own)
        return heard

    def _keep_grad(self, place: int, grad: Tensor) -> None:
        # A copy: autograd may make the tensor itself the parameter's `.grad`, which may be clipped or zeroed before we
        # come to it, and which the next pass adds to.
        self._heard_now().grads[place] = grad.detach().clone()

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


def _rounding(grad: Tensor) -> float:
    """Unit rounding of the type in which autograd computes with a gradient."""
    device = grad.device.type
    dtypes = [grad.dtype, torch.get_autocast_dtype(device)] if torch.is_autocast_enabled(device) else [grad.dtype]
    return max(torch.finfo(dtype).eps for dtype in dtypes)


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
