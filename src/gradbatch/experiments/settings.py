"""The settings of a run, shared by the command line, the loop and the run folder."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from gradbatch.errors import InvalidInputError
from gradbatch.experiments.choices import choose
from gradbatch.experiments.rule_settings import build_rule
from gradbatch.experiments.tasks import TASKS
from gradbatch.rules import RULES

__all__ = ["TrainSettings", "fresh_folder"]

_ADAM_LR = 1e-3
_MAX_SEED = 2**63 - 1
"""The largest that a torch generator takes, whichever function seeds it."""
_task_lrs = ", ".join(f"{name} {task.lr:g}" for name, task in TASKS.items())
_task_momenta = ", ".join(f"{name} {task.momentum:g}" for name, task in TASKS.items())
_task_epochs = ", ".join(f"{name} {task.epochs}" for name, task in TASKS.items())
_task_models = ", ".join(f"{name} {' or '.join(task.models)}" for name, task in TASKS.items())


def _flag(metavar: str, text: str) -> dict[str, str]:
    """What the command line says about a field; a switch has no metavar."""
    return {"metavar": metavar, "help": text}


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """All that decides a run. Each field is a flag of `gradbatch train`.

    ``None`` stands for a default that depends on other settings; `resolved` fills these in.

    Raises:
        InvalidInputError: If a setting cannot be used; the message names it.
    """

    task: str = field(
        default="digits", metadata=_flag("TASK", f"what to train on: {', '.join(TASKS)} (default: digits)")
    )
    model: str | None = field(
        default=None, metadata=_flag("NAME", f"the model, the task's first by default: {_task_models}")
    )
    rule: str = field(
        default="fixed",
        metadata=_flag("NAME", "what chooses the batch size, see `gradbatch list` (default: fixed)"),
    )
    set: tuple[str, ...] = field(
        default=(), metadata=_flag("KEY=VALUE", "hyper-parameters of the rule, see `gradbatch list`")
    )
    shadow: tuple[str, ...] = field(
        default=(),
        metadata=_flag("NAME", "rules that are asked along the way and not obeyed, for the log and `gradbatch replay`"),
    )
    estimator: Literal["auto", "layers", "chunks"] = field(
        default="auto",
        metadata=_flag("NAME", "how gradient statistics are measured: auto, layers or chunks (default: auto)"),
    )
    epochs: int | None = field(default=None, metadata=_flag("N", f"budget in epochs (default: {_task_epochs})"))
    samples: int | None = field(default=None, metadata=_flag("N", "budget in samples"))
    steps: int | None = field(default=None, metadata=_flag("N", "budget in updates"))
    batch_size: int = field(default=32, metadata=_flag("B", "size of the first batch, in samples (default: 32)"))
    micro_batch_size: int | None = field(
        default=None,
        metadata=_flag("M", "most samples in one forward pass (default: no limit but the batch)"),
    )
    even_ends: bool = field(
        default=False,
        metadata=_flag("", "halve what is left of an epoch or budget, rather than end with a few samples"),
    )
    lr: float | None = field(
        default=None,
        metadata=_flag("LR", f"learning rate (default: {_ADAM_LR:g} for adam and adamw; for sgd {_task_lrs})"),
    )
    optimizer: Literal["sgd", "adam", "adamw"] = field(
        default="sgd", metadata=_flag("NAME", "sgd, adam or adamw (default: sgd)")
    )
    momentum: float | None = field(default=None, metadata=_flag("M", f"momentum of sgd (default: {_task_momenta})"))
    nesterov: bool = field(default=False, metadata=_flag("", "Nesterov's form of momentum"))
    weight_decay: float = field(default=0.0, metadata=_flag("W", "weight decay (default: 0)"))
    lr_schedule: Literal["none", "cosine", "plateau", "step"] = field(
        default="none",
        metadata=_flag(
            "NAME",
            "counted in samples: cosine to 0 over the budget; step, x0.1 at 50 % and 75 % of it; plateau, "
            "x0.5 after 25 epochs without a better training loss; or none (default: none)",
        ),
    )
    clip_grad_norm: float | None = field(
        default=None, metadata=_flag("NORM", "largest norm of the gradient (default: no limit)")
    )
    validation: float = field(
        default=0.0, metadata=_flag("FRACTION", "part of the training set to hold out (default: 0)")
    )
    per_class: int | None = field(
        default=None,
        metadata=_flag("N", "train on a random subset with N samples of each class (default: all samples)"),
    )
    augment: bool = field(
        default=False, metadata=_flag("", "random crops and flips of the training images, where the task has them")
    )
    evaluate_every: int | None = field(
        default=None, metadata=_flag("SAMPLES", "samples between two evaluations and checkpoints (default: an epoch)")
    )
    evaluate_training: bool = field(default=False, metadata=_flag("", "evaluate on the whole training set as well"))
    device: str = field(
        default="auto",
        metadata=_flag("D", "cpu, cuda, cuda:1, mps, ... (default: auto, cuda where there is one)"),
    )
    num_workers: int = field(default=0, metadata=_flag("N", "processes that load data (default: 0)"))
    seed: int = field(
        default=0,
        metadata=_flag("S", "of the weights, the order of the samples and the held-out part (default: 0)"),
    )
    data_dir: Path | None = field(
        default=None, metadata=_flag("DIR", "folder of the data sets (default: $GRADBATCH_DATA)")
    )
    out: Path | None = field(
        default=None, metadata=_flag("DIR", "folder of this run (default: a fresh runs/TASK-RULE-N)")
    )
    resume: bool = field(
        default=False,
        metadata=_flag("", "go on with the run in --out, with its settings, from its last checkpoint"),
    )

    def __post_init__(self) -> None:
        task = choose("task", self.task, TASKS)
        if self.model is not None:
            choose("model", self.model, dict.fromkeys(task.models), scope=f' for the task "{self.task}"')
        build_rule(self.rule, self.set)
        self._check_shadows()
        self._check_counts()
        self._check_choices()
        self._check_optimizer()

    def resolved(self) -> "TrainSettings":
        """The same settings, with the defaults filled in that depend on task, machine and folders.

        Returns:
            Settings without ``None`` where a value is needed to train.
        """
        task = TASKS[self.task]
        is_sgd = self.optimizer == "sgd"
        has_budget = self.epochs is not None or self.samples is not None or self.steps is not None
        lr = task.lr if is_sgd else _ADAM_LR
        momentum = task.momentum if is_sgd else 0.0
        return replace(
            self,
            model=self.model or task.models[0],
            epochs=self.epochs if has_budget else task.epochs,
            lr=lr if self.lr is None else self.lr,
            momentum=momentum if self.momentum is None else self.momentum,
            device=_default_device() if self.device == "auto" else self.device,
            out=self.out or fresh_folder(f"{self.task}-{self.rule}"),
        )

    @property
    def folder(self) -> Path:
        """Where the run lies; known once resolved."""
        assert self.out is not None
        return self.out

    @property
    def title(self) -> str:
        """A short name for progress and reports."""
        return f"{self.task} {self.rule}"

    def _check_shadows(self) -> None:
        for name in self.shadow:
            if choose("rule", name, RULES).in_step:
                raise InvalidInputError(
                    f"{name} draws samples within a step and cannot be a shadow: leave it out of --shadow, or train "
                    f"with --rule {name}"
                )
            if self.shadow.count(name) > 1:
                raise InvalidInputError(f"--shadow names {name} more than once: leave all but one out")

    def _check_counts(self) -> None:
        minima = {"batch_size": 1, "num_workers": 0, "seed": 0}
        counts = ("epochs", "samples", "steps", "micro_batch_size", "per_class", "evaluate_every")
        minima |= dict.fromkeys(counts, 1)
        for name, minimum in minima.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise InvalidInputError(f"`{name}` must be at least {minimum}, got {value}")
        if self.seed > _MAX_SEED:
            raise InvalidInputError(f"`seed` must be from 0 to {_MAX_SEED}, got {self.seed}")
        budgets = [name for name in ("epochs", "samples", "steps") if getattr(self, name) is not None]
        if len(budgets) > 1:
            raise InvalidInputError(f"a run has one budget, got {' and '.join(budgets)}: leave all but one out")
        if self.steps is not None and self.lr_schedule in ("cosine", "step"):
            raise InvalidInputError(
                f"the {self.lr_schedule} schedule is laid over samples, and how many {self.steps} steps take "
                "is not known in advance: give the budget in epochs or samples"
            )

    def _check_choices(self) -> None:
        choose("estimator", self.estimator, dict.fromkeys(("auto", "layers", "chunks")))
        choose("optimizer", self.optimizer, dict.fromkeys(("sgd", "adam", "adamw")))
        choose("learning-rate schedule", self.lr_schedule, dict.fromkeys(("none", "cosine", "plateau", "step")))
        if not 0 <= self.validation < 1:
            raise InvalidInputError(f"`validation` must be at least 0 and below 1, got {self.validation}")
        if self.augment and TASKS[self.task].augment is None:
            raise InvalidInputError(f'the task "{self.task}" has no augmentation: leave --augment out')
        if self.device != "auto":
            _check_device(self.device)
        if self.resume and self.out is None:
            raise InvalidInputError("--resume needs the folder of the run to go on with: name it with --out")

    def _check_optimizer(self) -> None:
        for name in ("lr", "momentum", "weight_decay", "clip_grad_norm"):
            value = getattr(self, name)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise InvalidInputError(f"`{name}` must be a number of at least 0, got {value}")
        if self.momentum is not None and self.momentum >= 1:
            raise InvalidInputError(f"`momentum` must be at least 0 and below 1, got {self.momentum}")
        if self.clip_grad_norm == 0:
            raise InvalidInputError("`clip_grad_norm` must be positive, got 0: leave it out for no limit")
        if self.optimizer != "sgd" and (self.momentum or self.nesterov):
            raise InvalidInputError(
                f"`momentum` and `nesterov` belong to sgd, got {self.optimizer}: leave them out, or use sgd"
            )
        momentum = TASKS[self.task].momentum if self.momentum is None else self.momentum
        if self.nesterov and not momentum:
            raise InvalidInputError("`nesterov` needs a momentum above 0: give one, such as 0.9")


def _check_device(name: str) -> None:
    """Refuse a device that torch does not know or this machine does not have."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InvalidInputError(f'the device "{name}" cannot be used ({reason}): name another, such as cpu') from None


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def fresh_folder(name: str) -> Path:
    """The first ``runs/<name>-<n>`` that is not there yet.

    Args:
        name: What the folder is for.

    Returns:
        Its path; it is not made.
    """
    number = 1
    while (folder := Path("runs") / f"{name}-{number}").exists():
        number += 1
    return folder
