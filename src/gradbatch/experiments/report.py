"""Runs as one self-contained page: results, curves, settings."""

import contextlib
import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradbatch.errors import InvalidInputError, OutputError
from gradbatch.experiments.figures import COLOURS, draw
from gradbatch.experiments.page import PAGE
from gradbatch.experiments.panels import AXES, FIGURES
from gradbatch.experiments.run import Run, read_run
from gradbatch.experiments.summary import summary_of

__all__ = ["render_report", "write_report"]


def write_report(folders: Sequence[Path], output: Path) -> None:
    """Draw runs into one page.

    Args:
        folders: Of the runs; their order is the page's.
        output: The page; replaced if it is there.

    Raises:
        OutputError: If the page cannot be written.
    """
    page = render_report([read_run(folder) for folder in folders])
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(output)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise OutputError(
            f"the report {output} cannot be written ({error.strerror}): name another file with -o"
        ) from error


def render_report(runs: Sequence[Run]) -> str:
    """The page's HTML.

    Args:
        runs: One or several.

    Returns:
        A whole document that refers to nothing outside.

    Raises:
        InvalidInputError: If there is no run.
    """
    if not runs:
        raise InvalidInputError("a report needs at least one run: name the folders of runs")
    names = _names(runs)
    tasks = " and ".join(dict.fromkeys(run.manifest["task"]["name"] for run in runs))
    started = min(str(run.manifest.get("started", "")) for run in runs)[:10]
    plural = "s" if len(runs) > 1 else ""
    return PAGE.substitute(
        title=html.escape(f"gradbatch on {tasks}"),
        subtitle=html.escape(f"{len(runs)} run{plural}, begun {started}" if started else f"{len(runs)} runs"),
        summary=_summary_table(runs, names),
        skipped_note=_skipped_note(runs, names),
        legend="".join(f"<span>{_chip(n)}{html.escape(name)}</span>" for n, name in enumerate(names)),
        figures="\n".join(_figure(key, runs, names) for key in FIGURES),
        settings_note="What differs is marked ≠; what is equal is folded below." if len(runs) > 1 else "As resolved.",
        settings=_settings_table(runs, names),
        footer="Made by <code>gradbatch report</code> from the runs’ own logs.",
    )


def _names(runs: Sequence[Run]) -> list[str]:
    """The shortest ends of the folders' paths that tell the runs apart."""
    paths = [run.folder.resolve() for run in runs]
    for depth in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    twice = next(run.folder for run, path in zip(runs, paths, strict=True) if paths.count(path) > 1)
    raise InvalidInputError(f"the run {twice} was named more than once: name each run once")


def _chip(number: int) -> str:
    """A run's colour."""
    return f'<span class="chip" style="background:{COLOURS[number % len(COLOURS)]}"></span>'


def _summary_table(runs: Sequence[Run], names: Sequence[str]) -> str:
    """A line on each run."""
    head = ("Best test accuracy", "Mean batch", "Final", "Updates", "Samples", "Epochs", "Seconds")
    rows = []
    for number, (run, name) in enumerate(zip(runs, names, strict=True)):
        summary = summary_of(run)
        cells = (
            "–" if summary.best_accuracy is None else f"<strong>{summary.best_accuracy:.2%}</strong>",
            f"{summary.mean_batch_size:.1f}",
            "–" if summary.final_accuracy is None else f"{summary.final_accuracy:.2%}",
            f"{summary.steps:,}" + (f" ({summary.num_skipped:,} skipped)" if summary.num_skipped else ""),
            f"{summary.samples:,}",
            f"{summary.epochs:.4g}",
            f"{summary.seconds:.1f}",
        )
        values = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">{_chip(number)}{html.escape(name)}</th>{values}</tr>')
    titles = "".join(f'<th scope="col">{title}</th>' for title in ("Run", *head))
    return f'<table class="numbers"><thead><tr>{titles}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _skipped_note(runs: Sequence[Run], names: Sequence[str]) -> str:
    """A paragraph on the updates that changed no weights, or nothing."""
    summaries = [summary_of(run) for run in runs]
    parts = [
        f"{summary.num_skipped:,} of {summary.steps:,} in {html.escape(name)}"
        for summary, name in zip(summaries, names, strict=True)
        if summary.num_skipped
    ]
    if not parts:
        return ""
    why = "their loss or gradient was not finite, and they left the weights as they were"
    return f'<p class="note">Updates were skipped: {", ".join(parts)}; {why}.</p>'


def _figure(key: str, runs: Sequence[Run], names: Sequence[str]) -> str:
    """One figure, drawn against samples and against time; the page shows either."""
    drawings = []
    text = None
    for axis in AXES:
        text = FIGURES[key](runs, names, axis)
        if text.panel is not None:
            drawings.append(f'<div class="{axis}">{draw(text.panel, f"{key}-{axis}")}</div>')
    assert text is not None
    heading = f"<figcaption><h3>{html.escape(text.title)}</h3><p>{text.caption}</p></figcaption>"
    return f"<figure>{heading}{''.join(drawings)}</figure>"


def _settings_table(runs: Sequence[Run], names: Sequence[str]) -> str:
    """All settings; of several runs, those that differ stand first and the equal ones are folded."""
    columns = [_flat_settings(run.manifest) for run in runs]
    chips = "".join(f'<th scope="col">{_chip(n)}{html.escape(name)}</th>' for n, name in enumerate(names))
    differing: list[str] = []
    equal: list[str] = []
    for key in dict.fromkeys(key for column in columns for key in column):
        values = [column.get(key, "–") for column in columns]
        differs = len(set(values)) > 1
        mark, attribute = ("≠ ", ' class="differs"') if differs else ("", "")
        cells = "".join(f"<td>{html.escape(value)}</td>" for value in values)
        row = f'<tr{attribute}><th scope="row">{mark}{html.escape(key)}</th>{cells}</tr>'
        (differing if differs else equal).append(row)
    if len(runs) == 1:
        return _rows(chips, equal)
    folded = f"<details><summary>{len(equal)} equal settings</summary>{_rows(chips, equal)}</details>"
    return (_rows(chips, differing) if differing else "") + folded


def _rows(chips: str, rows: Sequence[str]) -> str:
    """A table of settings under the runs' names."""
    head = f"<thead><tr><th></th>{chips}</tr></thead>"
    return f'<table class="settings">{head}<tbody>{"".join(rows)}</tbody></table>'


def _flat_settings(manifest: dict[str, Any]) -> dict[str, str]:
    """What decides a run, in words; mere places are left out."""
    settings = manifest["settings"]
    flat = {
        name.replace("_", " "): _word(value)
        for name, value in settings.items()
        if name not in ("set", "out", "data_dir") and value is not None
    }
    parameters = manifest["rule"].get("parameters", {})
    flat |= {f"{manifest['rule']['name']}: {name}": _word(value) for name, value in parameters.items()}
    data = {name: n for name, n in manifest["task"].items() if name != "name"}
    flat |= {f"data: {name.replace('_', ' ')}": _word(n) for name, n in data.items()}
    flat["model: parameters"] = _word(manifest["model"].get("num_parameters"))
    for part in ("versions", "hardware"):
        flat |= {name.replace("_", " "): _word(value) for name, value in manifest.get(part, {}).items()}
    return flat


def _word(value: Any) -> str:
    """A setting as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and value >= 10_000:
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)
