"""The reference loop: how gradbatch is meant to be used, in one piece.

It is written to be read from top to bottom, copied and changed. What it calls from this package are the
ordinary parts of any training script: a data set, a model, an optimizer, a schedule, an evaluation, a folder.
"""

from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from gradbatch._types import Record
from gradbatch.controller import Controller
from gradbatch.experiments.budget import Budget
from gradbatch.experiments.build import build_model, build_optimizer, load_dataset
from gradbatch.experiments.evaluation import cross_entropy, evaluate_splits
from gradbatch.experiments.interrupts import StoppedError, stop_on_signals
from gradbatch.experiments.logs import RunLogs, RunProgress
from gradbatch.experiments.lr_schedules import LrSchedule
from gradbatch.experiments.rule_settings import build_rule
from gradbatch.experiments.run import RunFolder, describe, settings_of
from gradbatch.experiments.settings import TrainSettings
from gradbatch.experiments.state import TrainingState
from gradbatch.experiments.tasks import TASKS
from gradbatch.sinks.console import ProgressBar
from gradbatch.stream import SampleStream

__all__ = ["train"]


def train(settings: TrainSettings, progress: RunProgress | None = None) -> Path:
    """Train, log every update, evaluate and keep a checkpoint at every epoch's end, or as often as asked for.

    Args:
        settings: What to train and how. With ``resume`` the run in ``out`` goes on, bit for bit on CPU.
        progress: What shows how far it is; a bar on the terminal by default.

    Returns:
        The folder of the run.

    Raises:
        StoppedError: If Ctrl-C or SIGTERM stopped the run; a checkpoint of its last update was saved.
    """
    settings = settings.resolved()
    folder = RunFolder(settings.folder)
    folder.check(resume=settings.resume)  # an unusable folder is found out before the work, not after it
    if settings.resume:
        settings_of(folder.path, asdict(settings))  # refuses settings that would make it another run

    task, data = TASKS[settings.task], load_dataset(settings)
    augment = task.augment if settings.augment and task.augment is not None else _as_it_is
    evaluate = partial(
        evaluate_splits, metric=task.metric, device=settings.device, with_train=settings.evaluate_training
    )
    torch.manual_seed(settings.seed)
    model = build_model(settings, data)
    optimizer = build_optimizer(settings, model)
    rule = build_rule(settings.rule, settings.set)
    stream = SampleStream(tuple(data.train), seed=settings.seed, num_workers=settings.num_workers)
    budget = Budget.of(settings, stream.dataset_size)
    schedule = LrSchedule(settings.lr_schedule, optimizer, budget, reference_batch_size=settings.batch_size)
    logs = RunLogs(folder, progress or ProgressBar(budget.samples, title=settings.title), task.metric)
    controller = Controller(
        rule,
        model,
        optimizer,
        stream,
        batch_size=settings.batch_size,
        micro_batch_size=settings.micro_batch_size,
        even_ends=settings.even_ends,
        estimator=settings.estimator,
        clip_grad_norm=settings.clip_grad_norm,
        sinks=[logs],
        shadows=[build_rule(name, ()) for name in settings.shadow],
    )
    state = TrainingState(model=model, optimizer=optimizer, schedule=schedule, controller=controller)
    # The handlers come first, so that workers are forked with them; closing keeps logs whole and ends workers.
    with stop_on_signals() as stop, closing(controller):
        checkpoint = folder.load_checkpoint() if settings.resume else None
        if checkpoint is not None:
            state.restore(checkpoint)
        budget.check_covers(step=state.step, samples_seen=state.samples_seen)
        # Nothing was refused: only now the folder is made, or what it logged after its checkpoint cut.
        folder.begin(describe(settings, rule, model, data), checkpoint, resume=settings.resume)
        logs.open(append=settings.resume)
        if budget.is_spent(step=state.step, samples_seen=state.samples_seen):
            return folder.path  # the run was complete

        for inputs, targets in controller.run(**budget.left(step=state.step, samples_seen=state.samples_seen)):
            controller.backward(cross_entropy(model(augment(inputs)), targets))
            record = controller.step()
            if record is None:  # more micro-batches belong to this update
                continue
            schedule.step(record)
            state.step, state.samples_seen = record.step + 1, record.samples_seen
            is_last = budget.is_spent(step=state.step, samples_seen=state.samples_seen)
            is_due = is_last or _has_passed(record, settings.evaluate_every or stream.dataset_size)
            if is_due:
                # The evaluation comes before the checkpoint: were the run killed in between, it would go on
                # from the older checkpoint and evaluate again.
                logs.evaluation(record, evaluate(model, data))
            if is_due or stop.signal is not None:
                state.save(folder.checkpoint)
            if stop.signal is not None and not is_last:
                raise StoppedError(stop.signal)
    return folder.path


def _has_passed(record: Record, every: int) -> bool:
    """Whether a multiple of so many samples was reached or passed with this update."""
    return record.samples_seen // every > (record.samples_seen - record.batch_size) // every


def _as_it_is(inputs: Tensor) -> Tensor:
    """No augmentation."""
    return inputs
