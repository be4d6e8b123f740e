"""Every quantity of every layer against a loop over single samples, in double precision."""

import pytest
import torch

from gradbatch import Probe
from gradbatch.probe import moments, strides
from gradbatch.probe.reference import per_sample_gradients

from .layers import LAYERS

RTOL = 1e-9
COUNTS = [1, 2, 5, 8]
STRIDE = 3


def batch_of(case, count):
    """Inputs, and weights of the outputs in each sample's own loss."""
    torch.manual_seed(count)
    model = case.make().to(torch.float64)
    inputs = case.inputs(count)
    with torch.no_grad():
        outputs = model(inputs)
    return model, inputs, torch.randn_like(outputs)


def loss_of(model, batch):
    inputs, weights = batch
    return (model(inputs) * weights).sum() / len(inputs)


def oracle(model, inputs, weights):
    """Per-sample gradients, [B, *shape] for each parameter."""
    samples = [(inputs[i : i + 1], weights[i : i + 1]) for i in range(len(inputs))]
    return [torch.stack(grads).to_dense() for grads in zip(*per_sample_gradients(model, loss_of, samples), strict=True)]


def forms_of(model, inputs, weights, *, measurements=3):
    """The forms of the per-sample gradients in the last measurement; the engine learns in the first, second, fourth."""
    probe = Probe(model, {"projection_variance", "diagonal_projection_variance"}, estimator="layers")
    for _ in range(measurements):
        probe.reset()
        model.zero_grad()
        with probe.measure(num_samples=len(inputs)):
            loss_of(model, (inputs, weights)).backward()
    ((forms, factor),) = probe._sums.forms
    assert sorted(forms) == list(range(len(probe.parameters)))
    return {place: kept.form for place, kept in forms.items()}, factor


def close(got, expected, scale):
    """Equal up to rounding, in proportion to the terms that were summed."""
    error = (got - expected).abs().max().item()
    assert got.shape == expected.shape
    assert error <= RTOL * max(scale, 1e-30), f"{error:.3g} beside {scale:.3g}"


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", LAYERS)
def test_every_quantity_is_the_loop_s(name, count):
    model, inputs, weights = batch_of(LAYERS[name], count)
    gradients = oracle(model, inputs, weights)
    for measurements in (2, 3):  # in learning, positions are kept apart
        forms, factor = forms_of(model, inputs, weights, measurements=measurements)
        for place, slow in enumerate(gradients):
            form = forms[place]
            assert form.num_samples == count
            assert_moments(form, slow / factor)


def assert_moments(form, slow):
    """Every function of `moments`, and the pieces, against materialised gradients [B, *shape]."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(slow.shape[1:], generator=generator, dtype=slow.dtype)
    weights = torch.randn(len(slow), generator=generator, dtype=slow.dtype)
    largest = slow.abs().max().item()
    total = slow.square().sum().item()
    rows = slow.reshape(len(slow), -1)
    cut = slow.split(STRIDE)
    close(form.piece(0, len(slow)).reshape(slow.shape), slow, largest)
    close(moments.sqnorms(form), rows.square().sum(1), total)
    close(moments.sqnorm_sum(form), rows.square().sum(), total)
    close(moments.second_moment(form), slow.square().sum(0), total)
    close(moments.projections(form, direction), rows @ direction.flatten(), rows.abs().sum().item())
    close(moments.weighted_sum(form, weights), torch.tensordot(weights, slow, 1), largest * len(slow))
    close(strides.stride_sums(form, STRIDE), torch.stack([s.sum(0) for s in cut]), largest * STRIDE)
    close(strides.stride_square_sums(form, STRIDE), torch.stack([s.square().sum(0) for s in cut]), total)
