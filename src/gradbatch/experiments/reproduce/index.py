"""The page above all: which claims hold, which do not, and what to use."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gradbatch.experiments.files import write_whole
from gradbatch.experiments.reproduce.experiment import Claim, Experiment, Verdict
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
    experiments = list(experiments)
    found = {experiment.name: drawn(experiment, results) for experiment in experiments}
    judged = {
        experiment.name: verdicts(experiment, *found[experiment.name])
        for experiment in experiments
        if found[experiment.name].scale == "full"
    }
    summaries = [
        laid_out(experiment.name, experiment.summary(found[experiment.name].results)).text
        for experiment in experiments
        if found[experiment.name].results.num_run
    ]
    parts = (
        "# What holds, and what to use",
        _LEAD,
        *filter(None, summaries),
        "## What holds",
        _claims_table(judged),
        "## The experiments",
        table(
            ("experiment", "name", "scale", "runs"),
            [_overview(experiment, found[experiment.name]) for experiment in experiments],
        ),
        _FOOT,
    )
    return "\n\n".join(parts) + "\n"


def _claims_table(judged: Mapping[str, Sequence[tuple[Claim, Verdict]]]) -> str:
    """The claims that could be judged, and how many could not."""
    rows = [
        (claim.text, f"**{verdict.answer}**", verdict.evidence, f"[{name}]({name}.md)")
        for name, own in judged.items()
        for claim, verdict in own
        if verdict.answer != "open"
    ]
    num_open = sum(verdict.answer == "open" for own in judged.values() for _, verdict in own)
    note = (
        f"{len(rows)} claims were judged; {num_open} more wait for runs that are under way, all others for full runs."
    )
    return f"{table(('claim', 'verdict', 'what we see', 'page'), rows)}\n\n{note}"


def _overview(experiment: Experiment, found: Drawn) -> tuple[str, str, str, str]:
    """How much of an experiment was run."""
    keys = {trial.key for trial in found.results.trials}
    num_run = len(keys & set(found.results.outcomes))
    link = f"[{experiment.title}]({experiment.name}.md)" if num_run else experiment.title
    return link, f"`{experiment.name}`", found.scale if num_run else "–", f"{num_run:,} of {len(keys):,}"


_LEAD = (
    "Every claim below was put to the test with this library on public data. Verdicts and numbers are computed from "
    "the raw logs in `results/`, never typed; a page stands behind each."
)
_FOOT = (
    "`gradbatch reproduce NAME --scale full` runs one anew, `gradbatch reproduce all --draw` draws these pages from "
    "the committed logs. Scale *quick* only shows that the machinery works: its runs are too short to judge by."
)
