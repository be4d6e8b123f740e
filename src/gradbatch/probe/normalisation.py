r"""Scales and shifts of normalisation layers.

Letters: N images or vectors, C channels, T pixels; $a$ the input, $\hat a$ the normalised one, $b$ the output gradient.
"""

from torch import Tensor

from gradbatch.probe.forms import PerSample
from gradbatch.probe.nodes import UnknownOperationError
from gradbatch.probe.operations import Call, operation, reduced

__all__ = ["batch_norm", "group_norm", "layer_norm", "rms_norm"]


@operation("NativeLayerNormBackward0")
def layer_norm(call: Call) -> dict[int, PerSample]:
    r"""Scale $\sum_t b_t\circ\hat a_t$ and shift $\sum_t b_t$ of a layer norm."""
    forms: dict[int, PerSample] = {}
    if 1 in call.operands:
        normalised = (call.saved("input") - call.saved("result1")) * call.saved("result2")
        forms[1] = reduced(call, normalised.mul_(call.grad), call.shape(1))
    if 2 in call.operands:
        forms[2] = reduced(call, call.grad, call.shape(2))
    return forms


@operation("FusedRmsNormBackward0")
def rms_norm(call: Call) -> dict[int, PerSample]:
    r"""Scale $\sum_t b_t\circ\hat a_t$ of a root-mean-square norm."""
    normalised = call.saved("input") * call.saved("result1")
    return {1: reduced(call, normalised.mul_(call.grad), call.shape(1))}


@operation("NativeGroupNormBackward0")
def group_norm(call: Call) -> dict[int, PerSample]:
    """Scale and shift of a group norm."""
    if 1 not in call.operands:
        return _by_channel(call)
    size = call.grad.shape[1] // call.saved("group")
    return _by_channel(call, *(call.saved(name).repeat_interleave(size, 1) for name in ("result1", "result2")))


@operation("NativeBatchNormBackward0", "CudnnBatchNormBackward0")
def batch_norm(call: Call) -> dict[int, PerSample]:
    """Scale and shift of a batch norm in evaluation, which normalises by what it remembers."""
    if call.node.name() != "NativeBatchNormBackward0" or call.saved("training"):
        raise UnknownOperationError("a batch norm in training mixes samples")
    if 1 not in call.operands:
        return _by_channel(call)
    return _by_channel(call, call.saved("running_mean"), (call.saved("running_var") + call.saved("eps")).rsqrt())


def _by_channel(call: Call, mean: Tensor | None = None, scale: Tensor | None = None) -> dict[int, PerSample]:
    r"""Scale $\sum_t b_t\circ\hat a_t$ and shift $\sum_t b_t$ of a norm over images.

    Args:
        call: The operation.
        mean: What was taken off each channel, [N, C] or [C], if the scale is asked for.
        scale: What the rest was multiplied by to give $\hat a$, likewise.

    Returns:
        The gradients of each operand asked for, by its place.
    """
    grad = call.grad.flatten(2) if call.grad.dim() > 2 else call.grad[..., None]  # [N, C, T]
    forms: dict[int, PerSample] = {}
    sums = grad.mT if call.by_position else grad.sum(2)
    if mean is not None and scale is not None:
        a = call.saved("input").reshape(grad.shape)
        if call.by_position:
            products = ((a - mean[..., None]) * scale[..., None] * grad).mT
        else:  # from sums over the pixels, so that the normalised input is not built
            products = ((a * grad).sum(2) - mean * sums) * scale
        forms[1] = reduced(call, products, call.shape(1))
    if 2 in call.operands:
        forms[2] = reduced(call, sums, call.shape(2))
    return forms
