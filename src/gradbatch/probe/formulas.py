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

    With activations $a$ [B, ...] and output gradients $b=\partial\sum_i\ell_i/\partial y$ [B, ...], samples along
    the leading axis:

    Attributes:
        sqnorm_sums: Sums over samples of the squared norms, $\sum_i\|g_i\|^2$, 0-dim for each parameter, in at
            least single precision.
        grad_sum: Sum of the per-sample gradients $\sum_i g_i$, in the shape of each parameter. The engine
            compares it with autograd's own gradient at the first batches.
    """

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
