"""The page above all: which claims hold, which do not, and what to use."""

from collections.abc import Iterable
from pathlib import Path

from gradbatch.experiments.files import write_whole
from gradbatch.experiments.reproduce.experiment import Experiment
from gradbatch.experiments.reproduce.pages import drawn, laid_out, table, verdicts

__all__ = ["write_index"]


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
    claims: list[tuple[str, ...]] = []
    summaries: list[str] = []
    overview: list[tuple[str, ...]] = []
    for experiment in experiments:
        scale, found = drawn(experiment, results)
        num_trials = len({trial.key for trial in found.trials})
        num_run = len({trial.key for trial in found.trials if trial.key in found.outcomes})
        link = f"[{experiment.title}]({experiment.name}.md)" if num_run else experiment.title
        overview.append((link, f"`{experiment.name}`", scale, f"{num_run:,} of {num_trials:,}"))
        if num_run:
            summaries += [laid_out(experiment.name, experiment.summary(found)).text]
            claims += [
                (claim.text, f"**{verdict.answer}**", verdict.evidence, f"[{experiment.name}]({experiment.name}.md)")
                for claim, verdict in verdicts(experiment, scale, found)
            ]
    return (
        "\n\n".join(
            (
                "# What holds, and what to use",
                _LEAD,
                *filter(None, summaries),
                "## Claims",
                table(("claim", "verdict", "what we see", "page"), claims),
                "## Experiments",
                table(("experiment", "name", "scale", "runs"), overview),
                _FOOT,
            )
        )
        + "\n"
    )


_LEAD = (
    "Every claim below was put to the test with this library on public data. Verdicts and numbers are computed from "
    "the raw logs in `results/`, never typed; a page stands behind each."
)
_FOOT = (
    "`gradbatch reproduce NAME --scale full` runs one anew, `gradbatch reproduce all --draw` draws these pages from "
    "the committed logs. Scale *quick* only shows that the machinery works: its runs are too short to judge by."
)
