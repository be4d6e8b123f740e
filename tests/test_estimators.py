"""The formulas, by hand, on per-sample gradients, and on draws from a distribution that is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradbatch as gb
from gradbatch.errors import InvalidInputError
from gradbatch.estimators import Ema, biased_grad_variance, corrected_grad_sqnorm, grad_variance, noise_scale

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
