"""The formulas, by hand, on per-sample gradients, and on draws from a distribution that is known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gradbatch as gb
from gradbatch.errors import InvalidInputError
from gradbatch.estimators import (
    DebiasedEma,
    Ema,
    biased_grad_variance,
    corrected_grad_sqnorm,
    grad_variance,
    noise_scale,
)

FORMULAS = [biased_grad_variance, grad_variance, corrected_grad_sqnorm, noise_scale]


def statistics_of(grads: np.ndarray) -> gb.Statistics:
    """The moments of per-sample gradients, [B, D]."""
    mean = grads.mean(axis=0)
    return gb.Statistics(
        num_samples=len(grads),
        loss=1.0,
        grad_sqnorm=float(mean @ mean),
        sample_sqnorm=float((grads**2).sum(axis=1).mean()),
    )


def test_by_hand() -> None:
    # Gradients (3, 0), (1, 2), (2, 1): mean (2, 1), its squared norm 5, squared norms 9, 5, 5 with mean 19/3.
    statistics = statistics_of(np.array([[3.0, 0.0], [1.0, 2.0], [2.0, 1.0]]))
    # Squared distances from the mean: 2, 2, 0. A few roundings of numbers below 10 stay below 1e-14.
    assert biased_grad_variance(statistics) == pytest.approx(4 / 3, abs=1e-14)
    assert grad_variance(statistics) == pytest.approx(2.0, abs=1e-14)
    assert corrected_grad_sqnorm(statistics) == pytest.approx(5 - 2 / 3, abs=1e-14)
    assert noise_scale(statistics) == pytest.approx(2 / (5 - 2 / 3), abs=1e-14)


@given(st.integers(2, 9), st.integers(1, 5), st.integers(0, 10_000))
def test_against_the_covariance_matrix(num_samples: int, dim: int, seed: int) -> None:
    grads = np.random.default_rng(seed).normal(1.0, 2.0, (num_samples, dim))
    statistics = statistics_of(grads)
    # Entries are of size 10 and sums of at most 45 of them: 1e-11 leaves three digits to double precision.
    trace = np.trace(np.atleast_2d(np.cov(grads.T)))
    assert grad_variance(statistics) == pytest.approx(trace, abs=1e-11)
    biased = ((grads - grads.mean(axis=0)) ** 2).sum() / num_samples
    assert biased_grad_variance(statistics) == pytest.approx(biased, abs=1e-11)
    # B (||mean||^2 - |G|^2) is the trace again: the mean over all pairs of different samples is |G|^2.
    gram = grads @ grads.T
    pairs = (gram.sum() - np.trace(gram)) / (num_samples * (num_samples - 1))
    assert corrected_grad_sqnorm(statistics) == pytest.approx(pairs, abs=1e-11)


def test_against_two_batch_sizes() -> None:
    # McCandlish et al., appendix A.1, with batches of 1 and of B samples.
    grads = np.random.default_rng(0).normal(1.0, 1.0, (8, 5))
    statistics = statistics_of(grads)
    small, big = statistics.sample_sqnorm, statistics.grad_sqnorm
    assert small is not None
    assert big is not None
    signal = (8 * big - 1 * small) / (8 - 1)
    noise = (small - big) / (1 / 1 - 1 / 8)
    assert corrected_grad_sqnorm(statistics) == pytest.approx(signal, rel=1e-13)
    assert grad_variance(statistics) == pytest.approx(noise, rel=1e-13)
    assert noise_scale(statistics) == pytest.approx(noise / signal, rel=1e-13)


@pytest.mark.parametrize("num_samples", [2, 5, 40])
def test_unbiased_where_the_distribution_is_known(num_samples: int) -> None:
    # Gradients of a noisy quadratic: mean (1, -2, 0), so |G|^2 = 5; variances 4, 1, 0.25 their trace 5.25.
    mean, deviation = np.array([1.0, -2.0, 0.0]), np.array([2.0, 1.0, 0.5])
    draws = np.random.default_rng(1).normal(mean, deviation, (4000, num_samples, 3))
    measured = [statistics_of(grads) for grads in draws]
    for formula, truth in ((grad_variance, 5.25), (corrected_grad_sqnorm, 5.0)):
        values = np.array([formula(statistics) for statistics in measured])
        # Four standard errors, with a fixed seed. At B = 2 the biased variance is off by 35 of them.
        assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(len(values))
    biased = np.mean([biased_grad_variance(statistics) for statistics in measured])
    # Its expectation is (1 - 1/B) of the trace: 4 standard errors of a mean with 8 % noise at most.
    assert biased == pytest.approx(5.25 * (1 - 1 / num_samples), rel=0.08)


def test_one_sample() -> None:
    single = gb.Statistics(num_samples=1, loss=1.0, grad_sqnorm=3.0, sample_sqnorm=3.0)
    assert biased_grad_variance(single) == 0
    for formula in FORMULAS[1:]:
        with pytest.raises(InvalidInputError, match="at least 2 samples, got 1"):
            formula(single)


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("missing", ["grad_sqnorm", "sample_sqnorm"])
def test_a_moment_that_was_not_measured(formula: object, missing: str) -> None:
    values = {"grad_sqnorm": 1.0, "sample_sqnorm": 2.0, missing: None}
    with pytest.raises(InvalidInputError, match=f"{missing}.*not measured"):
        formula(gb.LayerStatistics(num_samples=4, **values))


@pytest.mark.parametrize("grad_sqnorm", [0.5, 1.0 / 4])
def test_no_noise_scale_where_noise_dominates(grad_sqnorm: float) -> None:
    # The variance of unit gradients is 4/3 (1 - |mean|^2), so |G|^2 = (4 |mean|^2 - 1)/3, zero at 1/4.
    unit = gb.Statistics(num_samples=4, loss=1.0, grad_sqnorm=grad_sqnorm, sample_sqnorm=1.0)
    assert corrected_grad_sqnorm(unit) == pytest.approx((4 * grad_sqnorm - 1) / 3, abs=1e-15)
    assert (noise_scale(unit) is None) == (grad_sqnorm == 0.25)
    noisier = gb.Statistics(num_samples=4, loss=1.0, grad_sqnorm=0.125, sample_sqnorm=1.0)
    assert corrected_grad_sqnorm(noisier) < 0
    assert noise_scale(noisier) is None


def test_ema_by_hand() -> None:
    ema = Ema(decay=0.75)
    means = [0.0]
    for value in (4.0, 8.0, 0.0):
        means.append(ema.update(means[-1], value))
    assert means == [0.0, 1.0, 2.75, 2.0625]
    assert Ema(decay=0.0).update(5.0, 3.0) == 3.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nothing_non_finite_enters_an_average(value: float) -> None:
    assert Ema(decay=0.9).update(2.0, value) == 2.0
    assert Ema(decay=0.0).update(2.0, value) == 2.0


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, math.nan, math.inf])
def test_ema_refuses_what_is_no_decay(decay: float) -> None:
    with pytest.raises(InvalidInputError, match=f"`decay` .*got {decay}"):
        Ema(decay=decay)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40), st.floats(0, 0.999))
def test_the_debiased_mean_is_ema_over_its_weight(values: list[float], decay: float) -> None:
    plain, biased, debiased = Ema(decay=decay), 0.0, DebiasedEma(decay=decay)
    state = debiased.init()
    for count, value in enumerate(values, start=1):
        biased, state = plain.update(biased, value), debiased.update(state, value)
        # Both round numbers below 1e3 forty times; dividing by a weight of 1e-3 or more costs three digits.
        assert state["mean"] == pytest.approx(biased / (1 - decay**count), abs=1e-8)
        assert state["weight"] == pytest.approx(1 - decay**count, rel=1e-9)


def test_debiased_mean_by_hand() -> None:
    ema = DebiasedEma(decay=0.5)
    state = ema.update(ema.init(), 3.0)
    assert state == {"mean": 3.0, "weight": 0.5}
    assert ema.update(state, math.nan) == ema.update(state, math.inf) == state
    # Weights 1/3 and 2/3, and no range left at the largest numbers.
    assert ema.update(state, 6.0) == {"mean": 5.0, "weight": 0.75}
    largest = 1.7e308
    assert ema.update({"mean": -largest, "weight": 0.5}, largest)["mean"] < largest


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(0, 0.999)), min_size=1, max_size=20))
def test_the_debiased_mean_weighs_as_its_decays_say(course: list[tuple[float, float]]) -> None:
    # The slow twin: all observations kept, each with its weight.
    state, weights = DebiasedEma(decay=0.0).init(), np.zeros(0)
    for value, decay in course:
        state, weights = DebiasedEma(decay=decay).update(state, value), np.append(weights * decay, 1 - decay)
    expected = weights @ [value for value, _ in course] / weights.sum()
    assert state["mean"] == pytest.approx(expected, abs=1e-8)
    assert state["weight"] == pytest.approx(weights.sum(), rel=1e-9)


@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan])
def test_debiased_mean_refuses_what_is_no_decay(decay: float) -> None:
    with pytest.raises(InvalidInputError, match=f"`decay` .*got {decay}"):
        DebiasedEma(decay=decay)


# Per-sample gradients that are Gaussian, with a mean G and a covariance Σ that are known and not diagonal.
MEAN = np.array([1.0, -2.0, 0.5, 0.0])
FACTOR = np.array([[2.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [-0.5, 0.25, 0.5, 0.0], [0.0, 1.0, 0.0, 1.5]])
COVARIANCE = FACTOR @ FACTOR.T
SIGNAL, TRACE, SQUARE = MEAN @ MEAN, np.trace(COVARIANCE), np.trace(COVARIANCE @ COVARIANCE)
MOMENTUM = np.array([0.5, 1.0, -1.0, 2.0])


def assert_mean(values: list[float] | np.ndarray, truth: float) -> None:
    """The mean of independent draws, within four standard errors; the seeds are fixed."""
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values) - truth) < 4 * error, f"{np.mean(values)} +- {error} beside {truth}"


def draw(num_batches: int, num_samples: int, mean: np.ndarray = MEAN, factor: np.ndarray = FACTOR) -> np.ndarray:
    """Per-sample gradients [N, B, D]."""
    return mean + np.random.default_rng(2).normal(size=(num_batches, num_samples, len(mean))) @ factor.T


@pytest.mark.parametrize("num_samples", [2, 6, 20])
def test_the_mean_gradient_carries_its_noise(num_samples: int) -> None:
    mean = draw(5000, num_samples).mean(axis=1)
    assert_mean((mean**2).sum(axis=1), SIGNAL + TRACE / num_samples)


@pytest.mark.parametrize("num_samples", [2, 6, 20])
def test_projection_variances_along_a_noisy_mean(num_samples: int) -> None:
    # Mean and covariance of Gaussian samples are independent, and the mean's second moment is G G^T + Σ/B.
    grads = draw(5000, num_samples)
    mean = grads.mean(axis=1)
    along = np.einsum("nbd,nd->nb", grads, mean).var(axis=1, ddof=1)
    assert_mean(along, MEAN @ COVARIANCE @ MEAN + SQUARE / num_samples)
    diagonal = np.diag(COVARIANCE)
    by_coordinate = (mean**2 * grads.var(axis=1, ddof=1)).sum(axis=1)
    assert_mean(by_coordinate, MEAN**2 @ diagonal + diagonal @ diagonal / num_samples)


@pytest.mark.parametrize("num_samples", [3, 12])
def test_how_far_a_variance_strays(num_samples: int) -> None:
    # Of Gaussian samples: 2 tr(Σ^2)/(B - 1). The squared deviations' mean is what is tested.
    variances = draw(5000, num_samples).var(axis=1, ddof=1).sum(axis=1)
    assert_mean((variances - TRACE) ** 2, 2 * SQUARE / (num_samples - 1))


@pytest.mark.parametrize("dim", [12, 2])
def test_the_noise_scale_s_bias(dim: int) -> None:
    # With s = tr Σ^ and n = |mean|^2, independent of each other, and Σ = 1. To first order in 1/B, relative to the
    # truth: s/n is off by 4 G^T Σ G / (B |G|^4) - tr Σ / (B |G|^2), s/(n - s/B) by the first of the two terms.
    size, signal, trace = 16, 64.0, float(dim)
    grads = draw(30_000, size, np.full(dim, math.sqrt(signal / dim)), np.eye(dim))
    s, n = grads.var(axis=1, ddof=1).sum(axis=1), (grads.mean(axis=1) ** 2).sum(axis=1)
    truth, upwards, downwards = trace / signal, 4 / (size * signal), trace / (size * signal)
    # What is linear in the deviations has mean zero; without it the bias stands out from the noise.
    linear = (s - trace) / signal - trace * (n - signal - trace / size) / signal**2
    for estimates, bias in ((s / n, upwards - downwards), (s / (n - s / size), upwards)):
        rest = estimates / truth - 1 - linear / truth
        error = rest.std() / math.sqrt(len(rest))
        assert abs(rest.mean()) > 4 * error
        # Terms of second order are some (12/1024)^2, beside biases of some 4/1024.
        assert abs(rest.mean() - bias) < 4 * error + 2 * (max(dim, 4) / (size * signal)) ** 2
    # Too small in more than four like dimensions, too large in fewer.
    assert (upwards < downwards) == (dim > 4)


MEASURED = ("grad_sqnorm", "sample_sqnorm", "grad_variance", "momentum_projection")
PROJECTIONS = ("projection_variance", "diagonal_projection_variance")
PROBES = {
    "layers": ({"estimator": "layers"}, [7], MEASURED + PROJECTIONS),
    "layers, cut": ({"estimator": "layers"}, [4, 1, 2], MEASURED + PROJECTIONS),
    "layers, half": ({"estimator": "layers", "sample_fraction": 0.5}, [7], MEASURED + PROJECTIONS),
    "chunks": ({"estimator": "chunks"}, [3, 1, 3], MEASURED),
}


@pytest.mark.parametrize("name", PROBES)
def test_what_the_probe_measures_has_these_expectations(name: str) -> None:
    # The gradient of the loss θ·x is the sample x itself.
    options, cut, quantities = PROBES[name]
    size, diagonal = sum(cut), np.diag(COVARIANCE)
    model = torch.nn.Linear(4, 1, bias=False, dtype=torch.float64)
    probe = gb.Probe(model, quantities, **options)
    measured = []
    for grads in torch.from_numpy(draw(1000, size)):
        model.zero_grad()
        for samples in grads.split(cut):
            with probe.measure(num_samples=len(samples)):
                model(samples).mean().backward()
        measured.append(probe.read(momenta=[torch.from_numpy(MOMENTUM)[None]]))
    truths = {
        "grad_sqnorm": SIGNAL + TRACE / size,
        "sample_sqnorm": SIGNAL + TRACE,
        "grad_variance": TRACE,
        "momentum_projection": MEAN @ MOMENTUM + SIGNAL + TRACE / size,
        "projection_variance": MEAN @ COVARIANCE @ MEAN + SQUARE / size,
        "diagonal_projection_variance": MEAN**2 @ diagonal + diagonal @ diagonal / size,
    }
    for quantity in quantities:
        assert_mean([getattr(statistics, quantity) for statistics in measured], truths[quantity])
    assert_mean([corrected_grad_sqnorm(statistics) for statistics in measured], SIGNAL)
    assert_mean([biased_grad_variance(statistics) for statistics in measured], (1 - 1 / size) * TRACE)
