"""One run of an experiment: where it stands in the tables, and what is run."""

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from gradbatch.experiments.logs import RunProgress
from gradbatch.experiments.reproduce.distil import train_and_distil
from gradbatch.experiments.rule_settings import build_rule
from gradbatch.experiments.settings import TrainSettings

__all__ = ["Trial", "Work", "trial"]

Work = Callable[[TrainSettings, RunProgress], dict[str, Any]]
"""What is done with settings, and what it found, ready for JSON."""

_PLACES = frozenset({"out", "data_dir", "device", "num_workers", "resume"})
"""Settings that say where something is and not what it is."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run.

    Attributes:
        settings: What is run; resolved.
        place: Where it stands in the experiment's tables, as ``{"rule": "cabs", "lr": 0.1}``.
        work: What is done with the settings: by default, training.
    """

    settings: TrainSettings
    place: Mapping[str, Any] = field(default_factory=dict)
    work: Work = train_and_distil

    @cached_property
    def decisive(self) -> dict[str, Any]:
        """The settings that decide what comes out and are not their field's default, ready for JSON."""
        values = {item.name: getattr(self.settings, item.name) for item in fields(self.settings)}
        defaults = {item.name: item.default for item in fields(self.settings)}
        changed = {name: value for name, value in values.items() if name not in _PLACES and value != defaults[name]}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}

    @cached_property
    def rule_parameters(self) -> dict[str, Any]:
        """All hyper-parameters of the rule, its defaults among them."""
        return asdict(build_rule(self.settings.rule, self.settings.set))  # pyrefly: ignore

    @cached_property
    def key(self) -> str:
        """What tells the trial from every other; experiments that share a trial run it once.

        It takes the rule's defaults in: a rule that comes to have others is run anew.
        """
        text = json.dumps([_name_of(self.work), self.decisive, self.rule_parameters], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def command(self) -> str:
        """The command that repeats it by itself; empty where it is more than training."""
        if self.work is not train_and_distil:
            return ""
        words = ["gradbatch", "train", self.settings.task]
        for name, value in self.decisive.items():
            if name != "task":
                texts = [] if value is True else map(str, value) if isinstance(value, list) else [str(value)]
                words += [f"--{name.replace('_', '-')}", *texts]
        return shlex.join(words)

    @property
    def title(self) -> str:
        """A short name for progress."""
        return " ".join(str(value) for value in self.place.values()) or self.settings.title


def trial(work: Work = train_and_distil, *, place: Mapping[str, Any], **settings: Any) -> Trial:
    """A trial from the settings that differ from the task's defaults.

    Args:
        work: What is done.
        place: See `Trial`; a seed among the settings is added to it.
        **settings: Fields of `TrainSettings`.

    Returns:
        The trial.
    """
    resolved = TrainSettings(**settings, out=Path()).resolved()
    return Trial(settings=resolved, place={**place, "seed": resolved.seed}, work=work)


def _name_of(work: Work) -> str:
    """A name for the work that is the same in every process."""
    if isinstance(work, partial):
        assert not work.args, "what a work is given stands by name"
        return f"{work.func.__name__} {sorted(work.keywords.items())}"
    return getattr(work, "__name__")  # noqa: B009 - a callable need not have one, and then this must fail
