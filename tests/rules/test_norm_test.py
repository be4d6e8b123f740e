"""The norm test by hand, against the per-coordinate variances it is defined by, and at its edges."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradbatch as gb
from cases import moments, progress
from gradbatch.errors import InvalidInputError
from gradbatch.estimators import biased_grad_variance, grad_variance


def batch(variance: float, sqnorm: float, num_samples: int = 32) -> gb.Statistics:
    """A batch with this unbiased variance and this squared norm of the mean gradient."""
    return gb.Statistics(num_samples=num_samples, loss=1.0, grad_variance=variance, grad_sqnorm=sqnorm)


def decide(rule: gb.NormTest, statistics: gb.Statistics, **place: Any) -> gb.Decision:
    decision, state = rule.update(statistics, progress(**{"dataset_size": 10**9} | place), rule.init())
    assert state is None
    return decision


def test_by_hand() -> None:
    # 40/(0.25 * 2) = 80 samples; 41/0.5 = 82; 9/0.5 = 18 are fewer than the 32 at hand.
    rule = gb.NormTest(theta=0.5)
    assert decide(rule, batch(40.0, 2.0)).batch_size == 80
    assert decide(rule, batch(40.2, 2.0)).batch_size == 81
    assert decide(rule, batch(9.0, 2.0)).batch_size == 32
    assert decide(gb.NormTest(theta=0.5, monotone=False), batch(9.0, 2.0)).batch_size == 18
    # AdAdaGrad's 0.1.
    assert decide(gb.NormTest(), batch(40.0, 2.0)).batch_size == math.ceil(40.0 / (0.1 * 0.1 * 2.0))


def test_the_authors_defaults() -> None:
    rule = gb.NormTest()
    assert rule == gb.NormTest(theta=0.1, monotone=True, min_batch_size=1, max_batch_size=50_000)
    assert rule.requires(progress()) == {"grad_variance", "grad_sqnorm"}


@given(st.integers(2, 12), st.integers(1, 5), st.integers(0, 10**6), st.floats(0.05, 0.95))
def test_the_size_is_the_least_that_passes(count: int, dim: int, seed: int, theta: float) -> None:
    # From per-sample gradients, with the coordinates' own variances as Byrd et al. write it.
    grads = np.random.default_rng(seed).normal(0.5, 1.0, (count, dim))
    mean = grads.mean(axis=0)
    variance, sqnorm = grads.var(axis=0, ddof=1).sum(), mean @ mean
    second = float((grads**2).sum(axis=1).mean())
    sums = gb.Statistics(num_samples=count, loss=1.0, grad_sqnorm=float(sqnorm), sample_sqnorm=second)
    statistics = batch(grad_variance(sums), float(sqnorm), count)
    rule = gb.NormTest(theta=theta, monotone=False, max_batch_size=10**15)
    decision = decide(rule, statistics, dataset_size=10**15)
    size = decision.batch_size
    # A last digit decides only at a tie, which random numbers do not give.
    assert variance / size <= theta**2 * sqnorm * (1 + 1e-9)
    assert size == 1 or variance / (size - 1) > theta**2 * sqnorm * (1 - 1e-9)
    passes = variance / count <= theta**2 * sqnorm
    assert ("passed" in decision.reason) == passes
    # Section 6: tr Σ unbiased is B/(B - 1) of the biased one.
    assert grad_variance(sums) == pytest.approx(count / (count - 1) * biased_grad_variance(sums), rel=1e-12)


@given(st.floats(0.1, 100), st.floats(0.01, 100), st.floats(1e-3, 1.0), st.floats(0.05, 0.95))
def test_cabs_is_a_norm_test(xi: float, sqnorm: float, lr: float, theta: float) -> None:
    # Section 6: CABS without memory is the norm test on its own variance, with theta^2 = loss/(lr |g|^2).
    cabs = gb.CABS(decay=0.0, min_batch_size=1, max_batch_size=10**9)
    loss = theta**2 * lr * sqnorm
    statistics = gb.Statistics(num_samples=32, loss=loss, grad_sqnorm=sqnorm, sample_sqnorm=xi + sqnorm)
    theirs = cabs.update(statistics, progress(lr=lr, dataset_size=10**9), cabs.init())[0].batch_size
    ours = decide(gb.NormTest(theta=theta, monotone=False), batch(xi, sqnorm), dataset_size=10**9).batch_size
    # One rounds to the nearest and the other up, from numbers below 1e8 that agree to 1e-12.
    bounded = min(ours, 50_000)
    assert min(theirs, 50_000) in (bounded - 1, bounded) or theirs == ours == 1


def test_equality_passes() -> None:
    # 16/(0.25 * 2) = 32, exact in binary.
    decision = decide(gb.NormTest(theta=0.5), batch(16.0, 2.0, num_samples=32))
    assert decision.reason == "norm-test: passed at 32 samples, holds from 32"


def test_the_requested_size_is_what_is_kept() -> None:
    # The short last batch of an epoch, 5 of 64 requested: it fails at 5, and 80 or 40 are asked for.
    rule = gb.NormTest(theta=0.5)
    assert decide(rule, batch(40.0, 2.0, num_samples=5), batch_size=64).batch_size == 80
    short = decide(rule, batch(20.0, 2.0, num_samples=5), batch_size=64)
    assert short.batch_size == 64
    assert short.reason == "norm-test: failed at 5 samples, holds from 40"


@given(st.lists(st.tuples(st.floats(0, 1e3), st.floats(0, 1e3)), min_size=1, max_size=8))
def test_it_never_shrinks(course: list[tuple[float, float]]) -> None:
    size = 4
    for variance, sqnorm in course:
        decision = decide(gb.NormTest(theta=0.9), batch(variance, sqnorm, size), batch_size=size, dataset_size=3000)
        assert size <= decision.batch_size <= 3000
        size = decision.batch_size


def test_bounds() -> None:
    rule = gb.NormTest(theta=0.5, monotone=False, min_batch_size=10, max_batch_size=100)
    assert decide(rule, batch(1.0, 2.0)).batch_size == 10
    assert decide(rule, batch(1000.0, 2.0)).batch_size == 100
    assert decide(rule, batch(1000.0, 2.0), dataset_size=60).batch_size == 60
    assert decide(gb.NormTest(max_batch_size=100), batch(1.0, 2.0), batch_size=500).batch_size == 100


def test_no_noise_passes_and_no_gradient_fails() -> None:
    for variance, sqnorm in ((0.0, 1.0), (0.0, 0.0), (-1e-12, 1.0)):
        decision = decide(gb.NormTest(), batch(variance, sqnorm), batch_size=40)
        assert decision.batch_size == 40
        assert "passed" in decision.reason
        assert decide(gb.NormTest(monotone=False), batch(variance, sqnorm), batch_size=40).batch_size == 1
    decision = decide(gb.NormTest(), batch(1e-9, 0.0))
    assert decision.batch_size == 50_000
    assert decision.reason == "norm-test: failed at 32 samples, holds from inf"


@pytest.mark.parametrize("field", ["loss", "grad_variance", "grad_sqnorm"])
def test_what_is_not_finite_is_held(field: str) -> None:
    values = {"loss": 1.0, "grad_variance": 1.0, "grad_sqnorm": 1.0, field: math.nan}
    decision = decide(gb.NormTest(), gb.Statistics(num_samples=4, **values), batch_size=77)
    assert decision == gb.Decision(batch_size=77, reason="norm-test: held, this batch's numbers are not finite")


def test_a_variance_that_was_not_measured() -> None:
    with pytest.raises(InvalidInputError, match="`grad_variance`, `grad_sqnorm`"):
        decide(gb.NormTest(), moments(num_samples=1))


def test_the_decision_has_the_numbers() -> None:
    decision = decide(gb.NormTest(theta=0.5), batch(40.0, 2.0))
    assert decision.reason == "norm-test: failed at 32 samples, holds from 80"
    assert decision.numbers == {"variance": 40.0, "grad_sqnorm": 2.0}
    assert decision.lr_scale == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("theta", value) for value in (0.0, -0.1, 1.0, 2.0, math.nan)],
        *[("min_batch_size", value) for value in (0, 1.5, True)],
        *[("max_batch_size", value) for value in (0, 100.0)],
    ],
)
def test_bad_hyper_parameters(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"`{name}` must .*, got {value!r}$"):
        gb.NormTest(**{name: value})
