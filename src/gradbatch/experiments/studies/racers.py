"""Ways to take a step whose times are compared: the plain loop, this library's rules, and how authors computed them."""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

from gradbatch._types import Rule
from gradbatch.controller import Controller
from gradbatch.experiments.data import Split
from gradbatch.rules import BA, CABS, DBA, Fixed, NoiseFloor
from gradbatch.stream import SampleStream

__all__ = [
    "RACERS",
    "STRIDE",
    "Case",
    "Take",
    "controlled",
    "deviation_sample_by_sample",
    "from_samples",
    "from_sums",
    "materialised_selection",
    "metric_of",
    "per_sample",
    "select",
    "size_from_materialised",
]

STRIDE = 16
"""DBA's, in samples."""

Take = Callable[[int], None]
"""Takes that many steps."""

PerSample = Callable[[Tensor, Tensor], tuple[Mapping[str, Tensor], Tensor]]
"""From a batch to the gradients of single samples by parameter, [B, *shape], and the losses, [B]."""

Measure = Callable[[Sequence[int]], float]
"""DBA's metric over the samples of some strides."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What one contender trains, a model of its own on data that all share.

    Attributes:
        model: From [B, ...] to [B, classes].
        train: The data.
        batch_size: Samples in a step.
        lr: Of plain SGD.
    """

    model: nn.Module
    train: Split
    batch_size: int
    lr: float

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch."""
        return F.cross_entropy(self.model(inputs), targets)

    def optimizer(self) -> SGD:
        """The same for everybody."""
        return SGD(self.model.parameters(), lr=self.lr)


def _plain(case: Case) -> Take:
    """The loop that everybody writes."""
    return _stepping(case, lambda inputs, targets: case.loss(inputs, targets).backward())


def controlled(case: Case, rule: Callable[[int], Rule[Any]]) -> Take:
    """This library's loop, with a rule that measures as ever and stays at the batch size."""
    stream = SampleStream(tuple(case.train), seed=0)
    controller = Controller(rule(case.batch_size), case.model, case.optimizer(), stream, batch_size=case.batch_size)

    def take(steps: int) -> None:
        for inputs, targets in controller.run(steps=steps):
            controller.backward(case.loss(inputs, targets))
            controller.step()

    return take


def _sample_by_sample(case: Case) -> Take:
    """BA as in its authors' code: a batch of one for each sample, and sums of the gradients and of their squares."""
    return _stepping(case, partial(deviation_sample_by_sample, case))


def deviation_sample_by_sample(case: Case, inputs: Tensor, targets: Tensor) -> float:
    r"""Set the mean gradient, and compute $\sqrt{\bar g^\top\operatorname{diag}(\hat\Sigma)\bar g}$, with n - 1."""
    parameters = list(case.model.parameters())
    count = len(inputs)
    sums, squares = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    for sample in range(count):
        grads = torch.autograd.grad(case.loss(inputs[sample : sample + 1], targets[sample : sample + 1]), parameters)
        for grad, total, square in zip(grads, sums, squares, strict=True):
            total += grad
            square.addcmul_(grad, grad)
    projected = 0.0
    for parameter, total, square in zip(parameters, sums, squares, strict=True):
        mean = total / count
        variances = (square - count * mean.square()) / (count - 1)
        projected += (mean.square() * variances).sum().item()
        parameter.grad = mean
    return math.sqrt(max(0.0, projected))


def _materialised_moments(case: Case) -> Take:
    """CABS over the gradients of all samples, which `torch.func` writes out."""
    return _stepping(case, partial(size_from_materialised, case, per_sample(case.model)))


def size_from_materialised(case: Case, gradients: PerSample, inputs: Tensor, targets: Tensor) -> float:
    r"""Set the mean gradient, and compute CABS' size, $\eta\operatorname{tr}\hat\Sigma/F$, with n in the variance."""
    rows, losses = gradients(inputs, targets)
    variance = 0.0
    for name, parameter in case.model.named_parameters():
        parameter.grad = rows[name].mean(0)
        variance += (rows[name].square().sum() / len(inputs) - parameter.grad.square().sum()).item()
    return case.lr * variance / losses.mean().item()


def materialised_selection(
    case: Case,
    metric: str,
    measuring: Callable[[str, Sequence[Tensor]], Measure],
    is_bottom_up: Callable[[], bool] | None = None,
) -> Take:
    """DBA over the gradients of all samples, which `torch.func` writes out.

    Args:
        case: What is trained.
        metric: ``"norm"`` or ``"variance"``.
        measuring: What computes the metric of a candidate: `from_samples` or `from_sums`.
        is_bottom_up: Says for each layer and step which way the strides are chosen; by default a coin.

    Returns:
        Takes steps.
    """
    coin = random.Random(0)
    is_bottom_up = is_bottom_up or (lambda: coin.random() < 0.5)
    gradients = per_sample(case.model)
    parameters = dict(case.model.named_parameters())
    layers: dict[str, list[str]] = {}
    for name in parameters:
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    means: dict[str, float] = {}  # of the metric in each layer, and of the loss under ""

    def go_backward(inputs: Tensor, targets: Tensor) -> None:
        grads, losses = gradients(inputs, targets)
        loss = losses.mean().item()
        ratio = loss / means.setdefault("", loss)
        for layer, names in layers.items():
            rows = torch.cat([grads[name].flatten(1) for name in names], 1)
            strides = rows.split(STRIDE)
            measure = measuring(metric, strides)
            past = means.get(layer)
            target = ratio * (metric_of(metric, rows) if past is None else past)
            chosen, reached = select(measure, len(strides), target, bottom_up=is_bottom_up())
            kept = torch.cat([strides[stride] for stride in chosen])
            means[layer] = reached if past is None else 0.9 * past + 0.1 * reached
            pieces = kept.mean(0).split([parameters[name].numel() for name in names])
            for name, piece in zip(names, pieces, strict=True):
                parameters[name].grad = piece.view_as(parameters[name])
        means[""] = 0.9 * means[""] + 0.1 * loss

    return _stepping(case, go_backward)


def metric_of(name: str, rows: Tensor) -> float:
    """DBA's metric of per-sample gradients [n, N]: the norm of their mean, or of their elementwise variance."""
    return (rows.mean(0) if name == "norm" else rows.var(0)).norm().item()


def from_samples(metric: str, strides: Sequence[Tensor]) -> Measure:
    """The metric, computed for each candidate from the gradients of all of its samples.

    Args:
        metric: ``"norm"`` or ``"variance"``.
        strides: Per-sample gradients of each stride, [n, N].

    Returns:
        What computes it.
    """
    return lambda chosen: metric_of(metric, torch.cat([strides[stride] for stride in chosen]))


def from_sums(metric: str, strides: Sequence[Tensor]) -> Measure:
    """The same from sums over each stride, which are taken once: the least that one must do who has the gradients.

    Args:
        metric: ``"norm"`` or ``"variance"``.
        strides: Per-sample gradients of each stride, [n, N].

    Returns:
        What computes it.
    """
    sums = torch.stack([rows.sum(0) for rows in strides])
    squares = torch.stack([rows.square().sum(0) for rows in strides]) if metric == "variance" else None

    def measure(chosen: Sequence[int]) -> float:
        places, count = list(chosen), sum(len(strides[stride]) for stride in chosen)
        mean = sums[places].sum(0) / count
        if squares is None:
            return mean.norm().item()
        return ((squares[places].sum(0) - count * mean.square()) / (count - 1)).norm().item()

    return measure


def select(measure: Measure, num_strides: int, target: float, *, bottom_up: bool) -> tuple[list[int], float]:
    """Algorithm 2 or 3 of DBA, where the paper is silent as `gradbatch.DBA` has it.

    Args:
        measure: The metric of a candidate.
        num_strides: How many there are.
        target: What the metric should be.
        bottom_up: Whether strides are added to none, or taken from all.

    Returns:
        The strides chosen, at least one, and their metric.
    """
    everything = list(range(num_strides))
    chosen: list[int] = [] if bottom_up else everything
    reached, is_better = math.inf if bottom_up else measure(everything), True
    while is_better:
        is_better = False
        for stride in [one for one in everything if (one not in chosen) == bottom_up]:
            candidate = [*chosen, stride] if bottom_up else [one for one in chosen if one != stride]
            if candidate and abs((metric := measure(candidate)) - target) < abs(reached - target):
                chosen, reached, is_better = candidate, metric, True
    return chosen, reached


def per_sample(model: nn.Module) -> PerSample:
    """What materialises the gradients of single samples.

    Args:
        model: Whose.

    Returns:
        Computes them for a batch.
    """

    def loss(parameters: Mapping[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        outputs = torch.func.functional_call(model, dict(parameters), (inputs.unsqueeze(0),))
        return F.cross_entropy(outputs, targets.unsqueeze(0))

    gradients = torch.func.vmap(torch.func.grad_and_value(loss), in_dims=(None, 0, 0))
    return lambda inputs, targets: gradients(
        {name: p.detach() for name, p in model.named_parameters()}, inputs, targets
    )


def _stepping(case: Case, go_backward: Callable[[Tensor, Tensor], object]) -> Take:
    """A loop of one's own around what turns a batch into gradients."""
    optimizer = case.optimizer()
    batches = _batches(case)

    def take(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            go_backward(*next(batches))
            optimizer.step()

    return take


def _batches(case: Case) -> Iterator[Split]:
    """Shuffled batches of data in memory, epoch after epoch, the fastest plain way."""
    generator = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(len(case.train.targets), generator=generator).to(case.train.targets.device)
        for indices in order.split(case.batch_size):
            if len(indices) == case.batch_size:
                yield case.train.at(indices)


def _held(rule: Callable[[int], Rule[Any]]) -> Callable[[Case], Take]:
    """A rule in this library's loop, made for a batch size at which it stays."""
    return partial(controlled, rule=rule)


RACERS: Mapping[str, Callable[[Case], Take]] = {
    "plain loop": _plain,
    "our loop, fixed": _held(lambda size: Fixed()),
    "NoiseFloor": _held(lambda size: NoiseFloor(min_batch_size=size, max_batch_size=size)),
    "CABS": _held(lambda size: CABS(min_batch_size=size, max_batch_size=size)),
    "CABS, position": _held(lambda size: CABS(min_batch_size=size, max_batch_size=size, moment="position")),
    "CABS, materialised": _materialised_moments,
    "BA, exact": _held(lambda size: BA(m0=size, max_batch_size=size, covariance="exact")),
    "BA, diagonal": _held(lambda size: BA(m0=size, max_batch_size=size)),
    "BA, sample by sample": _sample_by_sample,
    "DBA norm": _held(lambda size: DBA(stride=STRIDE, increment=0, metric="norm")),
    "DBA norm, materialised": partial(materialised_selection, metric="norm", measuring=from_samples),
    "DBA norm, materialised, sums": partial(materialised_selection, metric="norm", measuring=from_sums),
    "DBA variance": _held(lambda size: DBA(stride=STRIDE, increment=0, metric="variance")),
    "DBA variance, materialised": partial(materialised_selection, metric="variance", measuring=from_samples),
    "DBA variance, materialised, sums": partial(materialised_selection, metric="variance", measuring=from_sums),
}
"""The contenders. “Sample by sample” is how BA's authors compute, “position” the moment that CABS' authors compute, and
“CABS, materialised” what the exact one takes without the engine. DBA's authors have the gradients of all samples; how
they search among them is not known: anew from all gradients of each candidate, or from sums over strides.
"""
