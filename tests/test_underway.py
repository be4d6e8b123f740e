"""The batch under way: its parts add up to the mean, however they came, and its passes are cut evenly."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cases import progress
from gradbatch.underway import Batch, cut

LOSSES = st.lists(st.tuples(st.integers(1, 50), st.floats(0.0, 100.0)), min_size=1, max_size=6)


def batch(size: int, state: Any = None) -> Batch:
    return Batch(progress(), frozenset(), size=size, most=10**6, started=0.0, state=state)


@given(LOSSES)
def test_a_batch_that_grows_has_the_mean_over_its_samples(passes: list[tuple[int, float]]) -> None:
    under_way = batch(passes[0][0])
    for index, (count, loss) in enumerate(passes):
        if index:
            drawn = under_way.drawn
            assert under_way.grow(count) == drawn / (drawn + count)
        under_way.add(torch.tensor(loss, dtype=torch.float64) * count / under_way.size, count)
    total = sum(count for count, _ in passes)
    assert (under_way.drawn, under_way.size, under_way.micro_batches) == (total, total, len(passes))
    assert float(under_way.loss) == pytest.approx(sum(n * loss for n, loss in passes) / total, abs=1e-10)


@given(LOSSES, st.floats(0.01, 100.0))
def test_with_weights_it_has_the_weighted_mean(passes: list[tuple[int, float]], unit: float) -> None:
    under_way = batch(1)
    for index, (count, loss) in enumerate(passes):
        before = under_way.weight
        shrink = under_way.weigh_in(unit * count)
        assert under_way.weight is not None
        assert shrink == (1.0 if before is None else before / under_way.weight)
        if index:
            assert under_way.grow(1) == 1.0  # the weight has made the room
        under_way.add(torch.tensor(loss, dtype=torch.float64) * unit * count / under_way.weight, 1)
    total = sum(count for count, _ in passes)
    assert float(under_way.loss) == pytest.approx(sum(n * loss for n, loss in passes) / total, abs=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_of_few_bits_are_added_up_in_more(dtype: torch.dtype) -> None:
    under_way = batch(4)
    for _ in range(4):
        under_way.add(torch.tensor([0.1], dtype=dtype, requires_grad=True), 1)
    assert isinstance(under_way.loss, torch.Tensor)
    assert (under_way.loss.dtype, under_way.loss.shape, under_way.loss.requires_grad) == (torch.float32, (), False)


@given(st.integers(1, 1000), st.integers(1, 8), st.none() | st.integers(1, 100))
def test_passes_are_even_and_fit(size: int, min_pieces: int, most: int | None) -> None:
    pieces = cut(size, min_pieces=min_pieces, micro_batch_size=most)
    assert sum(pieces) == size
    assert max(pieces) - min(pieces) <= 1
    assert len(pieces) >= min(min_pieces, max(1, size // 2))
    assert max(pieces) <= (most or size)
    if most is None:
        assert min(pieces) >= min(2, size)
