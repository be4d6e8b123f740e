"""When to find out anew how the samples lie in a graph, and what stands in the way."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.autograd.graph import Node

from gradbatch.errors import MeasurementError
from gradbatch.probe.graph import Trace, Tracer
from gradbatch.probe.heard import Plan
from gradbatch.probe.layout import Folded, Packed
from gradbatch.probe.nodes import UnknownOperationError, output_shape

__all__ = ["Learner", "Traced", "sentence"]


class Traced(NamedTuple):
    """A walk through a graph, and why samples cannot be told apart in it, or an empty string."""

    trace: Trace
    problem: str


class Learner:
    """Learns when that is due, when the batch at hand raises doubts, and ever more seldom what shows no gradient.

    Args:
        tracer: What walks through the graphs, and remembers.

    Attributes:
        tracer: The same.
        has_doubts: Whether the model's outputs must be known at the next pass, to learn again.
    """

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        self.has_doubts = False
        self._has_learned = False
        self._picks_rows = False
        self._num_silent = 0

    def trace(self, roots: Sequence[Node], outputs: Sequence[Tensor], packings: Sequence[Packed], plan: Plan) -> Traced:
        """Find where parameters meet samples below some nodes, and learn how these lie where that must be.

        Args:
            roots: The nodes.
            outputs: What the model returned in this pass, as far as it was followed.
            packings: How sequences of unequal length were packed in it, if any were.
            plan: What is to be heard of it.

        Returns:
            What was found.
        """
        trace = self.tracer.trace(roots, packings)
        if not plan.is_announced:
            _check_count(outputs, plan.num_samples, may_be_multiple=not self._has_learned)
        if not plan.learn and not (outputs and self._is_in_doubt(trace, plan)):
            return Traced(trace, "")
        problem = self._learn(trace, outputs, packings, plan)
        self._has_learned |= not problem
        trace = self.tracer.trace(roots, packings)
        self._num_silent = self._num_silent + 1 if trace.unknown else 0
        may_be_uneven = bool(packings) or _picks_rows(trace, plan.num_samples)
        self._picks_rows = may_be_uneven and _has_positions(trace, plan.num_samples)
        self.has_doubts = bool(trace.unknown or self.tracer.doubtful or self._picks_rows)
        return Traced(trace, problem)

    def _is_in_doubt(self, trace: Trace, plan: Plan) -> bool:
        """Whether to learn again before the next time that is due, ever more seldom where no gradient comes through."""
        if self._picks_rows or self.tracer.is_uncertain(trace, plan.num_samples):
            return True
        self._num_silent += bool(trace.unknown)
        is_due = self._num_silent <= _PATIENCE or self._num_silent & (self._num_silent - 1) == 0
        return bool(trace.unknown) and is_due

    def _learn(self, trace: Trace, outputs: Sequence[Tensor], packings: Sequence[Packed], plan: Plan) -> str:
        """Find out how the samples lie; why they cannot be told apart, or an empty string."""
        for node in trace.nodes:
            if why := _OPAQUE.get(node.name()):
                return why
        fitting = _counting(outputs, plan.num_samples)
        if not fitting:
            wanted = f"no tensor whose leading axis counts the {plan.num_samples} samples"
            return f"the model returned {_shapes(outputs)}, {wanted}"
        try:
            return self.tracer.learn(trace, fitting, plan.num_samples, packings)
        except Exception as error:  # whatever it is, the user's training goes on
            return f"a backward pass of half of the samples failed: {sentence(error)}"


def _counting(outputs: Sequence[Tensor], num_samples: int) -> list[Tensor]:
    """The outputs whose leading axis counts the samples."""
    return [output for output in outputs if output.shape[:1] == (num_samples,) and output.is_floating_point()]


def _check_count(outputs: Sequence[Tensor], num_samples: int, *, may_be_multiple: bool) -> None:
    """Refuse a number of samples that the user gave and that cannot be that of the outputs.

    A model may have folded the positions of its samples into the leading axis; not so one whose outputs were known to
    count the samples.

    Raises:
        MeasurementError: If it cannot be.
    """
    lengths = [len(output) for output in outputs if output.dim()]
    if not lengths or num_samples in lengths or (may_be_multiple and any(n % num_samples == 0 for n in lengths)):
        return
    raise MeasurementError(
        f"`num_samples` is {num_samples} and the model returned {_shapes(outputs)}: give the number of samples that go "
        "through the model in this pass, which must be the leading axis of what it returns"
    )


def _shapes(outputs: Sequence[Tensor]) -> str:
    """The shapes of the outputs, for a sentence."""
    return ", ".join(str(tuple(output.shape)) for output in outputs) or "nothing"


def sentence(error: Exception) -> str:
    """What an error says, and of what kind it is where it is none of ours."""
    return str(error) if isinstance(error, UnknownOperationError) else f"{type(error).__name__}: {error}"


def _picks_rows(trace: Trace, num_samples: int) -> bool:
    """Whether rows are picked by the data, of which there may be another number for each sample in every batch."""
    for node in trace.nodes:
        if node.name() in _PICKING and trace.nodes[node] is None:
            operands = [output_shape(child, output) for child, output in node.next_functions if child is not None]
            if any(shape[:1] != (num_samples,) for shape in (output_shape(node, 0), *operands) if shape):
                return True
    return False


def _has_positions(trace: Trace, num_samples: int) -> bool:
    """Whether rows are taken for several positions of each sample somewhere, evenly."""
    folded = [(junction, junction.layout) for junction in trace.junctions if isinstance(junction.layout, Folded)]
    return any(output_shape(junction.node, 0)[layout.axis] != num_samples for junction, layout in folded)


_PATIENCE = 32
"""Measurements in a row in which a part of the model without any gradient is looked at again each time."""

_PICKING = frozenset(
    f"{name}Backward0"
    for name in ["Index", "IndexPut", "IndexPutImpl", "IndexSelect", "IndexAdd", "MaskedSelect", "MaskedScatter"]
)

_OPAQUE = {
    "CheckpointFunctionBackward": "reentrant checkpointing hides its operations until backward, "
    "call torch.utils.checkpoint with use_reentrant=False",
    "CompiledFunctionBackward": "the model is compiled (torch.compile), which hides its operations",
}
"""Nodes behind which there is nothing to see, and what to say of them."""
