"""Goodput: the fit of the clock, the optimum against a search over sizes, and when the size moves."""

import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradbatch as gb
from cases import moments, progress
from gradbatch.errors import InvalidInputError
from gradbatch.estimators import adascale_gain
from gradbatch.rules._step_times import StepTimes, TimeFit, fit, no_times, observe

POSITIVE = st.floats(1e-3, 1e3)


def timed(steps: list[tuple[int, float]], times: StepTimes | None = None) -> StepTimes:
    """What is known after updates of these sizes and seconds, the first of them the one that is not timed."""
    times = times or no_times()
    step, seen, seconds = times["step"], times["samples_seen"], times["seconds"]
    for size, duration in steps:
        step, seen, seconds = step + 1, seen + size, seconds + duration
        times = observe(times, progress(step=step, samples_seen=seen, seconds=seconds))
    return times


def fitted(steps: list[tuple[int, float]]) -> TimeFit:
    fit_of_steps = fit(timed([(1, 100.0), *steps]))
    assert fit_of_steps is not None
    return fit_of_steps


def test_one_size_alone_gives_half_of_its_time_to_the_constant() -> None:
    line = fitted([(50, 0.2)] * 7)
    assert (line.constant, line.per_sample) == pytest.approx((0.1, 0.002), rel=1e-12)


def test_the_fit_finds_the_line() -> None:
    generator = random.Random(0)
    sizes = [generator.choice([16, 32, 64, 100, 256]) for _ in range(400)]
    line = fitted([(size, 0.03 + 0.0007 * size) for size in sizes])
    assert (line.constant, line.per_sample) == pytest.approx((0.03, 0.0007), rel=0.01)


def test_the_fit_is_that_of_least_squares_with_the_prior_as_one_more_row() -> None:
    generator = np.random.default_rng(1)
    sizes = generator.integers(10, 300, 40)
    seconds = (0.05 + 0.001 * sizes) * generator.uniform(0.9, 1.2, 40)
    line = fitted([(int(size), float(duration)) for size, duration in zip(sizes, seconds, strict=True)])
    weights = 1 / seconds**2
    mean = (weights * sizes).sum() / weights.sum()
    # In a and c = b * mean, each over the seconds; last, the prior a = c in the weight of one mean observation.
    rows = np.stack([1 / seconds, sizes / mean / seconds], axis=1)
    prior = math.sqrt(weights.mean()) * np.array([[1.0, -1.0]])
    solution = np.linalg.lstsq(np.concatenate([rows, prior]), np.append(np.ones(40), 0.0), rcond=None)[0]
    assert (line.constant, line.per_sample * mean) == pytest.approx(tuple(solution), rel=1e-9)


def test_a_pause_weighs_next_to_nothing() -> None:
    steps = [(size, 0.03 + 0.0007 * size) for size in (16, 64, 256) * 30]
    plain, paused = fitted(steps), fitted([*steps, (64, 3600.0), *steps])
    assert (paused.constant, paused.per_sample) == pytest.approx((plain.constant, plain.per_sample), rel=0.01)


@pytest.mark.parametrize("slope", [-0.5, 2.0])
def test_neither_part_is_negative(slope: float) -> None:
    # Times that fall with the size, and such as point below 0 at none.
    line = fitted([(size, (size / 100) ** slope) for size in (50, 100, 200) * 20])
    assert min(line.constant, line.per_sample) == 0.0
    assert max(line.constant, line.per_sample) > 0.0


def test_several_updates_between_two_askings_are_their_mean() -> None:
    times = observe(no_times(), progress(step=0, samples_seen=10, seconds=1.0))
    times = observe(times, progress(step=4, samples_seen=90, seconds=3.0))
    assert times == timed([(10, 1.0), (20, 0.5)]) | {"step": 4, "samples_seen": 90, "seconds": 3.0}
    assert (times["count"], times["largest"]) == (1, 20.0)


def test_a_clock_that_stands_still_times_nothing() -> None:
    times = timed([(10, 1.0), (20, 0.0), (20, -1.0)])
    assert fit(times) is None
    assert (times["count"], times["seconds"]) == (0, 0.0)
    assert all(map(math.isfinite, times.values()))


def averaged(noise: float, signal: float) -> dict[str, Any]:
    """Averages of these values."""
    return {"variance": {"mean": noise, "weight": 1.0}, "signal": {"mean": signal, "weight": 1.0}}


def state(
    *, noise: float, signal: float, constant: float, per_sample: float, base: int = 32, largest: float = 1e9
) -> dict[str, Any]:
    """A state that knows the moments, and the line of the step times very well."""
    steps = [(size, constant + per_sample * size) for size in (1, 1000)] * 4000
    times = timed(steps) | {"largest": largest}
    return {"base": base, "moments": averaged(noise, signal), "times": times}


def goodput(size: float, *, noise_scale: float, base: int, line: TimeFit) -> float:
    return size / line.predict(size) * (noise_scale + base) / (noise_scale + size)


@given(POSITIVE, POSITIVE, POSITIVE, st.integers(1, 100), st.integers(1, 64))
def test_the_optimum_is_the_best_of_adaptdls_candidates(
    noise: float, signal: float, ratio: float, base: int, factor: int
) -> None:
    line = TimeFit(constant=ratio, per_sample=0.01)
    rule = gb.Goodput(base_batch_size=base, max_batch_size=base * factor, improvement=1.0)
    known: Any = {"base": base, "moments": averaged(noise, signal)}
    known["times"] = no_times() | {"largest": 1e9}
    here = progress(batch_size=base, dataset_size=10**9)
    size, _ = rule._choose(line, here, known)
    candidates = [round(c) for c in np.geomspace(base, base * factor, 50)]
    score = {c: goodput(c, noise_scale=noise / signal, base=base, line=line) for c in {*candidates, size}}
    assert base <= size <= base * factor
    # Rounding moves the optimum by half a sample, which is much where there are few.
    assert score[size] >= max(score.values()) * (1 - 1 / (4 * size**2) - 1e-9)


def test_by_hand() -> None:
    # phi = 300, a/b = 75: the root of 22500.
    known = state(noise=600.0, signal=2.0, constant=0.075, per_sample=0.001)
    here = progress(step=-1, batch_size=32, dataset_size=10**6)
    rule = gb.Goodput(decay=0.0)
    statistics = gb.Statistics(num_samples=64, loss=1.0, grad_variance=600.0, grad_sqnorm=2 + 600 / 64)
    decision, after = rule.update(statistics, here, known)
    assert decision.batch_size == pytest.approx(150, abs=1)
    # 64 samples are worth (600/32 + 2)/(600/64 + 2) batches of 32.
    assert decision.lr_scale == pytest.approx(20.75 / 11.375, rel=1e-12)
    assert decision.numbers["seconds"] == pytest.approx(0.075, rel=1e-2)
    assert decision.numbers["seconds_per_sample"] == pytest.approx(0.001, rel=1e-2)
    assert after["moments"]["variance"]["mean"] == 600.0
    # For Adam the root of the gain; for a rate that someone else scales, none.
    assert gb.Goodput(decay=0.0, lr_power=0.5).update(statistics, here, known)[0].lr_scale == pytest.approx(
        math.sqrt(20.75 / 11.375), rel=1e-12
    )
    assert gb.Goodput(decay=0.0, lr_power=0.0).update(statistics, here, known)[0].lr_scale == 1.0


@pytest.mark.parametrize(("present", "moves"), [(40, True), (110, False), (200, False), (600, True)])
def test_the_size_moves_for_more_than_5_percent(present: int, moves: bool) -> None:
    known: Any = state(noise=600.0, signal=2.0, constant=0.075, per_sample=0.001)
    line = fit(known["times"])
    assert line is not None
    size, reason = gb.Goodput()._choose(line, progress(batch_size=present, dataset_size=10**6), known)
    score = {c: goodput(c, noise_scale=300, base=32, line=line) for c in (present, 150)}
    assert (score[150] > 1.05 * score[present]) is moves
    assert (abs(size - 150) <= 1) if moves else (size == present)
    assert ("stays" not in reason) is moves


@pytest.mark.parametrize(
    ("noise", "signal", "constant", "per_sample", "expected"),
    [
        (1.0, 0.0, 0.1, 0.001, 1024),
        (1.0, -5.0, 0.1, 0.001, 1024),
        (1.0, 1.0, 0.1, 0.0, 1024),
        (0.0, 1.0, 0.1, 0.001, 32),
        (-1.0, 1.0, 0.1, 0.001, 32),
        (0.0, 0.0, 0.1, 0.001, 32),
        (1e4, 1.0, 0.0, 0.001, 32),
        (1e300, 1e-300, 0.1, 0.001, 1024),
    ],
)
def test_no_noise_no_signal_and_lines_through_the_origin(
    noise: float, signal: float, constant: float, per_sample: float, expected: int
) -> None:
    line = TimeFit(constant=constant, per_sample=per_sample)
    known: Any = {"base": 32, "moments": averaged(noise, signal)}
    known["times"] = no_times() | {"largest": 1e9}
    size, _ = gb.Goodput(improvement=1.0)._choose(line, progress(batch_size=64, dataset_size=10**6), known)
    # Over constants alone any size is worth the more the larger it is, but without noise none is.
    assert size == expected


def test_sizes_at_most_double_beyond_what_was_timed() -> None:
    line = TimeFit(constant=10.0, per_sample=0.001)
    known: Any = {"base": 32, "moments": averaged(1e4, 1.0)}
    for largest, expected in [(32.0, 64), (48.5, 97), (1.0, 32), (1e9, 1024)]:
        known["times"] = no_times() | {"largest": largest}
        assert gb.Goodput()._choose(line, progress(batch_size=32, dataset_size=10**6), known)[0] == expected


def test_the_data_set_is_a_bound_too_but_not_below_the_base() -> None:
    line = TimeFit(constant=10.0, per_sample=0.001)
    known: Any = {"base": 32, "moments": averaged(1e4, 1.0)}
    known["times"] = no_times() | {"largest": 1e9}
    for dataset_size, expected in [(500, 500), (20, 32)]:
        here = progress(batch_size=32, dataset_size=dataset_size)
        assert gb.Goodput()._choose(line, here, known)[0] == expected
    assert gb.Goodput(max_batch_size=90)._choose(line, progress(batch_size=300), known)[0] == 90


def run(rule: gb.Goodput, *, steps: int, noise_scale: float, constant: float, per_sample: float) -> list[int]:
    """Sizes of a run whose clock and noise are exactly known."""
    known, size, seen, seconds, sizes = rule.init(), 16, 0, 0.0, []
    for step in range(steps):
        sizes.append(size)
        seen, seconds = seen + size, seconds + constant + per_sample * size
        here = progress(step=step, samples_seen=seen, batch_size=size, seconds=seconds, dataset_size=10**6)
        statistics = gb.Statistics(
            num_samples=size, loss=1.0, grad_variance=noise_scale, grad_sqnorm=1 + noise_scale / size
        )
        decision, known = rule.update(statistics, here, known)
        size = decision.batch_size
    return sizes


def test_a_run_explores_and_settles_near_the_optimum() -> None:
    sizes = run(gb.Goodput(), steps=300, noise_scale=1000.0, constant=0.04, per_sample=0.001)
    line = TimeFit(constant=0.04, per_sample=0.001)
    best = goodput(200, noise_scale=1000, base=16, line=line)
    assert sizes[0] == sizes[1] == 16
    assert all(b <= 2 * max(sizes[: i + 1]) for i, b in enumerate(sizes[1:]))
    assert goodput(sizes[-1], noise_scale=1000, base=16, line=line) > best / 1.06
    assert len(set(sizes[50:])) == 1


def test_the_first_batch_sets_the_base_and_is_not_timed() -> None:
    rule = gb.Goodput()
    decision, known = rule.update(moments(), progress(batch_size=48, seconds=9.0), rule.init())
    assert (decision.batch_size, known["base"], known["times"]["count"]) == (48, 48, 0)
    assert decision.reason == "goodput: held, no update has been timed yet"
    assert gb.Goodput(base_batch_size=20).update(moments(), progress(batch_size=48), rule.init())[1]["base"] == 20


def test_averages_have_the_decay_of_adaptdl_and_no_bias() -> None:
    rule = gb.Goodput(base_batch_size=16, decay=0.5)
    known = rule.init()
    # Scales 2 and 1: weights 1 - 1/4 and 1/2, the first one halved by the second.
    for variance, size in [(8.0, 32), (4.0, 16)]:
        statistics = gb.Statistics(num_samples=size, loss=1.0, grad_variance=variance, grad_sqnorm=1.0)
        _, known = rule.update(statistics, progress(), known)
    assert known["moments"]["variance"]["mean"] == pytest.approx((0.375 * 8 + 0.5 * 4) / 0.875, rel=1e-12)


@given(POSITIVE, POSITIVE, st.integers(1, 1000), st.integers(1, 1000))
def test_efficiency_is_the_gain_over_the_scale(noise: float, signal: float, base: int, size: int) -> None:
    phi = noise / signal
    gain = adascale_gain(noise, signal, base_batch_size=base, batch_size=size)
    assert gain / (size / base) == pytest.approx((phi + base) / (phi + size), rel=1e-9)


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_batch_without_a_finite_variance_changes_nothing(value: float | None) -> None:
    rule = gb.Goodput()
    broken = gb.Statistics(num_samples=9, loss=1.0, grad_variance=value, grad_sqnorm=1.0)
    decision, known = rule.update(broken, progress(batch_size=77), rule.init())
    assert (decision.batch_size, decision.lr_scale, known) == (77, 1.0, rule.init())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("base_batch_size", value) for value in (0, 2.5, True)],
        *[("max_batch_size", value) for value in (0, 2.5)],
        *[("improvement", value) for value in (0.99, math.nan, math.inf)],
        *[("lr_power", value) for value in (-0.5, math.nan, math.inf)],
        *[("decay", value) for value in (-0.1, 1.0, math.nan)],
        *[("growth", value) for value in (1.0, math.nan, math.inf)],
    ],
)
def test_bad_hyper_parameters(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"`{name}` must .*, got {value!r}$"):
        gb.Goodput(**{name: value})


def test_a_largest_size_below_the_base_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"`max_batch_size` must .* at least 32, got 31"):
        gb.Goodput(base_batch_size=32, max_batch_size=31)
