import math

import numpy as np
import pytest

from gradbatch.experiments.curves import Points, column, noise_scale_points, smooth, thin


def test_a_column_has_nan_where_a_line_has_nothing():
    found = column([{"a": 1}, {"a": None}, {}], "a")
    assert found[0] == 1
    assert np.isnan(found[1:]).all()


def test_smoothing_is_the_weighted_mean_of_the_formula():
    values, sizes = np.array([1.0, math.nan, 4.0]), np.array([10.0, 20.0, 30.0])
    weights = [10 * math.exp(-50 / 40), 30.0]
    found = smooth(values, sizes, 40)
    assert found[0] == found[1] == 1
    assert found[2] == pytest.approx((weights[0] * 1 + weights[1] * 4) / sum(weights))
    assert math.isnan(smooth(np.array([math.nan]), np.array([1.0]), 5)[0])


def test_thinning_keeps_ends_and_extremes():
    x = np.arange(10_000.0)
    y = np.sin(x / 500)
    y[1234], y[8765] = 9, -9
    found = thin(Points(x, y), max_points=100)
    assert len(found.x) <= 102
    assert (np.diff(found.x) > 0).all()
    assert (found.x[0], found.x[-1]) == (0, 9999)
    assert (found.y.max(), found.y.min()) == (9, -9)


def test_thinning_keeps_gaps_and_short_curves():
    x = np.arange(1000.0)
    y = np.where((x >= 400) & (x < 600), math.nan, x)
    assert np.isnan(thin(Points(x, y), max_points=50).y).any()
    short = Points(x[:10], y[:10])
    assert thin(short) is short


def line(step, grad_sqnorm, sample_sqnorm, batch_size=4):
    return {
        "samples_seen": batch_size * (step + 1),
        "batch_size": batch_size,
        "grad_sqnorm": grad_sqnorm,
        "sample_sqnorm": sample_sqnorm,
    }


def test_the_noise_scale_averages_both_parts_before_dividing():
    # By hand: B = 4, so tr = 4/3 (3 - 1.5) = 2 and 4/3 (4 - 1) = 4; signal = 1.5 - 2/4 = 1 and 1 - 4/4 = 0.
    lines = [line(0, 1.5, 3.0), {"samples_seen": 8, "batch_size": 4}, line(2, 1.0, 4.0)]
    found = noise_scale_points(lines, "samples_seen", window=2)
    assert found.x.tolist() == [4, 12]
    assert found.y == pytest.approx([2.0, (0.5 * 2 + 4) / (0.5 * 1 + 0)])


def test_a_noise_scale_without_signal_is_a_gap_and_without_moments_nothing():
    assert math.isnan(noise_scale_points([line(0, 0.5, 4.0)], "samples_seen").y[0])
    assert noise_scale_points([{"samples_seen": 4, "batch_size": 4}], "samples_seen") is None
    assert noise_scale_points([line(0, 1.0, 1.0, batch_size=1)], "samples_seen") is None


def test_a_logged_variance_stands_for_the_second_moment():
    moments = line(0, 1.5, 3.0)
    variance = {name: value for name, value in moments.items() if name != "sample_sqnorm"} | {"grad_variance": 2.0}
    assert noise_scale_points([variance], "samples_seen").y == pytest.approx(
        noise_scale_points([moments], "samples_seen").y
    )
