"""What a comparison consists of: its runs, and the folder that holds them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from gradbatch.errors import InvalidInputError, MissingDataError, OutputError
from gradbatch.experiments.budget import Budget
from gradbatch.experiments.contenders import Contender, read_contenders
from gradbatch.experiments.files import write_whole
from gradbatch.experiments.run import RunFolder, settings_of
from gradbatch.experiments.settings import TrainSettings
from gradbatch.experiments.tasks import TASKS
from gradbatch.sinks.jsonl import read_jsonl

__all__ = ["Comparison", "PlannedRun", "comparison_in"]

_FORMAT = 1
_FREE_ON_RESUME = frozenset({"num_workers", "data_dir"})
"""Settings that may change when a comparison goes on; the target may as well, which no run knows of."""


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run of a comparison.

    Attributes:
        contender: Number of its rule, in the order in which they were named.
        name: What tells it from the other runs.
        settings: Resolved; with ``resume`` where it goes on.
    """

    contender: int
    name: str
    settings: TrainSettings

    def is_complete(self) -> bool:
        """Whether the budget is spent and the model evaluated after that."""
        folder = RunFolder(self.settings.folder)
        if not folder.manifest.exists() or not folder.evaluations.exists():
            return False
        lines = read_jsonl(folder.evaluations)
        samples = Budget.of(self.settings, folder.read_manifest()["task"]["train_samples"]).samples
        return bool(lines) and samples is not None and lines[-1].get("samples_seen", 0) >= samples


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Rules on the same task, seeds and samples.

    Attributes:
        folder: Holds the run folders.
        rules: As they were typed, see `read_contenders`.
        seeds: How many runs each rule makes; their seeds follow that of the settings.
        target: Score of the task's metric to be reached on the test set; ``None`` for what all reached.
        settings: What all runs share, by field of `TrainSettings`; what is left out has its default.

    Raises:
        InvalidInputError: If a rule or setting cannot be used.
    """

    folder: Path
    rules: str
    seeds: int = 1
    target: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise InvalidInputError(f"`seeds` must be at least 1, got {self.seeds}")
        metric = TASKS[self.runs()[0].settings.task].metric
        if self.target is not None and metric.is_share and not 0 < self.target <= 1:
            raise InvalidInputError(f"`target` must be above 0 and at most 1, got {self.target:g}: write 0.97 for 97 %")
        if self.target is not None and not self.target > 0:
            raise InvalidInputError(f"`target` must be above 0, got {self.target:g}: name it in {metric.name}")

    @cached_property
    def contenders(self) -> tuple[Contender, ...]:
        """The rules, in their order."""
        return read_contenders(self.rules)

    @property
    def is_begun(self) -> bool:
        """Whether the folder holds a comparison, to go on with or to lose."""
        return (self.folder / _NAME).exists()

    def runs(self) -> list[PlannedRun]:
        """All runs, seed by seed, so that every rule is seen early; each goes on where its folder has one."""
        runs = []
        first = self.settings.get("seed", 0)
        for seed in range(first, first + self.seeds):
            for number, contender in enumerate(self.contenders):
                suffix = f"-seed-{seed}" if self.seeds > 1 else ""
                out = self.folder / f"{contender.folder_name}{suffix}"
                values: dict[str, Any] = {**self.settings, **contender.changes, "seed": seed, "out": out}
                settings = TrainSettings(**values, rule=contender.rule, set=contender.assignments).resolved()
                name = contender.label + (f" seed {seed}" if self.seeds > 1 else "")
                runs.append(PlannedRun(contender=number, name=name, settings=settings))
        return runs

    def begin(self) -> list[PlannedRun]:
        """Make the folder of a new comparison.

        Returns:
            All runs.

        Raises:
            OutputError: If the folder holds something already, or cannot be made.
        """
        taken = f"{self.folder} already holds a comparison: go on with it (--resume) or name another folder (--out)"
        if self.is_begun:
            raise OutputError(taken)
        runs = self.runs()
        for run in runs:
            RunFolder(run.settings.folder).check(resume=False)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / _NAME).touch(exist_ok=False)  # of two that begin at once, one gets the folder
        except OSError as error:
            if self.is_begun:
                raise OutputError(taken) from error
            raise OutputError(
                f"the folder {self.folder} cannot be made ({error.strerror}): name another with --out"
            ) from error
        self._write()
        return runs

    def go_on(self) -> list[PlannedRun]:
        """The runs that are not complete, each from its last checkpoint."""
        self._write()  # with what changed
        free = {name: value for name, value in self.settings.items() if name in _FREE_ON_RESUME}
        unfinished = [run for run in self.runs() if not run.is_complete()]
        return [
            replace(run, settings=settings_of(run.settings.folder, free).resolved())
            if RunFolder(run.settings.folder).manifest.exists()
            else run
            for run in unfinished
        ]

    def _write(self) -> None:
        """Keep what was asked for."""
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in self.settings.items()}
        values = {"format": _FORMAT, "rules": self.rules, "seeds": self.seeds, "target": self.target, "settings": plain}
        write_whole(self.folder / _NAME, json.dumps(values, indent=2) + "\n", what="description", flag="--out")


def comparison_in(folder: Path, changes: Mapping[str, Any]) -> Comparison:
    """The comparison that was begun in a folder.

    Args:
        folder: Its folder.
        changes: What was named anew: the target, and settings of all runs that do not touch what they computed.

    Returns:
        The comparison.

    Raises:
        MissingDataError: If there is none.
        InvalidInputError: If its description is damaged, or a change would make it another comparison.
    """
    path = folder / _NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        settings, stored = dict(values["settings"]), {name: values[name] for name in ("rules", "seeds", "target")}
    except OSError:
        raise MissingDataError(
            f"there is no comparison in {folder} to go on with: name its folder with --out"
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidInputError(f"{path} is damaged ({error!r}): begin the comparison again elsewhere") from None
    for name, value in changes.items():
        if name == "target":
            stored["target"] = value
        elif name in _FREE_ON_RESUME:
            settings[name] = value
        elif value != (stored | settings).get(name):
            raise InvalidInputError(
                f"the comparison in {folder} goes on as it was begun: leave `{name}` out, or begin another one"
            )
    if settings.get("data_dir") is not None:
        settings["data_dir"] = Path(settings["data_dir"])
    if "shadow" in settings:
        settings["shadow"] = tuple(settings["shadow"])
    return Comparison(folder=folder, settings=settings, **stored)


_NAME = "comparison.json"
"""What was asked for, in the comparison's folder."""
