r"""Scales and shifts of normalisation layers.

Letters: N images or vectors, C channels; $a$ the input, $\hat a$ the normalised one, $b$ the output gradient.
"""

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
    """Scale and shift of a group norm, from sums over the pixels [N, C]; the normalised input is not built."""
    grad = call.grad.flatten(2) if call.grad.dim() > 2 else call.grad[..., None]
    sums = grad.sum(2)
    forms: dict[int, PerSample] = {}
    if 1 in call.operands:
        a = call.saved("input").reshape(grad.shape)
        mean, scale = (
            call.saved(name).repeat_interleave(grad.shape[1] // call.saved("group"), 1)
            for name in ("result1", "result2")
        )
        forms[1] = reduced(call, ((a * grad).sum(2) - mean * sums) * scale, call.shape(1))
    if 2 in call.operands:
        forms[2] = reduced(call, sums, call.shape(2))
    return forms


@operation("NativeBatchNormBackward0", "CudnnBatchNormBackward0")
def batch_norm(call: Call) -> dict[int, PerSample]:
    """Scale and shift of a batch norm in evaluation, which normalises by what it remembers."""
    if call.node.name() != "NativeBatchNormBackward0" or call.saved("training"):
        raise UnknownOperationError("a batch norm in training mixes samples")
    grad = call.grad.flatten(2) if call.grad.dim() > 2 else call.grad[..., None]
    sums = grad.sum(2)
    forms: dict[int, PerSample] = {}
    if 1 in call.operands:
        a = call.saved("input").reshape(grad.shape)
        scale = (call.saved("running_var") + call.saved("eps")).rsqrt()
        forms[1] = reduced(call, ((a * grad).sum(2) - call.saved("running_mean") * sums) * scale, call.shape(1))
    if 2 in call.operands:
        forms[2] = reduced(call, sums, call.shape(2))
    return forms
