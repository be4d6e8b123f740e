"""The batch size that never changes."""

import pytest

import gradbatch as gb
from cases import follow, moments, progress, trajectory


def test_it_measures_nothing_and_keeps_nothing() -> None:
    assert gb.Fixed().requires(progress()) == frozenset()
    assert gb.Fixed().init() is None


@pytest.mark.parametrize("used", [1, 40, 48])
def test_the_requested_size_and_not_the_used_one(used: int) -> None:
    decision, state = gb.Fixed().update(moments(num_samples=used), progress(batch_size=48), None)
    assert decision == gb.Decision(batch_size=48, reason="fixed")
    assert state is None


def test_it_never_changes() -> None:
    assert {decision.batch_size for decision in follow(gb.Fixed(), trajectory(50)).decisions} == {32}
