"""Runs as one self-contained page: results, curves, settings."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradbatch.errors import InvalidInputError
from gradbatch.experiments.figures import draw
from gradbatch.experiments.files import write_whole
from gradbatch.experiments.page import PAGE, chip
from gradbatch.experiments.panels import AXES, FIGURES
from gradbatch.experiments.run import Run, read_run
from gradbatch.experiments.summary import summary_of

__all__ = ["Layout", "render_report", "write_report"]


def write_report(folders: Sequence[Path], output: Path) -> None:
    """Draw runs into one page.

    Args:
        folders: Of the runs; their order is the page's.
        output: The page; replaced if it is there.
    """
    page = render_report([read_run(folder) for folder in folders])
    write_whole(output, page, what="report", flag="-o")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a page shows its runs.

    Attributes:
        names: Of the runs.
        colours: For each run the number of its colour; runs may share one.
        legend: What the colours stand for, in their order.
        lead: HTML in place of the heading above the results of the single runs; these are then folded.
        columns: Numbers of the runs whose settings are shown.
        settings_note: What one has to know to read the settings.
    """

    names: Sequence[str]
    colours: Sequence[int]
    legend: Sequence[str]
    lead: str = ""
    columns: Sequence[int]
    settings_note: str


def render_report(runs: Sequence[Run], layout: Layout | None = None) -> str:
    """The page's HTML.

    Args:
        runs: One or several.
        layout: How to show them; by default each for itself.

    Returns:
        A whole document that refers to nothing outside.

    Raises:
        InvalidInputError: If there is no run.
    """
    if not runs:
        raise InvalidInputError("a report needs at least one run: name the folders of runs")
    layout = layout or _each_for_itself(runs)
    tasks = " and ".join(dict.fromkeys(run.manifest["task"]["name"] for run in runs))
    started = min(str(run.manifest.get("started", "")) for run in runs)[:10]
    plural = "s" if len(runs) > 1 else ""
    legend = (f"<span>{chip(n)}{html.escape(name)}</span>" for n, name in enumerate(layout.legend))
    return PAGE.substitute(
        title=html.escape(f"gradbatch on {tasks}"),
        subtitle=html.escape(f"{len(runs)} run{plural}, begun {started}" if started else f"{len(runs)} runs"),
        results=_results(runs, layout),
        skipped_note=_skipped_note(runs, layout.names),
        legend="".join(legend),
        figures="\n".join(_figure(key, runs, layout) for key in FIGURES),
        settings_note=layout.settings_note,
        settings=_settings_table([runs[number] for number in layout.columns], layout),
        footer=f"Made by <code>gradbatch {'compare' if layout.lead else 'report'}</code> from the runs’ own logs.",
    )


def _each_for_itself(runs: Sequence[Run]) -> Layout:
    """The layout of an ordinary report."""
    names = _names(runs)
    several = "What differs is marked ≠; what is equal is folded below."
    numbers = range(len(runs))
    note = several if len(runs) > 1 else "As resolved."
    return Layout(names=names, colours=numbers, legend=names, columns=numbers, settings_note=note)


def _names(runs: Sequence[Run]) -> list[str]:
    """The shortest ends of the folders' paths that tell the runs apart."""
    paths = [run.folder.resolve() for run in runs]
    for depth in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    twice = next(run.folder for run, path in zip(runs, paths, strict=True) if paths.count(path) > 1)
    raise InvalidInputError(f"the run {twice} was named more than once: name each run once")


def _results(runs: Sequence[Run], layout: Layout) -> str:
    """The numbers of the runs; folded where something else leads."""
    table = f'<div class="scroll">{_summary_table(runs, layout)}</div>'
    if not layout.lead:
        return f"<h2>Results</h2>{table}"
    return f"{layout.lead}<details><summary>Each run by itself</summary>{table}</details>"


def _summary_table(runs: Sequence[Run], layout: Layout) -> str:
    """A line on each run."""
    names = {run.metric.name for run in runs}
    judged = names.pop() if len(names) == 1 else "score"
    head = (f"Best test {judged}", "Mean batch", "Final", "Updates", "Samples", "Epochs", "Seconds")
    rows = []
    for colour, run, name in zip(layout.colours, runs, layout.names, strict=True):
        summary, write = summary_of(run), run.metric.write
        cells = (
            "–" if summary.best_score is None else f"<strong>{write(summary.best_score)}</strong>",
            f"{summary.mean_batch_size:.1f}",
            "–" if summary.final_score is None else write(summary.final_score),
            f"{summary.steps:,}" + (f" ({summary.num_skipped:,} skipped)" if summary.num_skipped else ""),
            f"{summary.samples:,}",
            f"{summary.epochs:.4g}",
            f"{summary.seconds:.1f}",
        )
        values = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">{chip(colour)}{html.escape(name)}</th>{values}</tr>')
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


def _figure(key: str, runs: Sequence[Run], layout: Layout) -> str:
    """One figure, drawn against samples and against time; the page shows either."""
    drawings = []
    text = None
    names = [layout.legend[colour] for colour in layout.colours]  # as the colours are called
    for axis in AXES:
        text = FIGURES[key](runs, names, axis)
        if text.panel is not None:
            curves = [replace(curve, run=layout.colours[curve.run]) for curve in text.panel.curves]
            drawings.append(f'<div class="{axis}">{draw(replace(text.panel, curves=curves), f"{key}-{axis}")}</div>')
    assert text is not None
    heading = f"<figcaption><h3>{html.escape(text.title)}</h3><p>{text.caption}</p></figcaption>"
    return f"<figure>{heading}{''.join(drawings)}</figure>"


def _settings_table(runs: Sequence[Run], layout: Layout) -> str:
    """All settings; of several runs, those that differ stand first and the equal ones are folded."""
    columns = [_flat_settings(run.manifest, is_compact=bool(layout.lead)) for run in runs]
    heads = ((layout.colours[number], layout.names[number]) for number in layout.columns)
    if layout.lead:  # columns stand for what the colours stand for
        heads = ((layout.colours[number], layout.legend[layout.colours[number]]) for number in layout.columns)
    chips = "".join(f'<th scope="col">{chip(colour)}{html.escape(name)}</th>' for colour, name in heads)
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


def _flat_settings(manifest: dict[str, Any], *, is_compact: bool) -> dict[str, str]:
    """What decides a run, in words; mere places are left out. Compact, a rule's parameters make one entry."""
    settings = manifest["settings"]
    flat = {
        name.replace("_", " "): _word(value)
        for name, value in settings.items()
        if name not in ("set", "out", "data_dir") and value is not None
    }
    parameters = manifest["rule"].get("parameters", {})
    if is_compact:
        flat["its settings"] = (
            "\n".join(f"{name.replace('_', ' ')} {_word(value)}" for name, value in parameters.items()) or "none"
        )
    else:
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
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, int) and value >= 10_000:
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)
