"""The page above all: which claims hold, which do not, and what to use."""

from collections.abc import Iterable
from pathlib import Path

from gradbatch.experiments.files import write_whole
from gradbatch.experiments.reproduce.experiment import Experiment
from gradbatch.experiments.reproduce.pages import Drawn, drawn, laid_out, table, verdicts

__all__ = ["index_of", "write_index"]


def write_index(experiments: Iterable[Experiment], results: Path, pages: Path) -> Path:
    """Write the page.

    Args:
        experiments: All there are.
        results: Folder of the logs.
        pages: Folder of the pages.

    Returns:
        Its path.
    """
    path = pages / "index.md"
    write_whole(path, index_of(experiments, results), what="page", flag="--pages")
    return path


def index_of(experiments: Iterable[Experiment], results: Path) -> str:
    """The page.

    Args:
        experiments: All there are.
        results: Folder of the logs.

    Returns:
        Markdown.
    """
    found = [(experiment, drawn(experiment, results)) for experiment in experiments]
    summaries = [
        laid_out(experiment.name, experiment.summary(own.results)).text
        for experiment, own in found
        if own.results.num_run
    ]
    judged = [_row(experiment, own) for experiment, own in found if experiment.claims]
    others = "; ".join(_linked(*pair) for pair in found if not pair[0].claims and pair[1].results.num_run)
    parts = (
        "# What holds, and what to use",
        _LEAD,
        *filter(None, summaries),
        "## What holds",
        table(("experiment", *_ANSWERS, "runs"), judged),
        f"More pages: {others}." if others else "",
        _FOOT,
    )
    return "\n\n".join(filter(None, parts)) + "\n"


def _row(experiment: Experiment, found: Drawn) -> tuple[str, ...]:
    """An experiment, its claims by what became of them, and how much of it was run."""
    judged = verdicts(experiment, *found)
    answers = (" ".join(claim.text for claim, verdict in judged if verdict.answer == answer) for answer in _ANSWERS)
    return _linked(experiment, found), *(answer or "–" for answer in answers), _progress(found)


def _linked(experiment: Experiment, found: Drawn) -> str:
    """The title, which leads to the page where there is one."""
    return f"[{experiment.title}]({experiment.name}.md)" if found.results.num_run else experiment.title


def _progress(found: Drawn) -> str:
    """How much was run at full scale."""
    if found.scale == "quick":
        return "quick" if found.results.num_run else "none"
    keys = {trial.key for trial in found.results.trials}
    num_run = len(keys & set(found.results.outcomes))
    return f"{num_run:,}" if num_run == len(keys) else f"{num_run:,} of {len(keys):,}"


_ANSWERS = ("holds", "in part", "does not hold")
_LEAD = (
    "Claims of papers, and of ours, put to the test with this library on public data. Verdicts and the numbers in "
    "tables are computed from the raw logs in `results/`, never typed; the pages behind the links show what we see "
    "beside the "
    "papers' numbers, and the commands that repeat it."
)
_FOOT = (
    "A claim that stands nowhere in the table is open: it waits for runs, or they do not decide it; its page says "
    "which. "
    "*Quick* runs only show that the machinery works. "
    "`gradbatch reproduce NAME --scale full` runs one anew or goes on with it, `gradbatch reproduce all --draw` draws "
    "these pages from the committed logs; a page's file name is its NAME."
)
