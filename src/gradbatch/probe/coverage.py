"""Which layers of a model have a formula, and why a model as a whole is or is not covered."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gradbatch.errors import InvalidInputError
from gradbatch.probe.formulas import FORMULAS, Formula

__all__ = ["CoveredLayer", "ParameterTable", "covered_layers", "parameter_table", "why_not_covered"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class CoveredLayer:
    """A layer with a formula.

    Attributes:
        name: Qualified name in the model.
        module: The layer.
        formula: Its formula.
        indices: Its trainable parameters' own names, and their places in the `ParameterTable`.
        first: The first of those places.
    """

    name: str
    module: nn.Module
    formula: Formula
    indices: dict[str, int]
    first: int


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


def covered_layers(model: nn.Module, table: ParameterTable) -> tuple[CoveredLayer, ...]:
    """The layers with a formula that own parameters of the table."""
    places = {parameter: place for place, parameter in enumerate(table.parameters)}
    layers = []
    for name, module in model.named_modules():
        formula = FORMULAS.get(type(module))
        own = module.named_parameters(recurse=False)
        indices = {own_name: places[p] for own_name, p in own if p in places}
        if formula is not None and indices and indices.keys() <= formula.parameters:
            first = min(indices.values())
            layers.append(CoveredLayer(name=name, module=module, formula=formula, indices=indices, first=first))
    return tuple(layers)


def why_not_covered(model: nn.Module, table: ParameterTable, layers: Sequence[CoveredLayer]) -> str | None:
    """The reason why closed forms would be wrong or incomplete on this model, or ``None``."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            return (
                f'layer "{name}" ({type(module).__name__}) mixes samples, so that per-sample gradients are '
                "undefined; GroupNorm or LayerNorm in its place would not"
            )
    owners = [place for layer in layers for place in layer.indices.values()]
    for place, name in enumerate(table.names):
        if owners.count(place) > 1:
            return f'parameter "{name}" is shared between layers'
        if place not in owners:
            owner = model.get_submodule(table.layers[place])
            return f'parameter "{name}" belongs to a {type(owner).__name__}, for which there is no closed form'
    return None
