"""Parameters that are added to the samples, scale them, or are repeated for each.

Other elementwise operations need no function: `gradbatch.probe.operations.any_operation` takes them whole. So it does
with complex samples, whose backward knows whether the parameter is complex, too.
"""

from gradbatch.probe.forms import Dense, PerSample, Rows
from gradbatch.probe.layout import Folded
from gradbatch.probe.nodes import saved
from gradbatch.probe.operations import Call, any_operation, operation, reduced

__all__ = ["addition", "elementwise_product", "expansion", "repetition"]


@operation("AddBackward0")
def addition(call: Call) -> dict[int, PerSample]:
    """An addend."""
    if call.grad.is_complex():
        return any_operation(call)
    forms: dict[int, PerSample] = {}
    for place in call.operands:
        scale = saved(call.node, "alpha") if place == 1 else 1
        forms[place] = reduced(call, call.grad if scale == 1 else call.grad * scale, call.shape(place))
    return forms


@operation("MulBackward0")
def elementwise_product(call: Call) -> dict[int, PerSample]:
    """A factor."""
    if call.grad.is_complex():
        return any_operation(call)
    names = {0: "other", 1: "self"}
    return {place: reduced(call, call.grad * call.saved(names[place]), call.shape(place)) for place in call.operands}


@operation("ExpandBackward0")
def expansion(call: Call) -> dict[int, PerSample]:
    """A parameter that each sample sees."""
    return {0: reduced(call, call.grad, call.shape(0))}


@operation("RepeatBackward0")
def repetition(call: Call) -> dict[int, PerSample]:
    """A parameter tiled once for each sample, as a class token or an instance norm's scale, perhaps along more axes."""
    shape, grad = call.shape(0), call.by_sample(call.grad)
    full = [1] * (call.grad.dim() - len(shape)) + list(shape)
    size = full.pop(call.axis)
    if grad.dim() == call.grad.dim():
        grad = grad[:, None]  # one position
    is_tiled = isinstance(call.layout, Folded) and not call.layout.is_inner and grad.shape[1] % size == 0
    if size > 1 and not is_tiled:
        return any_operation(call)
    for axis, numbers in enumerate([size, *full], start=1):
        if grad.shape[axis] != numbers:
            grad = grad.unflatten(axis, (-1, numbers)).sum(axis)
    return {0: Dense(Rows(grad.movedim(1, 1 + call.axis).reshape(len(grad), -1)), shape)}
