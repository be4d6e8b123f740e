"""The rules that the contract holds for, and hand-made statistics to ask them with."""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

import gradbatch as gb
from gradbatch._types import QUANTITIES, Strides
from gradbatch.asking import ask, lacking

RULES: dict[str, Callable[[], gb.Rule[Any]]] = {
    "fixed": gb.Fixed,
    "schedule": gb.Schedule,
    "schedule by samples": lambda: gb.Schedule(table="0:8 1K:20 1.5K:64", unit="samples"),
    "cabs": gb.CABS,
    "cabs unbiased": lambda: gb.CABS(decay=0.5, min_batch_size=1, max_batch_size=300, eps=1e-8, unbiased=True),
    "ba": gb.BA,
    "ba of the code": lambda: gb.BA(
        m0=8, optimum=0.1, covariance="exact", stop="code", max_batch_size=300, no_progress="cap", overshoot="cap"
    ),
    "adabatch": gb.AdaBatch,
    "adabatch from a warm-up": lambda: gb.AdaBatch(
        growth=1.5, interval=2, lr_decay=1.0, max_batch_size=300, warmup_epochs=3, baseline_batch_size=16
    ),
    "dba": gb.DBA,
    "dba by trace": lambda: gb.DBA(metric="trace", stride=4, literal=True, strategy="top-down", max_batch_size=300),
    "divebatch": gb.DiveBatch,
    "divebatch each epoch": lambda: gb.DiveBatch(delta=5.0, interval=1, max_batch_size=300, scale_lr=True),
    "inner-product test": gb.InnerProductTest,
    "augmented test": lambda: gb.InnerProductTest(theta=0.9, nu=5.84, monotone=False, max_batch_size=300),
    "loss ratio": gb.LossRatio,
    "loss ratio above a floor": lambda: gb.LossRatio(optimum=0.1, dwell=3, decay=0.5, max_batch_size=40),
    "noise scale": gb.NoiseScale,
    "root of the noise scale": lambda: gb.NoiseScale(
        decay=0.5, scale=4.0, power=0.5, min_batch_size=8, max_batch_size=300
    ),
    "norm test": gb.NormTest,
    "norm test that shrinks": lambda: gb.NormTest(theta=0.5, monotone=False, min_batch_size=8, max_batch_size=300),
    "adascale": gb.AdaScale,
    "adascale of short memory": lambda: gb.AdaScale(base_batch_size=7, window=5.0),
    "simigrad": gb.SimiGrad,
    "simigrad within bounds": lambda: gb.SimiGrad(
        target=0.8, min_batch_size=8, max_batch_size=300, growth=1.5, shrinkage=0.5, lr_damping=0.5
    ),
    "goodput": gb.Goodput,
    "goodput for adam": lambda: gb.Goodput(
        base_batch_size=8, max_batch_size=300, improvement=1.0, lr_power=0.5, decay=0.9, growth=1.5
    ),
    "noise scale for adam": lambda: gb.NoiseScale(decay=0.5, preconditioned=True, max_batch_size=300),
    "goodput of pollux": lambda: gb.Goodput(base_batch_size=8, max_batch_size=300, preconditioned=True),
    "noise floor": gb.NoiseFloor,
    "noise floor without a guard": lambda: gb.NoiseFloor(
        horizon=0.1, min_batch_size=8, max_batch_size=300, decay=0.5, growth=2.0, min_decrease=0.0, guard=False
    ),
    "clip": lambda: gb.Clip(rule=gb.CABS(), min_batch_size=32, max_batch_size=100),
    "round": lambda: gb.RoundTo(rule=gb.CABS(), multiple=24),
    "every": lambda: gb.Every(rule=gb.CABS(decay=0.5), steps=3),
    "warm-up": lambda: gb.Warmup(rule=gb.CABS(decay=0.5), steps=5),
    "hysteresis": lambda: gb.Hysteresis(rule=gb.CABS(decay=0.5), ratio=1.5),
    "linear rate": lambda: gb.ScaleLR(rule=gb.CABS(decay=0.5), base_batch_size=16),
    "rate by the root": lambda: gb.ScaleLR(rule=gb.CABS(decay=0.5), base_batch_size=16, method="sqrt"),
    "rate of adascale": lambda: gb.ScaleLR(rule=gb.CABS(decay=0.5), base_batch_size=16, method="adascale"),
}
"""An instance of every rule, and of every wrapper around one: a new rule is a new line."""

ONE_RATE: tuple[type[gb.Rule[Any]], ...] = (gb.BA,)
"""Rules that refuse parameter groups with learning rates of their own."""

WRAPPERS: dict[str, Callable[[gb.Rule[Any]], gb.Rule[Any]]] = {
    "clip": lambda rule: gb.Clip(rule=rule, min_batch_size=2, max_batch_size=500),
    "round": lambda rule: gb.RoundTo(rule=rule, multiple=7),
    "every": lambda rule: gb.Every(rule=rule, steps=2),
    "warm-up": lambda rule: gb.Warmup(rule=rule, steps=3),
    "hysteresis": lambda rule: gb.Hysteresis(rule=rule, ratio=1.2),
    "scaled rate": lambda rule: gb.ScaleLR(rule=rule, base_batch_size=20, method="adascale"),
}
"""What may hold a rule, so that every rule is also tested inside of each: a new wrapper is a new line."""


def moments(
    *,
    variance: float = 8.0,
    grad_sqnorm: float = 4.0,
    loss: float = 1.0,
    num_samples: int = 32,
    groups: tuple[float, ...] = (),
) -> gb.Statistics:
    """Statistics with the given biased variance, as a batch gives them that was asked for everything.

    Args:
        variance: Biased variance, the mean squared distance of the per-sample gradients from their mean.
        grad_sqnorm: Squared norm of their mean.
        loss: Mean loss.
        num_samples: Samples of the batch.
        groups: Shares of the two moments by parameter group.
    """
    parts = tuple(
        gb.LayerStatistics(num_samples=num_samples, **_moments(share * variance, share * grad_sqnorm, num_samples))
        for share in groups
    )
    whole = _moments(variance, grad_sqnorm, num_samples)
    return gb.Statistics(num_samples=num_samples, loss=loss, groups=parts or None, **whole)


def _moments(variance: float, grad_sqnorm: float, num_samples: int) -> dict[str, float | None]:
    """All quantities of a batch whose variance lies along the gradient."""
    if num_samples < 2:
        whole = dict.fromkeys(("sample_sqnorm", "grad_sqnorm", "momentum_projection"), grad_sqnorm)
        kinds = ("preconditioned_variance", "preconditioned_sqnorm", "descent_variance", "descent_sqnorm")
        return {**whole, "position_sqnorm": None, **dict.fromkeys(kinds)}
    unbiased = num_samples / (num_samples - 1) * variance
    signal = grad_sqnorm - unbiased / num_samples
    return {
        "sample_sqnorm": variance + grad_sqnorm,
        "grad_sqnorm": grad_sqnorm,
        "grad_variance": unbiased,
        "noise_scale": unbiased / signal if signal > 0 else None,
        "projection_variance": unbiased * grad_sqnorm,
        "diagonal_projection_variance": unbiased * grad_sqnorm,
        "momentum_projection": grad_sqnorm,
        "position_sqnorm": 0.5 * variance + grad_sqnorm,
        "preconditioned_variance": 0.5 * unbiased,
        "preconditioned_sqnorm": 0.5 * grad_sqnorm,
        "descent_variance": 0.7 * unbiased,
        "descent_sqnorm": 0.7 * grad_sqnorm,
    }


def progress(
    *,
    step: int = 0,
    samples_seen: int = 32,
    batch_size: int = 32,
    lr: float = 0.1,
    dataset_size: int = 1000,
    group_lrs: tuple[float, ...] = (),
    momentum: float = 0.0,
    seconds: float = 0.0,
) -> gb.Progress:
    """Where training stands, with what a test does not care about filled in."""
    return gb.Progress(
        step=step,
        samples_seen=samples_seen,
        epoch=samples_seen / dataset_size,
        lr=group_lrs[0] if group_lrs else lr,
        momentum=momentum,
        batch_size=batch_size,
        dataset_size=dataset_size,
        seconds=seconds,
        group_lrs=group_lrs,
    )


def record(*, samples_seen: int = 32, requested: int = 32, **others: Any) -> gb.Record:
    """A line of the log, with what a test does not care about filled in."""
    values = {
        "step": 0,
        "epoch": samples_seen / 1000,
        "batch_size": requested,
        "next_batch_size": requested,
        "micro_batches": 1,
        "lr": 0.1,
        "lr_scale": 1.0,
        "loss": 1.0,
        "seconds": 0.0,
    }
    return gb.Record(samples_seen=samples_seen, requested=requested, **values | others)


EXTREMES = (
    {"variance": 0.0},
    {"grad_sqnorm": 0.0},
    {"variance": 0.0, "grad_sqnorm": 0.0},
    {"variance": 0.0, "grad_sqnorm": 0.0, "loss": 0.0},
    {"loss": 0.0},
    {"loss": -3.0},
    {"variance": 1e-300, "grad_sqnorm": 1e-300},
    {"variance": 1e150, "grad_sqnorm": 1e150},
    {"variance": 1e150, "grad_sqnorm": 1e150, "loss": 1e-300},
    {"variance": 1e-300, "grad_sqnorm": 1e-300, "loss": 1e300},
    {"variance": 1e307, "grad_sqnorm": 0.0, "loss": -1e-3},
    # Rounding makes the moments of equal gradients differ, in either direction.
    {"variance": -1e-12, "grad_sqnorm": 1.0},
)
"""Finite statistics at the edge of what training gives."""


def trajectory(steps: int, *, groups: tuple[float, ...] = (), seed: int = 0) -> list[gb.Statistics]:
    """A seeded random course of statistics over many orders of magnitude, with the extremes scattered in."""
    generator = random.Random(seed)
    course = []
    for step in range(steps):
        size = generator.choice([1, 2, 5, 32, 300])
        scale = math.exp(generator.gauss(0.0, 4.0))
        values = {
            "variance": scale,
            "grad_sqnorm": scale * generator.random(),
            "loss": generator.expovariate(0.5),
        }
        # Not in the first half, so that the course has a long usual stretch before it.
        if step >= steps // 2 and generator.random() < 0.3:
            values |= generator.choice(EXTREMES)
        course.append(moments(**values, num_samples=size, groups=groups))
    return course


def only(statistics: gb.Statistics, quantities: frozenset[str]) -> gb.Statistics:
    """The statistics as a rule gets them that asked for these quantities: all others are ``None``."""
    blank = dict.fromkeys(set(QUANTITIES) - quantities)
    kept = {name: getattr(statistics, name) for name in ("layers", "groups") if name in quantities}
    strides = statistics.strides or _strides(statistics, quantities)
    return replace(statistics, **blank, **{"layers": None, "groups": None, "strides": strides} | kept)


def _strides(statistics: gb.Statistics, quantities: frozenset[str]) -> dict[str, Strides] | None:
    """Strides of the size that was asked for: the mean gradient in each, and noise of its own across to all else."""
    size = max([int(name.partition(":")[2]) for name in quantities if ":" in name], default=0)
    if size == 0 or statistics.grad_sqnorm is None or statistics.sample_sqnorm is None:
        return None
    starts = range(0, statistics.num_samples, size)
    counts = tuple(min(size, statistics.num_samples - start) for start in starts)
    signal, noise = statistics.grad_sqnorm, max(statistics.sample_sqnorm - statistics.grad_sqnorm, 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        gram = signal * np.outer(counts, counts) + noise * np.diag(counts)
        sqnorms = statistics.sample_sqnorm * np.array(counts, dtype=float)
    return {"0.weight": Strides(counts=counts, gram=gram, sqnorms=sqnorms)}


class Course(NamedTuple):
    """What came of asking a rule all along a course of statistics."""

    statistics: list[gb.Statistics]
    places: list[gb.Progress]
    decisions: list[gb.Decision]
    state: Any


def follow(
    rule: gb.Rule[Any],
    course: list[gb.Statistics],
    *,
    carry: Callable[[Any], Any] = lambda state: state,
    as_requested: bool = False,
) -> Course:
    """Ask a rule along a course as the controller does: with what it required, its answer the next request.

    Args:
        rule: The rule.
        course: What the batches give.
        carry: What happens to the state between two steps.
        as_requested: Give the batches the sizes that were requested, 2 at least, and not those of the course.
    """
    followed = Course([], [], [], carry(rule.init()))
    here, state = progress(samples_seen=0), followed.state
    for step, whole in enumerate(course):
        group_lrs = (0.1, 0.02) if whole.groups else ()
        before = replace(here, step=step, group_lrs=group_lrs)
        whole = replace(whole, num_samples=max(2, here.batch_size)) if as_requested else whole
        seen = before.samples_seen + whole.num_samples
        seconds = before.seconds + 0.25 + 0.001 * whole.num_samples
        at = replace(before, samples_seen=seen, epoch=seen / before.dataset_size, seconds=seconds)
        quantities = rule.requires(before)
        statistics = only(whole, quantities)
        decision, state = ask(rule, statistics, at, state, lacking(statistics, quantities))
        state = carry(state)
        followed.statistics.append(statistics)
        followed.places.append(at)
        followed.decisions.append(decision)
        # A batch that grows keeps the size that was requested for it.
        here = replace(at, batch_size=decision.batch_size) if decision.step else at
    return followed._replace(state=state)
