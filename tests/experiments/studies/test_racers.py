import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from gradbatch._types import Strides
from gradbatch.experiments.data import Split
from gradbatch.experiments.studies import racers
from gradbatch.experiments.studies.racers import (
    RACERS,
    STRIDE,
    Case,
    controlled,
    deviation_sample_by_sample,
    from_samples,
    from_sums,
    materialised_selection,
    metric_of,
    per_sample,
    select,
    size_from_materialised,
)
from gradbatch.rules import DBA, _selection


@pytest.fixture
def case():
    torch.set_default_dtype(torch.float64)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4 * 4, 4))
    train = Split(torch.randn(128, 1, 6, 6), torch.randint(4, (128,)))
    return Case(model=model, train=train, batch_size=32, lr=0.1)


def after(name, case, steps=3):
    own = Case(model=copy.deepcopy(case.model), train=case.train, batch_size=case.batch_size, lr=case.lr)
    RACERS[name](own)(steps)
    return [p.detach() for p in own.model.parameters()]


@pytest.mark.parametrize("name", ["BA, sample by sample", "CABS, materialised"])
def test_authors_ways_of_computing_take_the_plain_steps(case, name):
    for own, plain in zip(after(name, case), after("plain loop", case), strict=True):
        torch.testing.assert_close(own, plain)


def test_authors_ways_compute_what_the_rules_are_about(case):
    inputs, targets = case.train.at(torch.arange(32))
    rows, losses = per_sample(case.model)(inputs, targets)
    grads = torch.cat([rows[name].flatten(1) for name, _ in case.model.named_parameters()], 1)
    deviation = (grads.mean(0).square() * grads.var(0)).sum().sqrt()
    assert deviation_sample_by_sample(case, inputs, targets) == pytest.approx(deviation.item())
    size = case.lr * grads.var(0, correction=0).sum() / losses.mean()
    assert size_from_materialised(case, per_sample(case.model), inputs, targets) == pytest.approx(size.item())


@pytest.mark.parametrize("name", RACERS)
def test_every_contender_trains(case, name):
    assert any((own != before).any() for own, before in zip(after(name, case), case.model.parameters(), strict=True))


def test_rows_are_gradients_of_single_samples(case):
    inputs, targets = case.train.at(torch.arange(5))
    rows, losses = per_sample(case.model)(inputs, targets)
    case.loss(inputs[2:3], targets[2:3]).backward()
    for name, parameter in case.model.named_parameters():
        torch.testing.assert_close(rows[name][2], parameter.grad)
    torch.testing.assert_close(losses.mean(), case.loss(inputs, targets).detach())


@pytest.mark.parametrize("bottom_up", [True, False])
@pytest.mark.parametrize("metric", ["norm", "variance"])
@pytest.mark.parametrize("part", [0.5, 1.0, 1.5])
def test_what_is_selected_is_what_the_rule_selects(metric, bottom_up, part):
    strides = torch.randn(24, 7, dtype=torch.float64).split(4)
    target = part * metric_of(metric, torch.cat(strides))
    sums = torch.stack([rows.sum(0) for rows in strides])
    moments = {"sums": sums, "square_sums": torch.stack([rows.square().sum(0) for rows in strides])}
    summed = Strides(counts=(4,) * 6, gram=(sums @ sums.T).numpy(), **moments)
    twin = _selection.metric_of(metric, [summed], over_strides=False)
    if bottom_up:
        _selection.bottom_up(twin, lambda value: abs(value - target))
    else:
        _selection.top_down(twin, lambda value: abs(value - target), literal=False)
    for measuring in (from_samples, from_sums):
        chosen, reached = select(measuring(metric, strides), len(strides), target, bottom_up=bottom_up)
        assert sorted(chosen) == [stride for stride, is_chosen in enumerate(twin.selected) if is_chosen]
        assert reached == pytest.approx(metric_of(metric, torch.cat([strides[stride] for stride in chosen])))


@pytest.mark.parametrize("measuring", [from_samples, from_sums])
@pytest.mark.parametrize("strategy", ["bottom-up", "top-down"])
@pytest.mark.parametrize("metric", ["norm", "variance"])
def test_dba_over_materialised_gradients_is_the_rule(case, monkeypatch, metric, strategy, measuring):
    case = replace(case, batch_size=64)
    seen = []

    class Heard(Case):
        def loss(self, inputs, targets):
            seen.append(Split(inputs, targets))
            return super().loss(inputs, targets)

    ruled = Heard(model=copy.deepcopy(case.model), train=case.train, batch_size=64, lr=case.lr)
    controlled(ruled, lambda size: DBA(stride=STRIDE, increment=0, metric=metric, strategy=strategy))(4)
    monkeypatch.setattr(racers, "_batches", lambda case: iter(seen))
    materialised_selection(case, metric, measuring, lambda: strategy == "bottom-up")(4)
    for own, twin in zip(case.model.parameters(), ruled.model.parameters(), strict=True):
        torch.testing.assert_close(own, twin)
