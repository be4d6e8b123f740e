"""Parameters of which the samples pick rows: tables of embeddings, bags of them, indexing.

Letters: B samples, T positions of each, V rows of a table, D numbers in a row.
"""

import torch
from torch import Tensor

from gradbatch.probe.forms import Lookup, PerSample, Rearranged
from gradbatch.probe.nodes import UnknownOperationError, saved
from gradbatch.probe.operations import Call, any_operation, operation

__all__ = ["index", "look_up", "look_up_bags", "pick"]


@operation("EmbeddingBackward0")
def look_up(call: Call) -> dict[int, PerSample]:
    """Rows of a table, one for each position."""
    if call.saved("scale_grad_by_freq"):
        raise UnknownOperationError("`scale_grad_by_freq` counts over all samples of a batch")
    ids, grad = call.saved("indices"), call.grad
    grad = call.by_sample(grad.reshape(*ids.shape, grad.shape[-1]))
    ids = call.by_sample(ids)
    ids, grad = ids.reshape(len(ids), -1), grad.reshape(len(grad), -1, grad.shape[-1])
    padding = call.saved("padding_idx")
    if 0 <= padding < call.shape(0)[0]:  # a number without a sign stands for none
        grad = grad.masked_fill((ids == padding)[..., None], 0)
    return {0: Lookup(ids, grad, call.shape(0))}


@operation("EmbeddingBagBackward0")
def look_up_bags(call: Call) -> dict[int, PerSample]:
    """Sums or means of a table's rows, one bag for each output."""
    mode = call.saved("mode")
    if mode == 2 or call.saved("scale_grad_by_freq") or list(call.operands) != [0]:
        return any_operation(call)
    vocabulary, width = call.shape(0)
    ids, offsets, weights = call.saved("indices"), call.saved("offsets"), call.saved("per_sample_weights")
    padding = call.saved("padding_idx")
    counts = offsets.to(torch.long).diff(append=offsets.new_tensor([len(ids)]).long())[: len(call.grad)]
    bags = torch.repeat_interleave(torch.arange(len(counts), device=ids.device), counts)
    factors = torch.ones_like(ids, dtype=call.grad.dtype) if weights is None else weights.to(call.grad.dtype)
    if padding is not None and 0 <= padding < vocabulary:
        factors = factors * (ids != padding)
    if mode == 1:
        sizes = torch.zeros_like(counts).index_add_(0, bags, (ids != padding).long())
        factors = factors / sizes.clamp(min=1)[bags]
    # Bags of unequal size become rows of one length; what fills them up counts nothing.
    places = torch.arange(len(ids), device=ids.device) - offsets.long()[bags]
    shape = len(counts), int(counts.max())  # waits for the device
    table, scale = ids.new_zeros(shape), factors.new_zeros(shape)
    table[bags, places], scale[bags, places] = ids, factors
    grad = call.grad[:, None] * scale[..., None]
    table, grad = call.by_sample(table), call.by_sample(grad)
    return {0: Lookup(table.reshape(len(table), -1), grad.reshape(len(grad), -1, width), call.shape(0))}


@operation("IndexBackward0")
def index(call: Call) -> dict[int, PerSample]:
    """Rows of a parameter, or entries of its leading axes, picked by tensors of indices."""
    indices, shape = call.saved("indices"), call.shape(0)
    if any(part is None or part.dtype in (torch.bool, torch.uint8) for part in indices):
        return any_operation(call)
    device, picked = call.grad.device, shape[: len(indices)]
    ids = torch.zeros((), dtype=torch.long, device=device)
    for part, size in zip(indices, picked, strict=True):
        ids = ids * size + part.to(device) % size  # which may count from the end
    return {0: _picked(call, ids, picked.numel())}


@operation("IndexSelectBackward0", "GatherBackward0")
def pick(call: Call) -> dict[int, PerSample]:
    """Rows of a parameter picked by a list of indices, or numbers of a vector."""
    shape = call.shape(0)
    if len(shape) > 1 and (call.node.name() == "GatherBackward0" or saved(call.node, "dim") != 0):
        return any_operation(call)
    return {0: _picked(call, call.saved("index"), shape[0])}


def _picked(call: Call, ids: Tensor, count: int) -> PerSample:
    """Gradients of a parameter, taken as a table of so many rows, that was indexed by ``ids``."""
    if call.axis >= ids.dim():
        raise UnknownOperationError(f"{call.node.name()} has the samples along an axis of the parameter")
    shape = call.shape(0)
    ids, grad = call.by_sample(ids), call.by_sample(call.grad)
    ids = ids.reshape(len(ids), -1)
    table = torch.Size((count, shape.numel() // count))
    form = Lookup(ids, grad.reshape(*ids.shape, table[1]), table)
    if shape == table:
        return form
    return Rearranged(form, shape, lambda grads: grads.reshape(-1, *shape), lambda tensor: tensor.reshape(table))
