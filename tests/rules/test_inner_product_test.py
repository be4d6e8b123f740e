"""The inner-product test by hand, against sums over per-sample gradients, and at its edges."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradbatch as gb
from cases import moments, progress
from gradbatch.errors import InvalidInputError

BIG = 10**12


def batch(projections: float, sqnorm: float, variance: float | None = None, num_samples: int = 32) -> gb.Statistics:
    """A batch with this variance of projections, squared norm of the mean gradient, and total variance."""
    return gb.Statistics(
        num_samples=num_samples,
        loss=1.0,
        projection_variance=projections,
        grad_sqnorm=sqnorm,
        grad_variance=variance,
    )


def measured(seed: int, count: int, dim: int) -> tuple[np.ndarray, gb.Statistics]:
    """Per-sample gradients [B, D], and their statistics by definition."""
    grads = np.random.default_rng(seed).normal(0.5, 1.0, (count, dim))
    mean = grads.mean(axis=0)
    along, total = float((grads @ mean).var(ddof=1)), float(grads.var(axis=0, ddof=1).sum())
    return grads, batch(along, float(mean @ mean), total, count)


def decide(rule: gb.Rule[None], statistics: gb.Statistics, **place: Any) -> gb.Decision:
    decision, state = rule.update(statistics, progress(**{"dataset_size": BIG} | place), rule.init())
    assert state is None
    return decision


def test_by_hand() -> None:
    # 80/(0.25 * 2^2) = 80 samples.
    rule = gb.InnerProductTest(theta=0.5)
    assert decide(rule, batch(80.0, 2.0)).batch_size == 80
    assert decide(rule, batch(80.5, 2.0)).batch_size == 81
    assert decide(rule, batch(9.0, 2.0)).batch_size == 32
    assert decide(gb.InnerProductTest(theta=0.5, monotone=False), batch(9.0, 2.0)).batch_size == 9
    # Orthogonal variance 100 - 80/2 = 60, over 0.25 * 2 with nu = 1/2 and over 1 * 2 with nu = 1: 120 and 30.
    assert decide(gb.InnerProductTest(theta=0.5, nu=0.5), batch(80.0, 2.0, 100.0)).batch_size == 120
    assert decide(gb.InnerProductTest(theta=0.5, nu=1.0), batch(80.0, 2.0, 100.0)).batch_size == 80


def test_the_authors_defaults() -> None:
    rule = gb.InnerProductTest()
    assert rule == gb.InnerProductTest(theta=0.1, nu=None, monotone=True, min_batch_size=1, max_batch_size=50_000)
    assert rule.requires(progress()) == {"projection_variance", "grad_sqnorm"}
    assert gb.InnerProductTest(nu=1.0).requires(progress()) == {"projection_variance", "grad_sqnorm", "grad_variance"}


@given(st.integers(3, 12), st.integers(2, 5), st.integers(0, 10**6), st.floats(0.05, 3.0), st.floats(0.05, 6.0))
def test_the_size_is_the_least_that_passes(count: int, dim: int, seed: int, theta: float, nu: float) -> None:
    grads, statistics = measured(seed, count, dim)
    mean = grads.mean(axis=0)
    sqnorm = mean @ mean
    across = grads - np.outer(grads @ mean / sqnorm, mean)
    rule = gb.InnerProductTest(theta=theta, nu=nu, monotone=False, max_batch_size=BIG)
    decision = decide(rule, statistics)

    def passes(size: int, slack: float) -> bool:
        """The two conditions, as Bollapragada, Byrd and Nocedal write them."""
        inner = ((grads @ mean - sqnorm) ** 2).sum() / (count - 1) / size <= slack * theta**2 * sqnorm**2
        return bool(inner and (across**2).sum() / (count - 1) / size <= slack * nu**2 * sqnorm)

    # A last digit decides only at a tie, which random numbers do not give.
    assert passes(decision.batch_size, 1 + 1e-9)
    assert decision.batch_size == 1 or not passes(decision.batch_size - 1, 1 - 1e-9)
    assert ("passed" in decision.reason) == passes(count, 1.0)


@given(st.integers(3, 12), st.integers(1, 5), st.integers(0, 10**6), st.floats(0.01, 0.5))
def test_its_two_variances_add_up_to_the_norm_test_s(count: int, dim: int, seed: int, theta: float) -> None:
    # Section 6, and 5.5: with nu = theta the two sizes add up to the norm test's, up to rounding up.
    _, statistics = measured(seed, count, dim)
    options = {"monotone": False, "max_batch_size": BIG}
    along = decide(gb.InnerProductTest(theta=theta, **options), statistics).batch_size
    # A theta so large that the inner-product test asks for nothing leaves the orthogonal part alone.
    across = decide(gb.InnerProductTest(theta=1e9, nu=theta, **options), statistics).batch_size
    whole = decide(gb.NormTest(theta=theta, **options), statistics).batch_size
    assert whole - 1 <= along + across <= whole + 2 + 1e-9 * whole


@given(st.integers(3, 12), st.integers(2, 5), st.integers(0, 10**6))
def test_ba_s_variance_is_the_inner_product_test_s(count: int, dim: int, seed: int) -> None:
    # Section 6: sigma^2 of BA is the variance of g_i . gbar. With sigma^2 = m theta^2 |gbar|^4 the test just passes.
    grads, statistics = measured(seed, count, dim)
    assert statistics.grad_sqnorm is not None
    sigma = gb.BA(covariance="exact").update(statistics, progress(), None)[0].numbers["sigma"]
    covariance = np.atleast_2d(np.cov(grads.T))
    mean = grads.mean(axis=0)
    assert sigma**2 == pytest.approx(mean @ covariance @ mean, rel=1e-9)
    theta = sigma / math.sqrt(count) / statistics.grad_sqnorm
    for factor, verdict in ((1.001, "passed"), (0.999, "failed")):
        assert verdict in decide(gb.InnerProductTest(theta=theta * factor), statistics).reason


@given(st.lists(st.tuples(st.floats(0, 1e3), st.floats(0, 1e3)), min_size=1, max_size=8))
def test_it_never_shrinks(course: list[tuple[float, float]]) -> None:
    size = 4
    for projections, sqnorm in course:
        statistics = batch(projections, sqnorm, num_samples=size)
        decision = decide(gb.InnerProductTest(theta=0.9), statistics, batch_size=size, dataset_size=3000)
        assert size <= decision.batch_size <= 3000
        size = decision.batch_size


def test_bounds() -> None:
    rule = gb.InnerProductTest(theta=0.5, monotone=False, min_batch_size=10, max_batch_size=100)
    assert decide(rule, batch(1.0, 2.0)).batch_size == 10
    assert decide(rule, batch(1000.0, 2.0)).batch_size == 100
    assert decide(rule, batch(1000.0, 2.0), dataset_size=60).batch_size == 60


def test_no_noise_and_no_gradient() -> None:
    # 0 <= 0 holds; with nu there is variance across a gradient that has no direction.
    assert decide(gb.InnerProductTest(), batch(0.0, 0.0), batch_size=40).batch_size == 40
    assert decide(gb.InnerProductTest(nu=1.0), batch(0.0, 0.0, 1.0), batch_size=40).batch_size == 50_000
    assert decide(gb.InnerProductTest(nu=1.0), batch(0.0, 0.0, 0.0), batch_size=40).batch_size == 40
    assert decide(gb.InnerProductTest(), batch(0.0, 1.0), batch_size=40).batch_size == 40
    # All the variance lies along the gradient, and by rounding more than all.
    shrinking = gb.InnerProductTest(theta=1.0, nu=1e-9, monotone=False)
    assert decide(shrinking, batch(10.0, 2.0, 5.0 - 1e-12)).batch_size == 3
    # A gradient whose square is no longer a number, but no zero.
    assert decide(gb.InnerProductTest(), batch(1e-300, 1e-300)).batch_size == 50_000


@pytest.mark.parametrize("field", ["loss", "projection_variance", "grad_variance", "grad_sqnorm"])
def test_what_is_not_finite_is_held(field: str) -> None:
    values = dict.fromkeys(("loss", "projection_variance", "grad_variance", "grad_sqnorm"), 1.0) | {field: math.nan}
    decision = decide(gb.InnerProductTest(nu=1.0), gb.Statistics(num_samples=4, **values), batch_size=77)
    assert decision == gb.Decision(
        batch_size=77, reason="inner-product-test: held, this batch's numbers are not finite"
    )


def test_a_variance_that_was_not_measured() -> None:
    with pytest.raises(InvalidInputError, match="`projection_variance`, `grad_sqnorm`"):
        decide(gb.InnerProductTest(), moments(num_samples=1))
    with pytest.raises(InvalidInputError, match="`grad_variance`"):
        decide(gb.InnerProductTest(nu=1.0), batch(1.0, 1.0))


def test_the_decision_has_the_numbers() -> None:
    decision = decide(gb.InnerProductTest(theta=0.5), batch(80.0, 2.0))
    assert decision.reason == "inner-product-test: failed at 32 samples, holds from 80"
    assert decision.numbers == {"projection_variance": 80.0, "grad_sqnorm": 2.0}
    assert decision.lr_scale == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("theta", value) for value in (0.0, -0.1, math.nan, math.inf)],
        *[("nu", value) for value in (0.0, -0.1, math.nan, math.inf)],
        *[("min_batch_size", value) for value in (0, 1.5, True)],
        *[("max_batch_size", value) for value in (0, 100.0)],
    ],
)
def test_bad_hyper_parameters(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"`{name}` must .*, got {value!r}$"):
        gb.InnerProductTest(**{name: value})
