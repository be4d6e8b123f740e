"""`gradbatch reproduce`: run what is missing, then draw the pages."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from gradbatch.experiments.choices import choose
from gradbatch.experiments.reproduce.execute import run_trials
from gradbatch.experiments.reproduce.experiment import Experiment, Scale
from gradbatch.experiments.reproduce.index import write_index
from gradbatch.experiments.reproduce.pages import log_of, page_of, results_of, write_pages
from gradbatch.experiments.reproduce.results import Results
from gradbatch.experiments.studies.catalogue import EXPERIMENTS

__all__ = ["chosen", "draw", "reproduce", "text_of"]

_RUNS = Path("runs") / "reproduce"
"""Run folders of trials that are under way."""


def chosen(names: Sequence[str]) -> list[Experiment]:
    """Experiments by their names.

    Args:
        names: Of experiments, or ``"all"``.

    Returns:
        Each once.

    Raises:
        InvalidInputError: If there is no such experiment.
    """
    if "all" in names:
        return list(EXPERIMENTS.values())
    return list(dict.fromkeys(choose("experiment", name, EXPERIMENTS) for name in names))


def reproduce(
    experiments: Sequence[Experiment], scale: Scale, *, results: Path, jobs: int | None, data_dir: Path | None
) -> dict[str, str]:
    """Run the trials of experiments that their logs do not have yet.

    Args:
        experiments: One after the other.
        scale: Of the trials.
        results: Folder of the logs.
        jobs: Most trials at a time; by default one a core, or one where a GPU is used. Where a trial measures time it
            is one.
        data_dir: Folder of the data sets; that of the environment by default.

    Returns:
        Why trials have no result, by their experiments and titles.
    """
    failures: dict[str, str] = {}
    for experiment in experiments:
        log = log_of(experiment, scale, results)
        folder = _RUNS / scale / experiment.log
        trials = experiment.trials(scale)
        if not trials:
            print(f"{experiment.name} has no {scale} scale: use --scale full")
            continue
        if Results(trials, log.read()).is_complete:
            print(f"{experiment.name}: all of its runs are in {log.path}; to run it anew, name another --results")
            continue
        device = experiment.device_at(scale)
        if device == "cuda" and not torch.cuda.is_available():
            failures[experiment.name] = "its full runs need a GPU that torch can use: run it where there is one"
            continue
        uses_gpu = device != "cpu" and torch.cuda.is_available()
        num_jobs = 1 if experiment.is_timed else jobs or (1 if uses_gpu else os.cpu_count() or 1)
        failed = run_trials(trials, log, folder=folder, jobs=num_jobs, data_dir=data_dir, device=device)
        failures |= {f"{experiment.name}: {title}": why for title, why in failed.items()}
    return failures


def draw(experiments: Sequence[Experiment], *, results: Path, pages: Path) -> list[Path]:
    """Draw the pages of experiments, and the one above them all, from the logs.

    Args:
        experiments: Those whose own pages are drawn, and with them those of experiments that share their logs.
        results: Folder of the logs.
        pages: Where the pages go.

    Returns:
        The pages that were written.
    """
    logs = {experiment.log for experiment in experiments}
    sharing = [experiment for experiment in EXPERIMENTS.values() if experiment.log in logs]
    return [*write_pages(sharing, results, pages), write_index(EXPERIMENTS.values(), results, pages)]


def text_of(experiment: Experiment, scale: Scale, results: Path) -> str:
    """The page of an experiment at a scale, for a terminal.

    Args:
        experiment: Which.
        scale: Of the results.
        results: Folder of the logs.

    Returns:
        Markdown.
    """
    found = results_of(experiment, scale, results)
    if not found.num_run:
        return f"# {experiment.title}\n\nNothing of it was run yet at the scale {scale}.\n"
    return page_of(experiment, scale, found).text
