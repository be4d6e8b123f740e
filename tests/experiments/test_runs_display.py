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
    assert file.getvalue().splitlines() == [
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
