"""Seconds at each of AdaBatch's batch sizes: over several processes that average gradients, and on a GPU."""

import json
import os
import random
import sys
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import distributed, multiprocessing, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from gradbatch.experiments.build import build_model, build_optimizer, load_dataset
from gradbatch.experiments.data import Split
from gradbatch.experiments.logs import RunProgress
from gradbatch.experiments.reproduce.cells import answer_of, lines
from gradbatch.experiments.reproduce.experiment import Block, Claim, Experiment, Scale, Table, Verdict
from gradbatch.experiments.reproduce.results import Outcome, Results
from gradbatch.experiments.reproduce.trial import Trial, trial
from gradbatch.experiments.settings import TrainSettings
from gradbatch.experiments.studies.adabatch import FIRST_SIZES, SOURCE
from gradbatch.experiments.studies.adabatch_page import NUM_STAGES
from gradbatch.experiments.studies.clock import wait_for

__all__ = ["EXPERIMENTS", "gain", "time_sizes"]


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is timed.

    Attributes:
        settings: Task, model, rate, momentum and weight decay.
        sizes: Batches, in samples over all processes.
        rounds: Turns of each size with each number of processes.
        processes: Their numbers, in ascending order.
        samples: Of a turn.
    """

    settings: TrainSettings
    sizes: Sequence[int]
    rounds: int
    processes: Sequence[int]
    samples: int


def time_sizes(
    settings: TrainSettings,
    progress: RunProgress,
    *,
    sizes: Sequence[int],
    rounds: int,
    processes: Sequence[int] = (1, 2),
    steps: int = 1,
) -> dict[str, Any]:
    """Time training with each batch size and number of processes, in turns whose order is drawn anew in each round.

    Args:
        settings: Task, model, rate, momentum, weight decay, seed and device.
        progress: Hears when it begins.
        sizes: Batches, in samples over all processes; multiples of their number.
        rounds: Turns of each size with each number of processes.
        processes: Their numbers, in ascending order; as many cores are kept busy.
        steps: With the largest batch, in a turn; with every other as many samples.

    Returns:
        Ready for JSON: seconds for a sample, by number of processes and batch size, round by round.
    """
    assert all(size % max(processes) == 0 for size in sizes)
    progress.note(f"{rounds} rounds of {len(sizes) * len(processes)} turns")
    plan = _Plan(settings=settings, sizes=sizes, rounds=rounds, processes=processes, samples=steps * max(sizes))
    with TemporaryDirectory() as folder:
        multiprocessing.spawn(_take_turns, (plan, Path(folder)), nprocs=max(processes), daemon=True)
        return {"seconds_per_sample": json.loads((Path(folder) / "seconds.json").read_text(encoding="utf-8"))}


def _take_turns(rank: int, plan: _Plan, folder: Path) -> None:
    """What each process does; the first keeps the time and writes it down."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=max(plan.processes)
    )
    data = load_dataset(plan.settings)
    torch.manual_seed(plan.settings.seed)
    alone = build_model(plan.settings, data)
    models = {1: alone, **{number: DistributedDataParallel(deepcopy(alone)) for number in plan.processes if number > 1}}
    torch.manual_seed(plan.settings.seed + rank)  # from here on each draws samples of its own
    trainers = {number: _Trainer(model, plan.settings, data.train) for number, model in models.items()}
    found: dict[int, dict[int, list[float]]] = {number: {size: [] for size in plan.sizes} for number in models}
    turns = [(number, size) for number in models for size in plan.sizes]
    lots = random.Random(plan.settings.seed)  # the same in all processes
    for number, size in [*turns, *(turn for _ in range(plan.rounds) for turn in lots.sample(turns, len(turns)))]:
        distributed.barrier()
        start = time.perf_counter()
        if rank < number:
            trainers[number].take(steps=plan.samples // size, samples=size // number)
        distributed.barrier()
        found[number][size].append((time.perf_counter() - start) / plan.samples)
    if rank == 0:
        kept = {
            number: {size: [float(f"{turn:.4g}") for turn in times[1:]] for size, times in sizes.items()}
            for number, sizes in found.items()
        }  # without the first turns, which are slower than all others
        (folder / "seconds.json").write_text(json.dumps(kept), encoding="utf-8")
    distributed.destroy_process_group()
    if max(plan.processes) > 1:
        # gloo's threads outlive the group once DDP had it, and one that still lets go of its last tensors while the
        # interpreter is taken down aborts the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


class _Trainer:
    """A plain loop over random batches."""

    def __init__(self, model: nn.Module, settings: TrainSettings, train: Split) -> None:
        self._model = model
        self._train = train
        self._optimizer = build_optimizer(settings, model)

    def take(self, *, steps: int, samples: int) -> None:
        """Take steps with so many samples in this process."""
        for _ in range(steps):
            inputs, targets = self._train.draw(samples)
            self._optimizer.zero_grad()
            F.cross_entropy(self._model(inputs), targets).backward()
            self._optimizer.step()
        wait_for(self._train.targets.device)


def _trials(scale: Scale) -> list[Trial]:
    """A trial for each network that cores can train; the quick one has a perceptron."""
    return [_quick()] if scale == "quick" else [_trial(model, rounds=5) for model in ("alexnet", "resnet20")]


def _gpu_trials(scale: Scale) -> list[Trial]:
    """A trial for each network."""
    if scale == "quick":
        return [_quick(processes=(1,), steps=2)]
    return [_trial(model, rounds=9, processes=(1,), steps=8) for model in FIRST_SIZES]


def _quick(**options: Any) -> Trial:
    """The turns of a perceptron, which run anywhere."""
    work = partial(time_sizes, sizes=(16, 32, 64, 128, 256), rounds=2, **options)
    return trial(work, place={"model": "mlp"}, task="digits", model="mlp", lr=0.01, momentum=0.9)


def _trial(model: str, **options: Any) -> Trial:
    """The turns of a network on CIFAR-10."""
    sizes = [FIRST_SIZES[model] * 2**stage for stage in range(NUM_STAGES)]
    work = partial(time_sizes, sizes=sizes, **options)
    return trial(work, place={"model": model}, task="cifar10", model=model, weight_decay=5e-4, lr=0.01, momentum=0.9)


def _numbers(outcome: Outcome) -> list[int]:
    """The numbers of processes that were timed."""
    return [int(number) for number in outcome.values["seconds_per_sample"]]


def _times(outcome: Outcome, number: int) -> dict[int, list[float]]:
    """Seconds for a sample by batch size, round by round."""
    return {int(size): times for size, times in outcome.values["seconds_per_sample"][str(number)].items()}


def gain(outcome: Outcome, number: int) -> list[float]:
    """How many times as long a run with the first batch takes as one with AdaBatch, round by round.

    All stages have as many epochs, so that AdaBatch's time is the mean over the sizes.

    Args:
        outcome: Of `time_sizes`.
        number: Of processes.

    Returns:
        One for each round.
    """
    times = _times(outcome, number)
    rounds = zip(times[min(times)], zip(*times.values(), strict=True), strict=True)
    return [small / mean(all_sizes) for small, all_sizes in rounds]


def _blocks(results: Results) -> list[Block]:
    """A table for each network."""
    return [block for one, outcome in results.pairs() for block in (f"### {one.place['model']}", _table(outcome))]


def _table(outcome: Outcome) -> Table:
    """Seconds by batch size and number of processes."""
    rows = []
    numbers = _numbers(outcome)
    for number in numbers:
        times = [f"{1e4 * median(turns):.3g}" for turns in _times(outcome, number).values()]
        gains = gain(outcome, number)
        text = f"**{median(gains):.2f}** ({min(gains):.2f}–{max(gains):.2f})"
        rows.append([f"{number} process{'es' if number > 1 else ''}", *times, text, lines([outcome])])
    fewest = _times(outcome, numbers[0])
    for number in numbers[1:]:
        more = _times(outcome, number)
        shares = (median(a / b for a, b in zip(fewest[size], more[size], strict=True)) for size in fewest)
        rows.append(["times as fast", *(f"{share:.2f}" for share in shares), "", lines([outcome])])
    rounds = len(next(iter(fewest.values())))
    several = " over all processes" if len(numbers) > 1 else ""
    others = ", and how many times as fast more processes are in the same round" if len(numbers) > 1 else ""
    return Table(
        caption=f"Seconds for 10,000 samples by batch size{several}, medians of {rounds} rounds{others}. "
        "The gain is that of five equal stages, the batch doubled after each, over the first batch all the time "
        "(least–most).",
        head=["", *(f"{size:,}" for size in fewest), "AdaBatch's gain", "log lines"],
        rows=rows,
    )


def _judge(results: Results) -> Verdict:
    """Whether AdaBatch gains more the more processes there are."""
    gains = {
        one.place["model"]: [median(gain(outcome, number)) for number in _numbers(outcome)]
        for one, outcome in results.pairs()
    }
    texts = "; ".join(
        f"{model}: {', '.join(f'{factor:.2f}' for factor in factors)} times" for model, factors in gains.items()
    )
    evidence = f"how many times as fast as the small batch, with one process and with two: {texts}"
    return Verdict(answer_of([more > _MARGIN * fewer for fewer, more in gains.values()]), evidence)


def _judge_gpu(results: Results) -> Verdict:
    """Whether AdaBatch gains on one GPU."""
    gains = {one.place["model"]: median(gain(outcome, 1)) for one, outcome in results.pairs()}
    texts = ", ".join(f"{model} {factor:.2f} times" for model, factor in gains.items())
    return Verdict(answer_of([factor > _MARGIN for factor in gains.values()]), texts)


_MARGIN = 1.05
"""How much larger a gain must be to count as larger: rounds differ by some per cent."""

_ABOUT_GPU = """
Time alone, on one GPU: AdaBatch's sizes are known beforehand, so that seconds at each of them say how long a run takes.
All sizes take turns in rounds of random order. The paper's GPU is a P100 and its images are CIFAR-100; it is
reported, by others, to gain about 1.5 times with AlexNet and about 1.2 times with ResNet-20 and VGG-19. A plain loop
over random batches of CIFAR-10 in the GPU's memory without augmentation, SGD with momentum 0.9 and weight decay 5e-4,
in float32 (convolutions in TF32, as is PyTorch's default).
"""

_ABOUT = """
Time alone: what AdaBatch does to the batch is known beforehand, so that seconds at each of its sizes say how long a run
takes. Both processes have a thread each; with two, each has half of the batch and `DistributedDataParallel` (gloo)
averages the gradients. All sizes with one and two processes take turns in rounds of random order. The paper's numbers
are of one to four P100 GPUs and are not comparable; the question is the same. Random batches of CIFAR-10 without
augmentation, SGD with momentum 0.9 and weight decay 5e-4.
"""

EXPERIMENTS: Sequence[Experiment] = (
    Experiment(
        name="adabatch-processes",
        log="adabatch-processes",
        paper="AdaBatch",
        title="AdaBatch, several processes",
        source=f"{SOURCE}, the experiments with several GPUs",
        about=_ABOUT,
        trials=_trials,
        blocks=_blocks,
        why="On these cores a larger batch is not faster by the sample, and slower where its activations no longer "
        "fit the caches (ResNet-20). Two things speak for larger batches with two processes: gradients are averaged "
        "less often, which is what the paper is about, and each process has half of the batch, which fits the caches "
        "longer. With AlexNet it is the first, at least in the main; with ResNet-20 at 512 samples and more, two "
        "processes are more than twice as fast as one, which only the second can do.",
        claims=(
            Claim(
                text="Beside the small batch AdaBatch gains more, or loses less, with two processes than with one.",
                criterion="on each network, the ratio of the times, its median over rounds, is more than "
                f"{_MARGIN:g} times as large with two processes",
                judge=_judge,
            ),
        ),
        is_timed=True,
        device="cpu",
    ),
    Experiment(
        name="adabatch-gpu",
        log="adabatch-gpu",
        paper="AdaBatch",
        title="AdaBatch, time on a GPU",
        source=f"{SOURCE}, the experiments with one GPU, as others describe them",
        about=_ABOUT_GPU,
        trials=_gpu_trials,
        blocks=_blocks,
        claims=(
            Claim(
                text="On one GPU AdaBatch takes less time than the small batch.",
                criterion="with each network, it is more than "
                f"{_MARGIN:g} times as fast, the median over rounds of the ratio of the times",
                judge=_judge_gpu,
            ),
        ),
        is_timed=True,
        device="cuda",
    ),
)
