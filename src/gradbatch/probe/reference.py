"""The slow, obviously right twin of the engine: one full gradient for each sample."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradbatch import estimators
from gradbatch._types import Statistics

__all__ = ["per_sample_gradients", "reference_statistics"]

LossFunction = Callable[[nn.Module, Any], Tensor]
"""``(model, batch of one sample) -> that sample's own loss``."""


def per_sample_gradients(model: nn.Module, loss_function: LossFunction, samples: Sequence[Any]) -> list[list[Tensor]]:
    """The gradient of every sample's own loss, by a loop over single samples.

    Args:
        model: The model. Its ``.grad`` fields are left alone.
        loss_function: ``(model, sample) -> loss``, for a batch that holds one sample.
        samples: Batches of one sample each, B of them.

    Returns:
        For each of the B samples, the gradients of the model's trainable parameters in their order (zeros
        where the loss does not depend on a parameter).
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = []
    for sample in samples:
        grads = torch.autograd.grad(loss_function(model, sample), parameters, materialize_grads=True)
        gradients.append([grad.detach() for grad in grads])
    return gradients


def reference_statistics(gradients: Sequence[Sequence[Tensor]], *, loss: float = float("nan")) -> Statistics:
    """Moments of materialised per-sample gradients, straight from the definitions.

    Args:
        gradients: What `per_sample_gradients` returned, for B samples.
        loss: Mean loss, if the statistics shall carry it.

    Returns:
        Statistics with both second moments and, for two samples or more, the variance and the noise scale.
    """
    rows = torch.stack([torch.cat([grad.double().flatten() for grad in sample]) for sample in gradients])
    moments = Statistics(
        num_samples=len(rows),
        loss=loss,
        grad_sqnorm=rows.mean(0).square().sum().item(),
        sample_sqnorm=rows.square().sum(1).mean().item(),
    )
    if len(rows) < 2:
        return moments
    return Statistics(
        num_samples=moments.num_samples,
        loss=loss,
        grad_sqnorm=moments.grad_sqnorm,
        sample_sqnorm=moments.sample_sqnorm,
        grad_variance=rows.var(0).sum().item(),
        noise_scale=estimators.noise_scale(moments),
    )
