"""On a GPU every rule sees and decides what it does on the CPU."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradbatch as gb
from cases import RULES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device on this machine"),
]

CASES = {
    **{name: rule for name, rule in RULES.items() if not name.startswith("goodput")},  # which reads a clock
    "ba, drawing": partial(gb.BA, m0=4, optimum=1.35, overshoot="cap", no_progress="cap"),
}
"""Rules with their defaults, and one that draws within its steps."""

NUM_SAMPLES, STEPS = 64, 12
"""Three epochs with batches of 16: what decides at an epoch's end does, unless it has taken larger ones before."""


def train(rule, device):
    """The records of a short training in double precision, all tensors on a device, and its last weights."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(NUM_SAMPLES, 1, 6, 6, dtype=torch.float64), torch.randint(4, (NUM_SAMPLES,))
    layers = (nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4))
    model = nn.Sequential(*layers).to(device, torch.float64)
    stream = gb.SampleStream((inputs.to(device), targets.to(device)), seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=getattr(rule, "momentum", 0.5))
    controller = gb.Controller(rule, model, optimizer, stream, batch_size=16)
    records = []
    for batch, labels in controller.run(steps=STEPS):
        controller.backward(F.cross_entropy(model(batch), labels))
        records.append(controller.step())
    found = [record for record in records if record is not None]
    return found, [parameter.detach().cpu() for parameter in model.parameters()]


def numbers_of(record):
    """What was seen and decided, without how long it took."""
    return {name: own for name, own in record.to_dict().items() if isinstance(own, int | float) and name != "seconds"}


@pytest.mark.parametrize("name", CASES)
def test_decisions_are_those_of_the_cpu(name):
    (ours, weights), (twin, twin_weights) = (train(CASES[name](), device) for device in ("cuda", "cpu"))
    assert len(ours) == len(twin) == STEPS
    # Sums of a few thousand products in double precision, in another order, over twelve steps; some numbers are
    # small differences of large ones.
    for own, other in zip(ours, twin, strict=True):
        assert numbers_of(own) == pytest.approx(numbers_of(other), rel=1e-6, abs=1e-9)
    torch.testing.assert_close(weights, twin_weights, rtol=1e-6, atol=1e-9)
