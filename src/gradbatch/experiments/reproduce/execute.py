"""Running what has not been run yet: several trials at once, each ended one added to the log."""

import json
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from gradbatch.experiments.logs import RunProgress
from gradbatch.experiments.processes import work_all
from gradbatch.experiments.reproduce.experiment import Device
from gradbatch.experiments.reproduce.provenance import commit_of_source, provenance
from gradbatch.experiments.reproduce.results import ResultsLog
from gradbatch.experiments.reproduce.trial import Trial
from gradbatch.experiments.run import RunFolder, settings_of
from gradbatch.experiments.runs_display import runs_display
from gradbatch.experiments.settings import TrainSettings
from gradbatch.experiments.tasks import TASKS

__all__ = ["run_trials"]

_VALUES = "values.json"


@dataclass(frozen=True)
class _Order:
    """A trial on its way to another process.

    Attributes:
        trial: What is run.
        folder: Where its run folder lies.
        data_dir: Of the data sets.
        device: Where it runs.
    """

    trial: Trial
    folder: Path
    data_dir: Path | None
    device: str

    @property
    def settings(self) -> TrainSettings:
        """The trial's, with the places of this machine."""
        return replace(self.trial.settings, out=self.folder, data_dir=self.data_dir, device=self.device).resolved()


def run_trials(
    trials: Sequence[Trial],
    log: ResultsLog,
    *,
    folder: Path,
    jobs: int,
    data_dir: Path | None,
    device: Device,
) -> dict[str, str]:
    """Run the trials that the log does not have, and add them to it one by one.

    An interrupted trial goes on from its last checkpoint.

    Args:
        trials: In the order in which they begin; one key is run once.
        log: Where they go.
        folder: For the run folders; each is removed when its line is in the log.
        jobs: Most at a time.
        data_dir: Folder of the data sets; that of the environment by default.
        device: Where they run.

    Returns:
        Why trials have no line, by their titles; empty if all have.
    """
    done = log.read()
    wanted = list({trial.key: trial for trial in trials if trial.key not in done}.values())
    if not wanted:
        return {}
    log.touch()  # a place that cannot be written to is found out before the work, not after it
    orders = [_Order(trial, folder / trial.key, data_dir, device) for trial in wanted]
    titles = [trial.title for trial in wanted]
    commit = commit_of_source()  # of the code that the processes are about to load

    def keep(number: int) -> None:
        order = orders[number]
        values = json.loads((order.folder / _VALUES).read_text(encoding="utf-8"))
        log.append(order.trial, values, provenance(commit=commit, jobs=jobs, device=order.settings.device))
        shutil.rmtree(order.folder)

    with closing(runs_display(titles, [_size_of(trial.settings) for trial in wanted])) as display:
        failures = work_all(_fulfil, orders, jobs=jobs, display=display, after=keep)
    return {title: why for title, why in zip(titles, failures, strict=True) if why is not None}


def _fulfil(order: _Order, progress: RunProgress) -> None:
    """What another process does with an order."""
    settings = order.settings
    if RunFolder(order.folder).manifest.exists():
        places = {"data_dir": settings.data_dir, "device": settings.device}
        settings = settings_of(order.folder, places).resolved()
    values = order.trial.work(settings, progress)
    order.folder.mkdir(parents=True, exist_ok=True)
    (order.folder / _VALUES).write_text(json.dumps(values, allow_nan=False), encoding="utf-8")


def _size_of(settings: TrainSettings) -> int:
    """About how many samples a run sees; for the time left."""
    if settings.samples is not None:
        return settings.samples
    if settings.steps is not None:
        return settings.steps * settings.batch_size
    assert settings.epochs is not None
    task = TASKS[settings.task]
    if settings.per_class is not None:
        return settings.epochs * settings.per_class * task.num_classes
    return settings.epochs * round(task.train_samples * (1 - settings.validation))
