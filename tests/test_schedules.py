"""Schedules by samples: what they mean does not depend on how the samples were cut into batches."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau, StepLR

import gradbatch as gb
from cases import record
from gradbatch.errors import InvalidInputError

SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "step": lambda optimizer: StepLR(optimizer, step_size=3, gamma=0.5),
    "cosine": lambda optimizer: CosineAnnealingLR(optimizer, T_max=20),
    "plateau": lambda optimizer: ReduceLROnPlateau(optimizer, factor=0.5, patience=2),
}
TOTAL = 640


class Run:
    """An optimizer with its schedule, told of batches."""

    def __init__(self, name: str, reference_batch_size: int | None = 32) -> None:
        self.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        self.scheduler = SCHEDULERS[name](self.optimizer)
        self.optimizer.step()  # torch warns of schedulers that go first
        self.schedule = gb.BySamples(self.scheduler, reference_batch_size=reference_batch_size)
        self.seen = 0
        self.rates: list[tuple[int, float]] = []
        self.metric = (1.0,) if name == "plateau" else ()

    def tell(self, *sizes: int) -> None:
        for size in sizes:
            self.seen += size
            self.schedule.step(record(samples_seen=self.seen, requested=size), *self.metric)
            self.rates.append((self.seen, self.lr))

    @property
    def lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]


def cut(total: int, sizes: Callable[[], int]) -> list[int]:
    """Batches that add up to a total."""
    batches = []
    while (left := total - sum(batches)) > 0:
        batches.append(min(left, sizes()))
    return batches


generator = random.Random(0)
CUTS = {
    "as the reference": [32] * 20,
    "in ones": [1] * TOTAL,
    "large": [320, 320],
    "all at once": [TOTAL],
    "growing": [16, 32, 64, 128, 400],
    "ragged": cut(TOTAL, lambda: generator.randint(1, 90)),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("sizes", CUTS.values(), ids=CUTS)
def test_the_cut_does_not_matter(name: str, sizes: list[int]) -> None:
    assert sum(sizes) == TOTAL
    plain = Run(name)
    rates = [plain.lr]
    for _ in range(TOTAL // 32):
        plain.scheduler.step(*plain.metric)
        rates.append(plain.lr)
    assert len(set(rates)) > 4, "a schedule that does not move proves nothing"

    ours = Run(name)
    ours.tell(*sizes)
    # At every point on the way, too: after n samples the rate is that of n // 32 steps.
    assert ours.rates == [(seen, rates[seen // 32]) for seen, _ in ours.rates]
    assert ours.schedule.state_dict()["steps"] == 20
    assert ours.scheduler.last_epoch == 20


def test_the_first_request_is_the_reference_by_default() -> None:
    run = Run("step", reference_batch_size=None)
    # A short first batch: what counts is the size that was requested.
    run.schedule.step(record(samples_seen=20, requested=40, batch_size=20))
    assert run.schedule.state_dict()["reference_batch_size"] == 40
    run.schedule.step(record(samples_seen=119, requested=99))
    assert run.scheduler.last_epoch == 2
    run.schedule.step(record(samples_seen=120, requested=1))
    assert run.scheduler.last_epoch == 3
    assert run.lr == 0.5


def test_no_record_no_step() -> None:
    run = Run("step", reference_batch_size=None)
    before = run.schedule.state_dict()
    run.schedule.step(None)
    assert run.schedule.state_dict() == before
    assert before["reference_batch_size"] is None


def test_the_metric_reaches_the_scheduler() -> None:
    run = Run("plateau")
    for step, metric in enumerate((4.0, 3.0, 2.0)):
        run.schedule.step(record(samples_seen=32 * (step + 1)), metric)
    assert run.scheduler.best == 2.0
    assert run.scheduler.num_bad_epochs == 0


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("reference_batch_size", [32, None])
def test_resumed_is_never_stopped(name: str, reference_batch_size: int | None) -> None:
    whole = Run(name, reference_batch_size)
    whole.tell(32, 100, 50, 7, 300, 90)

    first = Run(name, reference_batch_size)
    first.tell(32, 100, 50)
    second = Run(name, reference_batch_size)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.schedule.load_state_dict(json.loads(json.dumps(first.schedule.state_dict())))
    second.seen = first.seen
    second.tell(7, 300, 90)

    assert first.rates + second.rates == whole.rates
    assert second.schedule.state_dict() == whole.schedule.state_dict()


@pytest.mark.parametrize("size", [0, -32, 32.5, 0.5, float("nan")])
def test_what_is_no_number_of_samples(size: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"`reference_batch_size` must be a whole number.*got {size}"):
        Run("step", reference_batch_size=size)


@pytest.mark.parametrize("scheduler", [torch.optim.SGD([torch.zeros(1)], lr=0.1), None, "cosine"])
def test_what_is_no_scheduler(scheduler: Any) -> None:
    with pytest.raises(InvalidInputError, match="`scheduler` must be one of torch.optim.lr_scheduler"):
        gb.BySamples(scheduler)


def test_what_is_no_record() -> None:
    with pytest.raises(InvalidInputError, match=r"`step` takes what `controller.step\(\)` returned, got 3"):
        Run("step").schedule.step(3)
