"""Replay: a run's own rule answers from its log as it did in the run; what a log lacks is said."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradbatch as gb
from gradbatch.errors import InvalidInputError
from gradbatch.replay import progress_of, replay
from gradbatch.sinks import JsonlSink
from gradbatch.sinks.jsonl import read_jsonl

RULES: dict[str, gb.Rule[Any]] = {
    "fixed": gb.Fixed(),
    "schedule": gb.Schedule(table="0:8 1:16 2:4"),
    "cabs": gb.CABS(decay=0.5, min_batch_size=2),
    "cabs with momentum": gb.CABS(decay=0.5, min_batch_size=2, with_momentum=True),
    "cabs of positions": gb.CABS(decay=0.5, min_batch_size=2, moment="position"),
    "adabatch": gb.AdaBatch(interval=1),
    "ba": gb.BA(m0=4, momentum=0.5),
    "divebatch": gb.DiveBatch(interval=1, delta=5.0),
    "goodput": gb.Goodput(base_batch_size=4),
    "inner product": gb.InnerProductTest(),
    "noise floor": gb.NoiseFloor(min_batch_size=4),
    "noise scale": gb.NoiseScale(min_batch_size=2),
    "norm test": gb.NormTest(),
    "scaled": gb.ScaleLR(rule=gb.CABS(decay=0.5, min_batch_size=2), base_batch_size=8, method="adascale"),
    "every": gb.Every(rule=gb.CABS(decay=0.5, min_batch_size=2), steps=3),
}


def run(rule: gb.Rule[Any], path: Any, *, groups: bool = False, **options: Any) -> list[gb.Record]:
    """Train a small network for three epochs of 50 samples, with a bad batch; the log, through its file."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(50, 2, 6, dtype=torch.float64), torch.randint(3, (50,))
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)).double()
    parts = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[3].parameters(), "lr": 0.3}]
    optimizer = torch.optim.SGD(parts if groups else model.parameters(), lr=0.2, momentum=0.5)
    stream = gb.SampleStream((inputs, targets), seed=0)
    controller = gb.Controller(rule, model, optimizer, stream, batch_size=8, sinks=[JsonlSink(path)], **options)
    for number, batch in enumerate(controller.run(epochs=3)):
        loss = F.cross_entropy(model(batch[0]), batch[1])
        controller.backward(loss * torch.nan if number == 3 else loss)
        controller.step()
    controller.close()
    return [gb.Record.from_dict(line) for line in read_jsonl(path)]


@pytest.mark.parametrize("micro_batch_size", [None, 5], ids=["whole", "in pieces"])
@pytest.mark.parametrize("name", RULES)
def test_a_run_s_own_rule_answers_as_it_did(name: str, micro_batch_size: int | None, tmp_path: Any) -> None:
    records = run(RULES[name], tmp_path / "steps.jsonl", micro_batch_size=micro_batch_size)
    assert sum(record.skipped for record in records) == 1
    for record, decision in zip(records, replay(records, RULES[name]), strict=True):
        assert decision.step
        assert decision.batch_size == record.next_batch_size
        assert decision.lr_scale == record.lr_scale
        assert decision.reason == record.reason
        assert decision.numbers == record.numbers


def test_with_learning_rates_by_group(tmp_path: Any) -> None:
    rule = RULES["cabs"]
    records = run(rule, tmp_path / "steps.jsonl", groups=True)
    assert {record.group_lrs for record in records} == {(0.1, 0.3)}
    assert [decision.batch_size for decision in replay(records, rule)] == [r.next_batch_size for r in records]


def test_a_shadow_s_answers_are_a_replay_s(tmp_path: Any) -> None:
    shadow = RULES["cabs"]
    records = run(gb.Schedule(table="0:8 1:16 2:4"), tmp_path / "steps.jsonl", shadows=[shadow])
    assert [decision.batch_size for decision in replay(records, shadow)] == [r.shadows["CABS"] for r in records]


def test_progress_is_what_the_rule_was_told(tmp_path: Any) -> None:
    told = []

    class Listens(gb.rules.Fixed):
        def update(self, statistics: Any, progress: gb.Progress, state: Any) -> Any:
            told.append(progress)
            return super().update(statistics, progress, state)

    records = run(Listens(), tmp_path / "steps.jsonl")
    assert [progress_of(record) for record in records if not record.skipped] == told


def test_what_a_log_lacks_is_held_with_its_name(tmp_path: Any) -> None:
    records = run(gb.Fixed(), tmp_path / "steps.jsonl")
    decisions = list(replay(records, gb.CABS()))
    assert all(decision.batch_size == record.requested for decision, record in zip(decisions, records, strict=True))
    assert decisions[0].reason == "held: this batch cannot give grad_sqnorm, sample_sqnorm"


def test_selection_among_gradients_cannot_be_replayed(tmp_path: Any) -> None:
    records = run(gb.DBA(stride=4, min_batch_size=2), tmp_path / "steps.jsonl")
    with pytest.raises(InvalidInputError, match="DBA needs gradients, of which a log has none"):
        list(replay(records, gb.DBA(stride=4)))


def test_a_gradient_that_was_not_finite_is_told_from_one_not_measured(tmp_path: Any) -> None:
    # The loss of such a batch is finite, and a rule that reads nothing else must not average it in.
    rule = gb.LossRatio(dwell=1, decay=0.5, max_batch_size=20)
    torch.manual_seed(0)
    data = torch.randn(50, 3, dtype=torch.float64), torch.randn(50, 1, dtype=torch.float64)
    model = nn.Linear(3, 1).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sinks = [JsonlSink(tmp_path / "steps.jsonl")]
    stream = gb.SampleStream(data, seed=0)
    controller = gb.Controller(rule, model, optimizer, stream, batch_size=5, sinks=sinks, shadows=[gb.CABS()])
    for number, (inputs, targets) in enumerate(controller.run(epochs=2)):
        output = model(inputs)
        if number == 4:
            output.register_hook(lambda grad: grad * torch.nan)
        controller.backward(F.mse_loss(output, targets))
        controller.step()
    controller.close()
    records = [gb.Record.from_dict(line) for line in read_jsonl(tmp_path / "steps.jsonl")]
    assert records[4].skipped
    assert records[4].loss < 100
    for record, decision in zip(records, replay(records, rule), strict=True):
        assert (decision.batch_size, decision.lr_scale) == (record.next_batch_size, record.lr_scale)
        assert decision.reason == record.reason


def test_what_is_no_log(tmp_path: Any) -> None:
    records = run(gb.Fixed(), tmp_path / "steps.jsonl")
    with pytest.raises(InvalidInputError, match=r"got a dict: read a log with map\(Record.from_dict"):
        list(replay(read_jsonl(tmp_path / "steps.jsonl"), gb.Fixed()))
    with pytest.raises(InvalidInputError, match="got update 2 in place of 0"):
        list(replay(records[2:], gb.Fixed()))
    with pytest.raises(InvalidInputError, match="got update 4 in place of 3"):
        list(replay(records[:3] + records[4:], gb.Fixed()))
