r"""The fused LSTM layer of torch's CPU kernels, whose gates' gradients autograd does not show.

Everywhere else torch runs a recurrent layer step by step, and each step's products are operations of the graph. Here
one layer in one direction is a single operation. Its gates are computed again from its saved input and output (all
hidden states are known, so that this is two large products and a recurrence of cell states), and their gradients by
back-propagation through time. Dropout lies between the layers, not within them.

Letters: T steps, B samples, I inputs, H hidden units. Gates in torch's order: input, forget, cell, output.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradbatch.probe.forms import Dense, OuterSum, PerSample, Rows
from gradbatch.probe.nodes import UnknownOperationError
from gradbatch.probe.operations import Call, operation

__all__ = ["fused_lstm_layer"]

_LSTM = 2
"""Number of the mode; torch fuses no other."""


@operation("MkldnnRnnLayerBackward0")
def fused_lstm_layer(call: Call) -> dict[int, PerSample]:
    r"""Weights $\sum_t d_t a_t^\top$, $\sum_t d_t h_{t-1}^\top$ and biases $\sum_t d_t$, $d$ the gates' gradients."""
    if call.saved("mode") != _LSTM:
        raise UnknownOperationError("MkldnnRnnLayerBackward0 runs something other than an LSTM")
    layer = _Layer.of(call)
    gates = _gate_grads(layer, *call.grads[:3])
    by_sample = gates.transpose(0, 1)[: call.count]  # [B, T, 4 H]
    forms: dict[int, PerSample] = {}
    for place in call.operands:
        if place > 2:
            forms[place] = Dense(Rows(by_sample.sum(1)), call.shape(place))
        else:
            right = (layer.inputs if place == 1 else layer.before).transpose(0, 1)[: call.count]
            forms[place] = OuterSum(by_sample[:, None], right[:, None], call.shape(place))
    return forms


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer in one direction, its steps in the order in which they were taken.

    Attributes:
        inputs: Its input, [T, B, I].
        before: Hidden state before each step, [T, B, H].
        cell: Cell state before the first step, [B, H].
        recurrent: Weight of the hidden state, [4 H, H].
        gates: The gates before their nonlinearities, [T, B, 4 H].
        is_reverse: Whether the steps were taken from the last position to the first.
    """

    inputs: Tensor
    before: Tensor
    cell: Tensor
    recurrent: Tensor
    gates: Tensor
    is_reverse: bool

    @classmethod
    def of(cls, call: Call) -> "_Layer":
        """The layer behind a call."""
        is_reverse = call.saved("reverse")
        inputs, outputs, hidden, cell = (call.saved(name) for name in ("input", "result0", "hx_", "cx_"))
        weight, recurrent, bias, other_bias = (call.saved(f"weight{k}") for k in range(4))
        if is_reverse:
            inputs, outputs = inputs.flip(0), outputs.flip(0)
        before = torch.cat([hidden.reshape(1, *outputs.shape[1:]), outputs[:-1]])
        gates = inputs @ weight.mT + before @ recurrent.mT
        if call.saved("has_biases"):
            gates += bias + other_bias
        return cls(inputs, before, cell.reshape(outputs.shape[1:]), recurrent, gates, is_reverse)


def _gate_grads(layer: _Layer, outputs: Tensor | None, hidden: Tensor | None, cell: Tensor | None) -> Tensor:
    """Gradients of the gates before their nonlinearities, by back-propagation through time.

    Args:
        layer: The layer.
        outputs: Gradient of its output, [T, B, H].
        hidden: Gradient of its last hidden state.
        cell: Gradient of its last cell state.

    Returns:
        The gradients, [T, B, 4 H], in the order of the steps.
    """
    steps, samples, _ = layer.before.shape
    i, f, g, o = layer.gates.unflatten(2, (4, -1)).unbind(2)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    cells = _cell_states(layer.cell, f, i * g)
    before = torch.cat([layer.cell[None], cells[:-1]])
    squashed = cells.tanh()
    # What turns the gradients of the cell and of the hidden state into those of the gates.
    from_cell = torch.stack([g * i * (1 - i), before * f * (1 - f), i * (1 - g * g)], 2)  # [T, B, 3, H]
    from_hidden = squashed * o * (1 - o)
    through = o * (1 - squashed * squashed)
    grads = layer.gates.new_empty(steps, samples, 4, layer.before.shape[2])
    d_cell = cell.reshape(samples, -1) if cell is not None else torch.zeros_like(layer.cell)
    d_later = hidden.reshape(samples, -1) if hidden is not None else torch.zeros_like(layer.cell)
    if outputs is not None and layer.is_reverse:
        outputs = outputs.flip(0)
    for step in range(steps - 1, -1, -1):
        d_hidden = d_later if outputs is None else d_later + outputs[step]
        d_cell = torch.addcmul(d_cell, d_hidden, through[step])
        torch.mul(from_cell[step], d_cell[:, None], out=grads[step, :, :3])
        torch.mul(from_hidden[step], d_hidden, out=grads[step, :, 3])
        d_later = grads[step].flatten(1) @ layer.recurrent
        d_cell = d_cell * f[step]
    return grads.flatten(2)


def _cell_states(first: Tensor, forget: Tensor, added: Tensor) -> Tensor:
    """Cell state after each step, [T, B, H]."""
    states = torch.empty_like(forget)
    last = first
    for step in range(len(forget)):
        last = torch.addcmul(added[step], forget[step], last, out=states[step])
    return states
