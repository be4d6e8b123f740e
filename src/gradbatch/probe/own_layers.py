"""Layers whose per-sample gradients their author supplies, such as one with a backward of its own kernel."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from gradbatch.errors import InvalidInputError

__all__ = ["FORMULAS", "OWN_FORMULA", "Formula", "register_formula"]

Formula = Callable[[nn.Module, tuple[Any, ...], Tensor], Mapping[str, Tensor]]
"""``(layer, inputs, output_grads) -> {parameter's name: per-sample gradients [B, *shape]}``."""

FORMULAS: dict[type[nn.Module], Formula] = {}
"""The formulas by type of layer, which must match exactly: a subclass may compute something else."""

OWN_FORMULA = "by the formula registered for the layer"
"""How the gradients of such a layer were come by, for the log."""


def register_formula(layer_type: type[nn.Module]) -> Callable[[Formula], Formula]:
    r"""Teach the engine a layer whose operations autograd's graph does not show.

    Most layers need no formula: what they are made of is known. One whose backward is written by hand (an
    ``autograd.Function``) does. The formula is given the layer, the positional inputs of its forward, and the
    gradient of its one output [B, ...]; it returns, for each parameter that the layer itself owns, the gradients
    [B, \*shape] of the samples' shares of what was sent backward.

    Args:
        layer_type: The module's class.

    Returns:
        A decorator for the formula.

    Raises:
        InvalidInputError: If ``layer_type`` is no class of modules.

    Example:
        >>> import torch
        >>> class Scale(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.factor = nn.Parameter(torch.ones(3))
        ...
        ...     def forward(self, x):
        ...         return self.factor * x
        >>> @register_formula(Scale)
        ... def scale(layer, inputs, output_grads):
        ...     return {"factor": output_grads * inputs[0]}
    """
    if not (isinstance(layer_type, type) and issubclass(layer_type, nn.Module)):
        raise InvalidInputError(
            f"`layer_type` must be a class of modules, as in @register_formula(MyLayer), got {layer_type!r}"
        )

    def enter(formula: Formula) -> Formula:
        FORMULAS[layer_type] = formula
        return formula

    return enter
