"""Who is compared: the plain step, its nearest relatives, this library, and its peers."""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import gradbatch as gb
from gradbatch.sinks import JsonlSink
from models import SUBJECTS
from peers import backpack, opacus, opacus_ghost, torch_func
from training import BATCH_SIZE, Case, Round, timed, training

__all__ = ["CONTENDERS", "EVERY", "Contender", "wanted"]

CABS = gb.CABS(min_batch_size=BATCH_SIZE, max_batch_size=BATCH_SIZE)  # measures as ever, and stays at the size
EVERY = 8


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


def probed(case: Case, quantities: Iterable[str]) -> Round:
    """This library's engine in a loop of the user's own; an error where it cannot tell samples apart."""
    probe = gb.Probe(case.model, quantities, estimator="layers")

    def go_backward(inputs: Tensor, targets: Tensor) -> None:
        with probe.measure(num_samples=case.batch_size, keep_gradient=False):
            loss = case.loss(inputs, targets)
            loss.backward()
        probe.read(loss=loss, gradient=[p.grad for p in probe.parameters])

    return training(case, go_backward)


def controlled(case: Case, rule: gb.Rule, sinks: Sequence[JsonlSink] = ()) -> Round:
    """This library's loop."""
    stream = gb.SampleStream(case.data)
    controller = gb.Controller(rule, case.model, case.optimizer(), stream, batch_size=case.batch_size, sinks=sinks)

    def take(steps: int) -> None:
        for inputs, targets in controller.run(steps=steps):
            controller.backward(case.loss(inputs, targets))
            controller.step()

    return timed(case.device, take)


def logged(case: Case, rule: gb.Rule) -> Round:
    """The same with a run log, in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="gradbatch-overhead-"))
    return controlled(case, rule, [JsonlSink(folder / "steps.jsonl")])


@dataclass(frozen=True)
class Contender:
    """A way to take steps, made ready for a case, and whether it is of interest on perceptrons only."""

    start: Callable[[Case], Round]
    is_for_mlps: bool = False


def measures(*quantities: str) -> Contender:
    """The engine, asked for these quantities at every step."""
    return Contender(partial(probed, quantities=quantities))


CONTENDERS = {
    "plain": Contender(plain),
    "hooks that do nothing": Contender(empty_hooks, is_for_mlps=True),
    "norms by hand": Contender(by_hand, is_for_mlps=True),
    "gradbatch norms": measures("grad_variance"),
    "gradbatch second moments": measures("diagonal_projection_variance"),
    "gradbatch projections": measures("projection_variance"),
    "gradbatch strides (Gram)": measures("stride_gram:16"),
    "gradbatch strides (moments)": measures("stride_moments:16"),
    "gradbatch Fixed": Contender(partial(controlled, rule=gb.Fixed()), is_for_mlps=True),
    "gradbatch CABS": Contender(partial(controlled, rule=CABS)),
    "gradbatch CABS + JSONL": Contender(partial(logged, rule=CABS), is_for_mlps=True),
    "gradbatch Every(8, CABS)": Contender(partial(controlled, rule=gb.Every(rule=CABS, steps=EVERY)), is_for_mlps=True),
    "BackPACK BatchL2Grad": Contender(partial(backpack, extension="BatchL2Grad", field="batch_l2")),
    "BackPACK SumGradSquared": Contender(partial(backpack, extension="SumGradSquared", field="sum_grad_squared")),
    "BackPACK Variance": Contender(partial(backpack, extension="Variance", field="variance")),
    "Opacus hooks": Contender(opacus),
    "Opacus ghost norms": Contender(opacus_ghost),
    "torch.func": Contender(torch_func),
}


def wanted(model: str, part: str) -> list[str]:
    """The plain step, and those of interest on the model whose names contain that part."""
    return [
        name
        for name, contender in CONTENDERS.items()
        if name == "plain" or part.lower() in name.lower()
        if SUBJECTS[model].is_mlp or not contender.is_for_mlps
    ]
