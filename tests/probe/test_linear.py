"""The closed form for nn.Linear against one gradient per sample, in double precision."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradbatch.probe import linear
from gradbatch.probe.linear import linear_grad_sum, linear_sqnorm_sums

# Shapes (B, positions..., I, O): without and with sequence axes, one sample, and both sides of the Gram choice.
SHAPES = [
    (5, (), 7, 3),
    (1, (), 7, 3),
    (4, (6,), 3, 2),  # the gradient itself is smaller than the Gram matrices
    (4, (2,), 30, 20),  # the Gram matrices are smaller
    (3, (2, 3), 5, 4),
    (1, (1,), 5, 4),
]


def slow_gradients(layer, activations, output_grads):
    """The gradients of each sample by autograd, one sample at a time."""
    gradients = []
    for a, b in zip(activations, output_grads, strict=True):
        parameters = {n: p for n, p in layer.named_parameters() if p.requires_grad}
        grads = torch.autograd.grad((layer(a) * b).sum(), list(parameters.values()))
        gradients.append(dict(zip(parameters, grads, strict=True)))
    return gradients


def assert_matches_autograd(layer, activations, output_grads):
    slow = slow_gradients(layer, activations, output_grads)
    sums = linear_sqnorm_sums(layer, activations, output_grads)
    grads = linear_grad_sum(layer, activations, output_grads)
    assert set(sums) == set(grads) == set(slow[0])
    for name, value in sums.items():
        expected = sum(gradient[name].square().sum() for gradient in slow)
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)
        torch.testing.assert_close(grads[name], sum(g[name] for g in slow), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("batch", "positions", "inputs", "outputs"), SHAPES)
def test_sums_equal_those_of_single_samples(batch, positions, inputs, outputs, bias):
    layer = nn.Linear(inputs, outputs, bias=bias, dtype=torch.float64)
    activations = torch.randn(batch, *positions, inputs, dtype=torch.float64)
    assert_matches_autograd(layer, activations, torch.randn(batch, *positions, outputs, dtype=torch.float64))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 6),
    positions=st.lists(st.integers(1, 4), max_size=2),
    inputs=st.integers(1, 9),
    outputs=st.integers(1, 9),
)
def test_sums_equal_those_of_single_samples_at_any_shape(batch, positions, inputs, outputs):
    layer = nn.Linear(inputs, outputs, dtype=torch.float64)
    activations = torch.randn(batch, *positions, inputs, dtype=torch.float64)
    assert_matches_autograd(layer, activations, torch.randn(batch, *positions, outputs, dtype=torch.float64))


@pytest.mark.parametrize(("positions", "inputs"), [(3, 4), (2, 30)])
def test_pieces_of_any_size_give_the_same(monkeypatch, positions, inputs):
    layer = nn.Linear(inputs, 20, dtype=torch.float64)
    a = torch.randn(7, positions, inputs, dtype=torch.float64)
    b = torch.randn(7, positions, 20, dtype=torch.float64)
    whole = linear_sqnorm_sums(layer, a, b)["weight"]
    monkeypatch.setattr(linear, "MAX_INSTANTIATED", 1)  # one sample at a time
    torch.testing.assert_close(linear_sqnorm_sums(layer, a, b)["weight"], whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_a_frozen_parameter_is_left_out(frozen):
    layer = nn.Linear(3, 2, dtype=torch.float64)
    getattr(layer, frozen).requires_grad_(False)
    a, b = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    assert frozen not in linear_sqnorm_sums(layer, a, b)
    assert_matches_autograd(layer, a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_single(dtype):
    layer = nn.Linear(300, 2, dtype=dtype)
    a, b = torch.full((4, 300), 30.0, dtype=dtype), torch.full((4, 2), 30.0, dtype=dtype)
    value = linear_sqnorm_sums(layer, a, b)["weight"]
    # 4 samples x 300 x 2 entries of (30 * 30)^2: beyond half precision's largest number, exact inputs.
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.item(), 4 * 600 * 900.0**2, rtol=1e-6, atol=0)
