"""AdaScale by hand, against the paper's estimators in groups, and the progress it counts."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradbatch as gb
from cases import follow, moments, progress
from gradbatch.errors import InvalidInputError
from gradbatch.estimators import adascale_gain

SIZES = st.integers(1, 10**6)
POSITIVE = st.floats(1e-6, 1e6)


def batch(variance: float, signal: float, *, num_samples: int = 64) -> gb.Statistics:
    """A batch whose estimates of tr(Sigma) and of the true gradient's squared norm are these."""
    return gb.Statistics(
        num_samples=num_samples, loss=1.0, grad_variance=variance, grad_sqnorm=signal + variance / num_samples
    )


def test_by_hand() -> None:
    rule = gb.AdaScale(base_batch_size=16)
    # S = 4, sigma^2 = 64/16 = 4, mu^2 = 1: r = 5/(1 + 1).
    first, state = rule.update(batch(64.0, 1.0), progress(batch_size=70), rule.init())
    assert (first.batch_size, first.lr_scale) == (70, 2.5)
    assert first.numbers == {"gain": 2.5, "progress": 2.5, "variance": 64.0, "grad_sqnorm": 1.0}
    assert first.reason == "adascale: gain 2.5 of 4, progress 2.5"
    # The plain mean of the first two: sigma^2 = (4 + 12)/2 = 8, mu^2 = 2: r = 10/(2 + 2).
    second, state = rule.update(batch(192.0, 3.0), progress(batch_size=70), state)
    assert second.lr_scale == 2.5
    assert state == {
        "moments": {"variance": {"mean": 128.0, "weight": 2.0}, "signal": {"mean": 2.0, "weight": 2.0}},
        "progress": 5.0,
    }


def test_the_mean_becomes_one_of_the_decay_of_the_paper() -> None:
    # S = 4 and a window of 16: theta = 3/4, so the first 4 count alike and then each new one a quarter.
    rule, values = gb.AdaScale(base_batch_size=16, window=16.0), [1.0, 2.0, 3.0, 6.0, 7.0, 15.0]
    state, means = rule.init(), []
    for value in values:
        _, state = rule.update(batch(value, 0.0), progress(), state)
        means.append(state["moments"]["variance"]["mean"])
    assert means == pytest.approx([1, 1.5, 2, 3, 4, 6.75], rel=1e-12)


def test_the_papers_estimators_with_groups_of_one_sample() -> None:
    # sigma^2 = sum|g|^2/(S-1) - S/(S-1)|mean|^2 and mu^2 = |mean|^2 - sigma^2/S, with 10 samples for the S groups.
    gradients = np.random.default_rng(0).normal(0.3, 1.0, (10, 5))
    mean = gradients.mean(0)
    sigma2 = (gradients**2).sum() / 9 - 10 / 9 * (mean**2).sum()
    mu2 = (mean**2).sum() - sigma2 / 10
    statistics = gb.Statistics(
        num_samples=10, loss=1.0, grad_variance=gradients.var(0, ddof=1).sum(), grad_sqnorm=(mean**2).sum()
    )
    decision, state = gb.AdaScale(base_batch_size=1).update(statistics, progress(), gb.AdaScale().init())
    assert state["moments"]["variance"]["mean"] == pytest.approx(sigma2, rel=1e-12)
    assert state["moments"]["signal"]["mean"] == pytest.approx(mu2, rel=1e-12)
    assert decision.lr_scale == pytest.approx((sigma2 + mu2) / (sigma2 / 10 + mu2), rel=1e-12)


@given(POSITIVE, POSITIVE, SIZES, SIZES)
def test_the_gain_lies_between_1_and_the_scale_and_is_pollux_s_efficiency(
    variance: float, signal: float, base: int, size: int
) -> None:
    gain = adascale_gain(variance, signal, base_batch_size=base, batch_size=size)
    scale, noise_scale = size / base, variance / signal
    assert min(1, scale) * (1 - 1e-9) <= gain <= max(1, scale) * (1 + 1e-9)
    assert gain / scale == pytest.approx((noise_scale + base) / (noise_scale + size), rel=1e-9)


@pytest.mark.parametrize(
    ("variance", "signal", "expected"),
    [
        (0.0, 5.0, 1.0),
        (5.0, 0.0, 4.0),
        (5.0, -9.0, 4.0),
        (-1e-12, 5.0, 1.0),
        (0.0, 0.0, 1.0),
        (-1.0, -1.0, 1.0),
        (1e308, 1e308, (1 / 16 + 1) / (1 / 64 + 1)),
        (1e-320, 0.0, 4.0),
    ],
)
def test_gains_at_the_edge(variance: float, signal: float, expected: float) -> None:
    assert adascale_gain(variance, signal, base_batch_size=16, batch_size=64) == expected


def test_progress_adds_up_and_counts_base_updates() -> None:
    # All noise, so that a batch of 64 is worth four of 16; the short one at the end is worth a half.
    rule = gb.AdaScale(base_batch_size=16)
    course = [batch(1.0, 0.0)] * 3 + [batch(1.0, 0.0, num_samples=8)]
    followed = follow(rule, course)
    assert [d.numbers["progress"] for d in followed.decisions] == [4, 8, 12, 12.5]
    assert [d.lr_scale for d in followed.decisions] == [4, 4, 4, 0.5]
    assert {d.batch_size for d in followed.decisions} == {32}


def test_the_base_batch_is_trained_on_with_the_rate_as_it_is() -> None:
    course = [moments(variance=float(v), num_samples=32) for v in (3, 100, 0.1)]
    assert [d.lr_scale for d in follow(gb.AdaScale(base_batch_size=32), course).decisions] == [1, 1, 1]


@pytest.mark.parametrize("field", ["grad_variance", "grad_sqnorm"])
@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_batch_without_finite_moments_changes_nothing(field: str, value: float | None) -> None:
    rule = gb.AdaScale()
    values: dict[str, Any] = {"grad_variance": 1.0, "grad_sqnorm": 1.0}
    _, state = rule.update(batch(2.0, 1.0), progress(), rule.init())
    broken = gb.Statistics(num_samples=9, loss=1.0, **(values | {field: value}))
    decision, after = rule.update(broken, progress(batch_size=77), state)
    assert after == state
    assert (decision.batch_size, decision.lr_scale) == (77, 1.0)
    assert decision.reason.startswith("adascale: held")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("base_batch_size", value) for value in (0, -1, 2.0, True, None)],
        *[("window", value) for value in (0.0, -1.0, math.nan, math.inf)],
    ],
)
def test_bad_hyper_parameters(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"`{name}` must .*, got {value!r}$"):
        gb.AdaScale(**{name: value})
