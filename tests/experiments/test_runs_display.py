import io
import re

from gradbatch.experiments.runs_display import RunsBars, RunsLines, runs_display


class Terminal(io.StringIO):
    def isatty(self):
        return True


def show(file):
    display = runs_display(["fixed", "cabs[1]"], [1000, 1000], file)
    display.begin(0)
    display.begin(1)
    for samples in range(0, 1001, 50):
        display.advance(0, samples, f"batch {samples}")
    display.say(1, "[red]beware")
    display.end(0, None)
    display.end(1, "it broke")
    display.close()
    display.close()
    return display


def test_lines_where_there_is_no_terminal():
    file = io.StringIO()
    assert type(show(file)) is RunsLines
    assert re.sub(r", about \d+ s left", "", file.getvalue()).splitlines() == [
        "fixed  begins",
        "cabs[1]  begins",
        "fixed  200/1,000 samples  batch 200",
        "fixed  400/1,000 samples  batch 400",
        "fixed  600/1,000 samples  batch 600",
        "fixed  800/1,000 samples  batch 800",
        "cabs[1]  [red]beware",
        "fixed  done  batch 1000  (1 of 2 runs)",
        "cabs[1]  failed: it broke  (2 of 2 runs)",
    ]


def test_bars_on_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    file = Terminal()
    assert type(show(file)) is RunsBars
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    lines = [line.strip() for line in re.split(r"[\r\n]+", text)]
    assert "cabs[1]  [red]beware" in lines
    assert "fixed  done  batch 1000" in lines
    assert "cabs[1]  failed: it broke" in lines
    assert re.fullmatch(r"all runs ━+ \S+ 2 of 2 done", [line for line in lines if line][-1])


def test_the_time_left_is_that_of_the_samples_left(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("gradbatch.experiments.runs_display.time.monotonic", lambda: clock[0])
    file = io.StringIO()
    display = RunsLines(["a", "b", "c"], [1000, 1000, 8000], file)
    clock[0] += 60
    display.end(0, None)
    display.advance(1, 500, "")
    display.end(1, "it broke")
    display.end(2, None)
    ends = [line for line in file.getvalue().splitlines() if "runs" in line]
    assert ends[0].endswith("(1 of 3 runs, about 9 min left)")  # a tenth of the samples took a minute
    assert ends[1].endswith("(2 of 3 runs, about 4 min left)")
    assert ends[2].endswith("(3 of 3 runs)")
