"""The second moment without products between positions: the CABS authors' formulas, layer by layer."""

import pytest
import torch
from torch import nn

from gradbatch import Probe

BATCH = 5


def heard(model, inputs, loss_of):
    """Inputs A and gradients D of the outputs of each layer, of the mean loss, and the second moments by layer."""
    layers, kept = dict(model.named_children()), {}
    probe = Probe(model, {"position_sqnorm", "sample_sqnorm", "layers"})
    for _ in range(2):  # while the engine learns, and after
        handles = [
            layer.register_forward_hook(lambda _, args, output, name=name: kept.update({name: (args[0], output)}))
            for name, layer in layers.items()
        ]
        model.zero_grad()
        with probe.measure(num_samples=BATCH):
            loss = loss_of(model(inputs))
            outputs = [kept[name][1] for name in layers]
            grads = torch.autograd.grad(loss, outputs, retain_graph=True)
            loss.backward()
        for handle in handles:
            handle.remove()
        statistics = probe.read()
    pairs = {name: (kept[name][0].detach(), grad) for name, grad in zip(layers, grads, strict=True)}
    return pairs, statistics


def loss_of(outputs):
    return outputs.flatten(1).square().sum(1).mean()


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": 2}], ids=str)
def test_convolutions(options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, **options), nn.Tanh(), nn.Conv2d(3, 2, 2)).double()
    pairs, statistics = heard(model, torch.randn(BATCH, 2, 8, 7, dtype=torch.float64), loss_of)
    for name in ("0", "2"):
        layer, (a, d) = model.get_submodule(name), pairs[name]
        own = {key: options[key] for key in options} if name == "0" else {}
        kernel = BATCH * torch.nn.grad.conv2d_weight(a.square(), layer.weight.shape, d.square(), **own)
        bias = BATCH * d.square().sum((0, 2, 3))
        assert statistics.layers[name].position_sqnorm == pytest.approx((kernel.sum() + bias.sum()).item(), rel=1e-12)
        # Products between positions matter here, else the test would say nothing.
        assert statistics.layers[name].sample_sqnorm != pytest.approx(statistics.layers[name].position_sqnorm, rel=0.01)


def test_linear_layers_with_one_position_are_exact():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    _, statistics = heard(model, torch.randn(BATCH, 4, dtype=torch.float64), loss_of)
    assert statistics.position_sqnorm == pytest.approx(statistics.sample_sqnorm, rel=1e-12)


def test_linear_layers_over_a_sequence():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    pairs, statistics = heard(model, torch.randn(BATCH, 6, 4, dtype=torch.float64), loss_of)
    for name in ("0", "2"):
        a, d = (tensor.flatten(0, 1) for tensor in pairs[name])
        moment = BATCH * ((a.square().T @ d.square()).sum() + d.square().sum())
        assert statistics.layers[name].position_sqnorm == pytest.approx(moment.item(), rel=1e-12)


def test_a_sum_of_two_uses_takes_each_apart():
    torch.manual_seed(0)
    model = nn.Linear(3, 3, bias=False).double()
    probe = Probe(model, {"position_sqnorm"})
    x = torch.randn(BATCH, 3, dtype=torch.float64)
    with probe.measure(num_samples=BATCH):
        hidden = model(x)
        hidden.retain_grad()
        outputs = model(hidden)
        outputs.retain_grad()
        loss_of(outputs).backward()
    uses = [(x, hidden.grad), (hidden.detach(), outputs.grad)]
    expected = sum((BATCH * (a.square().sum(1) * d.square().sum(1)).sum()).item() for a, d in uses)
    assert probe.read().position_sqnorm == pytest.approx(expected, rel=1e-12)


def test_pieces_add_up_and_chunks_have_none():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 3, 2), nn.Tanh()).double()
    inputs = torch.randn(BATCH, 2, 6, dtype=torch.float64)
    values = []
    for cut in ([5], [2, 3], [1, 4]):
        probe = Probe(model, {"position_sqnorm"})
        for piece in inputs.split(cut):
            share = len(piece) / BATCH
            with probe.measure(num_samples=len(piece), loss_scale=share):
                (loss_of(model(piece)) * share).backward()
        values.append(probe.read().position_sqnorm)
    assert values[1] == pytest.approx(values[0], rel=1e-12)
    assert values[2] is None  # a pass of one sample shows its gradient only, and no positions
    probe = Probe(model, {"position_sqnorm"}, estimator="chunks")
    for piece in inputs.split([2, 3]):
        with probe.measure(num_samples=len(piece)):
            loss_of(model(piece)).backward()
    assert probe.read().position_sqnorm is None
