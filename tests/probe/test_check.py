"""How far two sums of the same gradients may lie apart, in roundings of their type."""

import pytest
import torch
from torch import nn

from gradbatch.probe.check import disagreement
from gradbatch.probe.coverage import parameter_table
from gradbatch.probe.heard import Heard

SAMPLES = 4


def heard(error, dtype, *, sqnorm_sum=1.0, norm_sum=2.0):
    """Sums that differ by so many roundings, of samples whose norms add up to 2 at most: the root of 4 times 1."""
    seen = torch.ones(1, dtype=torch.float64)
    grad = (seen + error * torch.finfo(dtype).eps).double()
    said = Heard(accumulates=True)
    said.rounding = torch.finfo(dtype).eps
    said.grads[0], said.grad_sums[0] = grad, seen
    said.sqnorm_sums[0], said.norm_sums[0] = torch.tensor(sqnorm_sum), torch.tensor(norm_sum)
    return said


@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float64, 2048), (torch.float32, 2048), (torch.bfloat16, 8), (torch.float16, 8)], ids=str
)
def test_the_samples_norms_bound_the_difference(dtype, most):
    table = parameter_table(nn.Linear(1, 1, bias=False), None)
    assert disagreement(heard(0.9 * most, dtype), table, SAMPLES) == ""
    assert "do not add up" in disagreement(heard(1.1 * most, dtype), table, SAMPLES)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_what_cancels_between_positions_counts_except_in_half_precision(dtype):
    table = parameter_table(nn.Linear(1, 1, bias=False), None)
    little = {"sqnorm_sum": 1e-30, "norm_sum": 2.0}
    said = disagreement(heard(0.9 * 32, dtype, **little), table, SAMPLES)
    assert ("do not add up" in said) == (dtype == torch.bfloat16)
    assert "do not add up" in disagreement(heard(1.1 * 32, dtype, **little), table, SAMPLES)
