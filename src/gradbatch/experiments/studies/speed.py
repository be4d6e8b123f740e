"""What rules cost: steps of this library beside the plain loop and beside the ways in which authors compute."""

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch

from gradbatch.experiments.build import build_model, load_dataset
from gradbatch.experiments.logs import RunProgress
from gradbatch.experiments.reproduce.cells import answer_of, lines
from gradbatch.experiments.reproduce.experiment import Block, Claim, Experiment, Scale, Table, Verdict
from gradbatch.experiments.reproduce.results import Outcome, Results
from gradbatch.experiments.reproduce.trial import Trial, trial
from gradbatch.experiments.settings import TrainSettings
from gradbatch.experiments.studies.clock import elapsed
from gradbatch.experiments.studies.racers import RACERS, Case, Take

__all__ = ["EXPERIMENTS", "race", "ratios"]

_PLAIN = "plain loop"

_SUBJECTS: Mapping[str, Mapping[str, Any]] = {
    "Perceptron on MNIST, batches of 128": {"task": "mnist", "model": "mlp", "batch_size": 128},
    "CNN on Fashion-MNIST, batches of 32": {"task": "fashion-mnist", "model": "cnn", "batch_size": 32},
    "CNN on Fashion-MNIST, batches of 128": {"task": "fashion-mnist", "model": "cnn", "batch_size": 128},
}

_GPU_SUBJECTS: Mapping[str, Mapping[str, Any]] = {
    "Perceptron on MNIST, batches of 128": {"task": "mnist", "model": "mlp", "batch_size": 128},
    "CNN on CIFAR-10, batches of 128": {"task": "cifar10", "model": "small-cnn", "batch_size": 128},
    "AlexNet on CIFAR-10, batches of 256": {"task": "cifar10", "model": "alexnet", "batch_size": 256},
}


def race(settings: TrainSettings, progress: RunProgress, *, rounds: int, seconds: float) -> dict[str, Any]:
    """Let all contenders take steps in turn, in rounds whose order is drawn anew each time.

    Interleaved, so that whatever else the machine does hits all alike.

    Args:
        settings: Task, model, batch size, rate, seed and device.
        progress: Hears of each round.
        rounds: Turns of each contender.
        seconds: About how long a turn takes; at least a step.

    Returns:
        Ready for JSON: for each contender the steps of its turns, and seconds a step of each.
    """
    data, device = load_dataset(settings), torch.device(settings.device)
    assert settings.lr is not None
    takes: dict[str, Take] = {}
    steps: dict[str, int] = {}
    for name, start in RACERS.items():
        torch.manual_seed(settings.seed)
        model = build_model(settings, data)
        case = Case(model=model, train=data.train, batch_size=settings.batch_size, lr=settings.lr)
        takes[name] = start(case)
        steps[name] = _steps_of_a_turn(takes[name], seconds, device)
    found: dict[str, list[float]] = {name: [] for name in takes}
    lots = random.Random(settings.seed)
    for number in range(rounds):
        for name in lots.sample(list(takes), len(takes)):
            seconds_taken = elapsed(partial(takes[name], steps[name]), device)
            found[name].append(float(f"{seconds_taken / steps[name]:.4g}"))
        progress.note(f"round {number + 1} of {rounds}")
    contenders = {name: {"steps": steps[name], "seconds": turns} for name, turns in found.items()}
    return {
        "batch_size": settings.batch_size,
        "train_samples": len(data.train.targets),
        "contenders": contenders,
    }


def _steps_of_a_turn(take: Take, seconds: float, device: torch.device) -> int:
    """Steps that fill so many seconds, after a warm-up; at least one."""
    take(1)  # the first step is slower than all others
    once = elapsed(partial(take, 1), device)
    few = max(1, min(5, int(seconds / once)))
    return max(1, round(seconds * few / elapsed(partial(take, few), device)))


def _trials(
    subjects: Mapping[str, Mapping[str, Any]], *, rounds: int, seconds: float
) -> Callable[[Scale], list[Trial]]:
    """A race on each subject by scale; the quick one is of the first subject alone."""

    def trials(scale: Scale) -> list[Trial]:
        is_quick = scale == "quick"
        work = partial(race, rounds=2, seconds=0.02) if is_quick else partial(race, rounds=rounds, seconds=seconds)
        wanted = list(subjects.items())[: 1 if is_quick else None]
        return [trial(work, place={"subject": name}, lr=0.01, momentum=0.0, **settings) for name, settings in wanted]

    return trials


def _seconds_of(outcome: Outcome, name: str) -> list[float]:
    """Seconds a step of a contender, round by round."""
    return outcome.values["contenders"][name]["seconds"]


def ratios(outcome: Outcome, name: str, other: str = _PLAIN) -> list[float]:
    """How many times as long as another's a contender's steps took, round by round."""
    pairs = zip(_seconds_of(outcome, name), _seconds_of(outcome, other), strict=True)
    return [seconds / others for seconds, others in pairs]


def _blocks(results: Results) -> list[Block]:
    """A table for each subject."""
    return [block for one, outcome in results.pairs() for block in (f"### {one.place['subject']}", _table(outcome))]


def _table(outcome: Outcome) -> Table:
    """The contenders' times."""
    per_epoch = outcome.number("train_samples") / outcome.number("batch_size")
    rows = []
    for name, contender in outcome.values["contenders"].items():
        middle, factors = median(contender["seconds"]), ratios(outcome, name)
        times = f"**{median(factors):.2f}** ({min(factors):.2f}–{max(factors):.2f})"
        cells = (
            f"{1e3 * middle:.3g}",
            f"{middle * per_epoch:.3g}",
            f"{1e4 * middle / outcome.number('batch_size'):.3g}",
        )
        rows.append([name, *cells, times, str(contender["steps"]), lines([outcome])])
    rounds = len(_seconds_of(outcome, _PLAIN))
    return Table(
        caption=f"Medians of {rounds} rounds: milliseconds a step, seconds an epoch and for 10,000 samples, and how "
        "many times as long as the plain loop's in the same round (least–most). “Steps” are those of a turn.",
        head=["", "ms a step", "s an epoch", "s for 10,000", "times plain", "steps", "log lines"],
        rows=rows,
    )


def _judge(text: str, criterion: str, pairs: Sequence[tuple[str, str]], holds: Callable[[float], bool]) -> Claim:
    """A claim about how many times as long as another each contender takes, on every subject."""

    def judge(results: Results) -> Verdict:
        texts: list[str] = []
        flags: list[bool] = []
        for one, outcome in results.pairs():
            subject = one.place["subject"]
            if absent := {name for pair in pairs for name in pair} - outcome.values["contenders"].keys():
                return Verdict("undecided", f"{subject}: {', '.join(sorted(absent))} took no part")
            factors = {name: median(ratios(outcome, name, other)) for name, other in pairs}
            flags += map(holds, factors.values())
            factors_text = ", ".join(f"{name} {factor:.2f} times" for name, factor in factors.items())
            texts.append(f"{subject}: {factors_text}")
        return Verdict(answer_of(flags), "; ".join(texts))

    return Claim(
        text=text,
        criterion=f"on each subject, the ratio of the two times, its median over rounds, is {criterion}",
        judge=judge,
        is_ours=True,
    )


_CLAIMS = (
    _judge(
        "A step with CABS takes less than twice as long as a plain step.",
        "below 2",
        [("CABS", _PLAIN)],
        lambda factor: factor < 2,
    ),
    _judge(
        "DBA over materialised gradients takes at least five times as long as with the engine.",
        "5 or more, with both metrics",
        [("DBA norm, materialised", "DBA norm"), ("DBA variance, materialised", "DBA variance")],
        lambda factor: factor >= 5,
    ),
    _judge(
        "DBA with the engine is faster than over sums of materialised gradients.",
        "above 1, with both metrics",
        [("DBA norm, materialised, sums", "DBA norm"), ("DBA variance, materialised, sums", "DBA variance")],
        lambda factor: factor > 1,
    ),
    _judge(
        "BA (diagonal) sample by sample takes at least twice as long as with the engine.",
        "2 or more",
        [("BA, sample by sample", "BA, diagonal")],
        lambda factor: factor >= 2,
    ),
)

_SOURCE = "ours; the ways of computing follow DBA's paper and BA's and CABS' code"

_ABOUT = """
Each subject is one process in which all contenders take turns, in rounds of random order, each with a model of its own
from the same seed: what else the machine does hits all alike. Rules measure as ever and stay at the batch size.
“Materialised” writes out the gradient of every sample, as Opacus does for DBA's authors (here with `torch.func.vmap`).
How they search among these is not known: here the metric of each candidate is computed from all of its gradients, as
the paper's algorithms read, or from “sums” over strides of 16 samples, which is the least that one must do who has the
gradients. “Sample by sample” is the loop over batches of one in BA's code. CABS' authors compute the moment “position”;
“CABS, materialised” is what the exact one takes without the engine. Plain SGD with rate 0.01; CABS and `NoiseFloor` are
given their batch as the smallest and largest size, BA as the first and largest, so that it draws once.
"""

EXPERIMENTS: Sequence[Experiment] = (
    Experiment(
        name="speed",
        log="speed",
        title="What rules cost, and what their authors' own ways of computing cost",
        source=_SOURCE,
        about=f"Training steps on one CPU thread. {_ABOUT.strip()}",
        trials=_trials(_SUBJECTS, rounds=15, seconds=0.5),
        blocks=_blocks,
        claims=_CLAIMS,
        is_timed=True,
        device="cpu",
    ),
    Experiment(
        name="speed-gpu",
        log="speed-gpu",
        title="What rules cost on a GPU, and what their authors' own ways of computing cost",
        source=_SOURCE,
        about=f"Training steps on a GPU, all data in its memory, in float32 (convolutions in TF32, as is PyTorch's "
        f"default). {_ABOUT.strip()}",
        trials=_trials(_GPU_SUBJECTS, rounds=7, seconds=0.1),
        blocks=_blocks,
        claims=_CLAIMS,
        is_timed=True,
        device="cuda",
    ),
)
