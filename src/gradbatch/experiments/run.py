"""The folder of a run: what is in it, how it is begun, continued and read."""

import datetime
import json
import os
import platform
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gradbatch._types import Rule
from gradbatch.checkpoint import load_checkpoint
from gradbatch.errors import InvalidInputError, MissingDataError, OutputError
from gradbatch.experiments.metrics import Metric
from gradbatch.experiments.settings import TrainSettings
from gradbatch.experiments.tasks import TASKS, Dataset
from gradbatch.sinks.jsonl import read_jsonl, truncate_jsonl

__all__ = ["Run", "RunFolder", "describe", "read_run", "settings_of", "version"]

_FORMAT = 1
_FREE_ON_RESUME = frozenset({"epochs", "samples", "steps", "num_workers", "data_dir", "out", "resume"})
"""Settings that may change when a run goes on: they do not touch what it has computed so far."""


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its things.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def manifest(self) -> Path:
        """Everything needed to repeat the run."""
        return self.path / "run.json"

    @property
    def steps(self) -> Path:
        """One line an update."""
        return self.path / "steps.jsonl"

    @property
    def evaluations(self) -> Path:
        """One line an evaluation."""
        return self.path / "evaluations.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint, replaced atomically."""
        return self.path / "checkpoint.pt"

    @property
    def is_begun(self) -> bool:
        """Whether there is anything to go on with, or to lose: a logged update or a checkpoint."""
        logs = [path for path in (self.steps, self.evaluations) if path.exists()]
        return self.checkpoint.exists() or any(path.stat().st_size > 0 for path in logs)

    def check(self, *, resume: bool) -> None:
        """See that the folder is free for a new run, or holds the run to go on with.

        Args:
            resume: Whether a run is to go on.

        Raises:
            MissingDataError: If there is no run to go on with.
            OutputError: If the folder holds a run that is not to go on.
        """
        if resume and not self.manifest.exists():
            raise MissingDataError(f"there is no run in {self.path} to go on with: name its folder with --out")
        if not resume and self.is_begun:
            raise OutputError(
                f"{self.path} already holds a run: go on with it (--resume) or name another folder (--out)"
            )

    def begin(self, manifest: dict[str, Any], checkpoint: dict[str, Any] | None, *, resume: bool) -> None:
        """Make the folder, or drop what its run logged after the checkpoint.

        Args:
            manifest: See `describe`. A run that goes on keeps the time at which it was started.
            checkpoint: From `load_checkpoint`; ``None`` where a run begins, or begins anew.
            resume: Whether a run goes on.

        Raises:
            OutputError: If the folder cannot be made or written to.
        """
        if resume:
            manifest = manifest | {"started": self.read_manifest().get("started", manifest["started"])}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not resume:  # the empty logs of a run that never got to its first update
                self.steps.unlink(missing_ok=True)
                self.evaluations.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(
                f"the folder {self.path} cannot be made ({error.strerror}): name another with --out"
            ) from error
        step = -1 if checkpoint is None else checkpoint["step"]
        truncate_jsonl(self.steps, step)
        # An evaluation's step counts the updates before it; an update's own line does not count itself.
        truncate_jsonl(self.evaluations, step + 1)
        self.write_manifest(manifest)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The newest checkpoint, of which the logs know all updates.

        Returns:
            The checkpoint; ``None`` where the run was stopped before its first, and so begins anew.

        Raises:
            InvalidInputError: If it cannot be used, or a part of the log is lost.
        """
        if not self.checkpoint.exists():
            return None
        try:
            checkpoint = load_checkpoint(self.checkpoint)
        except InvalidInputError as error:
            raise InvalidInputError(
                f"{self.checkpoint} is damaged, and only the newest checkpoint is kept: delete it and --resume "
                "to begin the run again"
            ) from error
        lines = read_jsonl(self.steps) if self.steps.exists() else []
        num_logged = 1 + max((line.get("step", -1) for line in lines), default=-1)
        if num_logged < checkpoint["step"]:
            raise InvalidInputError(
                f"{self.steps} ends after {num_logged} updates and the checkpoint was saved after "
                f"{checkpoint['step']}, so a part of the log is lost: put the whole log back, or delete "
                f"{self.checkpoint} and --resume to begin the run again"
            )
        return checkpoint

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Write ``run.json`` atomically.

        Args:
            manifest: See `describe`.

        Raises:
            OutputError: If it cannot be written.
        """
        temporary = self.manifest.with_name(f".run.json.{os.getpid()}.tmp")
        try:
            temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
            temporary.replace(self.manifest)
        except OSError as error:
            raise OutputError(
                f"{self.manifest} cannot be written ({error.strerror}): name another folder with --out"
            ) from error

    def read_manifest(self) -> dict[str, Any]:
        """What `write_manifest` wrote.

        Returns:
            The manifest.

        Raises:
            MissingDataError: If there is none.
            InvalidInputError: If it is damaged.
        """
        try:
            manifest = json.loads(self.manifest.read_text(encoding="utf-8"))
            missing = {"settings", "rule", "task", "model"} - set(manifest)
        except OSError:
            raise MissingDataError(
                f"{self.path} is not the folder of a run, it has no run.json: name a folder that `gradbatch train` made"
            ) from None
        except (ValueError, TypeError) as error:
            raise InvalidInputError(f"{self.manifest} is damaged ({error}): repeat the run") from None
        if missing:
            raise InvalidInputError(f"{self.manifest} lacks {', '.join(sorted(missing))}: repeat the run")
        return manifest


def describe(settings: TrainSettings, rule: Rule[Any], model: nn.Module, dataset: Dataset) -> dict[str, Any]:
    """Everything needed to repeat a run, ready for JSON.

    Args:
        settings: Resolved.
        rule: The rule that drives it.
        model: The model.
        dataset: The data.

    Returns:
        The manifest.
    """
    return {
        "format": _FORMAT,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "settings": {name: _plain(value) for name, value in asdict(settings).items() if name != "resume"},
        "rule": {"name": settings.rule, "parameters": asdict(rule)},  # pyrefly: ignore
        "task": {
            "name": settings.task,
            "train_samples": len(dataset.train.targets),
            "validation_samples": 0 if dataset.validation is None else len(dataset.validation.targets),
            "test_samples": len(dataset.test.targets),
        },
        "model": {
            "name": settings.model,
            "num_parameters": sum(weight.numel() for weight in model.parameters()),
            "layers": str(model),
        },
        # One seed, but each use of it is named, so that another program can repeat the run.
        "seeds": dict.fromkeys(("weights", "sample_order", "validation"), settings.seed),
        "versions": {
            "gradbatch": version(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "hardware": _hardware(settings.device),
    }


def settings_of(folder: Path, changes: dict[str, Any]) -> TrainSettings:
    """The settings with which the run in a folder goes on.

    Args:
        folder: The run's folder.
        changes: Settings that were named anew. The budget, the workers and the data folder may change.

    Returns:
        The run's settings with the changes, and ``resume``.

    Raises:
        InvalidInputError: If a change would make it another run.
    """
    # Runs of before there was a setting had its default.
    defaults = {item.name: _plain(item.default) for item in fields(TrainSettings)}
    stored = defaults | RunFolder(folder).read_manifest()["settings"]
    for name, value in changes.items():
        if name not in _FREE_ON_RESUME and _plain(value) != stored.get(name):
            raise InvalidInputError(
                f"the run in {folder} was begun with `{name}` {stored.get(name)}, got {_plain(value)}: "
                "leave it out to go on with the run, or begin another one in another folder"
            )
    budgets = {name: changes.get(name) for name in ("epochs", "samples", "steps")}
    budgets = {name: value for name, value in budgets.items() if value is not None}
    if budgets:
        old = {name: stored[name] for name in ("epochs", "samples", "steps") if stored[name] is not None}
        if stored["lr_schedule"] in ("cosine", "step") and budgets != old:
            raise InvalidInputError(
                f"the {stored['lr_schedule']} schedule of the run in {folder} is laid over its whole budget: "
                "go on without another budget"
            )
        stored |= dict.fromkeys(("epochs", "samples", "steps"))
    values = {name: stored[name] for name in defaults}
    values["set"], values["shadow"] = tuple(values["set"]), tuple(values["shadow"])
    values["data_dir"] = None if values["data_dir"] is None else Path(values["data_dir"])
    return TrainSettings(**values | changes | {"out": folder, "resume": True})


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as read from its folder.

    Attributes:
        folder: Where it lies.
        manifest: See `describe`.
        steps: The run log.
        evaluations: The evaluations' log.
    """

    folder: Path
    manifest: dict[str, Any]
    steps: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]

    @property
    def metric(self) -> Metric:
        """What its model is judged by."""
        return TASKS[self.manifest["settings"]["task"]].metric

    @property
    def scores(self) -> list[float]:
        """What the metric said of the test set, at each evaluation at which it was finite."""
        found = (line.get("test_score") for line in self.evaluations)
        return [score for score in found if score is not None]


def read_run(folder: Path) -> Run:
    """Read a run's folder.

    Args:
        folder: Made by `gradbatch train`.

    Returns:
        The run, with at least one step.

    Raises:
        InvalidInputError: If the run has no steps yet, or a file is damaged.
    """
    files = RunFolder(folder)
    manifest = files.read_manifest()
    steps = read_jsonl(files.steps) if files.steps.exists() else []
    if not steps:
        raise InvalidInputError(f"the run in {folder} has no steps yet: let it train first")
    for field in ("samples_seen", "seconds", "batch_size", "lr", "loss"):
        if any(field not in step for step in steps):
            raise InvalidInputError(f"{files.steps} has lines without `{field}`: it is no log of a run")
    evaluations = read_jsonl(files.evaluations) if files.evaluations.exists() else []
    return Run(folder=folder, manifest=manifest, steps=steps, evaluations=evaluations)


def _hardware(device: str) -> dict[str, Any]:
    """What the run's times, and its last bits, depend on."""
    return {
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "num_cpus": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
    }


def _plain(value: Any) -> Any:
    """A setting as JSON gives it back."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def version() -> str:
    """The installed version; a source tree on the path has none."""
    try:
        return metadata.version("gradbatch")
    except metadata.PackageNotFoundError:
        return "source tree, not installed"
