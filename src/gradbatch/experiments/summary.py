"""A run in a few numbers."""

from dataclasses import dataclass
from pathlib import Path

from gradbatch.experiments.run import Run, read_run

__all__ = ["Summary", "summarize", "summary_of"]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What the first table of a report shows.

    Attributes:
        steps: Updates, the skipped ones counted.
        num_skipped: Updates that were skipped, since a loss or gradient was not finite.
        samples: Samples seen.
        epochs: The same, in epochs.
        seconds: Time spent training.
        mean_batch_size: Samples per update.
        final_score: What the task's metric said on the test set at the last evaluation; ``None`` before the first, and
            where it was not finite.
        best_score: The best on the test set.
    """

    steps: int
    num_skipped: int
    samples: int
    epochs: float
    seconds: float
    mean_batch_size: float
    final_score: float | None
    best_score: float | None


def summary_of(run: Run) -> Summary:
    """The numbers of a run that was read.

    Args:
        run: From `read_run`.

    Returns:
        Its summary.
    """
    last = run.steps[-1]
    return Summary(
        steps=len(run.steps),
        num_skipped=sum(bool(line.get("skipped")) for line in run.steps),
        samples=last["samples_seen"],
        epochs=last["epoch"],
        seconds=last["seconds"],
        mean_batch_size=last["samples_seen"] / len(run.steps),
        final_score=run.evaluations[-1].get("test_score") if run.evaluations else None,
        best_score=run.metric.best(run.scores),
    )


def summarize(folder: Path) -> str:
    """One line on the run in a folder.

    Args:
        folder: Made by `gradbatch train`.

    Returns:
        Score and costs.
    """
    run = read_run(folder)
    summary, write = summary_of(run), run.metric.write
    score = "not evaluated"
    if summary.best_score is not None:
        final = "not finite" if summary.final_score is None else write(summary.final_score)
        score = f"test {run.metric.name} {final} (best {write(summary.best_score)})"
    skipped = f" ({summary.num_skipped:,} skipped)" if summary.num_skipped else ""
    return (
        f"{score}, {summary.epochs:.4g} epochs, {summary.steps:,} steps{skipped}, {summary.samples:,} samples, "
        f"mean batch {summary.mean_batch_size:.1f}, {summary.seconds:.1f} s"
    )
