r"""The closed form for ``nn.Linear``.

Letters: B samples, T positions (all axes between the first and the last), I inputs, O outputs. With activations
$a$ [B, T, I] and output gradients $b$ [B, T, O] the gradient of sample $i$ is
$g_i = \sum_t b_{it} a_{it}^\top$ for the weight [O, I] and $\sum_t b_{it}$ for the bias [O].
"""

import torch
from torch import Tensor, nn

from gradbatch.probe.formulas import Formula, register_formula

__all__ = ["MAX_INSTANTIATED"]

MAX_INSTANTIATED = 2**24
"""Most numbers (64 MiB in float32) of per-sample gradients, or of Gram matrices, that exist at a time."""


def linear_norms(layer: nn.Module, activations: Tensor, output_grads: Tensor) -> dict[str, Tensor]:
    r"""Norms of the per-sample gradients, [B] for each trainable parameter.

    One position: $\|g_i\| = \|a_i\|\,\|b_i\|$, and no per-sample gradient is ever built. Several positions:
    $\|g_i\|^2 = \sum_{s,t} (a_{is}\cdot a_{it})(b_{is}\cdot b_{it})$ from two Gram matrices [T, T], or from the
    gradient [O, I] itself where that is smaller.
    """
    names = [name for name, parameter in layer.named_parameters(recurse=False) if parameter.requires_grad]
    a, b = _positions(activations), _positions(output_grads)
    if a.shape[1] == 1:
        b_norms = torch.linalg.vector_norm(b, dim=(1, 2))
        norms = {"bias": b_norms}
        if "weight" in names:
            norms["weight"] = torch.linalg.vector_norm(a, dim=(1, 2)) * b_norms
    else:
        norms = {"bias": torch.linalg.vector_norm(b.sum(1), dim=1)}
        if "weight" in names:
            norms["weight"] = _weight_norms(a, b)
    return {name: norms[name] for name in names}


def linear_grad_sum(layer: nn.Module, activations: Tensor, output_grads: Tensor) -> dict[str, Tensor]:
    """Sum of the per-sample gradients: [O, I] for the weight, [O] for the bias."""
    a, b = _positions(activations).flatten(0, 1), _positions(output_grads).flatten(0, 1)
    sums = {"weight": b.mT @ a, "bias": b.sum(0)}
    return {n: sums[n] for n, parameter in layer.named_parameters(recurse=False) if parameter.requires_grad}


def _positions(tensor: Tensor) -> Tensor:
    """The tensor as [B, T, features], in at least single precision."""
    tensor = tensor.reshape(len(tensor), -1, tensor.shape[-1])
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _weight_norms(a: Tensor, b: Tensor) -> Tensor:
    """Norms [B] of the weight's per-sample gradients, the cheaper way, a bounded number of samples at a time."""
    positions, inputs, outputs = a.shape[1], a.shape[2], b.shape[2]
    # Multiplications per sample: T^2 (I + O) for the two Gram matrices, T I O for the gradient itself.
    by_gram = positions * (inputs + outputs) <= inputs * outputs
    size = max(1, MAX_INSTANTIATED // (2 * positions**2 if by_gram else inputs * outputs))
    pieces = zip(a.split(size), b.split(size), strict=True)
    return torch.cat([_gram_norms(x, y) if by_gram else _direct_norms(x, y) for x, y in pieces])


def _gram_norms(a: Tensor, b: Tensor) -> Tensor:
    # Rounding may leave a vanishing norm just below zero.
    return torch.linalg.vecdot((a @ a.mT).flatten(1), (b @ b.mT).flatten(1)).clamp(min=0).sqrt()


def _direct_norms(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vector_norm(b.mT @ a, dim=(1, 2))


register_formula(nn.Linear, Formula(norms=linear_norms, grad_sum=linear_grad_sum))
