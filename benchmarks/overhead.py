"""What measuring costs: a step with statistics beside a plain one and the peers'.

All contenders take the same steps on the same model and data, in rounds whose order is drawn anew each time; a figure
is the median over the rounds, a ratio is the median of the rounds' own ratios to the plain step. Only ratios mean
anything on a shared machine.

    python benchmarks/overhead.py --rounds 41 --threads 2

Peers that are not installed are left out and named; `make bench` installs them.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradbatch as gb
from gradbatch.sinks import JsonlSink

BATCH_SIZE = 128
MODELS = {"784-64-10": (784, 64, 10), "784-1024-1024-10": (784, 1024, 1024, 10)}
CABS = gb.CABS(min_batch_size=BATCH_SIZE, max_batch_size=BATCH_SIZE)  # measures as ever, and stays at the size

Data = tuple[Tensor, Tensor]
Round = Callable[[int], float]
"""Takes that many steps and returns the seconds they took."""


def mlp(sizes: tuple[int, ...]) -> nn.Sequential:
    """A ReLU perceptron."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def batches(data: Data, steps: int) -> Iterator[Data]:
    """Shuffled batches of in-memory data, the fastest plain way."""
    order = torch.randperm(len(data[0]))
    for step in range(steps):
        start = step * BATCH_SIZE % (len(order) - BATCH_SIZE)
        indices = order[start : start + BATCH_SIZE]
        yield data[0].index_select(0, indices), data[1].index_select(0, indices)


def timed(step: Callable[[Tensor, Tensor], object], data: Data, steps: int) -> float:
    """Seconds for that many steps of a plain loop."""
    start = time.perf_counter()
    for inputs, targets in batches(data, steps):
        step(inputs, targets)
    return time.perf_counter() - start


def plain(model: nn.Module, data: Data) -> Round:
    """The loop that everybody writes."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step(inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    return lambda steps: timed(step, data, steps)


def empty_hooks(model: nn.Module, data: Data) -> Round:
    """The plain loop with hooks that do nothing: the floor of any hook-based statistic."""
    run = plain(model, data)
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(lambda _, __, output: output.register_hook(lambda grad: None) and None)
    return run


def by_hand(model: nn.Module, data: Data) -> Round:
    """The same norms for these very layers in the fewest lines: no checks, no records, nothing general."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sums: list[Tensor] = []

    def hear(activations: Tensor, output_grads: Tensor) -> None:
        b_norms = torch.linalg.vector_norm(output_grads, dim=1)
        norms = torch.linalg.vector_norm(activations, dim=1) * b_norms
        sums.extend((torch.dot(norms, norms), torch.dot(b_norms, b_norms)))

    def forward(layer: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        output.register_hook(lambda output_grads: hear(args[0], output_grads))

    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(forward)

    def step(inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        sums.extend(torch.dot(p.grad.view(-1), p.grad.view(-1)) for p in model.parameters())
        torch.stack(sums).tolist()
        sums.clear()
        optimizer.step()

    return lambda steps: timed(step, data, steps)


def controlled(model: nn.Module, data: Data, rule: gb.Rule, sinks: Callable[[], list[JsonlSink]] = list) -> Round:
    """This library's loop."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    controller = gb.Controller(rule, model, optimizer, gb.SampleStream(data), batch_size=BATCH_SIZE, sinks=sinks())

    def run(steps: int) -> float:
        start = time.perf_counter()
        for inputs, targets in controller.run(steps=steps):
            controller.backward(F.cross_entropy(model(inputs), targets))
            controller.step()
        return time.perf_counter() - start

    return run


def jsonl_sinks() -> list[JsonlSink]:
    """A run log in a folder that goes with the process."""
    folder = tempfile.mkdtemp(prefix="gradbatch-overhead-")
    return [JsonlSink(Path(folder) / "steps.jsonl")]


def backpack(model: nn.Module, data: Data) -> Round:
    """BackPACK's squared norms of per-sample gradients."""
    from backpack import backpack, extend
    from backpack.extensions import BatchL2Grad

    model, loss_function = extend(model), extend(nn.CrossEntropyLoss())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step(inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        loss = loss_function(model(inputs), targets)
        with backpack(BatchL2Grad()):
            loss.backward()
        sum(p.batch_l2.sum() for p in model.parameters()).item()
        optimizer.step()

    return lambda steps: timed(step, data, steps)


def opacus(model: nn.Module, data: Data) -> Round:
    """Opacus' materialised per-sample gradients, and their squared norms."""
    from opacus import GradSampleModule

    model = GradSampleModule(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step(inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        sum(p.grad_sample.square().sum() for p in model.parameters()).item()
        optimizer.step()
        for parameter in model.parameters():
            parameter.grad_sample = None

    return lambda steps: timed(step, data, steps)


CONTENDERS: dict[str, Callable[[nn.Module, Data], Round]] = {
    "plain": plain,
    "hooks that do nothing": empty_hooks,
    "norms by hand": by_hand,
    "gradbatch Fixed": lambda model, data: controlled(model, data, gb.Fixed()),
    "gradbatch CABS": lambda model, data: controlled(model, data, CABS),
    "gradbatch CABS + JSONL": lambda model, data: controlled(model, data, CABS, jsonl_sinks),
    "gradbatch Every(8, CABS)": lambda model, data: controlled(model, data, gb.Every(rule=CABS, steps=8)),
    "BackPACK BatchL2Grad": backpack,
    "Opacus grad_sample": opacus,
}


def prepare(sizes: tuple[int, ...], data: Data) -> dict[str, Round]:
    """A model of its own for each contender that is installed, all warm."""
    rounds = {}
    for name, make in CONTENDERS.items():
        torch.manual_seed(0)
        try:
            rounds[name] = make(mlp(sizes), data)
        except ModuleNotFoundError as error:
            print(f"left out: {name} ({error.name} is not installed)")
            continue
        rounds[name](5)
    return rounds


def measure(rounds: dict[str, Round], num_rounds: int, steps: dict[str, int]) -> Iterator[dict[str, float]]:
    """Seconds a step of every contender, round by round."""
    shuffled = random.Random(0)
    for _ in range(num_rounds):
        names = list(rounds)
        shuffled.shuffle(names)
        yield {name: rounds[name](steps[name]) / steps[name] for name in names}


def main() -> None:
    """Measure, print the table, keep the raw numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--seconds", type=float, default=0.1, help="length of a contender's turn in a round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "overhead.jsonl")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")  # the peers' own
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    data = torch.randn(60_000, 784), torch.randint(10, (60_000,))
    lines = []
    for model, sizes in MODELS.items():
        rounds = prepare(sizes, data)
        steps = {name: max(1, round(options.seconds * 5 / run(5))) for name, run in rounds.items()}
        turns = list(measure(rounds, options.rounds, steps))
        lines += [{"model": model, "threads": options.threads, "seconds": turn} for turn in turns]
        print(f"\n{model}, batch {BATCH_SIZE}, {options.threads} threads, {options.rounds} rounds")
        print(f"{'':26}{'us/step':>10}{'ratio':>8}{'quartiles':>16}")
        for name in rounds:
            ratios = [turn[name] / turn["plain"] for turn in turns]
            low, middle, high = statistics.quantiles(ratios, n=4)
            median = statistics.median(turn[name] for turn in turns)
            print(f"{name:26}{median * 1e6:10.0f}{middle:8.2f}{low:9.2f}-{high:.2f}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
