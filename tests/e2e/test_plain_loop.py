"""`Fixed` is the plain PyTorch loop, bit for bit."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradbatch as gb

STEPS = 200


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 2), nn.ReLU(inplace=True),
        nn.Flatten(), nn.Dropout(0.1), nn.Linear(32, 10),
    )  # fmt: skip


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-4)


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-3)


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    return images, torch.tensor(data.target)


def batches(data, batch_size):
    """The stream's documented order, cut by hand: a plain loop that never meets the controller."""
    stream = gb.SampleStream(data, seed=3)
    size = len(data[0])
    while True:
        inputs, targets = stream.take(size)
        yield from zip(inputs.split(batch_size), targets.split(batch_size), strict=True)


@pytest.mark.parametrize("make_model", [mlp, cnn])
@pytest.mark.parametrize("make_optimizer", [sgd, adamw])
def test_fixed_equals_the_plain_loop_bit_for_bit(digits, make_model, make_optimizer):
    torch.manual_seed(0)
    plain = make_model()
    optimizer = make_optimizer(plain.parameters())
    losses = []
    for _, (inputs, targets) in zip(range(STEPS), batches(digits, 32), strict=False):
        optimizer.zero_grad()
        loss = F.cross_entropy(plain(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    torch.manual_seed(0)
    model = make_model()
    optimizer = make_optimizer(model.parameters())
    stream = gb.SampleStream(digits, seed=3)
    controller = gb.Controller(gb.Fixed(), model, optimizer, stream, batch_size=32)
    records = []
    for inputs, targets in controller.run(steps=STEPS):
        controller.backward(F.cross_entropy(model(inputs), targets))
        records.append(controller.step())

    assert [record.loss for record in records] == losses
    assert len(losses) == STEPS
    assert losses[-1] < losses[0]
    for (name, p), q in zip(plain.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_measuring_changes_no_bit_either(digits):
    weights = []
    for rule in (gb.Fixed(), gb.CABS(min_batch_size=32, max_batch_size=32)):
        torch.manual_seed(0)
        model = mlp()
        stream = gb.SampleStream(digits, seed=3)
        controller = gb.Controller(rule, model, sgd(model.parameters()), stream, batch_size=32)
        for inputs, targets in controller.run(steps=STEPS):
            controller.backward(F.cross_entropy(model(inputs), targets))
            controller.step()
        weights.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(*weights, strict=True))
