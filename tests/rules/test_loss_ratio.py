"""LossRatio by hand, against AdaDamp's loop, and beyond its bound."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradbatch as gb
from cases import moments, progress
from gradbatch.errors import InvalidInputError


def run(
    rule: gb.Rule[Any], losses: list[float], *, first: int, dataset_size: int = 10_000
) -> tuple[list[int], list[float]]:
    """Sizes of the batches with these losses and their learning-rate factors; the last size is the next batch's."""
    sizes, scales, state = [first], [], rule.init()
    for loss in losses:
        here = progress(batch_size=sizes[-1], dataset_size=dataset_size)
        decision, state = rule.update(moments(loss=loss), here, state)
        sizes.append(decision.batch_size)
        scales.append(decision.lr_scale)
    return sizes, scales


NOW = {"decay": 0.0, "dwell": 1}
"""No memory and no dwelling: each loss gives the next size."""


def test_by_hand() -> None:
    # 8 * 2/2, 2/1, 2/0.75 = 21.3, 2/4: ceilings of them.
    sizes, scales = run(gb.LossRatio(**NOW), [2.0, 1.0, 0.75, 4.0], first=8)
    assert sizes == [8, 8, 16, 22, 4]
    assert scales == [1.0] * 4
    # Above a floor of 0.5: 8 * 1.5/1.5, 1.5/0.5, 1.5/0.25.
    assert run(gb.LossRatio(**NOW, optimum=0.5), [2.0, 1.0, 0.75], first=8)[0] == [8, 8, 24, 48]
    # Averages at decay 1/2: 2; 2/3 * 0.5 + 1/3 * 2 = 1.
    assert run(gb.LossRatio(decay=0.5, dwell=1), [2.0, 0.5], first=8)[0] == [8, 8, 16]


def test_defaults() -> None:
    rule = gb.LossRatio()
    assert rule == gb.LossRatio(optimum=0.0, dwell=20, decay=0.95, max_batch_size=None)
    assert rule.requires(progress()) == frozenset()


def adadamp(losses: list[float], first: int, optimum: float, dwell: int, largest: int) -> list[tuple[int, float]]:
    """Size and learning-rate factor of each update, as the loop of AdaDamp has them, where the loss is known."""
    used, damping = [], first
    for update, loss in enumerate(losses):
        if update % dwell == 0:
            damping = math.ceil(first * ((losses[0] - optimum) / (loss - optimum)))
        used.append((min(damping, largest), largest / damping if damping > largest else 1.0))
    return used


@given(
    st.lists(st.floats(0.01, 10.0), min_size=2, max_size=60),
    st.integers(1, 64),
    st.sampled_from([0.0, 0.005, -1.0]),
    st.integers(1, 7),
    st.integers(64, 500),
)
def test_against_adadamp(losses: list[float], first: int, optimum: float, dwell: int, largest: int) -> None:
    rule = gb.LossRatio(optimum=optimum, dwell=dwell, decay=0.0, max_batch_size=largest)
    sizes, scales = run(rule, losses, first=first)
    # It knows the loss before an update, the rule that of the batch before: one update later, but for the first.
    shifted = [losses[0], *losses[:-1]]
    assert [size for size, _ in adadamp(shifted, first, optimum, dwell, largest)] == sizes[:-1]
    assert [scale for _, scale in adadamp(shifted, first, optimum, dwell, largest)] == scales


def test_dwell() -> None:
    sizes, _ = run(gb.LossRatio(decay=0.0, dwell=3), [4.0, 2.0, 1.0, 0.5, 0.25, 0.125], first=2)
    # Changed after the third and the sixth update, by the loss there.
    assert sizes == [2, 2, 2, 8, 8, 8, 64]


def test_beyond_the_bound_the_rate_falls() -> None:
    # 8, 16, 32, 64 asked for of 20: 20/32 and 20/64 with the batches that they were asked for.
    losses = [8.0, 4.0, 2.0, 1.0, 4.0, 8.0]
    sizes, scales = run(gb.LossRatio(**NOW, max_batch_size=20), losses, first=8)
    assert sizes == [8, 8, 16, 20, 20, 16, 8]
    assert scales == [1.0, 1.0, 1.0, 20 / 32, 20 / 64, 1.0]
    # The data set is a bound as well, and so is that of a wrapper; rate over size is the same.
    assert run(gb.LossRatio(**NOW), losses, first=8, dataset_size=20) == (sizes, scales)
    assert run(gb.Clip(rule=gb.LossRatio(**NOW), max_batch_size=20), losses, first=8) == (sizes, scales)


def test_a_batch_larger_than_asked_for_leaves_the_rate() -> None:
    sizes, scales = run(gb.Clip(rule=gb.LossRatio(**NOW), min_batch_size=10), [8.0, 16.0, 16.0], first=8)
    assert sizes == [8, 10, 10, 10]
    assert scales == [1.0] * 3


def test_a_loss_not_above_the_optimum() -> None:
    rule = gb.LossRatio(**NOW, optimum=1.0)
    # No first loss at first; then 8 * 2/1, and that again where the loss is at 1 or below.
    sizes, scales = run(rule, [0.5, 1.0, 3.0, 2.0, 1.0, -7.0, 5.0], first=8)
    assert sizes == [8, 8, 8, 8, 16, 16, 16, 4]
    assert scales == [1.0] * 7
    decision, state = rule.update(moments(loss=1.0), progress(batch_size=77), rule.init())
    assert decision == gb.Decision(batch_size=77, reason="loss-ratio: held, no loss above `optimum` yet")
    assert state == rule.init()


def test_numbers_at_the_edge() -> None:
    # A ratio that is no number any more is as none; one that vanishes asks for one sample.
    assert run(gb.LossRatio(**NOW), [1e300, 1e-300, 1.0, 1e305], first=8)[0] == [8, 8, 8, 10_000, 1]
    sizes, scales = run(gb.LossRatio(**NOW), [1e-300, 1e300, 1e-300], first=8)
    assert sizes == [8, 8, 1, 8]
    assert scales == [1.0] * 3


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_changes_nothing(value: float) -> None:
    rule = gb.LossRatio()
    start = rule.update(moments(loss=2.0), progress(), rule.init())[1]
    decision, state = rule.update(moments(loss=value), progress(batch_size=77), start)
    assert decision == gb.Decision(batch_size=77, reason="loss-ratio: held, this batch's numbers are not finite")
    assert state == start


def test_the_decision_has_the_numbers() -> None:
    rule = gb.LossRatio(decay=0.0, dwell=2)
    decision, state = rule.update(moments(loss=2.0), progress(batch_size=8), rule.init())
    assert decision.reason == "loss-ratio: 8 asked for, dwells for 2 updates"
    decision, _ = rule.update(moments(loss=0.5), progress(batch_size=8), state)
    assert decision.reason == "loss-ratio: 32 asked for, loss left 0.5 of 2"
    assert decision.numbers == {"loss": 0.5, "asked": 32.0}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("optimum", value) for value in (math.nan, math.inf)],
        *[("dwell", value) for value in (0, 1.5, True)],
        *[("decay", value) for value in (-0.1, 1.0, math.nan)],
        *[("max_batch_size", value) for value in (0, 100.0)],
    ],
)
def test_bad_hyper_parameters(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"`{name}` must .*, got {value!r}$"):
        gb.LossRatio(**{name: value})
