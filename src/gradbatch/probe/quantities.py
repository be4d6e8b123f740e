"""The names of what a probe can measure."""

from collections.abc import Iterable

from gradbatch._types import QUANTITIES, STRIDE_QUANTITIES
from gradbatch.errors import InvalidInputError

__all__ = ["BY_LAYERS", "ELEMENTWISE", "PRECONDITIONED", "checked", "stride_of"]

PRECONDITIONED = frozenset({"preconditioned_variance", "preconditioned_sqnorm", "descent_variance", "descent_sqnorm"})
"""What weighs each number of the gradient by what the optimizer knows of it."""

ELEMENTWISE = PRECONDITIONED | {"diagonal_projection_variance"}
"""What takes elementwise second moments."""

BY_LAYERS = ELEMENTWISE | {"projection_variance", "position_sqnorm"}
"""What cannot be estimated from pieces of a batch (``chunks``); beside it, all of strides."""

_MEASURED = frozenset(QUANTITIES) | {"layers", "groups"}


def checked(quantities: Iterable[str]) -> frozenset[str]:
    """The names, if all of them but those of strides can be measured.

    Args:
        quantities: The names.

    Returns:
        Each once.

    Raises:
        InvalidInputError: If one is unknown, or they ask for parts and for nothing in them.
    """
    if isinstance(quantities, str):
        raise InvalidInputError(f'`quantities` must be a set of names, got "{quantities}": write {{"{quantities}"}}')
    names = frozenset(quantities)
    plain = {name for name in names if ":" not in name}
    if names and names <= {"layers", "groups"}:
        raise InvalidInputError(
            f"`quantities` {sorted(names)} ask for parts and for nothing in them: add a quantity such as sample_sqnorm"
        )
    if unknown := sorted(plain - _MEASURED):
        known = [*sorted(_MEASURED), *(f"{name}:<size>" for name in STRIDE_QUANTITIES)]
        raise InvalidInputError(f'quantity "{unknown[0]}" is unknown: choose from {", ".join(known)}')
    return names


def stride_of(names: frozenset[str]) -> int:
    """Samples in the strides that are asked for.

    Args:
        names: Names of quantities.

    Returns:
        Their number, 0 if no strides are asked for.

    Raises:
        InvalidInputError: If a quantity of strides is unknown, or they are asked for in two sizes.
    """
    asked = [name.split(":", 1) for name in names if ":" in name]
    sizes = {size for _, size in asked}
    for name, size in asked:
        if name not in STRIDE_QUANTITIES or not size.isdecimal() or int(size) < 1:
            raise InvalidInputError(f'quantity "{name}:{size}" is unknown: ask for "stride_gram:16", say')
    if len(sizes) > 1:
        raise InvalidInputError(
            f"strides of {' and '.join(sorted(sizes, key=int))} samples are asked for at once: give all rules one size"
        )
    return int(sizes.pop()) if sizes else 0
