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
        final_accuracy: On the test set, at the last evaluation; ``None`` before the first.
        best_accuracy: The largest on the test set.
    """

    steps: int
    num_skipped: int
    samples: int
    epochs: float
    seconds: float
    mean_batch_size: float
    final_accuracy: float | None
    best_accuracy: float | None


def summary_of(run: Run) -> Summary:
    """The numbers of a run that was read.

    Args:
        run: From `read_run`.

    Returns:
        Its summary.
    """
    last = run.steps[-1]
    accuracies = [line["test_accuracy"] for line in run.evaluations if "test_accuracy" in line]
    return Summary(
        steps=len(run.steps),
        num_skipped=sum(bool(line.get("skipped")) for line in run.steps),
        samples=last["samples_seen"],
        epochs=last["epoch"],
        seconds=last["seconds"],
        mean_batch_size=last["samples_seen"] / len(run.steps),
        final_accuracy=accuracies[-1] if accuracies else None,
        best_accuracy=max(accuracies) if accuracies else None,
    )


def summarize(folder: Path) -> str:
    """One line on the run in a folder.

    Args:
        folder: Made by `gradbatch train`.

    Returns:
        Accuracy and costs.
    """
    summary = summary_of(read_run(folder))
    accuracy = "not evaluated"
    if summary.final_accuracy is not None and summary.best_accuracy is not None:
        accuracy = f"test accuracy {summary.final_accuracy:.2%} (best {summary.best_accuracy:.2%})"
    skipped = f" ({summary.num_skipped:,} skipped)" if summary.num_skipped else ""
    return (
        f"{accuracy}, {summary.epochs:.4g} epochs, {summary.steps:,} steps{skipped}, {summary.samples:,} samples, "
        f"mean batch {summary.mean_batch_size:.1f}, {summary.seconds:.1f} s"
    )
