r"""The closed form for ``nn.Linear``.

Letters: B samples, T positions (all axes between the first and the last), I inputs, O outputs. With activations
$a$ [B, T, I] and output gradients $b$ [B, T, O] the gradient of sample $i$ is
$g_i = \sum_t b_{it} a_{it}^\top$ for the weight [O, I] and $\sum_t b_{it}$ for the bias [O].
"""

import torch
from torch import Tensor, nn
from torch.linalg import vecdot, vector_norm

from gradbatch.probe.formulas import Formula, register_formula

__all__ = ["MAX_INSTANTIATED", "linear_grad_sum", "linear_sqnorm_sums"]

MAX_INSTANTIATED = 2**24
"""Most numbers (64 MiB in float32) of per-sample gradients, or of Gram matrices, that exist at a time."""


def linear_sqnorm_sums(layer: nn.Module, activations: Tensor, output_grads: Tensor) -> dict[str, Tensor]:
    r"""Sums $\sum_i\|g_i\|^2$ for the trainable parameters.

    One position: $\|g_i\| = \|a_i\|\,\|b_i\|$, and no per-sample gradient is ever built. Several positions:
    $\|g_i\|^2 = \sum_{s,t} (a_{is}\cdot a_{it})(b_{is}\cdot b_{it})$ from two Gram matrices [T, T], or from the
    gradient [O, I] itself where that is smaller.

    Args:
        layer: The ``nn.Linear``.
        activations: What it was given, [B, ..., I].
        output_grads: Gradient of what it returned, [B, ..., O].

    Returns:
        The sums by parameter name, 0-dim, without those of frozen parameters.
    """
    a, b = _at_least_single(activations), _at_least_single(output_grads)
    if a.dim() > 2:
        a, b = a.flatten(1, -2), b.flatten(1, -2)
    b_norms = vector_norm(b if b.dim() == 2 else b.sum(1), dim=1)
    sums = {"bias": torch.dot(b_norms, b_norms)} if _is_trainable(layer, "bias") else {}
    if _is_trainable(layer, "weight"):
        norms = vector_norm(a, dim=1) * b_norms if a.dim() == 2 else _weight_norms(a, b)
        sums["weight"] = torch.dot(norms, norms)
    return sums


def linear_grad_sum(layer: nn.Module, activations: Tensor, output_grads: Tensor) -> dict[str, Tensor]:
    """Sum of the per-sample gradients: [O, I] for the weight, [O] for the bias."""
    a, b = activations.flatten(0, -2), output_grads.flatten(0, -2)
    sums = {"bias": b.sum(0)} if _is_trainable(layer, "bias") else {}
    if _is_trainable(layer, "weight"):
        sums["weight"] = b.mT @ a.to(b.dtype)
    return sums


def _is_trainable(layer: nn.Module, name: str) -> bool:
    """Whether the layer has that parameter and it is not frozen."""
    parameter = layer._parameters[name]  # where getattr would look after failing elsewhere, at each step
    return parameter is not None and parameter.requires_grad


def _at_least_single(tensor: Tensor) -> Tensor:
    """The tensor, in single precision where it came in half."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _weight_norms(a: Tensor, b: Tensor) -> Tensor:
    """Norms [B] of the weight's per-sample gradients, the cheaper way, in bounded pieces."""
    positions, inputs, outputs = a.shape[1], a.shape[2], b.shape[2]
    # Multiplications per sample: T^2 (I + O) for the two Gram matrices, T I O for the gradient itself.
    by_gram = positions * (inputs + outputs) <= inputs * outputs
    size = max(1, MAX_INSTANTIATED // (2 * positions**2 if by_gram else inputs * outputs))
    pieces = zip(a.split(size), b.split(size), strict=True)
    return torch.cat([_gram_norms(x, y) if by_gram else vector_norm(y.mT @ x, dim=(1, 2)) for x, y in pieces])


def _gram_norms(a: Tensor, b: Tensor) -> Tensor:
    # Rounding may leave a vanishing squared norm just below zero.
    return vecdot((a @ a.mT).flatten(1), (b @ b.mT).flatten(1)).clamp(min=0).sqrt()


register_formula(
    nn.Linear,
    Formula(parameters=frozenset({"weight", "bias"}), sqnorm_sums=linear_sqnorm_sums, grad_sum=linear_grad_sum),
)
