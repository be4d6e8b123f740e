"""The page above all: which claims hold, which do not, and what to use."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from gradbatch.experiments.files import write_whole
from gradbatch.experiments.reproduce.experiment import Claim, Experiment, Verdict
from gradbatch.experiments.reproduce.pages import Drawn, drawn, laid_out, table
from gradbatch.experiments.reproduce.verdicts import verdicts

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
        laid_out(experiment.name, experiment.summary(page.results)).text
        for experiment, page in found
        if page.scale == "full"
    ]
    judged = [_row(experiment, page) for experiment, page in found if experiment.claims]
    others = "; ".join(_linked(*pair) for pair in found if not pair[0].claims and pair[1].results.num_run)
    parts = (
        "# What holds, and what to use",
        _LEAD,
        *filter(None, summaries),
        "## What holds",
        _by_paper(found),
        table(("experiment", "its main claim", "verdict", "its other claims", "runs"), judged),
        f"More pages: {others}." if others else "",
        _FOOT,
    )
    return "\n\n".join(filter(None, parts)) + "\n"


def _by_paper(found: Sequence[tuple[Experiment, Drawn]]) -> str:
    """How many claims of each paper, without those that are ours, had which verdict."""
    answers: dict[str, list[str]] = {}
    for experiment, page in found:
        if experiment.paper:
            judged = verdicts(experiment, *page)
            answers.setdefault(experiment.paper, []).extend(one.answer for claim, one in judged if not claim.is_ours)
    if not answers:
        return ""
    rows = [(paper, *(str(given.count(answer) or "–") for answer in _WORDS)) for paper, given in answers.items()]
    return table(("claims of the paper on", *_WORDS), rows)


def _row(experiment: Experiment, found: Drawn) -> tuple[str, ...]:
    """An experiment, what became of its main claim and of its others, and how much of it was run."""
    (main, verdict), *others = verdicts(experiment, *found)
    return _linked(experiment, found), main.title, f"**{verdict.answer}**", _counted(others), _progress(found)


def _counted(judged: Iterable[tuple[Claim, Verdict]]) -> str:
    """How many claims had which verdict."""
    counts: Counter[str] = Counter(verdict.answer for _, verdict in judged)
    texts = [f"{n} {one if n == 1 else many}" for answer, (one, many) in _WORDS.items() if (n := counts[answer])]
    return ", ".join(texts) or "–"


def _linked(experiment: Experiment, found: Drawn) -> str:
    """The name, which leads to the page where there is one."""
    return f"[{experiment.name}]({experiment.name}.md)" if found.results.num_run else experiment.name


def _progress(found: Drawn) -> str:
    """How much was run at full scale."""
    if found.scale == "quick":
        return "quick" if found.results.num_run else "none"
    num_run, num_trials = found.results.num_run, found.results.num_trials
    return f"{num_run:,}" if found.results.is_complete else f"{num_run:,} of {num_trials:,}"


_WORDS = {
    "holds": ("holds", "hold"),
    "in part": ("in part", "in part"),
    "does not hold": ("does not", "do not"),
    "undecided": ("undecided", "undecided"),
    "open": ("open", "open"),
}
_LEAD = (
    "Claims of papers, and of ours, put to the test with this library on public data. Verdicts and the numbers in "
    "tables are computed from the raw logs in `results/`, never typed; the pages behind the links show what we see "
    "beside the papers' numbers, and the commands that repeat it."
)
_FOOT = (
    "[How to read the pages](../reading-results.md). The first table leaves out the questions that are ours, and "
    "counts a claim on each page that puts it to the test. Undecided: all runs are in and say nothing of it, as of BA, "
    "which within our budgets hardly ever draws beyond its first 32 samples. Open: runs are missing. *Quick* runs only "
    "show that the machinery works. `gradbatch reproduce NAME --scale full` goes on with an experiment, `gradbatch "
    "reproduce all --draw` draws these pages from the committed logs."
)
