r"""How the decrease of the objective is spread over batches, and how BA predicts it from one batch.

Let $F$ be the mean loss over a data set of $N$ samples, $f=\nabla F$, and $g_i$ the samples' gradients with covariance
$\Sigma$ (dividing by $N$). A batch of $m$ samples, drawn with replacement so that they are independent, has the mean
gradient $\bar g$, with $E\bar g=f$ and $\operatorname{Cov}\bar g=\Sigma/m$ exactly. An update with it makes $F$
decrease by

$$ D = F(\theta)-F(\theta-\eta\bar g) = \eta\,f^\top\bar g - \tfrac{\eta^2}2\bar g^\top H\bar g+\dots, $$

whose first-order part $D_1=\eta\,f^\top\bar g$ is a mean over independent samples: nearly normal, with mean
$\eta\,f^\top f$ and standard deviation $\eta\sqrt{f^\top\Sigma f/m}$. The matter is this distribution over batches.
BA has one batch, and puts $\bar g$ and the sample covariance $\hat\Sigma$ (dividing by $m-1$) in place of $f$ and
$\Sigma$:

$$ \hat\mu=\bar g^\top\bar g,\quad\hat\sigma^2=\bar g^\top\hat\Sigma\bar g,\qquad
   E\hat\mu=f^\top f+\frac{\operatorname{tr}\Sigma}m,\quad
   E\hat\sigma^2=f^\top\Sigma f+\frac{\operatorname{tr}\Sigma^2}m+\frac2mE\big[f^\top x\,\|x\|^2\big]
   +O\Big(\frac1{m^2}\Big),\quad x=g_i-f. $$

(With $\bar g=f+e$: $E[e^\top\hat\Sigma e]=\operatorname{tr}\Sigma^2/m$ but for a fourth cumulant over $m^2$, and
$2E[f^\top\hat\Sigma e]$ is the third cumulant's term, which symmetric gradients do not have.) So both are too large
where noise dominates. The authors' code divides $\hat\sigma$ by $\sqrt m$ once too often: it predicts
$\eta\hat\sigma/m$.

No gradient of one sample is needed for what is true of the data set: $p_i(v)=g_i^\top v$ is the derivative of sample
$i$'s loss in the direction $v$. With factors $u_i$ on the losses, $\sum_iu_ig_i^\top v$ has the derivatives $p_i$ in
them, so that two backward passes give those of all samples at once. Their variance is $f^\top\Sigma f$ for $v=f$, and
for $v=\bar g-f$ their mean over batches is $E[e^\top\Sigma e]=\operatorname{tr}\Sigma^2/m$.

All is computed in double precision: from the authors' initial weights the loss decreases by some $10^{-9}$ of itself.
"""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from gradbatch._types import Floats
from gradbatch.experiments.build import build_model, build_optimizer, load_dataset
from gradbatch.experiments.data import Split
from gradbatch.experiments.logs import RunProgress
from gradbatch.experiments.settings import TrainSettings
from gradbatch.probe import Probe

__all__ = ["PROBABILITIES", "measure_decreases", "normality", "shape_of"]

PROBABILITIES = tuple(n / 100 for n in (1, 2, 5, *range(10, 91, 5), 95, 98, 99))
"""Where the distribution of the decreases is kept."""

_PIECE = 100
"""Samples in one pass over the data set, which stays in the cache."""

_QUANTITIES = ("grad_sqnorm", "projection_variance", "diagonal_projection_variance")


def measure_decreases(
    settings: TrainSettings, progress: RunProgress, *, num_draws: int, num_measured: int
) -> dict[str, Any]:
    """Train for the settings' updates, then draw batches without updating; see the module.

    Args:
        settings: Resolved; plain SGD, with the updates in ``steps`` and the batches' size. The data set is the task's
            training set after ``per_class``.
        progress: What shows how far it is.
        num_draws: Batches.
        num_measured: The first of them for which the objective is evaluated after the update, and for which
            tr(Sigma^2)/m is measured; each takes two passes over the data set.

    Returns:
        Ready for JSON: what is true of the data set, the distribution of the first-order decrease, what was really
        measured, and what batches predict, all in units of the loss.
    """
    assert settings.lr is not None
    assert settings.steps is not None
    torch.manual_seed(settings.seed)
    data = load_dataset(settings)
    samples = Split(data.train.inputs.double(), data.train.targets)
    model = build_model(settings, data).double()
    generator = torch.Generator().manual_seed(settings.seed)
    optimizer = build_optimizer(settings, model)
    for _ in range(settings.steps):
        _backward(model, optimizer.zero_grad, samples.draw(settings.batch_size, generator))
        optimizer.step()
    progress.note("drawing batches")
    objective = _Objective(model, samples)
    probe = Probe(model, set(_QUANTITIES), estimator="layers")
    batches = []
    for number in range(num_draws):
        batch = samples.draw(settings.batch_size, generator)
        batches.append(_predict(probe, model, batch, objective, lr=settings.lr, measure=number < num_measured))
    return _summary(objective, batches, lr=settings.lr, size=settings.batch_size)


def _backward(model: nn.Module, zero_grad: Callable[[], None], batch: Split) -> None:
    """The gradient of the mean loss."""
    zero_grad()
    F.cross_entropy(model(batch.inputs), batch.targets).backward()


class _Objective:
    """The mean loss over a data set, its gradient, and derivatives of the samples' losses in a direction."""

    def __init__(self, model: nn.Module, samples: Split) -> None:
        self._model = model
        self._pieces = [
            Split(*pair) for pair in zip(samples.inputs.split(_PIECE), samples.targets.split(_PIECE), strict=True)
        ]
        self._size = len(samples.targets)
        model.zero_grad()
        for inputs, targets in self._pieces:
            (F.cross_entropy(model(inputs), targets, reduction="sum") / self._size).backward()
        self.gradient = _gradient_of(model)
        model.zero_grad()
        self.value = self.after([torch.zeros_like(g) for g in self.gradient])

    @torch.no_grad()
    def after(self, step: Sequence[Tensor]) -> float:
        """The mean loss once a step was subtracted from the weights."""
        weights = {
            name: weight - change for (name, weight), change in zip(self._model.named_parameters(), step, strict=True)
        }
        losses = [
            F.cross_entropy(functional_call(self._model, weights, (inputs,)), targets, reduction="sum")
            for inputs, targets in self._pieces
        ]
        return torch.stack(losses).sum().item() / self._size

    def variance_along(self, direction: Sequence[Tensor]) -> float:
        """The variance over samples of the derivatives of their losses in a direction, dividing by N."""
        weights = list(self._model.parameters())
        parts: list[Tensor] = []
        for inputs, targets in self._pieces:
            losses = F.cross_entropy(self._model(inputs), targets, reduction="none")
            factors = torch.ones_like(losses, requires_grad=True)
            gradient = torch.autograd.grad(losses, weights, factors, create_graph=True)
            slope = torch.stack([(a * b).sum() for a, b in zip(gradient, direction, strict=True)]).sum()
            parts += torch.autograd.grad(slope, factors)
        return torch.cat(parts).var(correction=0).item()


def _gradient_of(model: nn.Module) -> list[Tensor]:
    """A copy of the gradient that backward left."""
    return [weight.grad.detach().clone() for weight in model.parameters() if weight.grad is not None]


def _predict(
    probe: Probe, model: nn.Module, batch: Split, objective: _Objective, *, lr: float, measure: bool
) -> dict[str, float]:
    """What one batch would do to the objective, and what it says of that itself."""
    with probe.measure(num_samples=len(batch.targets)):
        _backward(model, model.zero_grad, batch)
    statistics = probe.read()
    gradient = _gradient_of(model)
    values = {name: getattr(statistics, name) for name in _QUANTITIES}
    values["decrease"] = lr * sum((a * b).sum().item() for a, b in zip(gradient, objective.gradient, strict=True))
    if measure:
        values["measured"] = objective.value - objective.after([lr * part for part in gradient])
        noise = [a - b for a, b in zip(gradient, objective.gradient, strict=True)]
        values["trace_of_square"] = objective.variance_along(noise)
    return values


def _summary(objective: _Objective, batches: Sequence[dict[str, float]], *, lr: float, size: int) -> dict[str, Any]:
    """The numbers of the page."""
    columns = {name: np.array([one[name] for one in batches if name in one]) for name in batches[0]}
    decreases = columns["decrease"]
    spreads = lr * np.sqrt(np.maximum(columns["projection_variance"], 0) / size)
    diagonal = lr * np.sqrt(np.maximum(columns["diagonal_projection_variance"], 0) / size)
    sqnorm = sum(part.square().sum().item() for part in objective.gradient)
    projected = objective.variance_along(objective.gradient)
    first = len(columns["measured"])
    numbers = {
        "loss": objective.value,
        "true_mean": lr * sqnorm,
        "true_spread": lr * math.sqrt(projected / size),
        "mean": decreases.mean(),
        "spread": decreases.std(ddof=1),
        "measured_mean": columns["measured"].mean(),
        "measured_spread": columns["measured"].std(ddof=1),
        "same_mean": decreases[:first].mean(),
        "same_spread": decreases[:first].std(ddof=1),
        "predicted_mean": lr * columns["grad_sqnorm"].mean(),
        "predicted_spread": spreads.mean(),
        "diagonal_spread": diagonal.mean(),
        "one_mean": lr * columns["grad_sqnorm"][0],
        "one_spread": spreads[0],
        "own_spread": lr * columns["grad_sqnorm"].std(ddof=1),
        "projection_variance": projected,
        "predicted_variance": columns["projection_variance"].mean(),
        "trace_of_square": columns["trace_of_square"].mean(),
    }
    plain = {name: float(value) for name, value in numbers.items()}
    return plain | {"batch_size": size, "lr": lr, "num_draws": len(batches)} | shape_of(decreases)


def shape_of(values: Floats) -> dict[str, Any]:
    """How far numbers are from normal ones.

    Args:
        values: At least a few.

    Returns:
        ``skewness``, ``kurtosis`` (in excess of the normal one), ``distance`` and ``critical`` of `normality`, and
        ``quantiles`` of the standardised numbers at `PROBABILITIES`.
    """
    standard = (values - values.mean()) / values.std(ddof=1)
    distance, critical = normality(values)
    return {
        "skewness": float((standard**3).mean()),
        "kurtosis": float((standard**4).mean() - 3),
        "distance": distance,
        "critical": critical,
        "quantiles": [round(float(value), 4) for value in np.quantile(standard, PROBABILITIES)],
    }


def normality(values: Floats) -> tuple[float, float]:
    r"""The test of Lilliefors: Kolmogorov's distance to the normal distribution that was fitted.

    Source: Stephens 1974, who gives the critical distance at 5 % as $0.895/(\sqrt n-0.01+0.85/\sqrt n)$.

    Args:
        values: $n$ numbers.

    Returns:
        The largest difference between the distribution functions, and what normal numbers exceed in 5 % of all cases.
    """
    count = len(values)
    normal = NormalDist(float(values.mean()), float(values.std(ddof=1)))
    expected = np.array([normal.cdf(value) for value in np.sort(values)])
    ranks = np.arange(count + 1) / count
    distance = max((ranks[1:] - expected).max(), (expected - ranks[:-1]).max())
    root = math.sqrt(count)
    return float(distance), 0.895 / (root - 0.01 + 0.85 / root)
