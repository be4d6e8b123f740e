"""An experiment's page in Markdown, from the log alone."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gradbatch.errors import OutputError
from gradbatch.experiments.figures import draw_file
from gradbatch.experiments.files import write_whole
from gradbatch.experiments.reproduce.experiment import Block, Experiment, Plot, Scale, Table
from gradbatch.experiments.reproduce.results import Outcome, Results, ResultsLog
from gradbatch.experiments.reproduce.verdicts import verdicts

__all__ = ["Drawn", "Page", "drawn", "laid_out", "log_of", "page_of", "results_of", "table", "write_pages"]


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page that is ready to be written.

    Attributes:
        text: Markdown.
        figures: SVG documents by the names of their files.
    """

    text: str
    figures: dict[str, str]


def log_of(experiment: Experiment, scale: Scale, folder: Path) -> ResultsLog:
    """The log of an experiment.

    Args:
        experiment: Which.
        scale: Quick runs have a log of their own.
        folder: Of all logs.

    Returns:
        The log; its file may not be there yet.
    """
    return ResultsLog(folder / scale / f"{experiment.log}.jsonl")


def results_of(experiment: Experiment, scale: Scale, folder: Path) -> Results:
    """What came out of an experiment.

    Args:
        experiment: Which.
        scale: At what scale.
        folder: Of all logs.

    Returns:
        Its trials and their outcomes.
    """
    return Results(experiment.trials(scale), log_of(experiment, scale, folder).read())


class Drawn(NamedTuple):
    """What a page is drawn from.

    Attributes:
        scale: Of the runs.
        results: Their outcomes.
    """

    scale: Scale
    results: Results


def drawn(experiment: Experiment, folder: Path) -> Drawn:
    """The results that a page is made of: the full ones, or the quick ones where there is none of those.

    Args:
        experiment: Which.
        folder: Of all logs.

    Returns:
        The scale and the results.
    """
    full = results_of(experiment, "full", folder)
    return Drawn("full", full) if full.num_run else Drawn("quick", results_of(experiment, "quick", folder))


def page_of(experiment: Experiment, scale: Scale, results: Results, logs: Path = Path("../../results")) -> Page:
    """The page of an experiment.

    Args:
        experiment: Which.
        scale: Of the results.
        results: What came out.
        logs: Folder of the logs as seen from the page, for its links; by default as in the repository.

    Returns:
        The page.
    """
    parts = [f"# {experiment.title}", f"Source: {experiment.source}", _QUICK if scale == "quick" else ""]
    parts.append(experiment.about.strip())
    if experiment.claims:
        parts += ["## What holds", _claims_table(experiment, scale, results), _IN_PART]
    body = laid_out(experiment.name, experiment.blocks(results))
    if experiment.why and scale == "full" and results.is_complete:
        parts += ["## Why, as far as we can tell", experiment.why.strip()]
    parts += ["## What came out", body.text, "## How to repeat it", _provenance(experiment, scale, results, logs)]
    return Page(text="\n\n".join(filter(None, parts)) + "\n", figures=body.figures)


def laid_out(name: str, blocks: Sequence[Block]) -> Page:
    """Blocks one after the other.

    Args:
        name: Begins the names of the figures' files.
        blocks: Tables, figures, texts.

    Returns:
        Their Markdown, and the figures.
    """
    figures: dict[str, str] = {}
    parts: list[str] = []
    for block in blocks:
        if isinstance(block, Table):
            parts += [table(block.head, block.rows), f"*{block.caption}*"]
        elif isinstance(block, Plot):
            stem = f"{name}-{block.name}" if block.name else name
            figures[f"{stem}.svg"] = draw_file(block.panels, block.legend, stem)
            parts += [f"![{block.caption}]({stem}.svg)", f"*{block.caption}*"]
        else:
            parts.append(block.strip())
    return Page(text="\n\n".join(parts), figures=figures)


def write_pages(experiments: Sequence[Experiment], results: Path, pages: Path) -> list[Path]:
    """Draw the pages of experiments anew.

    Args:
        experiments: Those whose pages are wanted.
        results: Folder of the logs.
        pages: Folder of the pages; made if it is not there.

    Returns:
        The pages that were written; an experiment of which nothing was run has none, and loses one that it had.

    Raises:
        OutputError: If the folder cannot be made.
    """
    try:
        pages.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {pages} cannot be made ({error.strerror}): name another with --pages") from error
    written = []
    for experiment in experiments:
        path = pages / f"{experiment.name}.md"
        scale, outcomes = drawn(experiment, results)
        page = page_of(experiment, scale, outcomes, Path(os.path.relpath(results, pages))) if outcomes.num_run else None
        _remove(path)
        if page is None:
            continue
        for name, figure in page.figures.items():
            write_whole(pages / name, figure, what="figure", flag="--pages")
        write_whole(path, page.text, what="page", flag="--pages")
        written.append(path)
    return written


def _remove(page: Path) -> None:
    """Take a page away, with the figures that it shows."""
    if page.exists():
        for name in re.findall(r"!\[[^]]*\]\(([^/)]+\.svg)\)", page.read_text(encoding="utf-8")):
            (page.parent / name).unlink(missing_ok=True)
        page.unlink()


def _claims_table(experiment: Experiment, scale: Scale, results: Results) -> str:
    rows = [
        (claim.title, f"**{one.answer}**", one.evidence, claim.criterion)
        for claim, one in verdicts(experiment, scale, results)
    ]
    return table(("claim", "verdict", "what we see", "it holds if"), rows)


_QUICK = (
    "**Quick runs, to show that the machinery works, and no results. What is said of settings is said of the full "
    "runs, which are still to come.**"
)

_IN_PART = (
    "*In part: it holds for some of what it names (stops, rates, networks, places, subjects), unless its last column "
    "says otherwise.*"
)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    Args:
        head: Titles of the columns.
        rows: Cells as text.

    Returns:
        Its lines.
    """
    lines = [head, ["---"] * len(head), *rows]
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def _hours(outcomes: Sequence[Outcome]) -> str:
    """How long it takes, where that was measured."""
    seconds = sum(outcome.number("seconds") for outcome in outcomes)
    if not seconds > 0:  # which nan is not, either
        return ""
    time = f"{seconds / 3600:.1f} hours" if seconds >= 1800 else f"{max(1, round(seconds / 60))} min"
    return f" ({time} of training in all, without evaluations)"


def _provenance(experiment: Experiment, scale: Scale, results: Results, logs: Path) -> str:
    """The command, and what the numbers were made with."""
    used = list({trial.key: outcome for trial, outcome in results.pairs()}.values())
    facts = {name: sorted({str(outcome.provenance.get(name, "")) for outcome in used}) for name in ("commit", "torch")}
    machines = "; ".join(sorted({_machine(outcome) for outcome in used}))
    seeds = sorted({trial.settings.seed for trial in results.trials})
    log = log_of(experiment, scale, logs).path
    hours = _hours(used) if results.is_complete else ""
    return (
        f"    gradbatch reproduce {experiment.name} --scale {scale} --results DIR\n\n"
        f"runs everything anew{hours}; without `--results` it only adds what is missing in the log. "
        f"{results.num_run:,} of {results.num_trials:,} runs are in. Every row names its lines of the raw log, "
        f"[{log.name}]({log.as_posix()}); "
        "each line holds settings, seed, commit and machine of one run, and the command where it is one of training. "
        f"Seeds {', '.join(map(str, seeds))}; commits {', '.join(facts['commit'])} (a plus marks a tree with changes); "
        f"torch {', '.join(facts['torch'])}; {machines}."
    )


def _machine(outcome: Outcome) -> str:
    """On what a run was made, and with how many beside it."""
    known = outcome.provenance
    gpu = "" if known.get("device", "cpu") == "cpu" else f", {known['device']}"
    return (
        f"{known.get('processor', '')}, {known.get('num_cpus', '')} cores{gpu}, {known.get('jobs', '')} at a time with "
        "a thread each"
    )
