"""How good a model is on a split."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from gradbatch.experiments.tasks import Dataset, Split

__all__ = ["Evaluation", "evaluate", "evaluate_splits"]

_BATCH_SIZE = 1000
"""Samples; bounds the memory of an evaluation."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Mean loss and share of right answers.

    Attributes:
        loss: Mean cross-entropy, in nats.
        accuracy: Share of samples whose class got the largest output, in [0, 1].
    """

    loss: float
    accuracy: float


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, device: str) -> Evaluation:
    """Evaluate in eval mode and leave every module in the mode it was found in.

    Args:
        model: From inputs to one output per class.
        split: Where to evaluate.
        device: Where the model is.

    Returns:
        Exact means over the split.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        loss_sum = torch.zeros((), dtype=torch.float64)
        num_right = 0
        batches = zip(split.inputs.split(_BATCH_SIZE), split.targets.split(_BATCH_SIZE), strict=True)
        for inputs, targets in batches:
            outputs, wanted = model(inputs.to(device)), targets.to(device)
            loss_sum += F.cross_entropy(outputs, wanted, reduction="sum").cpu()
            num_right += int((outputs.argmax(dim=1) == wanted).sum())
    finally:
        for module, mode in modes:
            module.training = mode
    num_samples = len(split.targets)
    return Evaluation(loss=loss_sum.item() / num_samples, accuracy=num_right / num_samples)


def evaluate_splits(model: nn.Module, data: Dataset, device: str) -> dict[str, float | None]:
    """Evaluate on the test set, and on the validation set where there is one.

    Args:
        model: From inputs to one output per class.
        data: The splits.
        device: Where the model is.

    Returns:
        ``"test_loss"``, ``"test_accuracy"``, the same for validation; ``None`` for a loss that is not finite.
    """
    results: dict[str, float | None] = {}
    for name, split in (("test", data.test), ("validation", data.validation)):
        if split is not None:
            evaluation = evaluate(model, split, device)
            results[f"{name}_loss"] = evaluation.loss if math.isfinite(evaluation.loss) else None
            results[f"{name}_accuracy"] = evaluation.accuracy
    return results
