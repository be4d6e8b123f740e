"""How good a model is on a split."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradbatch.experiments.data import Dataset, Split
from gradbatch.experiments.metrics import ACCURACY, Metric, Outcome

__all__ = ["Evaluation", "cross_entropy", "evaluate", "evaluate_splits"]

_BATCH_SIZE = 1000
"""Samples; bounds the memory of an evaluation."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How good a model was.

    Attributes:
        loss: Mean cross-entropy, in nats.
        accuracy: Share of targets whose class got the largest output, in [0, 1].
        score: What the metric says.
    """

    loss: float
    accuracy: float
    score: float


def cross_entropy(outputs: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    """Cross-entropy of classes, one a sample or one a token.

    Args:
        outputs: [N, C] or [N, T, C].
        targets: [N] or [N, T].
        reduction: ``"mean"`` or ``"sum"``, over all targets. As all samples have the same number of targets, the mean
            is also the mean over samples that the gradient statistics need.

    Returns:
        The loss, in nats.
    """
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction=reduction)


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, device: str, metric: Metric = ACCURACY) -> Evaluation:
    """Evaluate in eval mode and leave every module in the mode it was found in.

    Args:
        model: From inputs to one output per class, [N, C] or [N, T, C].
        split: Where to evaluate.
        device: Where the model is.
        metric: What the score is.

    Returns:
        Exact means over the split.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        loss_sum = torch.zeros((), dtype=torch.float64)
        predictions = []
        batches = zip(split.inputs.split(_BATCH_SIZE), split.targets.split(_BATCH_SIZE), strict=True)
        for inputs, targets in batches:
            outputs = model(inputs.to(device))
            loss_sum += cross_entropy(outputs, targets.to(device), reduction="sum").cpu()
            predictions.append(outputs.argmax(dim=-1).cpu())
    finally:
        for module, mode in modes:
            module.training = mode
    outcome = Outcome(
        loss=loss_sum.item() / split.targets.numel(), predictions=torch.cat(predictions), targets=split.targets.cpu()
    )
    return Evaluation(loss=outcome.loss, accuracy=ACCURACY.of(outcome), score=metric.of(outcome))


def evaluate_splits(
    model: nn.Module, data: Dataset, device: str, metric: Metric = ACCURACY, *, with_train: bool = False
) -> dict[str, float | None]:
    """Evaluate on the test set, and on the validation set where there is one.

    Args:
        model: From inputs to one output per class.
        data: The splits.
        device: Where the model is.
        metric: What the score is.
        with_train: Whether to evaluate on the training set, too.

    Returns:
        ``"test_loss"``, ``"test_accuracy"``, ``"test_score"`` and the same for validation and training set; ``None``
        for a number that is not finite.
    """
    splits = {"test": data.test, "validation": data.validation, "train": data.train if with_train else None}
    results: dict[str, float | None] = {}
    for name, split in splits.items():
        if split is not None:
            evaluation = evaluate(model, split, device, metric)
            results[f"{name}_loss"] = _finite(evaluation.loss)
            results[f"{name}_accuracy"] = evaluation.accuracy
            results[f"{name}_score"] = _finite(evaluation.score)
    return results


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
