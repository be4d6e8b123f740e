"""The reference loop: how gradbatch is meant to be used, in one piece.

It is written to be read from top to bottom, copied and changed. What it calls from this package are the
ordinary parts of any training script: a data set, a model, an optimizer, a schedule, an evaluation, a folder.
"""

from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path

import torch
from torch.nn import functional as F

from gradbatch.checkpoint import save_checkpoint
from gradbatch.controller import Controller
from gradbatch.experiments.budget import Budget
from gradbatch.experiments.build import build_model, build_optimizer, load_dataset
from gradbatch.experiments.evaluation import evaluate_splits
from gradbatch.experiments.lr_schedules import LrSchedule
from gradbatch.experiments.rule_settings import build_rule
from gradbatch.experiments.run import RunFolder, describe, settings_of
from gradbatch.experiments.settings import TrainSettings
from gradbatch.sinks.console import ProgressBar
from gradbatch.sinks.jsonl import JsonlSink
from gradbatch.stream import SampleStream

__all__ = ["train"]


def train(settings: TrainSettings) -> Path:
    """Train, log every update, evaluate and keep a checkpoint at every epoch's end.

    Args:
        settings: What to train and how. With ``resume`` the run in ``out`` goes on, bit for bit on CPU.

    Returns:
        The folder of the run.
    """
    settings = settings.resolved()
    folder = RunFolder(settings.folder)
    if settings.resume:
        settings_of(folder.path, asdict(settings))  # refuses settings that would make it another run
    data = load_dataset(settings)
    folder.begin(resume=settings.resume)  # an unusable folder is found out before the work, not after it

    torch.manual_seed(settings.seed)
    model = build_model(settings, data)
    optimizer = build_optimizer(settings, model)
    rule = build_rule(settings.rule, settings.set)
    stream = SampleStream(tuple(data.train), seed=settings.seed, num_workers=settings.num_workers)
    budget = Budget.of(settings, stream.dataset_size)
    schedule = LrSchedule(settings.lr_schedule, optimizer, budget, reference_batch_size=settings.batch_size)

    # What was logged after the checkpoint is cut, since it is about to be logged again.
    checkpoint = folder.go_back_to_checkpoint() if settings.resume else None
    folder.write_manifest(describe(settings, rule, model, data))
    with ExitStack() as resources:  # logs stay whole and workers end, also on Ctrl-C
        log = resources.enter_context(closing(JsonlSink(folder.steps, append=settings.resume)))
        evaluations = resources.enter_context(closing(JsonlSink(folder.evaluations, append=settings.resume)))
        progress = resources.enter_context(closing(ProgressBar(budget.samples, title=settings.title)))
        controller = Controller(
            rule,
            model,
            optimizer,
            stream,
            batch_size=settings.batch_size,
            micro_batch_size=settings.micro_batch_size,
            estimator=settings.estimator,
            clip_grad_norm=settings.clip_grad_norm,
            sinks=[log, progress],
        )
        resources.callback(controller.close)

        step = samples_seen = 0
        if checkpoint is not None:
            step, samples_seen = checkpoint["step"], checkpoint["samples_seen"]
            model.load_state_dict(checkpoint["model"])
            optimizer.load_state_dict(checkpoint["optimizer"])
            schedule.load_state_dict(checkpoint["schedule"])
            controller.load_state_dict(checkpoint["controller"])
            torch.set_rng_state(checkpoint["rng"])
        if budget.is_spent(step=step, samples_seen=samples_seen):
            return folder.path  # the run was complete

        for inputs, targets in controller.run(**budget.left(step=step, samples_seen=samples_seen)):
            controller.backward(F.cross_entropy(model(inputs), targets))
            record = controller.step()
            if record is None:  # more micro-batches belong to this update
                continue
            schedule.step(record)
            step, samples_seen = record.step + 1, record.samples_seen
            is_last = budget.is_spent(step=step, samples_seen=samples_seen)
            if samples_seen % stream.dataset_size and not is_last:
                continue

            # The end of an epoch. The evaluation comes first: were the run killed in between, it would go
            # on from the older checkpoint and evaluate again.
            results = evaluate_splits(model, data, settings.device)
            place = {
                "step": step,
                "samples_seen": samples_seen,
                "epoch": record.epoch,
                "seconds": record.seconds,
            }
            evaluations.write(place | results)
            progress.note(f"test accuracy {results['test_accuracy']:.2%}")
            save_checkpoint(
                folder.checkpoint,
                {
                    "step": step,
                    "samples_seen": samples_seen,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "controller": controller.state_dict(),
                    "rng": torch.get_rng_state(),
                },
            )
    return folder.path
