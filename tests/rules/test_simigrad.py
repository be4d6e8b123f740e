"""SimiGrad by hand, against gradients whose halves are really compared, and where there are no halves."""

import contextlib
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import gradbatch as gb
from cases import progress
from gradbatch._types import Strides
from gradbatch.errors import InvalidInputError


def halves(*grams: tuple[float, float, float], counts: tuple[int, ...] = (16, 16), loss: float = 1.0) -> gb.Statistics:
    """Strides of two halves with these products: first with itself, with the second, second with itself."""
    strides = {
        str(index): Strides(counts=counts, gram=((first, product), (product, second)))
        for index, (first, product, second) in enumerate(grams)
    }
    return gb.Statistics(num_samples=sum(counts), loss=loss, strides=strides)


def answer(statistics: gb.Statistics, *, original: int = 32, batch_size: int = 32, **options: Any) -> gb.Decision:
    here = progress(batch_size=batch_size, dataset_size=options.pop("dataset_size", 1000))
    return gb.SimiGrad(**options).update(statistics, here, {"original": original})[0]


@pytest.mark.parametrize(
    ("batch_size", "cosine", "expected"),
    [
        (100, 0.1, 110),
        (32, 0.1, 35),
        (5, 0.1, 6),
        (100, 0.4, 90),
        (32, 0.4, 28),
        (5, 0.4, 4),
        (2, 0.4, 2),
        (32, 0.25, 32),
        (32, -1.0, 35),
    ],
)
def test_by_hand(batch_size: int, cosine: float, expected: int) -> None:
    decision = answer(halves((4.0, cosine * 6.0, 9.0)), batch_size=batch_size, target=0.25)
    assert decision.batch_size == expected
    assert decision.numbers == {"cosine": pytest.approx(cosine, rel=1e-15)}
    assert decision.reason.startswith("simigrad: cosine of the halves")


def test_products_add_up_over_parameters() -> None:
    # (1 + 3)/sqrt((2 + 14)(1 + 3)) = 4/8, where the parameters alone have 0.71 and 0.46.
    assert answer(halves((2.0, 1.0, 1.0), (14.0, 3.0, 3.0))).numbers == {"cosine": 0.5}


@pytest.mark.parametrize("size", [2, 3, 20, 21])
def test_against_the_halves_themselves(size: int) -> None:
    gradients = np.random.default_rng(size).normal(0.2, 1.0, (size, 6))
    half = (size + 1) // 2
    first, second = gradients[:half].mean(0), gradients[half:].mean(0)
    expected = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert gb.SimiGrad().requires(progress(batch_size=size)) == {f"stride_gram:{half}"}
    sums = [gradients[:half].sum(0), gradients[half:].sum(0)]
    grams = [(sums[0][d] ** 2, sums[0][d] * sums[1][d], sums[1][d] ** 2) for d in range(6)]
    decision = answer(halves(*grams, counts=(half, size - half)), batch_size=size)
    assert decision.numbers["cosine"] == pytest.approx(expected, rel=1e-12)


@given(st.floats(0.05, 0.95), st.floats(0.1, 100.0), st.integers(2, 500))
def test_the_target_names_a_multiple_of_the_noise_scale(target: float, noise_scale: float, half: int) -> None:
    # Of expected products: n^2|G|^2 between the halves, n^2|G|^2 + n tr(Sigma) of each with itself; |G|^2 = 1.
    size, settled = 2 * half, 2 * target / (1 - target) * noise_scale
    own = half**2 + half * noise_scale
    decision = answer(
        halves((own, half**2, own), counts=(half, half)), batch_size=size, target=target, dataset_size=10**6
    )
    if size > settled * (1 + 1e-9):
        assert decision.batch_size < size or size == 2
    elif size < settled * (1 - 1e-9):
        assert decision.batch_size > size


def test_the_rate_follows_the_root_of_the_size_from_the_first_request() -> None:
    rule = gb.SimiGrad()
    _, state = rule.update(halves((1.0, 0.0, 1.0)), progress(batch_size=32), rule.init())
    assert state == {"original": 32}
    decision, after = rule.update(halves((1.0, 0.0, 1.0), counts=(64, 64)), progress(batch_size=128), state)
    assert after == state
    assert decision.lr_scale == 2.0
    assert answer(halves((1.0, 0.0, 1.0), counts=(64, 64)), lr_damping=0.25).lr_scale == 1.25
    assert answer(halves((1.0, 0.0, 1.0), counts=(64, 64)), lr_damping=0.0).lr_scale == 1.0
    # A short batch is scaled by what it holds, though it holds the size.
    short = answer(halves((1.0, 0.0, 1.0), counts=(6, 2)), batch_size=12)
    assert (short.batch_size, short.lr_scale) == (12, 0.5)


@pytest.mark.parametrize(
    ("counts", "is_used"),
    [
        ((16, 16), True),
        ((17, 16), True),
        ((2, 1), True),
        ((20, 18), True),
        ((20, 17), False),
        ((3, 1), False),
        ((1000, 900), True),
        ((1000, 899), False),
    ],
)
def test_halves_of_nearly_equal_size_only(counts: tuple[int, int], is_used: bool) -> None:
    decision = answer(halves((1.0, 0.0, 1.0), counts=counts), batch_size=50)
    assert decision.batch_size == (55 if is_used else 50)
    assert is_used is not decision.reason.startswith("simigrad: held")


@pytest.mark.parametrize(
    "statistics",
    [
        gb.Statistics(num_samples=32, loss=1.0),
        gb.Statistics(num_samples=32, loss=1.0, strides={}),
        gb.Statistics(num_samples=9, loss=1.0, strides={"0": Strides(counts=(9,), gram=((1.0,),))}),
        gb.Statistics(num_samples=32, loss=1.0, strides={"0": Strides(counts=(16, 16))}),
        halves((0.0, 0.0, 0.0)),
        halves((1.0, 0.0, 0.0)),
        halves((-1e-20, 0.0, 1.0)),
        halves((math.inf, 0.0, 1.0)),
        halves((1.0, math.nan, 1.0)),
    ],
)
def test_no_halves_or_no_gradient_in_one(statistics: gb.Statistics) -> None:
    decision = answer(statistics, batch_size=50)
    assert decision.batch_size == 50
    assert decision.reason.startswith("simigrad: held")


def test_gradients_that_nearly_overflow() -> None:
    assert answer(halves((1e300, 5e299, 1e300))).numbers["cosine"] == pytest.approx(0.5)


def test_rounding_does_not_lead_beyond_1() -> None:
    assert answer(halves((0.1, 0.1 * (1 + 1e-15), 0.1))).numbers["cosine"] == 1.0


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    rule = gb.SimiGrad()
    decision, state = rule.update(halves((1.0, 0.0, 1.0), loss=math.nan), progress(batch_size=77), rule.init())
    assert (decision.batch_size, decision.lr_scale, state) == (77, 1.0, rule.init())


def test_a_batch_of_one_sample_asks_for_two() -> None:
    assert gb.SimiGrad().requires(progress(batch_size=1)) == frozenset()
    single = gb.Statistics(num_samples=1, loss=1.0)
    assert answer(single, batch_size=1).batch_size == 2


def test_bounds() -> None:
    low, high = halves((1.0, 1.0, 1.0)), halves((1.0, 0.0, 1.0))
    assert answer(high, batch_size=100, max_batch_size=105).batch_size == 105
    assert answer(low, batch_size=100, min_batch_size=95).batch_size == 95
    assert answer(high, batch_size=100, dataset_size=103).batch_size == 103
    assert answer(high, batch_size=100, dataset_size=103, min_batch_size=120).batch_size == 120


def test_in_a_run() -> None:
    # 50 samples in batches of 20, 20 and 10: the last has 10 of the 10 + 10 that were asked for, and no second half.
    torch.manual_seed(0)
    data = (torch.randn(50, 3), torch.randn(50, 1))
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    hold = gb.Clip(rule=gb.SimiGrad(), min_batch_size=20, max_batch_size=20)
    records, expected = [], []
    with contextlib.closing(gb.Controller(hold, model, optimizer, gb.SampleStream(data), batch_size=20)) as controller:
        for inputs, targets in controller.run(epochs=1):
            losses = (model(inputs) - targets).square().squeeze(1)
            parts = [
                torch.cat(
                    [g.flatten() for g in torch.autograd.grad(part.mean(), model.parameters(), retain_graph=True)]
                )
                for part in losses.split(10)
            ]
            expected.append(torch.cosine_similarity(*parts, dim=0).item() if len(parts) == 2 else None)
            controller.backward(nn.functional.mse_loss(model(inputs), targets))
            records.append(controller.step())
    assert [record.numbers.get("cosine") for record in records] == [
        pytest.approx(expected[0], rel=1e-4),
        pytest.approx(expected[1], rel=1e-4),
        None,
    ]
    assert [record.lr_scale for record in records] == [1.0, 1.0, pytest.approx(math.sqrt(0.5))]
    assert "held" in records[-1].reason


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("target", value) for value in (-1.0, 1.0, math.nan)],
        *[("min_batch_size", value) for value in (0, 1, 2.0)],
        *[("max_batch_size", value) for value in (1, 2.5)],
        *[("growth", value) for value in (1.0, 0.9, math.inf, math.nan)],
        *[("shrinkage", value) for value in (1.0, -0.1, math.nan)],
        *[("lr_damping", value) for value in (-0.1, 1.1, math.nan)],
    ],
)
def test_bad_hyper_parameters(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"`{name}` must .*, got {value!r}$"):
        gb.SimiGrad(**{name: value})
