"""DBA against its algorithms written out over materialised gradients, and at the edges that the paper leaves open."""

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import gradbatch as gb
from cases import progress
from gradbatch._types import Strides
from gradbatch.errors import InvalidInputError, UnsupportedLayerError
from gradbatch.probe.reference import per_sample_gradients

INPUTS, CLASSES = 5, 3


# The slow twin: per-sample gradients [n, N] of a layer, and everything straight from the paper.


def metric_of(name: str, rows: Tensor) -> float:
    if len(rows) == 0:
        return 0.0
    if name == "norm":
        return rows.mean(0).norm().item()
    if len(rows) < 2:
        return 0.0
    variance = rows.var(0)
    return {"variance": variance.norm(), "trace": variance.sum(), "std": variance.sqrt().norm()}[name].item()


class Twin:
    """Algorithms 2 and 3 over materialised gradients, and the batch-size rule of Eq. 4."""

    def __init__(self, rule: gb.DBA) -> None:
        self.rule, self.loss, self.metrics, self.counts = rule, None, {}, []

    def metric(self, strides: list[Tensor], chosen: list[int]) -> float:
        if self.rule.metric_over == "stride":
            means = [strides[j].mean(0) for j in sorted(chosen)]
            return metric_of(self.rule.metric, torch.stack(means) if means else strides[0][:0])
        rows = [strides[j] for j in sorted(chosen)]
        return metric_of(self.rule.metric, torch.cat(rows) if rows else strides[0][:0])

    def select(self, layer: str, rows: Tensor, loss: float, step: int) -> list[int]:
        strides = list(rows.split(self.rule.stride))
        past = self.metrics.get(layer, self.metric(strides, list(range(len(strides)))))
        ratio = 1.0 if self.loss is None else loss / self.loss

        def distance(chosen: list[int]) -> float:
            value = self.metric(strides, chosen)
            if self.rule.alpha is not None:
                return abs(self.rule.alpha * value - loss)
            mean = self.rule.decay * past + (1 - self.rule.decay) * value if self.rule.mixes_candidate else past
            return abs(value - ratio * mean * self.rule.slope)

        if self.rule._is_bottom_up(step, layer):
            chosen, pool, best = [], list(range(len(strides))), math.inf
            changed = True
            while changed:
                changed = False
                for j in list(pool):
                    if distance([*chosen, j]) < best:
                        best, changed = distance([*chosen, j]), True
                        chosen.append(j)
                        pool.remove(j)
        else:
            chosen = list(range(len(strides)))
            best = math.inf if self.rule.literal else distance(chosen)
            changed = True
            while changed:
                changed = False
                for j in list(chosen):
                    if len(chosen) == 1 and not self.rule.literal:
                        break
                    without = [other for other in chosen if other != j]
                    if distance(without) < best:
                        best, changed, chosen = distance(without), True, without
        value = self.metric(strides, chosen)
        beta = self.rule.decay
        self.metrics[layer] = beta * self.metrics[layer] + (1 - beta) * value if layer in self.metrics else value
        return sorted(chosen)

    def saw(self, loss: float) -> None:
        beta = self.rule.decay
        self.loss = loss if self.loss is None else beta * self.loss + (1 - beta) * loss

    def next_size(self, size: int, dataset_size: int) -> int:
        middle, self.counts = median(self.counts), []
        moved = size + self.rule.increment * ((middle > 0.8 * size) - (middle < 0.2 * size))
        return max(self.rule.min_batch_size, min(moved, self.rule.max_batch_size, dataset_size))


def task(seed: int = 0, samples: int = 46) -> tuple[nn.Module, torch.optim.Optimizer, gb.SampleStream]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, INPUTS, generator=generator, dtype=torch.float64)
    targets = torch.randint(CLASSES, (samples,), generator=generator)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(INPUTS, 4), nn.Tanh(), nn.Linear(4, CLASSES)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9, nesterov=True, weight_decay=5e-4)
    return model, optimizer, gb.SampleStream((inputs, targets), seed=seed)


def loss_of(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


VARIANTS = {
    "defaults": {},
    "norm, bottom-up": {"strategy": "bottom-up"},
    "norm, top-down": {"strategy": "top-down"},
    "norm, literal": {"strategy": "top-down", "literal": True},
    "variance": {"metric": "variance"},
    "variance, literal": {"metric": "variance", "literal": True},
    "trace": {"metric": "trace"},
    "std": {"metric": "std"},
    "norm of strides": {"metric_over": "stride"},
    "variance of strides": {"metric": "variance", "metric_over": "stride"},
    "trace of strides": {"metric": "trace", "metric_over": "stride"},
    "scaled": {"alpha": 2.0},
    "steep": {"slope": 1.3},
    "mixing": {"mixes_candidate": True},
}


@pytest.mark.parametrize("micro_batch_size", [None, 5], ids=["whole", "in pieces"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_decisions_and_gradients_are_the_slow_twin_s(variant: str, micro_batch_size: int | None) -> None:
    options = {"stride": 3, "min_batch_size": 6, "max_batch_size": 30, "increment": 4, **VARIANTS[variant]}
    rule = gb.DBA(**options)
    model, optimizer, stream = task()
    controller = gb.Controller(rule, model, optimizer, stream, batch_size=14, micro_batch_size=micro_batch_size)
    twin, pieces, sizes = Twin(rule), [], []
    before = copy.deepcopy(model)
    for batch in controller.run(epochs=4):
        pieces.append(batch)
        controller.backward(loss_of(model, batch))
        if (record := controller.step()) is None:
            continue
        inputs, targets = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        gradients = per_sample_gradients(before, loss_of, list(zip(inputs.split(1), targets.split(1), strict=True)))
        used = []
        for index, layer in enumerate(["0", "2"]):
            rows = torch.stack([torch.cat([g.flatten() for g in own[2 * index : 2 * index + 2]]) for own in gradients])
            chosen = twin.select(layer, rows, record.loss, record.step)
            parts = [rows.split(rule.stride)[j] for j in chosen]
            mean = torch.cat(parts).mean(0) if parts else torch.zeros_like(rows[0])
            module = model.get_submodule(layer)
            got = torch.cat([module.weight.grad.flatten(), module.bias.grad.flatten()])
            # Sums of some 14 terms in double precision.
            assert (got - mean).abs().max() <= 1e-12 * rows.abs().max()
            used.append(sum(map(len, parts)))
        twin.saw(record.loss)
        if record.batch_size == record.requested:
            twin.counts += used
        assert record.numbers["utilisation"] == pytest.approx(sum(used) / 2 / record.batch_size, rel=1e-12)
        expected = record.requested
        if record.samples_seen % 46 == 0:
            expected = twin.next_size(record.requested, 46)
            sizes.append(expected)
        assert record.next_batch_size == expected
        pieces, before = [], copy.deepcopy(model)
    assert len(sizes) == 4


def plain_loop(epochs: int, batch_size: int = 20, seed: int = 0) -> nn.Module:
    model, optimizer, stream = task(seed)
    for _ in range(epochs):
        for size in [min(batch_size, 46 - start) for start in range(0, 46, batch_size)]:
            batch = stream.take(size)
            stream.commit(size)
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            optimizer.step()
    return model


@settings(max_examples=15, derandomize=True, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(2, 46),
    more=st.integers(0, 9),
    metric=st.sampled_from(["norm", "variance", "trace", "std"]),
    per=st.sampled_from(["layer", "parameter"]),
)
def test_everything_selected_is_the_wrapped_optimizer_bit_for_bit(
    seed: int, size: int, more: int, metric: Any, per: Any
) -> None:
    # A stride that holds the whole batch leaves nothing to choose, and neither search may empty it.
    rule = gb.DBA(metric=metric, stride=size + more, per=per, increment=0, min_batch_size=1, seed=seed)
    model, optimizer, stream = task(seed)
    controller = gb.Controller(rule, model, optimizer, stream, batch_size=size)
    for batch in controller.run(epochs=3):
        controller.backward(loss_of(model, batch))
        record = controller.step()
        assert record.numbers["utilisation"] == 1
    assert record.numbers["real_epochs"] == pytest.approx(3)
    for ours, theirs in zip(model.parameters(), plain_loop(3, size, seed).parameters(), strict=True):
        assert torch.equal(ours, theirs)


def strides_of(rows: Tensor, size: int) -> dict[str, Strides]:
    """What the probe would say of one parameter with these gradients."""
    pieces = rows.split(size)
    sums = torch.stack([piece.sum(0) for piece in pieces])
    return {
        "layer.weight": Strides(
            counts=tuple(map(len, pieces)),
            gram=(sums @ sums.T).double().numpy(),
            sqnorms=np.array([piece.square().sum().item() for piece in pieces]),
            sums=sums,
            square_sums=torch.stack([piece.square().sum(0) for piece in pieces]),
        )
    }


def ask(rule: gb.DBA, rows: Tensor, state: Any = None, loss: float = 1.0, **place: Any) -> tuple[gb.Decision, Any]:
    statistics = gb.Statistics(num_samples=len(rows), loss=loss, strides=strides_of(rows, rule.stride))
    return rule.update(statistics, progress(batch_size=len(rows), **place), rule.init() if state is None else state)


def distance_of(metric: str, strides: Sequence[Tensor], weights: Sequence[float]) -> float:
    """From half of a past metric of 0.7."""
    parts = [part for part, weight in zip(strides, weights, strict=True) if weight]
    return abs(metric_of(metric, torch.cat(parts) if parts else strides[0][:0]) - 0.5 * 0.7)


@pytest.mark.parametrize("metric", ["norm", "variance", "trace", "std"])
@settings(max_examples=40, derandomize=True, deadline=None)
@given(seed=st.integers(0, 10_000), literal=st.booleans(), size=st.integers(2, 5), samples=st.integers(2, 17))
def test_a_search_ends_where_no_single_change_is_better(
    metric: str, seed: int, literal: bool, size: int, samples: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(samples, 4, generator=generator, dtype=torch.float64)
    for strategy in ("bottom-up", "top-down"):
        rule = gb.DBA(metric=metric, stride=size, strategy=strategy, literal=literal)
        state = gb.rules.dba.DBAState(loss=2.0, metrics={"layer": 0.7}, epoch=0, selected=[], used=0.0)
        decision, _ = ask(rule, rows, state)
        weights = decision.weights["layer"]
        reached = distance_of(metric, rows.split(size), weights)
        allowed = 0.0 if strategy == "bottom-up" else 1.0  # what may still change: more, or fewer
        for j, weight in enumerate(weights):
            changed = [*weights[:j], 1.0 - weight, *weights[j + 1 :]]
            if weight == allowed and (any(changed) or literal):
                assert distance_of(metric, rows.split(size), changed) >= reached - 1e-12
        assert any(weights) or (literal and strategy == "top-down")


def test_top_down_to_the_letter_always_drops_its_first_stride() -> None:
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])  # the whole batch fits, and so does any part
    assert ask(gb.DBA(stride=2, strategy="top-down"), rows)[0].weights == {"layer": (1.0, 1.0)}
    assert ask(gb.DBA(stride=2, strategy="top-down", literal=True), rows)[0].weights == {"layer": (0.0, 1.0)}
    assert ask(gb.DBA(stride=4, strategy="top-down", literal=True), rows)[0].weights == {"layer": (0.0,)}


def test_by_hand() -> None:
    # Strides of two samples with means (1), (3), (2); a past metric of 2 and a loss that halved ask for a norm of 1.
    rows = torch.tensor([[1.0], [1.0], [3.0], [3.0], [2.0], [2.0]])
    state = gb.rules.dba.DBAState(loss=2.0, metrics={"layer": 2.0}, epoch=0, selected=[], used=0.0)
    decision, after = ask(gb.DBA(stride=2, strategy="bottom-up"), rows, state, loss=1.0)
    assert decision.weights == {"layer": (1.0, 0.0, 0.0)}
    assert after["loss"] == pytest.approx(0.9 * 2 + 0.1 * 1)
    assert after["metrics"]["layer"] == pytest.approx(0.9 * 2 + 0.1 * 1)
    assert after["selected"] == [[2, 1]]
    assert decision.numbers["utilisation"] == pytest.approx(1 / 3)
    # A loss as ever asks for a norm of 2: (1), then with (3) the mean is 2, and nothing betters that.
    decision, _ = ask(gb.DBA(stride=2, strategy="bottom-up"), rows, state, loss=2.0)
    assert decision.weights == {"layer": (1.0, 1.0, 0.0)}


@pytest.mark.parametrize(
    ("selected", "size", "expected"),
    [
        ([[120, 3], [16, 2]], 128, 136),  # the median 120 is above 102.4
        ([[96, 3], [16, 2]], 128, 128),
        ([[16, 3], [120, 2]], 128, 120),
        ([[16, 1], [120, 1]], 128, 128),  # the median of two is their mean
        ([[8, 1]], 32, 32),  # a quarter is not below a fifth; and the least is 32
        ([[128, 9]], 2046, 2038),
        ([[2046, 9]], 2046, 2048),
        ([[1, 9]], 33, 32),
        ([], 100, 100),
    ],
)
def test_the_batch_size_moves_at_an_epoch_s_end(selected: list[list[int]], size: int, expected: int) -> None:
    # The last batch of the epoch is short, and so is not counted.
    rows, rule = torch.ones(4, 2), gb.DBA(stride=2)
    state = gb.rules.dba.DBAState(loss=1.0, metrics={}, epoch=0, selected=selected, used=0.0)
    statistics = gb.Statistics(num_samples=4, loss=1.0, strides=strides_of(rows, 2))
    for seen, answer in ((5000, expected), (4999, size)):
        place = progress(batch_size=size, samples_seen=seen, dataset_size=5000)
        decision, after = rule.update(statistics, place, state)
        assert decision.batch_size == answer
        assert after["selected"] == ([] if seen == 5000 else selected)


def test_an_epoch_whose_last_batch_was_not_asked_about_ends_with_the_next() -> None:
    rows, rule = torch.ones(16, 2), gb.DBA(stride=8, min_batch_size=8)
    state = gb.rules.dba.DBAState(loss=1.0, metrics={}, epoch=0, selected=[[16, 5]], used=0.0)
    statistics = gb.Statistics(num_samples=16, loss=1.0, strides=strides_of(rows, 8))
    place = progress(batch_size=16, samples_seen=116, dataset_size=100)
    decision, after = rule.update(statistics, place, state)
    assert decision.batch_size == 24
    assert decision.reason.endswith("median 16 of 16 selected, +8")
    # The batch itself counts in its own epoch.
    assert after["epoch"] == 1
    assert [times for _, times in after["selected"]] == [1]
    decision, later = rule.update(statistics, replace(place, samples_seen=132), after)
    assert decision.batch_size == 16
    assert [times for _, times in later["selected"]] == [2]


def test_lots_are_drawn_from_seed_step_and_layer() -> None:
    lots = {
        (seed, step, layer): gb.DBA(seed=seed)._is_bottom_up(step, layer)
        for seed, step, layer in itertools.product(range(2), range(500), ["0", "2"])
    }
    assert lots == {key: gb.DBA(seed=key[0])._is_bottom_up(*key[1:]) for key in lots}
    for seed, layer in itertools.product(range(2), ["0", "2"]):
        heads = sum(lots[seed, step, layer] for step in range(500))
        assert abs(heads - 250) < 4 * math.sqrt(500) / 2  # four standard deviations of fair lots
    for one, other in [((0, "0"), (0, "2")), ((0, "0"), (1, "0"))]:
        same = sum(lots[one[0], step, one[1]] == lots[other[0], step, other[1]] for step in range(500))
        assert abs(same - 250) < 4 * math.sqrt(500) / 2


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("metric", ["norm", "variance"])
def test_gradients_that_are_not_finite_change_nothing(bad: float, metric: str) -> None:
    rows = torch.ones(4, 2)
    rows[3, 1] = bad
    rule = gb.DBA(metric=metric, stride=2)
    decision, state = ask(rule, rows)
    assert decision.weights is None
    assert decision.batch_size == 4
    assert "not finite" in decision.reason
    assert state == rule.init()


def test_no_gradient_at_all() -> None:
    decision, state = ask(gb.DBA(stride=2), torch.zeros(5, 2), loss=0.0)
    assert sum(decision.weights["layer"]) >= 1
    decision, _ = ask(gb.DBA(stride=2), torch.zeros(5, 2), state, loss=0.0)
    assert sum(decision.weights["layer"]) >= 1


def test_parameters_apart() -> None:
    model, optimizer, stream = task()
    rule = gb.DBA(stride=3, per="parameter", min_batch_size=1)
    asked = []

    class Spy(gb.rules.wrappers.Warmup):
        def update(self, statistics: Any, place: Any, state: Any) -> Any:
            asked.append(statistics.strides)
            return super().update(statistics, place, state)

    controller = gb.Controller(Spy(rule=rule, steps=0), model, optimizer, stream, batch_size=14)
    for batch in controller.run(steps=2):
        controller.backward(loss_of(model, batch))
        controller.step()
    assert list(asked[0]) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert set(controller.state_dict()["rule_state"]["held"]["metrics"]) == set(asked[0])


def test_a_model_that_mixes_samples_is_refused() -> None:
    model = nn.Sequential(nn.Linear(INPUTS, 4), nn.BatchNorm1d(4)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UnsupportedLayerError, match="strides of samples, among which a rule selects"):
        gb.Controller(gb.DBA(), model, optimizer, task()[2], batch_size=14)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metric": "size"}, "`metric` must be 'norm' or 'variance'"),
        ({"strategy": "random"}, "`strategy` must be 'mixed' or"),
        ({"metric_over": "batch"}, "`metric_over` must be"),
        ({"per": "model"}, "`per` must be"),
        ({"stride": 0}, "`stride` must be a whole number of at least 1"),
        ({"stride": 1, "metric": "variance"}, "`stride` must be at least 2 for the metric"),
        ({"increment": -1}, "`increment` must be"),
        ({"slope": 0.0}, "`slope` must be positive"),
        ({"alpha": -1.0}, "`alpha` must be positive"),
        ({"decay": 1.0}, "`decay` must be"),
        (
            {"min_batch_size": 64, "max_batch_size": 32},
            "`max_batch_size` must be at least `min_batch_size`, 64, got 32",
        ),
    ],
)
def test_bad_hyper_parameters_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        gb.DBA(**options)
