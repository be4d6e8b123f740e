"""The engine beside the slow oracle, on a user's own model."""

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import tree_leaves, tree_map

from gradbatch._types import LayerStatistics
from gradbatch.errors import InvalidInputError
from gradbatch.probe.probe import Probe
from gradbatch.probe.reference import per_sample_gradients

__all__ = ["Comparison", "LayerComparison", "check"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerComparison:
    r"""What the engine and the loop say of one layer.

    Attributes:
        name: The layer's name in the model.
        fast: $\frac1B\sum_i\|g_i\|^2$ as the engine measures it; ``None`` where this batch does not tell.
        slow: The same from a loop over single samples.
    """

    name: str
    fast: float | None
    slow: float

    @property
    def error(self) -> float:
        """Relative to the loop's; infinite where the engine has no answer."""
        if self.fast is None:
            return float("inf")
        return abs(self.fast - self.slow) / self.slow if self.slow else float(self.fast != 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The engine beside a loop over single samples; see `check`.

    Attributes:
        estimator: How the engine measured: ``"layers"`` (sample by sample) or ``"chunks"``.
        reason: Why not ``layers``, or an empty string.
        num_samples: Samples in the batch.
        tolerance: Relative error that rounding may cause in the model's type.
        layers: Each layer; none where the engine cannot tell samples apart.
    """

    estimator: str
    reason: str
    num_samples: int
    tolerance: float
    layers: tuple[LayerComparison, ...]

    @property
    def is_exact(self) -> bool:
        """Whether the engine and the loop agree on every layer, but for rounding."""
        return self.estimator == "layers" and all(layer.error <= self.tolerance for layer in self.layers)

    def __str__(self) -> str:
        """The table."""
        if not self.layers:
            return f"nothing to compare, measured by {self.estimator}: {self.reason}"
        width = max(len("layer"), *(len(layer.name) for layer in self.layers))
        lines = [f"mean squared norm of {self.num_samples} per-sample gradients, measured by {self.estimator}"]
        lines.append(f"{'layer':{width}}{'engine':>14}{'loop':>14}{'error':>10}")
        for layer in self.layers:
            fast = "none" if layer.fast is None else f"{layer.fast:.6g}"
            mark = "" if layer.error <= self.tolerance else "  differs"
            lines.append(f"{layer.name:{width}}{fast:>14}{layer.slow:14.6g}{layer.error:10.1g}{mark}")
        return "\n".join(lines)


def check(model: nn.Module, batch: Any, loss_fn: Callable[[nn.Module, Any], Tensor]) -> Comparison:
    """Compare the engine with a loop over single samples on your own model, and print a table of the layers.

    It works on a copy of the model, in which dropout layers, attention and recurrent layers drop nothing: the loop
    could not draw the same masks.

    Args:
        model: The model.
        batch: What ``loss_fn`` takes: tensors, in any containers, with the samples along their leading axes.
        loss_fn: ``(model, batch) -> loss``, the mean over the batch's samples.

    Returns:
        The comparison; ``print`` shows the table.

    Raises:
        InvalidInputError: If the batch holds no tensor, or tensors of unequal length, or ``loss_fn`` cannot take it.

    Example:
        >>> import torch
        >>> batch = torch.randn(8, 3), torch.randn(8, 1)
        >>> def loss_fn(model, batch):
        ...     inputs, targets = batch
        ...     return nn.functional.mse_loss(model(inputs), targets)
        >>> check(nn.Linear(3, 1), batch, loss_fn).is_exact  # doctest: +ELLIPSIS
        mean squared norm of 8 per-sample gradients, measured by layers
        ...
        True
    """
    num_samples = _num_samples(batch)
    model = _without_dropout(model)
    try:
        fast, probe, reason = _measured(model, batch, loss_fn, num_samples)
    except TypeError as error:
        raise InvalidInputError(
            f"`loss_fn` must take (model, batch) and return the mean loss over the batch, got {error}: for a batch of "
            "inputs and targets write lambda model, batch: loss(model(batch[0]), batch[1])"
        ) from error
    slow: dict[str, float] = {}
    if probe.estimator == "layers":  # else a sample alone is another thing than a sample in its batch
        samples = [tree_map(partial(_row, index), batch) for index in range(num_samples)]
        slow = _by_layer(model, per_sample_gradients(model, loss_fn, samples))
    dtype = next(parameter.dtype for parameter in model.parameters())
    comparison = Comparison(
        estimator=probe.estimator,
        reason=reason,
        num_samples=num_samples,
        tolerance=torch.finfo(dtype).eps ** 0.6,
        layers=tuple(LayerComparison(name=n, fast=fast[n].sample_sqnorm, slow=value) for n, value in slow.items()),
    )
    print(comparison)
    return comparison


def _measured(
    model: nn.Module, batch: Any, loss_fn: Callable[[nn.Module, Any], Tensor], num_samples: int
) -> tuple[dict[str, LayerStatistics], Probe, str]:
    """The engine's statistics by layer, at a measurement after it has learned the model; and why not by layers."""
    with _warnings() as reasons:
        probe = Probe(model, {"sample_sqnorm", "layers"})
        for _ in range(3):
            probe.reset()
            with probe.measure(num_samples=num_samples):
                loss_fn(model, batch).backward()
        layers = probe.read().layers
    assert layers is not None
    return dict(layers), probe, reasons[0] if reasons else ""


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """The engine's own sentences, as it logs them."""
    sentences: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: sentences.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("gradbatch")
    logger.addHandler(handler)
    try:
        yield sentences
    finally:
        logger.removeHandler(handler)


def _row(index: int, leaf: Any) -> Any:
    """A tensor's share of one sample; what is no tensor is everyone's."""
    return leaf[index : index + 1] if isinstance(leaf, Tensor) and leaf.dim() else leaf


def _num_samples(batch: Any) -> int:
    """The batch's length."""
    lengths = {len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()}
    if len(lengths) != 1:
        raise InvalidInputError(
            f"`batch` must hold tensors with the samples along their leading axes, got lengths {sorted(lengths)}"
        )
    return lengths.pop()


def _without_dropout(model: nn.Module) -> nn.Module:
    """A copy that drops nothing."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, _DropoutNd | nn.MultiheadAttention | nn.RNNBase):
            module.eval()
    return model


def _by_layer(model: nn.Module, gradients: list[list[Tensor]]) -> dict[str, float]:
    """Mean squared norm of materialised per-sample gradients, by layer."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    sums: dict[str, float] = {}
    for sample in gradients:
        for name, grad in zip(names, sample, strict=True):
            layer = name.rpartition(".")[0]
            sums[layer] = sums.get(layer, 0.0) + grad.double().square().sum().item() / len(gradients)
    return sums
