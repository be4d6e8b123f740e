"""What DBA's selection costs, beside a plain step and beside the way in which its authors did it.

Perceptrons 784-64-...-64-10, by batch size and by depth; strides of 16 samples. "materialised" is Algorithms 2 and 3
over the per-sample gradients that Opacus writes out, each candidate's metric computed from all its gradients. The
contenders take turns in rounds of random order, as in overhead.py; figures are medians of the rounds' ratios to plain.

    python benchmarks/selection.py --rounds 11 --threads 2
"""

import argparse
import json
import random
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import gradbatch as gb
from contenders import controlled, plain
from limits import LeftOutError, first_step, reasons
from measuring import steps_of_a_turn
from models import images, mlp
from training import Case, Round, training

STRIDE = 16
MAX_SECONDS = 2.0
"""A longer step leaves its contender out, from there on."""
BATCH_SIZES = (32, 64, 128, 256, 512, 1024, 2048)
DEPTHS = (1, 2, 4, 8, 16)
RESULTS = Path(__file__).parent / "results"


def metric_of(name: str, rows: Tensor) -> float:
    """DBA's metric of some per-sample gradients [n, N]."""
    return (rows.mean(0) if name == "norm" else rows.var(0)).norm().item()


def selected(metric: str, rows: Tensor, target: float, *, bottom_up: bool) -> list[int]:
    """Algorithm 2 or 3 over materialised gradients; the strides chosen."""
    strides = rows.split(STRIDE)
    everything = list(range(len(strides)))
    chosen, best, improved = [] if bottom_up else everything, float("inf"), True
    while improved:
        improved = False
        for stride in [j for j in everything if (j not in chosen) == bottom_up]:
            candidate = [*chosen, stride] if bottom_up else [j for j in chosen if j != stride]
            if candidate:
                distance = abs(metric_of(metric, torch.cat([strides[j] for j in candidate])) - target)
                if distance < best:
                    chosen, best, improved = candidate, distance, True
    return chosen


def materialised(case: Case, metric: str) -> Round:
    """DBA as its authors had it: Opacus' gradients of every sample, and a metric computed anew for each candidate."""
    from opacus import GradSampleModule

    case = replace(case, model=GradSampleModule(case.model))
    means: dict[int, float] = {}
    lots = random.Random(0)
    layers = [layer for layer in case.model._module if hasattr(layer, "weight")]

    def go_backward(inputs: Tensor, targets: Tensor) -> None:
        case.loss(inputs, targets).backward()
        for number, layer in enumerate(layers):
            parameters = list(layer.parameters())
            rows = torch.cat([p.grad_sample.flatten(1) for p in parameters], 1)
            target = means.setdefault(number, metric_of(metric, rows))
            chosen = selected(metric, rows, target, bottom_up=lots.random() < 0.5)
            rows = torch.cat([rows.split(STRIDE)[j] for j in chosen])
            means[number] = 0.9 * target + 0.1 * metric_of(metric, rows)
            pieces = rows.mean(0).split([p.numel() for p in parameters])
            for parameter, piece in zip(parameters, pieces, strict=True):
                parameter.grad = piece.view_as(parameter)
                parameter.grad_sample = None

    return training(case, go_backward)


def dba(case: Case, metric: str) -> Round:
    """Ours, with the batch size held."""
    return controlled(case, gb.DBA(metric=metric, stride=STRIDE, increment=0, max_batch_size=case.batch_size + 32))


CONTENDERS: dict[str, Callable[[Case], Round]] = {
    "plain": plain,
    "gradbatch Fixed": partial(controlled, rule=gb.Fixed()),
    "gradbatch DBA norm": partial(dba, metric="norm"),
    "gradbatch DBA variance": partial(dba, metric="variance"),
    "materialised norm": partial(materialised, metric="norm"),
    "materialised variance": partial(materialised, metric="variance"),
}


def entered(
    depth: int, batch_size: int, data: tuple[Tensor, Tensor], seconds: float, left_out: set[str]
) -> dict[str, tuple[Round, int]]:
    """The contenders that can take part, warmed up, and the steps of a turn of each; who cannot is not tried again."""
    entries: dict[str, tuple[Round, int]] = {}
    for name, start in CONTENDERS.items():
        if name in left_out:
            continue
        torch.manual_seed(0)
        case = Case(mlp(784, *[64] * depth, 10), data, torch.float32, batch_size)
        try:
            with reasons(name):
                run = start(case)
                if first_step(run) > MAX_SECONDS:
                    raise LeftOutError(f"a step takes more than {MAX_SECONDS} s, and more in larger batches")
                entries[name] = run, steps_of_a_turn(run, seconds)
        except LeftOutError as error:
            left_out.add(name)
            print(f"left out: {name} at depth {depth}, batch {batch_size} ({error})", flush=True)
    return entries


def rounds_of(entries: Mapping[str, tuple[Round, int]], count: int) -> Iterator[dict[str, float]]:
    """Seconds a step of every contender, round by round."""
    shuffled = random.Random(0)
    for _ in range(count):
        names = list(entries)
        shuffled.shuffle(names)
        seconds = {name: entries[name][0](entries[name][1]) / entries[name][1] for name in names}
        yield {name: seconds[name] for name in entries}


def draw(ratios: Mapping[tuple[int, int], Mapping[str, float]], path: Path) -> None:
    """Ratios against batch size and against depth."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    for axes, label, places in zip(
        figure.subplots(1, 2, sharey=True),
        ("batch size, in samples (one hidden layer)", "hidden layers (batch of 128)"),
        ([(1, size) for size in BATCH_SIZES], [(depth, 128) for depth in DEPTHS]),
        strict=True,
    ):
        for name in list(CONTENDERS)[1:]:
            points = [(place[1] if "batch size" in label else place[0], ratios[place].get(name)) for place in places]
            kept = [(x, y) for x, y in points if y is not None]
            axes.plot(*zip(*kept, strict=True), marker="o", markersize=4, label=name)
        axes.set(xscale="log", yscale="log", xlabel=label)
        axes.set_xticks([x for x, _ in points], [str(x) for x, _ in points], minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("times a plain step")
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path)


def main() -> None:
    """Compare at each batch size and each depth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=0.1, help="length of a contender's turn in a round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS / "selection.jsonl", help="raw numbers are appended there")
    parser.add_argument("--figure", type=Path, default=RESULTS / "selection.svg")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")  # the peers' own
    torch.set_num_threads(options.threads)
    data, run_name = images(784), datetime.now(UTC).isoformat(timespec="seconds")
    ratios: dict[tuple[int, int], dict[str, float]] = {}
    print(
        f"{'depth':>5}{'batch':>7}{'plain us':>10}", *(f"{name.removeprefix('gradbatch '):>22}" for name in CONTENDERS)
    )
    places = dict.fromkeys([*((1, size) for size in BATCH_SIZES), *((d, 128) for d in DEPTHS)])
    left_out: set[str] = set()
    for depth, batch_size in places:
        if depth > 1 and left_out:
            left_out.clear()  # the batches are smaller again
        entries = entered(depth, batch_size, data, options.seconds, left_out)
        rounds = list(rounds_of(entries, options.rounds))
        place = {"depth": depth, "batch_size": batch_size, "threads": options.threads}
        with options.out.open("a") as file:
            file.writelines(json.dumps({"run": run_name, **place, "seconds": own}) + "\n" for own in rounds)
        own = {name: statistics.median(r[name] / r["plain"] for r in rounds) for name in entries}
        ratios[depth, batch_size] = own
        microseconds = 1e6 * statistics.median(r["plain"] for r in rounds)
        cells = (f"{own[name]:22.2f}" if name in own else f"{'':22}" for name in CONTENDERS)
        print(f"{depth:5}{batch_size:7}{microseconds:10.0f}", *cells, flush=True)
    draw(ratios, options.figure)


if __name__ == "__main__":
    main()
