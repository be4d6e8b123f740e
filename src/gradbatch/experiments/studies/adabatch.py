"""AdaBatch's experiments: a batch that doubles at fixed epochs, against small and large constant batches."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from gradbatch.experiments.reproduce.cells import answer_of, best, mean_of, percent
from gradbatch.experiments.reproduce.experiment import Claim, Experiment, Scale, Verdict
from gradbatch.experiments.reproduce.results import Outcome, Results
from gradbatch.experiments.reproduce.trial import Trial, trial
from gradbatch.experiments.studies.adabatch_page import (
    ADA,
    LARGE,
    NUM_STAGES,
    SMALL,
    VARIANTS,
    blocks,
    runs_of,
    speed_up,
    stage_seconds,
    timed_blocks,
)

__all__ = ["EXPERIMENTS", "FIRST_SIZES", "SOURCE"]

FIRST_SIZES: Mapping[str, int] = {"alexnet": 256, "resnet20": 128, "vgg19-bn": 128}
"""The batch that AdaBatch begins with on CIFAR-10, by network."""

_GROWTH = 2 ** (NUM_STAGES - 1)

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
            for variant in VARIANTS
        ]

    def rule(self, variant: str) -> dict[str, Any]:
        """The batch sizes; all variants are AdaBatch, which is the baseline where nothing is left to grow."""
        first, last = self.sizes(variant)
        settings = (f"interval={self.interval}", f"max_batch_size={last}")
        return {"batch_size": first, "set": settings}

    def sizes(self, variant: str) -> tuple[int, int]:
        """The first and the last batch size."""
        large = _GROWTH * self.first
        return {ADA: (self.first, large), SMALL: (self.first, self.first), LARGE: (large, large)}[variant]


def _trials(task: str, full: Sequence[_Network], *, augment: bool) -> Callable[[Scale], list[Trial]]:
    """The runs on a task by scale; the quick ones are of a small network on few images."""

    def trials(scale: Scale) -> list[Trial]:
        quick = [_Network(name="small-cnn", first=16, interval=1)]
        extra = {"per_class": 100} if scale == "quick" else {}
        common = {"task": task, "augment": augment, **extra}
        return [one for network in (full if scale == "full" else quick) for one in network.trials(common)]

    return trials


def _judge(
    text: str, criterion: str, holds: Callable[[Mapping[str, Sequence[Outcome]]], bool], say: Callable[..., str]
) -> Claim:
    """A claim about every network."""

    def judge(results: Results) -> Verdict:
        runs = {model: runs_of(results, model) for model in results.values_of("model")}
        evidence = "; ".join(f"{model}: {say(found)}" for model, found in runs.items())
        return Verdict(answer_of([holds(found) for found in runs.values()]), evidence)

    return Claim(text=text, criterion=f"with each network, {criterion}", judge=judge)


def _mean_best(found: Sequence[Outcome]) -> float:
    return mean_of(map(best, found))


def _say_accuracies(runs: Mapping[str, Sequence[Outcome]]) -> str:
    return ", ".join(f"{variant} {percent(_mean_best(found))} %" for variant, found in runs.items())


def _gain(runs: Mapping[str, Sequence[Outcome]]) -> float:
    """Seconds per epoch with the first batch over those with the last, of AdaBatch's runs."""
    first, *_, last = (mean(seconds) for seconds in zip(*map(stage_seconds, runs[ADA]), strict=True))
    return first / last


def _say_times(runs: Mapping[str, Sequence[Outcome]]) -> str:
    return (
        f"an epoch with the last batch is {_gain(runs):.2f} times as fast as with the first, the whole run "
        f"{speed_up(runs, ADA):.2f} times as fast as with the small batch"
    )


_CLAIMS = (
    _judge(
        "AdaBatch is as accurate as the fixed small batch.",
        "AdaBatch's best accuracy is at most a point lower",
        lambda runs: _mean_best(runs[ADA]) >= _mean_best(runs[SMALL]) - 0.01,
        _say_accuracies,
    ),
    _judge(
        "AdaBatch is more accurate than the fixed large batch.",
        "AdaBatch's best accuracy is more than half a point higher",
        lambda runs: _mean_best(runs[ADA]) > _mean_best(runs[LARGE]) + 0.005,
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
        blocks=timed_blocks,
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
        blocks=blocks,
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
        blocks=timed_blocks,
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
