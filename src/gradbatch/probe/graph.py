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

__all__ = ["Junction", "Trace", "Tracer"]

Key = tuple[str | int | None, ...]
"""What a node looks like from below: its name, and the number of each free operand, ``None`` for the others."""

Learned = Layout | Literal["packed", "free", "outside"]
"""Of a node: how the samples lie in it, once for all or as they are packed in each batch; that there are none; that
no output with samples depends on it."""


@dataclass(eq=False, slots=True)
class Junction:
    """A node in which parameters meet samples.

    Attributes:
        node: The node.
        key: What it looks like from below.
        layout: How the samples lie in its first output.
        operands: Its free operands by their place among all, and the places of the parameters in each.
    """

    node: Node
    key: Key
    layout: Layout
    operands: dict[int, frozenset[int]]

    @property
    def places(self) -> frozenset[int]:
        """Places of all the parameters in it."""
        return frozenset[int]().union(*self.operands.values())


@dataclass(eq=False, slots=True)
class Trace:
    """What a walk through the graph came upon.

    Attributes:
        nodes: The number of each free node and ``None`` for the others; operands come before what is made of them.
        leaves: The parameters' leaves, and their places.
        junctions: The junctions.
        unknown: Places of parameters in nodes of which nothing was learned yet.
        outside: The nodes on which no output with samples depends, and the places of the parameters in each.
    """

    nodes: dict[Node, int | None] = field(default_factory=dict)
    leaves: dict[Node, int] = field(default_factory=dict)
    junctions: list[Junction] = field(default_factory=list)
    unknown: set[int] = field(default_factory=set)
    outside: list[tuple[Node, frozenset[int]]] = field(default_factory=list)


class Tracer:
    """Walks through graphs, and remembers what was learned of their nodes.

    Args:
        model: The model.
        table: Its parameters.
        claimed: Places of parameters that are heard of in another way.

    Attributes:
        doubtful: Kinds of nodes whose layout is not certain, and the batches for which it makes no difference: how many
            samples, and the shape of the node's output.
    """

    def __init__(self, model: nn.Module, table: ParameterTable, claimed: Collection[int] = ()) -> None:
        self._table = table
        self._places = {id(p): place for place, p in enumerate(table.parameters) if place not in claimed}
        self._recurrent = {
            place for place, name in enumerate(table.layers) if isinstance(model.get_submodule(name), nn.RNNBase)
        }
        self._numbers: dict[Key, int] = {}
        self._below = [frozenset({place}) for place in range(len(table.names))]
        self._learned: dict[Key, Learned] = {}
        self.doubtful: dict[Key, set[tuple[int, torch.Size]]] = {}
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
        keys: dict[Any, int | None] = {None: None}  # constant operands have no node
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
                    keys[node] = self._number(key)
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

    def _number(self, key: Key) -> int:
        """The number of a kind of free node; those of the leaves are their places."""
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._below)
            self._below.append(self._places_of(key))
        return number

    def _places_of(self, key: Key) -> frozenset[int]:
        """Places of the parameters in a kind of node."""
        return frozenset[int]().union(*[self._below[part] for part in key[1:] if isinstance(part, int)])

    def _meeting(self, node: Node, key: Key, known: "Learned | None", trace: Trace, packings: Sequence[Packed]) -> None:
        """Take down a node with free operands that is not free itself."""
        layout = _packing_of(node, packings) if known == "packed" else known
        if layout == "outside":
            trace.outside.append((node, self._places_of(key)))
        elif isinstance(layout, Layout):
            free = {place: self._below[part] for place, part in enumerate(key[1:]) if isinstance(part, int)}
            trace.junctions.append(Junction(node, key, layout, free))
        else:
            trace.unknown |= self._places_of(key)

    def is_uncertain(self, trace: Trace, num_samples: int) -> bool:
        """Whether a layout was taken over from other batches, in which it could not be told from another one."""
        for junction in trace.junctions if self.doubtful else ():
            settled = self.doubtful.get(junction.key)
            if settled is not None and (num_samples, output_shape(junction.node, 0)) not in settled:
                return True
        return False

    def forget(self, junction: Junction) -> None:
        """Learn a node anew, whose layout turned out to be another."""
        self._learned.pop(junction.key, None)
        self.doubtful.setdefault(junction.key, set())

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
        shapes: dict[Key, torch.Size] = {}
        candidates = self._candidates(trace)
        for number, mask in enumerate(masks(num_samples, self._generator)):
            found = masked_pass(trace.nodes, candidates, outputs, mask, packings, self._generator)
            if problem := self._take_in(trace, found, layouts, shapes):
                return problem
            # Each sample must have been sent and not sent: one half alone would not show that rows are uneven.
            if number % 2 and not any(self._choice(key, fitting) is None for key, fitting in layouts.items()):
                break
        return self._conclude(layouts, shapes, num_samples)

    def _candidates(self, trace: Trace) -> set[Node]:
        """The nodes that may turn out to have free operands."""
        below: dict[Node, int | None] = {}  # of nodes that may be free
        candidates: set[Node] = set()
        for node in trace.nodes:
            operands = node.next_functions
            below[node] = trace.leaves.get(node) if not operands else None
            key = _look(node, operands, below) if operands else None
            if key is not None:
                candidates.add(node)
                has_samples = any(child is not None and below[child] is None for child, _ in operands)
                below[node] = self._number(key) if not has_samples and self._may_be_free(node, key) else None
        return candidates

    def _take_in(
        self,
        trace: Trace,
        found: Mapping[Node, Fitting | None],
        layouts: dict[Key, Fitting],
        shapes: dict[Key, torch.Size],
    ) -> str:
        """Take in what a masked pass says of the nodes; why samples cannot be told apart, or an empty string."""
        keys: dict[Node, int | None] = {}
        for node in trace.nodes:
            operands = node.next_functions
            keys[node] = trace.leaves.get(node) if not operands else None
            key = _look(node, operands, keys) if operands else None
            if key is None:
                continue
            if self._learned.get(key) == "free":
                keys[node] = self._number(key)
            elif node not in found:
                self._learned.setdefault(key, "outside")
            elif fitting := found[node]:
                layouts[key] = fitting & layouts.get(key, fitting)
                shapes[key] = output_shape(node, 0)
            elif fitting is not None:
                has_samples = any(child is not None and keys[child] is None for child, _ in operands)
                if has_samples or not self._may_be_free(node, key):
                    return f'samples are mixed between parameter "{self._names(key)[0]}" and the output'
                keys[node] = self._number(key)
                self._learned[key] = "free"
        return ""

    def _choice(self, key: Key, fitting: Fitting) -> "Learned | None":
        """The one of the layouts that fit which is to be taken, if there is no doubt."""
        folded = [layout for layout in fitting if isinstance(layout, Folded)]
        if len(folded) < len(fitting) and self._places_of(key) <= self._recurrent:
            return "packed"
        if len({layout.axis for layout in folded}) > 1:
            return None
        certain = [layout for layout in folded if layout.is_single] or folded
        return certain[0] if len(certain) == 1 else None

    def _conclude(self, layouts: Mapping[Key, Fitting], shapes: Mapping[Key, torch.Size], num_samples: int) -> str:
        """Take over the layouts that all nodes of a kind allow.

        Layouts between which all the masks could not decide put every sample's traces in the same place, so that for
        this batch one is as good as the other; for the next batch that is to be found out again.

        Args:
            layouts: What was found, by kind of node.
            shapes: Shape of the outputs of each kind.
            num_samples: Samples B.

        Returns:
            Why there is no layout for one of them, or an empty string.
        """
        for key, fitting in layouts.items():
            choice = self._choice(key, fitting)
            folded = [layout for layout in fitting if isinstance(layout, Folded)]
            if choice is None and not folded:
                return f'the samples lie differently in the uses of parameter "{self._names(key)[0]}"'
            if choice is not None:
                self.doubtful.pop(key, None)
            else:
                self.doubtful.setdefault(key, set()).add((num_samples, shapes[key]))
                choice = min(folded, key=lambda layout: (layout.axis, layout.is_inner))
            self._learned[key] = choice
        return ""

    def _may_be_free(self, node: Node, key: Key) -> bool:
        """Whether an operation is plausible without samples: a layer is not, but of parameters alone (`a @ b`)."""
        # An operand without a node is a constant, which may well be the data.
        may_have_data = any(child is None for child, _ in node.next_functions)
        is_layer = node.name() in _LAYERS and may_have_data
        return not is_layer or all(".parametrizations." in f".{name}" for name in self._names(key))

    def _names(self, key: Key) -> list[str]:
        """Names of the parameters below a node."""
        return [self._table.names[place] for place in sorted(self._places_of(key))]


def _packing_of(node: Node, packings: Sequence[Packed]) -> Packed | None:
    """The one packing that fits a node's output; ``None`` if none does, or it cannot be told which."""
    fitting = [packing for packing in packings if packing.holds(output_shape(node, 0)[0])]
    return fitting[0] if len(fitting) == 1 else None


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


def _look(node: Node, operands: Operands, keys: Mapping[Node, int | None]) -> Key | None:
    """The key that the node has if it is free or a junction; ``None`` if no operand is free."""
    below = [None if child is None else keys[child] for child, _ in operands]
    if below.count(None) == len(below):
        return None
    return (node.name(), *below)
