"""Every rule through the real controller, over what training does to it, and resumed in the middle of that."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradbatch as gb
from cases import ONE_RATE, RULES, WRAPPERS, progress
from gradbatch.probe import BY_LAYERS

SAMPLES, STEPS, BAD = 50, 16, 5
"""An epoch ends with a short batch; the loss of the micro-batch ``BAD`` is nan."""

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "adam": {"optimizer": "adam"},
    "groups": {"groups": True},
    "in pieces": {"micro_batch_size": 5},
    "one sample": {"batch_size": 1},
    "chunks": {"estimator": "chunks"},
}


NEEDS_SAMPLES = BY_LAYERS
"""What only per-sample gradients give, and strides likewise."""


def _fits(rule: gb.Rule[Any], setting: str) -> bool:
    """Whether a rule can be trained with in a setting; where not, it says so in a test of its own."""
    if isinstance(rule, ONE_RATE):
        return setting in ("plain", "in pieces")
    here = progress(batch_size=8, dataset_size=SAMPLES)
    return setting != "chunks" or not any(":" in name or name in NEEDS_SAMPLES for name in rule.requires(here))


def _cases() -> Iterator[Any]:
    """Every rule in every setting, and inside of wrappers those that scale the rate or remember much."""
    for name, make in RULES.items():
        yield from (pytest.param(make(), s, id=f"{name}, {s}") for s in SETTINGS if _fits(make(), s))
    for name in ("adabatch from a warm-up", "loss ratio", "divebatch each epoch", "dba by trace", "simigrad"):
        yield from (pytest.param(wrap(RULES[name]()), "plain", id=f"{name} in {by}") for by, wrap in WRAPPERS.items())


class Training:
    """A small network, its optimizer and a controller, from the same seed each time."""

    def __init__(
        self, rule: gb.Rule[Any], *, optimizer: str = "sgd", groups: bool = False, batch_size: int = 8, **options: Any
    ) -> None:
        torch.manual_seed(0)
        self.data = torch.randn(SAMPLES, 6, dtype=torch.float64), torch.randint(3, (SAMPLES,))
        self.model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        parts = [{"params": self.model[0].parameters(), "lr": 0.1}, {"params": self.model[2].parameters(), "lr": 0.3}]
        held = parts if groups else self.model.parameters()
        momentum = getattr(rule, "momentum", 0.5)
        self.optimizer = (
            torch.optim.Adam(held, lr=0.01) if optimizer == "adam" else torch.optim.SGD(held, lr=0.2, momentum=momentum)
        )
        stream = gb.SampleStream(self.data, seed=0)
        self.controller = gb.Controller(rule, self.model, self.optimizer, stream, batch_size=batch_size, **options)
        self.passes = 0

    def train(self, steps: int) -> list[gb.Record]:
        records = []
        for inputs, targets in self.controller.run(steps=steps):
            loss = F.cross_entropy(self.model(inputs), targets)
            self.controller.backward(loss * torch.nan if self.passes == BAD else loss)
            self.passes += 1
            records.append(self.controller.step())
        return [record for record in records if record is not None]

    def resumed_from(self, other: "Training") -> "Training":
        self.model.load_state_dict(other.model.state_dict())
        self.optimizer.load_state_dict(other.optimizer.state_dict())
        self.controller.load_state_dict(json.loads(json.dumps(other.controller.state_dict(), allow_nan=False)))
        self.passes = other.passes
        return self


def reads_a_clock(rule: gb.Rule[Any]) -> bool:
    held = getattr(rule, "rule", None)
    return isinstance(rule, gb.Goodput) or (held is not None and reads_a_clock(held))


def lines(records: list[gb.Record]) -> list[dict[str, Any]]:
    """The records without their times."""
    return [{k: v for k, v in record.to_dict().items() if k != "seconds"} for record in records]


@pytest.mark.parametrize(("rule", "setting"), list(_cases()))
def test_a_resumed_run_is_the_run(rule: gb.Rule[Any], setting: str) -> None:
    whole = Training(rule, **SETTINGS[setting])
    records = whole.train(STEPS)
    assert len(records) == STEPS
    assert sum(record.skipped for record in records) == 1
    assert all(torch.isfinite(p).all() for p in whole.model.parameters())
    if reads_a_clock(rule):
        return
    first = Training(rule, **SETTINGS[setting])
    kept = first.train(7)
    second = Training(rule, **SETTINGS[setting]).resumed_from(first)
    assert lines(kept + second.train(STEPS - 7)) == lines(records)
    for own, theirs in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(own, theirs)
