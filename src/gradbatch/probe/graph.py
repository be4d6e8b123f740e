"""Where the parameters meet the samples in autograd's graph.

A node is *free* of samples if it is computed from parameters (and constants) alone: a leaf, a transposed weight, a
normalised one. A *junction* is a node that is not free and has a free operand: there, and only there, a parameter's
gradient comes apart by samples. Every use of every parameter ends in a junction, wherever in the program it stands,
so that weights that are tied, shared, or used outside of their layer need no care of their own.

Which of the nodes above parameters are free, and how the samples lie in a junction, is learned in a masked pass (see
`gradbatch.probe.layout`) and remembered by what the node looks like from below: its name, and those of its operands.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from gradbatch.probe.coverage import ParameterTable
from gradbatch.probe.layout import Fitting, Folded, Layout, Packed
from gradbatch.probe.masking import masked_pass, masks
from gradbatch.probe.nodes import LEAF, Operands, output_shape, parameter_of

__all__ = ["Junction", "Trace", "Tracer", "places_of"]

Key = int | tuple[Any, ...]
"""What a node looks like from below: its place for a leaf, else its name and the keys of its operands."""

Learned = Layout | Literal["packed", "free", "outside"]
"""Of a node: how the samples lie in it, once for all or as they are packed in each batch; that there are none; that
no output with samples depends on it."""


@dataclass(eq=False, slots=True)
class Junction:
    """A node in which parameters meet samples.

    Attributes:
        node: The node.
        key: Its name, and the key of each operand, ``None`` for those with samples.
        layout: How the samples lie in its first output.
        operands: Places of its free operands among all.
    """

    node: Node
    key: tuple[Any, ...]
    layout: Layout
    operands: list[int]


@dataclass(eq=False, slots=True)
class Trace:
    """What a walk through the graph came upon.

    Attributes:
        nodes: The key of each free node and ``None`` for the others; operands come before what is made of them.
        leaves: The parameters' leaves, and their places.
        junctions: The junctions.
        unknown: Nodes with free operands of which nothing was learned yet.
    """

    nodes: dict[Node, Key | None] = field(default_factory=dict)
    leaves: dict[Node, int] = field(default_factory=dict)
    junctions: list[Junction] = field(default_factory=list)
    unknown: list[tuple[Node, Key]] = field(default_factory=list)


class Tracer:
    """Walks through graphs, and remembers what was learned of their nodes.

    Args:
        model: The model.
        table: Its parameters.
        claimed: Places of parameters that are heard of in another way.

    Attributes:
        doubtful: Kinds of nodes whose layout is to be found out again with the next batch.
    """

    def __init__(self, model: nn.Module, table: ParameterTable, claimed: Collection[int] = ()) -> None:
        self._table = table
        self._places = {id(p): place for place, p in enumerate(table.parameters) if place not in claimed}
        self._recurrent = {
            place for place, name in enumerate(table.layers) if isinstance(model.get_submodule(name), nn.RNNBase)
        }
        self._learned: dict[Key, Learned] = {}
        self.doubtful: set[Key] = set()
        self._generator = torch.Generator().manual_seed(0)

    def trace(self, roots: Sequence[Node], packings: Sequence[Packed]) -> Trace:
        """Find the junctions below some nodes, by what was learned.

        Args:
            roots: The nodes.
            packings: How sequences of unequal length were packed in the forward pass, if any were.

        Returns:
            What was found.
        """
        trace = Trace()
        learned = self._learned
        keys: dict[Any, Key | None] = {None: None}  # constant operands have no node
        waiting: dict[Node, Operands] = {}
        stack: list[Any] = list(roots)
        while stack:  # operands first; this loop runs at every step, over every node
            node = stack[-1]
            if node in keys:
                stack.pop()
                continue
            operands = waiting.get(node)
            if operands is None:
                operands = waiting[node] = node.next_functions
                ahead = [child for child, _ in operands if child not in keys]
                if ahead:
                    stack += ahead
                    continue
            stack.pop()
            if not operands:
                keys[node] = self._leaf(node, trace)
                continue
            below = [keys[child] for child, _ in operands]
            keys[node] = None
            if below.count(None) < len(below):
                key = (node.name(), *below)
                known = learned.get(key)
                if known == "free":
                    keys[node] = key
                else:
                    self._meeting(node, key, known, trace, packings)
        del keys[None]
        trace.nodes = keys
        return trace

    def _leaf(self, node: Node, trace: Trace) -> int | None:
        """The parameter's place, for a leaf that is one."""
        place = self._places.get(id(parameter_of(node))) if node.name() == LEAF else None
        if place is not None:
            trace.leaves[node] = place
        return place

    def _meeting(
        self, node: Node, key: tuple[Any, ...], known: "Learned | None", trace: Trace, packings: Sequence[Packed]
    ) -> None:
        """Take down a node with free operands that is not free itself."""
        if known == "outside":
            return
        layout = _packing_of(node, packings) if known == "packed" else known
        if isinstance(layout, Layout):
            free = [place for place, part in enumerate(key[1:]) if part is not None]
            trace.junctions.append(Junction(node, key, layout, free))
        else:
            trace.unknown.append((node, key))

    def forget(self, junction: Junction) -> None:
        """Learn a node anew, whose layout turned out to be another."""
        self._learned.pop(junction.key, None)
        self.doubtful.add(junction.key)

    def learn(self, trace: Trace, outputs: Sequence[Tensor], num_samples: int, packings: Sequence[Packed]) -> str:
        """Find out in masked passes which nodes are free of samples, and how the samples lie in the others.

        Args:
            trace: A walk, whose nodes are the ones to learn of.
            outputs: Outputs of the model whose leading axis counts the samples.
            num_samples: Samples B, at least two.
            packings: How sequences of unequal length were packed in the forward pass, if any were.

        Returns:
            Why the model cannot be measured by samples, or an empty string.
        """
        layouts: dict[Key, Fitting] = {}
        candidates = self._candidates(trace)
        for number, mask in enumerate(masks(num_samples, self._generator)):
            found = masked_pass(trace.nodes, candidates, outputs, mask, packings, self._generator)
            if problem := self._take_in(trace, found, layouts):
                return problem
            # Each sample must have been sent and not sent: one half alone would not show that rows are uneven.
            if number % 2 and not any(self._choice(key, fitting) is None for key, fitting in layouts.items()):
                break
        return self._conclude(layouts)

    def _candidates(self, trace: Trace) -> set[Node]:
        """The nodes that may turn out to have free operands."""
        below: dict[Node, Key | None] = {}  # of nodes that may be free
        candidates: set[Node] = set()
        for node in trace.nodes:
            operands = node.next_functions
            below[node] = trace.leaves.get(node) if not operands else None
            key = _look(node, operands, below) if operands else None
            if key is not None:
                candidates.add(node)
                has_samples = any(child is not None and below[child] is None for child, _ in operands)
                below[node] = key if not has_samples and self._may_be_free(node, key) else None
        return candidates

    def _take_in(self, trace: Trace, found: Mapping[Node, Fitting | None], layouts: dict[Key, Fitting]) -> str:
        """Take in what a masked pass says of the nodes; why samples cannot be told apart, or an empty string."""
        keys: dict[Node, Key | None] = {}
        for node in trace.nodes:
            operands = node.next_functions
            keys[node] = trace.leaves.get(node) if not operands else None
            key = _look(node, operands, keys) if operands else None
            if key is None:
                continue
            if self._learned.get(key) == "free":
                keys[node] = key
            elif node not in found:
                self._learned.setdefault(key, "outside")
            elif fitting := found[node]:
                layouts[key] = fitting & layouts.get(key, fitting)
            elif fitting is not None:
                has_samples = any(child is not None and keys[child] is None for child, _ in operands)
                if has_samples or not self._may_be_free(node, key):
                    return f'samples are mixed between parameter "{self._names(key)[0]}" and the output'
                keys[node] = key
                self._learned[key] = "free"
        return ""

    def _choice(self, key: Key, fitting: Fitting) -> "Learned | None":
        """The one of the layouts that fit which is to be taken, if there is no doubt."""
        folded = [layout for layout in fitting if isinstance(layout, Folded)]
        if len(folded) < len(fitting) and places_of(key) <= self._recurrent:
            return "packed"
        if len({layout.axis for layout in folded}) > 1:
            return None
        certain = [layout for layout in folded if layout.is_single] or folded
        return certain[0] if len(certain) == 1 else None

    def _conclude(self, layouts: Mapping[Key, Fitting]) -> str:
        """Take over the layouts that all nodes of a kind allow.

        Layouts between which all the masks could not decide put every sample's traces in the same place, so that for
        this batch one is as good as the other; for the next batch that is to be found out again.

        Args:
            layouts: What was found, by kind of node.

        Returns:
            Why there is no layout for one of them, or an empty string.
        """
        self.doubtful.clear()
        for key, fitting in layouts.items():
            choice = self._choice(key, fitting)
            folded = [layout for layout in fitting if isinstance(layout, Folded)]
            if choice is None and not folded:
                return f'the samples lie differently in the uses of parameter "{self._names(key)[0]}"'
            if choice is None:
                self.doubtful.add(key)
                choice = min(folded, key=lambda layout: (layout.axis, layout.is_inner))
            self._learned[key] = choice
        return ""

    def _may_be_free(self, node: Node, key: Key) -> bool:
        """Whether an operation is plausible without samples: a layer is not, but in a parametrisation."""
        is_layer = node.name() in _LAYERS
        return not is_layer or all(".parametrizations." in f".{name}" for name in self._names(key))

    def _names(self, key: Key) -> list[str]:
        """Names of the parameters below a node."""
        return [self._table.names[place] for place in sorted(places_of(key))]


def _packing_of(node: Node, packings: Sequence[Packed]) -> Packed | None:
    """The one packing that fits a node's output; ``None`` if none does, or it cannot be told which."""
    fitting = [packing for packing in packings if packing.holds(output_shape(node, 0)[0])]
    return fitting[0] if len(fitting) == 1 else None


def places_of(key: Key) -> set[int]:
    """Places of the parameters below a node."""
    if isinstance(key, int):
        return {key}
    return {place for part in key if not isinstance(part, str | None) for place in places_of(part)}


_LAYERS = frozenset(
    {
        "AddmmBackward0",
        "MmBackward0",
        "BmmBackward0",
        "ConvolutionBackward0",
        "NativeLayerNormBackward0",
        "NativeGroupNormBackward0",
        "NativeBatchNormBackward0",
        "CudnnBatchNormBackward0",
    }
)
"""Operations that need samples to make sense."""


def _look(node: Node, operands: Operands, keys: Mapping[Node, Key | None]) -> tuple[Any, ...] | None:
    """The key that the node has if it is free or a junction; ``None`` if no operand is free."""
    below = [None if child is None else keys[child] for child, _ in operands]
    if below.count(None) == len(below):
        return None
    return (node.name(), *below)
