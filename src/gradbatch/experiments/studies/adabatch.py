"""AdaBatch's experiments: a batch that doubles at fixed epochs, against small and large constant batches."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np

from gradbatch.experiments.figures import Panel
from gradbatch.experiments.reproduce.cells import (
    NONE,
    answer_of,
    at_validation_best,
    best,
    end,
    lines,
    mean_of,
    percent,
    spread,
)
from gradbatch.experiments.reproduce.drawing import accuracy_panel, batch_loss_panel, curves_of, mean_curve
from gradbatch.experiments.reproduce.experiment import Block, Claim, Experiment, Plot, Scale, Table, Verdict
from gradbatch.experiments.reproduce.results import Outcome, Results
from gradbatch.experiments.reproduce.trial import Trial, trial

__all__ = ["EXPERIMENTS", "FIRST_SIZES", "NUM_STAGES", "SOURCE", "stage_seconds"]

NUM_STAGES = 5
"""Batch sizes of a run: the first, and one after each of four doublings."""

FIRST_SIZES: Mapping[str, int] = {"alexnet": 256, "resnet20": 128, "vgg19-bn": 128}
"""The batch that AdaBatch begins with on CIFAR-10, by network."""

_GROWTH = 2 ** (NUM_STAGES - 1)

_ADA, _SMALL, _LARGE = "AdaBatch", "fixed small", "fixed large"
_VARIANTS = (_ADA, _SMALL, _LARGE)

_COMMON: Mapping[str, Any] = {
    "rule": "adabatch",
    "lr": 0.01,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "validation": 1 / 12,
}


@dataclass(frozen=True, kw_only=True)
class _Network:
    """A network and how long it is trained.

    Attributes:
        name: Of the model.
        first: The small batch, in samples.
        interval: Epochs between doublings.
        num_seeds: Runs of each variant.
    """

    name: str
    first: int
    interval: int
    num_seeds: int = 1

    def trials(self, task: Mapping[str, Any]) -> list[Trial]:
        """The three variants, seed by seed."""
        return [
            trial(
                place={"model": self.name, "variant": variant},
                seed=seed,
                model=self.name,
                epochs=NUM_STAGES * self.interval,
                **_COMMON,
                **task,
                **self.rule(variant),
            )
            for seed in range(self.num_seeds)
            for variant in _VARIANTS
        ]

    def rule(self, variant: str) -> dict[str, Any]:
        """The batch sizes; all variants are AdaBatch, which is the baseline where nothing is left to grow."""
        first, last = self.sizes(variant)
        settings = (f"interval={self.interval}", f"max_batch_size={last}")
        return {"batch_size": first, "set": settings}

    def sizes(self, variant: str) -> tuple[int, int]:
        """The first and the last batch size."""
        large = _GROWTH * self.first
        return {_ADA: (self.first, large), _SMALL: (self.first, self.first), _LARGE: (large, large)}[variant]


def _trials(task: str, full: Sequence[_Network], *, augment: bool) -> Callable[[Scale], list[Trial]]:
    """The runs on a task by scale; the quick ones are of a small network on few images."""

    def trials(scale: Scale) -> list[Trial]:
        quick = [_Network(name="small-cnn", first=16, interval=1)]
        extra = {"per_class": 100} if scale == "quick" else {}
        common = {"task": task, "augment": augment, **extra}
        return [one for network in (full if scale == "full" else quick) for one in network.trials(common)]

    return trials


def stage_seconds(outcome: Outcome) -> list[float]:
    """Seconds of training per epoch at each of the batch sizes.

    Args:
        outcome: Of a run that was evaluated at least at the end of each stage.

    Returns:
        One for each stage, without evaluations; nan where training diverged, for then the stages are others.
    """
    if outcome.is_diverged:
        return [math.nan] * NUM_STAGES
    samples, seconds = ([0.0, *outcome.curve(name)] for name in ("samples_seen", "seconds"))
    edges = np.interp(np.linspace(0, samples[-1], NUM_STAGES + 1), samples, seconds)
    epochs = samples[-1] / outcome.number("train_samples") / NUM_STAGES
    return [float(stage) / epochs for stage in np.diff(edges)]


def _found(results: Results, model: str) -> dict[str, list[Outcome]]:
    """The runs of a network by variant."""
    return {variant: results.of(model=model, variant=variant) for variant in _VARIANTS}


def _blocks(results: Results) -> list[Block]:
    """The page where runs shared a machine: accuracy, and curves of each network."""
    return [_accuracy_table(results), *(_curves(results, model) for model in _models(results))]


def _timed_blocks(results: Results) -> list[Block]:
    """The page where each run had a machine to itself: accuracy, time, and curves."""
    accuracy, *curves = _blocks(results)
    return [accuracy, _time_table(results), *curves]


def _models(results: Results) -> list[str]:
    """The networks of which something was run."""
    return [model for model in results.values_of("model") if results.of(model=model)]


def _accuracy_table(results: Results) -> Table:
    """Accuracy and updates of whole runs."""
    rows = []
    for model in _models(results):
        runs = _found(results, model)
        for variant, found in runs.items():
            numbers = (best, at_validation_best, end)
            rows.append(
                [
                    model,
                    f"{variant}, {_sizes_text(found)}",
                    *(spread(map(number, found), percent) for number in numbers),
                    spread((outcome.number("updates") for outcome in found), lambda x: f"{x:,.0f}"),
                    lines(found),
                ]
            )
    return Table(
        caption="Test accuracy in per cent: the best, that at the epoch which held-out images would choose, and the "
        "last, for which a run that diverged counts as guessing.",
        head=["", "", "best", "chosen", "final", "updates", "log lines"],
        rows=rows,
    )


def _sizes_text(found: Sequence[Outcome]) -> str:
    """The first and the last batch size that were seen."""
    if not found:
        return NONE
    sizes = found[0].values["course"]["largest"]
    return f"{sizes[0]:,}" if sizes[0] == max(sizes) else f"{sizes[0]:,} to {max(sizes):,}"


def _speed_up(runs: Mapping[str, Sequence[Outcome]], variant: str) -> float:
    """The small batch's seconds over a variant's, nan where either was not run or diverged."""
    if not runs[_SMALL] or not runs[variant]:
        return math.nan
    small, other = (mean(map(_seconds, runs[name])) for name in (_SMALL, variant))
    return small / other


def _seconds(outcome: Outcome) -> float:
    """Of training; nan where it diverged, for then it is shorter than the others."""
    return math.nan if outcome.is_diverged else outcome.number("seconds")


def _time_table(results: Results) -> Table:
    """Seconds of whole runs, and per epoch by stage."""
    rows = []
    for model in results.values_of("model"):
        runs = _found(results, model)
        for variant, found in runs.items():
            if found:
                by_stage = zip(*map(stage_seconds, found), strict=True)
                rows.append(
                    [
                        model,
                        variant,
                        spread(map(_seconds, found), lambda x: f"{x:.0f}"),
                        spread([_speed_up(runs, variant)], lambda x: f"{x:.2f}"),
                        *(spread(seconds, lambda x: f"{x:.1f}") for seconds in by_stage),
                        lines(found),
                    ]
                )
    return Table(
        caption="Seconds of training without evaluations, how much faster the run was than with the small batch, and "
        "seconds per epoch in each of the five stages, as AdaBatch's batch doubles. One run at a time, but with "
        "whatever else the machine did: seconds are rough.",
        head=["", "", "seconds", "speed-up", *(f"stage {n}" for n in range(1, NUM_STAGES + 1)), "log lines"],
        rows=rows,
    )


def _curves(results: Results, model: str) -> Plot:
    """Accuracy and loss of a network against samples."""
    rows = list(_found(results, model).values())
    panels = [
        accuracy_panel(f"{model}: test accuracy", rows),
        batch_loss_panel(rows),
        Panel(
            title="batch size",
            x_label="samples",
            curves=curves_of([mean_curve(found, "batch_size") for found in rows]),
            scale="log2",
        ),
    ]
    caption = "Means over seeds. Loss and size are means over the batches of an epoch."
    return Plot(name=model, caption=caption, legend=_VARIANTS, panels=panels)


def _judge(
    text: str, criterion: str, holds: Callable[[Mapping[str, Sequence[Outcome]]], bool], say: Callable[..., str]
) -> Claim:
    """A claim about every network."""

    def judge(results: Results) -> Verdict:
        runs = {model: _found(results, model) for model in results.values_of("model")}
        evidence = "; ".join(f"{model}: {say(found)}" for model, found in runs.items())
        return Verdict(answer_of([holds(found) for found in runs.values()]), evidence)

    return Claim(text=text, criterion=f"with each network, {criterion}", judge=judge)


def _mean_best(found: Sequence[Outcome]) -> float:
    return mean_of(map(best, found))


def _say_accuracies(runs: Mapping[str, Sequence[Outcome]]) -> str:
    return ", ".join(f"{variant} {percent(_mean_best(found))} %" for variant, found in runs.items())


def _gain(runs: Mapping[str, Sequence[Outcome]]) -> float:
    """Seconds per epoch with the first batch over those with the last, of AdaBatch's runs."""
    first, *_, last = (mean(seconds) for seconds in zip(*map(stage_seconds, runs[_ADA]), strict=True))
    return first / last


def _say_times(runs: Mapping[str, Sequence[Outcome]]) -> str:
    return (
        f"an epoch with the last batch is {_gain(runs):.2f} times as fast as with the first, the whole run "
        f"{_speed_up(runs, _ADA):.2f} times as fast as with the small batch"
    )


_CLAIMS = (
    _judge(
        "AdaBatch is as accurate as the fixed small batch.",
        "AdaBatch's best accuracy is at most a point lower",
        lambda runs: _mean_best(runs[_ADA]) >= _mean_best(runs[_SMALL]) - 0.01,
        _say_accuracies,
    ),
    _judge(
        "AdaBatch is more accurate than the fixed large batch.",
        "AdaBatch's best accuracy is more than half a point higher",
        lambda runs: _mean_best(runs[_ADA]) > _mean_best(runs[_LARGE]) + 0.005,
        _say_accuracies,
    ),
)

_TIMED_CLAIMS = (
    *_CLAIMS,
    _judge(
        "Epochs get faster as the batch grows.",
        "AdaBatch's epochs are more than 1.1 times as fast in its last stage as in its first (times are rough)",
        lambda runs: _gain(runs) > 1.1,
        _say_times,
    ),
)

SOURCE = (
    "Devarakonda, Naumov and Garland 2017, *AdaBatch: Adaptive Batch Sizes for Training Deep Neural Networks* "
    "([arXiv:1712.02029](https://arxiv.org/abs/1712.02029))"
)

_ABOUT = """
The batch is doubled four times at equal intervals and the learning rate multiplied by 0.75 each time; the constant
batches keep their size and multiply it by 0.375 at the same epochs, which is the same rule with the size's bound at the
first batch. SGD with rate 0.01, momentum 0.9 and weight decay 5e-4. A twelfth of the training images is held out.
Departures: the last batch of an epoch is used though it is short.
"""

EXPERIMENTS: Sequence[Experiment] = (
    Experiment(
        name="adabatch-cifar10",
        log="adabatch",
        paper="AdaBatch",
        title="AdaBatch on CIFAR-10",
        source=f"{SOURCE}, the CIFAR experiments, as others describe them",
        about=f"{_ABOUT.strip()} Random crops and flips. The paper trains for 100 epochs with intervals of 20 on a "
        "P100, as does `adabatch-cifar10-gpu`; on two CPU cores AlexNet (256 to 4,096) has 10 with intervals of 2, "
        "ResNet-20 (128 to 2,048) has 5 with intervals of 1, a seed each. The large batch then makes very few updates.",
        trials=_trials(
            "cifar10",
            (
                _Network(name="alexnet", first=FIRST_SIZES["alexnet"], interval=2),
                _Network(name="resnet20", first=FIRST_SIZES["resnet20"], interval=1),
            ),
            augment=True,
        ),
        blocks=_timed_blocks,
        why="As on [Fashion-MNIST](adabatch-fashion.md): the learning rate per sample is on the same schedule with "
        "AdaBatch and with the small batch, so that both train alike, AdaBatch with two fifths of the updates. A core "
        "gains nothing from larger batches, and with ResNet-20 it loses, as the activations of so many images no "
        "longer fit its caches; [turns of equal length](adabatch-processes.md), which depend less on what else the "
        "machine did, say the same. Where larger batches are faster, on a GPU, the claim about time is not tested yet.",
        claims=_TIMED_CLAIMS,
        is_timed=True,
        device="cpu",
    ),
    Experiment(
        name="adabatch-cifar10-gpu",
        log="adabatch-cifar10-gpu",
        paper="AdaBatch",
        title="AdaBatch on CIFAR-10, as long as in the paper",
        source=f"{SOURCE}, the CIFAR experiments, as others describe them",
        about=f"{_ABOUT.strip()} Random crops and flips, 100 epochs with intervals of 20 as in the paper; a seed each. "
        "Runs may share a GPU: how long they take is measured apart, by `adabatch-gpu`.",
        trials=_trials(
            "cifar10",
            (
                _Network(name="alexnet", first=FIRST_SIZES["alexnet"], interval=20),
                _Network(name="resnet20", first=FIRST_SIZES["resnet20"], interval=20),
                _Network(name="vgg19-bn", first=FIRST_SIZES["vgg19-bn"], interval=20),
            ),
            augment=True,
        ),
        blocks=_blocks,
        claims=_CLAIMS,
        device="cuda",
    ),
    Experiment(
        name="adabatch-fashion",
        log="adabatch",
        paper="AdaBatch",
        title="AdaBatch on Fashion-MNIST",
        source=f"{SOURCE}; the settings of the CIFAR experiments on a task small enough for several seeds",
        about=f"{_ABOUT.strip()} A network of two small convolutions, 128 to 2,048, for 20 epochs with intervals of 4, "
        "three seeds, no augmentation.",
        trials=_trials(
            "fashion-mnist", (_Network(name="small-cnn", first=128, interval=4, num_seeds=3),), augment=False
        ),
        blocks=_timed_blocks,
        why="The learning rate per sample is on the same schedule with AdaBatch and with the small batch, so that both "
        "train alike, AdaBatch with fewer updates; the large batch has the small one's rate and a sixteenth of its "
        "updates. A core is as busy with batches of 128 as with larger ones, which save it little or "
        "nothing: that the whole run was faster rests on one of the three runs with the small batch, which something "
        "held up.",
        claims=_TIMED_CLAIMS,
        is_timed=True,
        device="cpu",
    ),
)
