"""The parameters under observation, and what in a model rules per-sample gradients out."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gradbatch.errors import InvalidInputError

__all__ = ["ParameterTable", "parameter_table", "why_not_by_samples"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterTable:
    """The trainable parameters under observation, in the model's order, each named once.

    Attributes:
        names: Qualified name of each parameter.
        parameters: The parameters.
        layers: Qualified name of the module that owns each.
        groups: Index of the group that each belongs to.
        num_groups: Number of groups, those without a parameter of the model included.
    """

    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]
    layers: tuple[str, ...]
    groups: tuple[int, ...]
    num_groups: int


def parameter_table(model: nn.Module, groups: Sequence[Sequence[nn.Parameter]] | None) -> ParameterTable:
    """The table of a model's trainable parameters.

    Args:
        model: The model.
        groups: Parameters to observe, in groups; by default all trainable ones in one group.

    Returns:
        The table.

    Raises:
        InvalidInputError: If there is nothing to observe.
    """
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if groups is None:
        groups = [[p for _, p in trainable]]
    group_of = {parameter: g for g, group in enumerate(groups) for parameter in group}
    trainable = [(name, p) for name, p in trainable if p in group_of]
    if not trainable:
        raise InvalidInputError(
            "`model` has no trainable parameters to observe: give it parameters with requires_grad=True, "
            "and give those to the optimizer"
        )
    return ParameterTable(
        names=tuple(name for name, _ in trainable),
        parameters=tuple(p for _, p in trainable),
        layers=tuple(name.rpartition(".")[0] for name, _ in trainable),
        groups=tuple(group_of[p] for _, p in trainable),
        num_groups=len(groups),
    )


def why_not_by_samples(model: nn.Module) -> str:
    """Why a model has no per-sample gradients that can be measured, or an empty string."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            return (
                f'layer "{name}" ({type(module).__name__}) mixes samples, so that per-sample gradients are '
                "undefined; GroupNorm or LayerNorm in its place would not"
            )
    for name, parameter in model.named_parameters():
        if parameter.is_complex():
            return f'parameter "{name}" is complex, and per-sample gradients are measured for real ones'
    return ""
