"""What measuring costs: a step with statistics beside a plain one and the peers'.

All contenders take the same steps on the same model and data, in rounds whose order is drawn anew each time; a figure
is the median over the rounds, a ratio is the median of the rounds' own ratios to the plain step. Only ratios mean
anything on a shared machine. Memory is what two steps add to the resident set of a fresh process of each contender's
own, once model, data and contender are made (Linux only; on a GPU, to torch's allocations there).

    python benchmarks/overhead.py --rounds 41 --threads 2
    python benchmarks/overhead.py --models cnn,bilstm --contenders gradbatch --no-memory

What does not work on a model, is not installed, or takes more than a minute a step or 8 GiB is left out and named
with the reason; `make bench` installs the peers. ``--device cuda --dtype bfloat16`` (autocast) has not been tried.
"""

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradbatch as gb
from gradbatch.sinks import JsonlSink
from models import SUBJECTS, Data

BATCH_SIZE = 128
CABS = gb.CABS(min_batch_size=BATCH_SIZE, max_batch_size=BATCH_SIZE)  # measures as ever, and stays at the size
EVERY = 8
MAX_SECONDS = 60.0
"""A step that takes longer leaves its contender out."""
MAX_BYTES = 8 << 30
"""The same for what two steps may add to memory."""

Round = Callable[[int], float]
"""Takes that many steps and returns the seconds they took."""


def loss_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy over samples, or over their tokens, of which all have equally many."""
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


@dataclass(frozen=True)
class Case:
    """A model of a contender's own, the data that all share, and how to compute."""

    model: nn.Module
    data: Data
    dtype: torch.dtype

    @property
    def device(self) -> torch.device:
        """Where the data is, and the model."""
        return self.data[0].device

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return loss_of(self.model(inputs), targets)


def make_case(name: str, data: Data, dtype: torch.dtype) -> Case:
    """A new model of that name, the same each time."""
    torch.manual_seed(0)
    return Case(SUBJECTS[name].model().to(data[0].device), data, dtype)


def make_data(name: str, device: str) -> Data:
    """The data set for a model."""
    torch.manual_seed(0)
    inputs, targets = SUBJECTS[name].data()
    return inputs.to(device), targets.to(device)


def batches(data: Data, steps: int) -> Iterator[Data]:
    """Shuffled batches of in-memory data, the fastest plain way."""
    order = torch.randperm(len(data[0]), device=data[0].device)
    for step in range(steps):
        start = step * BATCH_SIZE % (len(order) - BATCH_SIZE)
        indices = order[start : start + BATCH_SIZE]
        yield data[0].index_select(0, indices), data[1].index_select(0, indices)


def now(device: torch.device) -> float:
    """The time when all work given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def training(case: Case, go_backward: Callable[[Tensor, Tensor], object]) -> Round:
    """A plain loop around something that turns a batch into gradients, and into statistics."""
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.01)

    def run(steps: int) -> float:
        start = now(case.device)
        for inputs, targets in batches(case.data, steps):
            optimizer.zero_grad()
            go_backward(inputs, targets)
            optimizer.step()
        return now(case.device) - start

    return run


def plain(case: Case) -> Round:
    """The loop that everybody writes."""
    return training(case, lambda inputs, targets: case.loss(inputs, targets).backward())


def empty_hooks(case: Case) -> Round:
    """The plain loop with hooks that do nothing: the floor of any hook-based statistic."""
    for layer in case.model.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(lambda _, __, output: output.register_hook(lambda grad: None) and None)
    return plain(case)


def by_hand(case: Case) -> Round:
    """The same norms for these very layers in the fewest lines: no checks, no records, nothing general."""
    sums: list[Tensor] = []

    def hear(activations: Tensor, output_grads: Tensor) -> None:
        b_norms = torch.linalg.vector_norm(output_grads, dim=1)
        norms = torch.linalg.vector_norm(activations, dim=1) * b_norms
        sums.extend((torch.dot(norms, norms), torch.dot(b_norms, b_norms)))

    def forward(layer: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        output.register_hook(lambda output_grads: hear(args[0], output_grads))

    for layer in case.model.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(forward)

    def go_backward(inputs: Tensor, targets: Tensor) -> None:
        case.loss(inputs, targets).backward()
        sums.extend(torch.dot(p.grad.view(-1), p.grad.view(-1)) for p in case.model.parameters())
        torch.stack(sums).tolist()
        sums.clear()

    return training(case, go_backward)


def probed(case: Case, *quantities: str) -> Round:
    """This library's engine in a loop of the user's own; an error where it cannot tell samples apart."""
    probe = gb.Probe(case.model, quantities, estimator="layers")

    def go_backward(inputs: Tensor, targets: Tensor) -> None:
        with probe.measure(num_samples=BATCH_SIZE, keep_gradient=False):
            loss = case.loss(inputs, targets)
            loss.backward()
        probe.read(loss=loss, gradient=[p.grad for p in probe.parameters])

    return training(case, go_backward)


def controlled(case: Case, rule: gb.Rule, sinks: Callable[[], list[JsonlSink]] = list) -> Round:
    """This library's loop."""
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.01)
    stream = gb.SampleStream(case.data)
    controller = gb.Controller(rule, case.model, optimizer, stream, batch_size=BATCH_SIZE, sinks=sinks())

    def run(steps: int) -> float:
        start = now(case.device)
        for inputs, targets in controller.run(steps=steps):
            controller.backward(case.loss(inputs, targets))
            controller.step()
        return now(case.device) - start

    return run


def jsonl_sinks() -> list[JsonlSink]:
    """A run log in a folder that goes with the process."""
    folder = tempfile.mkdtemp(prefix="gradbatch-overhead-")
    return [JsonlSink(Path(folder) / "steps.jsonl")]


def backpack(case: Case, extension: str, field: str) -> Round:
    """One of BackPACK's first-order extensions, and the sum of what it saves."""
    from backpack import backpack, extend, extensions

    case = replace(case, model=extend(case.model))
    loss_function = extend(nn.CrossEntropyLoss())
    quantity = getattr(extensions, extension)

    def go_backward(inputs: Tensor, targets: Tensor) -> None:
        with torch.autocast(case.device.type, case.dtype, enabled=case.dtype != torch.float32):
            loss = loss_function(case.model(inputs).flatten(0, -2), targets.flatten())
        with backpack(quantity()):
            loss.backward()
        sum(getattr(p, field).sum() for p in case.model.parameters()).item()

    return training(case, go_backward)


def opacus(case: Case) -> Round:
    """Opacus' materialised per-sample gradients, and their squared norms; its own LSTM in place of torch's."""
    from opacus import GradSampleModule
    from opacus.validators import ModuleValidator

    case = replace(case, model=GradSampleModule(ModuleValidator.fix(case.model)))

    def go_backward(inputs: Tensor, targets: Tensor) -> None:
        case.loss(inputs, targets).backward()
        sum(p.grad_sample.square().sum() for p in case.model.parameters()).item()
        for parameter in case.model.parameters():
            parameter.grad_sample = None

    return training(case, go_backward)


def opacus_ghost(case: Case) -> Round:
    """Opacus' norms without the gradients where it can, and no clipping: one backward pass; its own LSTM as above."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from opacus.validators import ModuleValidator

    case = replace(case, model=GradSampleModuleFastGradientClipping(ModuleValidator.fix(case.model)))

    def go_backward(inputs: Tensor, targets: Tensor) -> None:
        case.loss(inputs, targets).backward()
        case.model.get_norm_sample().square().sum().item()

    return training(case, go_backward)


def torch_func(case: Case) -> Round:
    """torch.func's per-sample gradients, in pieces of at most 256 MiB, their squared norms and their mean."""
    parameters = dict(case.model.named_parameters())
    size = max(1, 2**26 // sum(p.numel() for p in parameters.values()))

    def loss(parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast(case.device.type, case.dtype, enabled=case.dtype != torch.float32):
            outputs = torch.func.functional_call(case.model, parameters, (inputs.unsqueeze(0),))
            return loss_of(outputs, targets.unsqueeze(0))

    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))

    def go_backward(inputs: Tensor, targets: Tensor) -> None:
        held = {name: p.detach() for name, p in parameters.items()}
        sqnorm = torch.zeros((), device=case.device)
        for p in parameters.values():
            p.grad = torch.zeros_like(p)
        for piece in zip(inputs.split(size), targets.split(size), strict=True):
            for name, grads in per_sample(held, *piece).items():
                sqnorm += grads.square().sum()
                parameters[name].grad.add_(grads.sum(0), alpha=1 / BATCH_SIZE)
        sqnorm.item()

    return training(case, go_backward)


CONTENDERS: dict[str, Callable[[Case], Round]] = {
    "plain": plain,
    "hooks that do nothing": empty_hooks,
    "norms by hand": by_hand,
    "gradbatch norms": lambda case: probed(case, "grad_variance"),
    "gradbatch second moments": lambda case: probed(case, "diagonal_projection_variance"),
    "gradbatch projections": lambda case: probed(case, "projection_variance"),
    # DBA's strides belong here, once the probe has them: quantity "stride_gram", strides of 16 samples.
    "gradbatch Fixed": lambda case: controlled(case, gb.Fixed()),
    "gradbatch CABS": lambda case: controlled(case, CABS),
    "gradbatch CABS + JSONL": lambda case: controlled(case, CABS, jsonl_sinks),
    "gradbatch Every(8, CABS)": lambda case: controlled(case, gb.Every(rule=CABS, steps=EVERY)),
    "BackPACK BatchL2Grad": lambda case: backpack(case, "BatchL2Grad", "batch_l2"),
    "BackPACK SumGradSquared": lambda case: backpack(case, "SumGradSquared", "sum_grad_squared"),
    "BackPACK Variance": lambda case: backpack(case, "Variance", "variance"),
    "Opacus hooks": opacus,
    "Opacus ghost norms": opacus_ghost,
    "torch.func": torch_func,
}
ONLY_ON_MLPS = {
    "hooks that do nothing",
    "norms by hand",
    "gradbatch Fixed",
    "gradbatch CABS + JSONL",
    "gradbatch Every(8, CABS)",
}


class LeftOutError(Exception):
    """A contender cannot take part; the message is the reason."""


def peak_bytes(device: torch.device) -> int:
    """The most memory held so far; ``ru_maxrss`` would begin at the peak of the process that started this one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def limit_memory() -> None:
    """Let allocations fail beyond the limit, before the machine runs out."""
    pages = int(Path("/proc/self/statm").read_text().split()[5])  # data and stack
    limit = pages * resource.getpagesize() + MAX_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


@contextmanager
def reasons(contender: str) -> Iterator[None]:
    """Make whatever keeps a contender from working the reason why it is left out."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise LeftOutError(f"{error.name} is not installed") from error
    except LeftOutError:
        raise
    except Exception as error:
        if contender.startswith("gradbatch"):
            traceback.print_exc()  # ours should not
        raise LeftOutError(f"{type(error).__name__}: {' '.join(str(error).split())[:150]}") from error


def first_step(run: Round) -> float:
    """Seconds that the first step took, unless they are too many."""
    seconds = run(1)
    if seconds > MAX_SECONDS:
        raise LeftOutError(f"a step took {seconds:.0f} s")
    return seconds


def print_memory(model: str, contender: str, options: argparse.Namespace) -> None:
    """Take two steps in this fresh process and print the bytes they needed, or why they could not be taken."""
    case = make_case(model, make_data(model, options.device), getattr(torch, options.dtype))
    try:
        with reasons(contender):
            run = CONTENDERS[contender](case)
            if case.device.type == "cpu":
                limit_memory()
            before = peak_bytes(case.device)
            first_step(run)
            run(1)
            report = {"bytes": peak_bytes(case.device) - before}
    except LeftOutError as error:
        report = {"reason": str(error)}
    print(json.dumps(report))


def peak_mib(model: str, contender: str, options: argparse.Namespace) -> float:
    """What two steps of a contender add to the memory of a fresh process."""
    command = [sys.executable, __file__, "--memory", model, contender]
    command += ["--threads", str(options.threads), "--device", options.device, "--dtype", options.dtype]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=3 * MAX_SECONDS, check=True)
    except subprocess.TimeoutExpired as error:
        raise LeftOutError(f"two steps took more than {3 * MAX_SECONDS:.0f} s") from error
    except subprocess.CalledProcessError as error:
        raise LeftOutError(f"its process ended with {error.returncode}") from error
    report = json.loads(done.stdout.splitlines()[-1])
    if "reason" in report:
        raise LeftOutError(report["reason"])
    return report["bytes"] / 2**20


@dataclass(frozen=True)
class Entry:
    """A contender that takes part."""

    run: Round
    steps: int
    mib: float | None


def steps_of_a_turn(run: Round, first: float, seconds: float) -> int:
    """Steps that fill so many seconds, after a warm-up; one if the first alone took long."""
    few = min(5, int(2 / first))
    if few == 0:
        return 1
    run(few)
    steps = max(1, round(seconds * few / run(few)))
    return steps - steps % EVERY if steps > EVERY else steps


def enter(model: str, contender: str, data: Data, options: argparse.Namespace) -> Entry:
    """Warm a contender up on a model of its own, and find out how many steps make a turn."""
    mib = peak_mib(model, contender, options) if options.memory else None
    with reasons(contender):
        run = CONTENDERS[contender](make_case(model, data, getattr(torch, options.dtype)))
        return Entry(run, steps_of_a_turn(run, first_step(run), options.seconds), mib)


def enter_all(model: str, data: Data, options: argparse.Namespace) -> dict[str, Entry]:
    """All contenders that take part on a model; the others are named."""
    entries = {}
    for contender in CONTENDERS:
        is_wanted = contender == "plain" or options.contenders.lower() in contender.lower()
        if not is_wanted or (contender in ONLY_ON_MLPS and not model.startswith("784")):
            continue
        try:
            entries[contender] = enter(model, contender, data, options)
        except LeftOutError as error:
            print(f"left out: {contender} on {model} ({error})", flush=True)
    return entries


def measure(entries: dict[str, Entry], num_rounds: int) -> Iterator[dict[str, float]]:
    """Seconds a step of every contender, round by round."""
    shuffled = random.Random(0)
    for _ in range(num_rounds):
        names = list(entries)
        shuffled.shuffle(names)
        turn = {name: entries[name].run(entries[name].steps) / entries[name].steps for name in names}
        yield {name: turn[name] for name in entries}


def print_table(entries: dict[str, Entry], turns: list[dict[str, float]]) -> None:
    """A line for each contender."""
    print(f"{'':26}{'us/step':>10}{'ratio':>8}{'quartiles':>16}{'peak MiB':>10}")
    for name, entry in entries.items():
        ratios = [turn[name] / turn["plain"] for turn in turns]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else 3 * ratios
        median = statistics.median(turn[name] for turn in turns)
        mib = "" if entry.mib is None else f"{entry.mib:.0f}"
        print(f"{name:26}{median * 1e6:10.0f}{middle:8.2f}{f'{low:.2f}-{high:.2f}':>16}{mib:>10}")


def compare(model: str, options: argparse.Namespace, run_name: str) -> None:
    """Measure on one model, print its table, append the raw numbers."""
    data = make_data(model, options.device)
    entries = enter_all(model, data, options)
    setting = {"run": run_name, "model": model, "threads": options.threads}
    setting |= {"device": options.device, "dtype": options.dtype}
    turns = list(measure(entries, options.rounds))
    lines: list[dict] = [setting | {"seconds": turn} for turn in turns]
    if options.memory:
        lines.append(setting | {"peak_mib": {name: entry.mib for name, entry in entries.items()}})
    with options.out.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    print(f"\n{model}, batch {BATCH_SIZE}, {options.threads} threads, {options.rounds} rounds")
    print_table(entries, turns)
    print(flush=True)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(SUBJECTS), help="some of %(default)s")
    parser.add_argument("--contenders", default="", help="part of the names of those to compare with plain")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--seconds", type=float, default=0.1, help="length of a contender's turn in a round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", help="bfloat16 runs the models under autocast")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="no peaks, and no limit on them")
    parser.add_argument("--memory", dest="trial", nargs=2, metavar=("MODEL", "CONTENDER"), help=argparse.SUPPRESS)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).parent / "results" / "overhead.jsonl",
        help="raw numbers are appended there, model by model",
    )
    options = parser.parse_args()
    options.models = options.models.split(",")
    if unknown := set(options.models) - set(SUBJECTS):
        parser.error(f"unknown models {sorted(unknown)}: choose from {', '.join(SUBJECTS)}")
    return options


def main() -> None:
    """Compare the contenders on each model."""
    options = parsed()
    warnings.filterwarnings("ignore")  # the peers' own
    torch.set_num_threads(options.threads)
    if options.trial:
        print_memory(*options.trial, options)
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    run_name = datetime.now(UTC).isoformat(timespec="seconds")
    for model in options.models:
        compare(model, options, run_name)


if __name__ == "__main__":
    main()
