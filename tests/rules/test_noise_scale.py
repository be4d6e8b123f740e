"""The noise scale by hand, against an average kept in full, and where noise or signal is missing."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradbatch as gb
from cases import moments, progress
from gradbatch.errors import InvalidInputError


def batch(variance: float, sqnorm: float, num_samples: int = 4) -> gb.Statistics:
    """A batch with this unbiased variance and this squared norm of the mean gradient."""
    return gb.Statistics(num_samples=num_samples, loss=1.0, grad_variance=variance, grad_sqnorm=sqnorm)


def decisions(rule: gb.NoiseScale, *course: gb.Statistics, dataset_size: int = 10_000) -> list[gb.Decision]:
    """The rule's answers to some statistics in a row."""
    state, answers = rule.init(), []
    for statistics in course:
        decision, state = rule.update(statistics, progress(dataset_size=dataset_size), state)
        answers.append(decision)
    return answers


def sizes(rule: gb.NoiseScale, *course: gb.Statistics, dataset_size: int = 10_000) -> list[int]:
    return [decision.batch_size for decision in decisions(rule, *course, dataset_size=dataset_size)]


def test_by_hand() -> None:
    # |G|^2 = 5 - 8/4 = 3 and 4 - 12/4 = 1. Weights at decay 1/2 are 1/3 and 2/3 in the second step:
    # tr Σ 8, 32/3 and |G|^2 3, 5/3: noise scales 8/3 and 32/5, times 8 64/3 and 51.2.
    course = [batch(8.0, 5.0), batch(12.0, 4.0)]
    assert sizes(gb.NoiseScale(decay=0.5), *course) == [3, 7]
    assert sizes(gb.NoiseScale(decay=0.5, scale=8), *course) == [22, 52]
    # Without memory, 12/1. With the root, 4 * sqrt(8/3) = 6.53 and 4 * sqrt(6.4) = 10.12.
    assert sizes(gb.NoiseScale(decay=0.0), *course) == [3, 12]
    assert sizes(gb.NoiseScale(decay=0.5, scale=4, power=0.5), *course) == [7, 11]


def test_defaults() -> None:
    rule = gb.NoiseScale()
    assert rule == gb.NoiseScale(decay=0.99, scale=1.0, power=1.0, min_batch_size=1, max_batch_size=None)
    assert rule.requires(progress()) == {"grad_variance", "grad_sqnorm"}
    zero = {"mean": 0.0, "weight": 0.0}
    assert rule.init() == {"variance": zero, "signal": zero}


def test_against_averages_in_full() -> None:
    # The slow twin: all estimates kept, weighted by powers of the decay that add up to 1.
    generator = np.random.default_rng(0)
    variances, counts = generator.exponential(9.0, 60), generator.integers(2, 50, 60)
    sqnorms = variances / counts + generator.exponential(0.05, 60)
    course = [batch(v, g, int(n)) for v, g, n in zip(variances, sqnorms, counts, strict=True)]
    ours = sizes(gb.NoiseScale(decay=0.9), *course)
    signals = sqnorms - variances / counts
    theirs = []
    for t in range(1, 61):
        weights = 0.9 ** np.arange(t)[::-1]
        weights /= weights.sum()
        theirs.append(math.ceil((weights @ variances[:t]) / (weights @ signals[:t])))
    assert ours == theirs
    assert len(set(ours)) > 20


def test_averaged_apart() -> None:
    # Ratios 1 and 100 of batches with little and much signal: 2 of 1.01, not the mean of the ratios.
    course = [batch(1.0, 1.0 + 1 / 4), batch(1.0, 0.01 + 1 / 4)]
    assert sizes(gb.NoiseScale(decay=0.999_999), *course) == [1, 2]


@given(st.floats(0.1, 1e4), st.floats(1e-3, 1e3), st.integers(2, 500), st.floats(0.05, 0.9))
def test_norm_test_of_the_corrected_norm_asks_for_it(trace: float, signal: float, count: int, theta: float) -> None:
    # Section 6: with |gbar|^2 = |G|^2 + tr Σ/B in expectation, norm test size * theta^2 = 1/(1/B_simple + 1/B).
    sqnorm = signal + trace / count
    big = 10**18
    statistics = batch(trace, sqnorm, count)
    ours = sizes(gb.NoiseScale(scale=1e6), statistics, dataset_size=big)[0] / 1e6
    test = gb.NormTest(theta=theta, monotone=False, max_batch_size=big)
    asked = test.update(statistics, progress(dataset_size=big), None)[0].batch_size * theta**2
    # Rounding up adds at most one sample to either size; cancellation in |G|^2 costs the rest.
    assert ours == pytest.approx(trace / signal, rel=1e-6, abs=1e-6)
    assert asked == pytest.approx(1 / (signal / trace + 1 / count), rel=1e-9, abs=theta**2)


def test_no_signal_asks_for_the_largest_batch() -> None:
    # 1 - 8/4 = -1; and 2 - 8/4 = 0.
    assert sizes(gb.NoiseScale(max_batch_size=77), batch(8.0, 1.0)) == [77]
    assert sizes(gb.NoiseScale(max_batch_size=77), batch(8.0, 2.0)) == [77]
    # ... as does the limit, and the data set is a bound as well.
    assert sizes(gb.NoiseScale(), batch(8.0, 2.0 + 1e-12), dataset_size=50) == [50]
    # One bad estimate does not outweigh the average: (-1 + 2 * 5)/3 = 3.
    assert sizes(gb.NoiseScale(decay=0.5), batch(8.0, 1.0), batch(8.0, 7.0)) == [10_000, 3]


def test_no_noise_asks_for_the_smallest_batch() -> None:
    for sqnorm in (1.0, 0.0):
        assert sizes(gb.NoiseScale(min_batch_size=5), batch(0.0, sqnorm)) == [5]
    assert sizes(gb.NoiseScale(min_batch_size=5), batch(-1e-12, 1.0)) == [5]


def test_bounds() -> None:
    rule = gb.NoiseScale(decay=0.0, min_batch_size=10, max_batch_size=20)
    assert sizes(rule, batch(9.0, 3.25), batch(15.0, 4.75), batch(90.0, 23.5)) == [10, 15, 20]
    # The floor wins over a data set smaller than it.
    assert sizes(rule, batch(90.0, 23.5), dataset_size=5) == [10]


@pytest.mark.parametrize("field", ["loss", "grad_variance", "grad_sqnorm"])
def test_what_is_not_finite_changes_nothing(field: str) -> None:
    rule, values = gb.NoiseScale(), {"loss": 1.0, "grad_variance": 1.0, "grad_sqnorm": 1.0, field: math.inf}
    start = rule.update(batch(8.0, 5.0), progress(), rule.init())[1]
    decision, state = rule.update(gb.Statistics(num_samples=4, **values), progress(batch_size=77), start)
    assert decision == gb.Decision(batch_size=77, reason="noise-scale: held, this batch's numbers are not finite")
    assert state == start


def test_a_variance_that_was_not_measured() -> None:
    with pytest.raises(InvalidInputError, match="`grad_variance`, `grad_sqnorm`"):
        gb.NoiseScale().update(moments(num_samples=1), progress(), gb.NoiseScale().init())


def test_the_decision_has_the_numbers() -> None:
    (decision,) = decisions(gb.NoiseScale(), batch(8.0, 5.0))
    assert decision.reason == "noise-scale: variance/signal = 8/3"
    assert decision.numbers == {"variance": 8.0, "signal": 3.0}
    assert decision.lr_scale == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("decay", value) for value in (-0.1, 1.0, math.nan)],
        *[("scale", value) for value in (0.0, -1.0, math.nan, math.inf)],
        *[("power", value) for value in (0.0, -0.5, 1.5, math.nan)],
        *[("min_batch_size", value) for value in (0, 1.5, True)],
        *[("max_batch_size", value) for value in (0, 100.0)],
    ],
)
def test_bad_hyper_parameters(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"`{name}` must .*, got {value!r}$"):
        gb.NoiseScale(**{name: value})
