"""From settings to the objects of a training script."""

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from gradbatch.experiments.data import Dataset
from gradbatch.experiments.models import MODELS
from gradbatch.experiments.settings import TrainSettings
from gradbatch.experiments.tasks import TASKS

__all__ = ["build_model", "build_optimizer", "load_dataset"]


def load_dataset(settings: TrainSettings) -> Dataset:
    """The task's data, with the held-out part, where training wants it.

    Args:
        settings: Resolved.

    Returns:
        The data set; on the device unless workers load it.
    """
    data = TASKS[settings.task].load(settings.data_dir)
    # Held out first, so that a small training set does not go with a small validation set.
    data = data.with_validation(settings.validation, seed=settings.seed)
    if settings.per_class is not None:
        data = data.with_per_class(settings.per_class, seed=settings.seed)
    # Every task so far fits any device, where a batch is cut fastest; workers need it on the CPU.
    return data if settings.num_workers else data.to(settings.device)


def build_model(settings: TrainSettings, data: Dataset) -> nn.Module:
    """The model, its weights drawn from torch's global generator.

    Args:
        settings: Resolved.
        data: What it is for.

    Returns:
        The model on its device.
    """
    assert settings.model is not None
    # Drawn on the CPU and moved, so that a seed means the same weights on every device.
    return MODELS[settings.model](data.input_spec, TASKS[settings.task].num_classes).to(settings.device)


def build_optimizer(settings: TrainSettings, model: nn.Module) -> Optimizer:
    """The optimizer of the settings.

    Args:
        settings: Resolved.
        model: Whose weights it updates.

    Returns:
        A torch optimizer with one parameter group.
    """
    assert settings.lr is not None
    assert settings.momentum is not None
    weights, decay = model.parameters(), settings.weight_decay
    if settings.optimizer == "adam":
        return Adam(weights, lr=settings.lr, weight_decay=decay)
    if settings.optimizer == "adamw":
        return AdamW(weights, lr=settings.lr, weight_decay=decay)
    return SGD(weights, lr=settings.lr, momentum=settings.momentum, nesterov=settings.nesterov, weight_decay=decay)
