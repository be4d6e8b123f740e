"""What the engine must know of a layer type, and the table in which it finds it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

__all__ = ["FORMULAS", "Formula", "register_formula"]

LayerFunction = Callable[[nn.Module, Tensor, Tensor], Mapping[str, Tensor]]
"""``(layer, activations, output_grads) -> {parameter name: value}`` over the layer's trainable parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula:
    r"""How one layer type turns its activations and output gradients into gradient statistics.

    With activations $a$ [B, ...] and gradients $b=\partial L/\partial y$ [B, ...] of what is sent backward in the
    layer's output, samples along the leading axis, $g_i$ is sample $i$'s part of $\partial L/\partial\theta$ (the
    engine undoes the scale of $L$):

    Attributes:
        parameters: Names of the parameters that the formula knows. A layer that owns others (as under the older
            ``spectral_norm``) is not covered.
        sqnorm_sums: Sums over samples of the squared norms, $\sum_i\|g_i\|^2$, 0-dim for each parameter, in at
            least single precision.
        grad_sum: Sum of the per-sample gradients $\sum_i g_i$, in the shape of each parameter. The engine
            compares it with autograd's own gradient at the first batches.
    """

    parameters: frozenset[str]
    sqnorm_sums: LayerFunction
    grad_sum: LayerFunction


FORMULAS: dict[type[nn.Module], Formula] = {}


def register_formula(layer_type: type[nn.Module], formula: Formula) -> None:
    """Teach the engine a layer type.

    The type must match exactly: a subclass may compute something else in its ``forward``, so it is registered
    on its own.

    Args:
        layer_type: The module's class. Its ``forward`` takes one tensor and returns one tensor.
        formula: Its formula.
    """
    FORMULAS[layer_type] = formula
