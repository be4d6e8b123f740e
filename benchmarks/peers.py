"""The same statistics from other libraries, imported only where they take part."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from training import Case, Round, loss_of, training

__all__ = ["backpack", "opacus", "opacus_ghost", "torch_func"]


def backpack(case: Case, extension: str, field: str) -> Round:
    """One of BackPACK's first-order extensions, and the sum of what it saves."""
    from backpack import backpack, extend, extensions

    model, loss_function = extend(case.model), extend(nn.CrossEntropyLoss())
    quantity = getattr(extensions, extension)

    def go_backward(inputs: Tensor, targets: Tensor) -> None:
        with case.autocast():
            loss = loss_function(model(inputs).flatten(0, -2), targets.flatten())
        with backpack(quantity()):
            loss.backward()
        sum(getattr(p, field).sum() for p in model.parameters()).item()

    return training(replace(case, model=model), go_backward)


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
    per_sample = per_sample_gradients(case)

    def go_backward(inputs: Tensor, targets: Tensor) -> None:
        held = {name: p.detach() for name, p in parameters.items()}
        sqnorm = torch.zeros((), device=case.device)
        for p in parameters.values():
            p.grad = torch.zeros_like(p)
        for piece in zip(inputs.split(size), targets.split(size), strict=True):
            for name, grads in per_sample(held, *piece).items():
                sqnorm += grads.square().sum()
                parameters[name].grad.add_(grads.sum(0), alpha=1 / case.batch_size)
        sqnorm.item()

    return training(case, go_backward)


def per_sample_gradients(case: Case) -> Callable[[dict[str, Tensor], Tensor, Tensor], dict[str, Tensor]]:
    """The gradients [B, ...] by name, from parameters by name and a batch."""

    def loss(parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        with case.autocast():
            outputs = torch.func.functional_call(case.model, parameters, (inputs.unsqueeze(0),))
            return loss_of(outputs, targets.unsqueeze(0))

    return torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
