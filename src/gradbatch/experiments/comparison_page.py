"""The page of a comparison: a report of all its runs, led by a table of the rules."""

import html
from pathlib import Path

from gradbatch.experiments.compare import Results
from gradbatch.experiments.files import write_whole
from gradbatch.experiments.page import chip
from gradbatch.experiments.report import Layout, render_report

__all__ = ["write_comparison"]


def write_comparison(results: Results) -> Path:
    """Draw a comparison into ``comparison.html`` in its folder.

    Args:
        results: With at least one complete run.

    Returns:
        The page.
    """
    several = " Of several seeds, the first is shown." if results.seeds > 1 else ""
    first = {contender: number for number, contender in reversed(list(enumerate(results.contenders)))}
    layout = Layout(
        names=results.names,
        colours=results.contenders,
        legend=[row.label for row in results.rows],
        lead=_lead(results),
        columns=[first[contender] for contender in sorted(first)],
        settings_note=f"What differs is marked ≠; what is equal is folded below.{several}",
    )
    output = results.folder / "comparison.html"
    write_whole(output, render_report(results.runs, layout), what="page", flag="--out")
    return output


def _lead(results: Results) -> str:
    """The table of the rules, what one has to know to read it, and what failed."""
    titles = "".join(f'<th scope="col">{html.escape(title)}</th>' for title in ("Rule", *results.titles))
    rows = []
    for number, row in enumerate(results.rows):
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in row.cells(results.columns))
        rows.append(f'<tr><th scope="row">{chip(number)}{html.escape(row.label)}</th>{cells}</tr>')
    table = f'<table class="numbers"><thead><tr>{titles}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    notes = f'<p class="soft">{html.escape(" ".join(results.notes))}</p>'
    failed = "".join(
        f'<p class="note"><strong class="failed">{html.escape(name)} failed:</strong> {html.escape(why)}</p>'
        for name, why in results.failures.items()
    )
    return f'<h2>Rules</h2><div class="scroll">{table}</div>{notes}{failed}'
