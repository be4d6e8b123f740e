import io
import sys

import pytest

from gradbatch.errors import InvalidInputError
from gradbatch.sinks.console import ProgressBar
from sinks.records import record


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(bar, num_epochs, *, steps_per_epoch=4):
    for step in range(num_epochs * steps_per_epoch):
        samples = 10 * (step + 1)
        bar.log(record(step, samples_seen=samples, epoch=samples / (10 * steps_per_epoch), seconds=float(step)))
        if (step + 1) % steps_per_epoch == 0:
            bar.note(f"accuracy {step}")
    bar.close()


def test_a_file_gets_a_plain_line_per_epoch():
    file = io.StringIO()
    run(ProgressBar(120, title="digits", file=file), 3)
    lines = file.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[-1].startswith("digits  epoch 3  120/120 samples  10 samples/s  batch 10  lr 0.1  loss 2.5")
    assert lines[-1].endswith("accuracy 11")


def test_a_long_run_does_not_flood_a_file():
    file = io.StringIO()
    run(ProgressBar(40 * 500, file=file), 500)
    assert 15 <= len(file.getvalue().splitlines()) <= 21


def test_a_total_that_is_not_known_is_left_out():
    file = io.StringIO()
    run(ProgressBar(None, file=file), 1)
    assert "40 samples" in file.getvalue()


def test_a_terminal_gets_a_bar_with_the_same_numbers():
    file = Terminal()
    run(ProgressBar(80, title="digits", file=file), 2)
    assert "digits" in file.getvalue()
    assert "80/80 samples" in file.getvalue()
    assert "samples/s" in file.getvalue()


def test_a_missing_rich_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'gradbatch\[cli\]'"):
        ProgressBar(10, file=Terminal())
    ProgressBar(10, file=io.StringIO()).close()


def test_a_total_of_nothing_is_refused():
    with pytest.raises(InvalidInputError, match="total_samples"):
        ProgressBar(0)


def line_of(*records):
    file = io.StringIO()
    bar = ProgressBar(file=file)
    for each in records:
        bar.log(each)
    bar.close()
    return file.getvalue().splitlines()[-1]


def test_a_huge_loss_stays_short():
    assert line_of(record(0, epoch=1.0, loss=5085455683231416320.0)).endswith("loss 5.085e+18")


def test_the_batch_size_is_the_one_used_but_for_a_remainder():
    assert "batch 20 " in line_of(record(0, batch_size=20, requested=32, epoch=1.0))
    assert "batch 90 " in line_of(record(0, batch_size=90, requested=32, epoch=1.0))
    full, rest = record(0, batch_size=32, requested=32), record(1, batch_size=3, requested=32, epoch=1.0)
    assert "batch 32 " in line_of(full, rest)


def test_the_speed_is_the_recent_one():
    slow = [record(n, samples_seen=10 * n, epoch=0.5, seconds=float(n)) for n in range(100)]
    fast = [record(100 + n, samples_seen=1000 + 200 * n, epoch=0.5, seconds=100.0 + n) for n in range(20)]
    last = record(120, samples_seen=5000, epoch=2.0, seconds=120.0)
    assert " 200 samples/s" in line_of(*slow, *fast, last)
