import torch

from gradbatch.experiments.studies import clock
from gradbatch.experiments.studies.clock import elapsed


def test_time_is_taken_when_the_device_is_idle(monkeypatch):
    events = []
    monkeypatch.setattr(clock.time, "perf_counter", lambda: events.append("clock") or 3.0 * events.count("clock"))
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: events.append(f"wait for {device}"))
    assert elapsed(lambda: events.append("work"), torch.device("cuda")) == 3.0
    assert events == ["wait for cuda", "clock", "work", "wait for cuda", "clock"]


def test_a_cpu_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "synchronize", None)
    assert elapsed(lambda: None, torch.device("cpu")) >= 0
