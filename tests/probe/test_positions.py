"""The second moment without products between positions: the CABS authors' formulas, layer by layer."""

import pytest
import torch
from torch import nn

from gradbatch import Probe
from gradbatch.probe import positions
from gradbatch.probe.forms import Dense, Lazy, Lookup, OuterSum, Rearranged, Rows, Total

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


def test_a_number_that_scales_a_sequence():
    torch.manual_seed(0)

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

        def forward(self, x):
            return x * self.scale

    model, x = Scaled(), torch.randn(BATCH, 4, 3, dtype=torch.float64)
    probe = Probe(model, {"position_sqnorm"}, estimator="layers")
    with probe.measure(num_samples=BATCH):
        loss_of(model(x)).backward()
    terms = 2 * model.scale.detach() * x.square()  # of each sample's loss, whose every number is a position
    assert probe.read().position_sqnorm == pytest.approx((terms.square().sum() / BATCH).item(), rel=1e-12)


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 4), nn.BatchNorm2d(4).eval()], ids=["group", "batch"])
def test_norms_over_images(norm):
    torch.manual_seed(0)
    norm = norm.double()
    nn.init.normal_(norm.weight)
    x = torch.randn(BATCH, 4, 3, 2, dtype=torch.float64)
    probe = Probe(norm, {"position_sqnorm", "sample_sqnorm"}, estimator="layers")
    for _ in range(3):
        with probe.measure(num_samples=BATCH):
            outputs = norm(x)
            outputs.retain_grad()
            loss_of(outputs).backward()
        statistics = probe.read()
        d = BATCH * outputs.grad
        normalised = (outputs.detach() - norm.bias.detach()[:, None, None]) / norm.weight.detach()[:, None, None]
        terms = ((d * normalised).square() + d.square()).sum() / BATCH
        whole = ((d * normalised).sum((2, 3)).square() + d.sum((2, 3)).square()).sum() / BATCH
        assert statistics.position_sqnorm == pytest.approx(terms.item(), rel=1e-12)
        assert statistics.sample_sqnorm == pytest.approx(whole.item(), rel=1e-12)


def test_sums_of_the_positions_norms():
    torch.manual_seed(0)
    left, right, found = torch.randn(2, 2, 4, 3), torch.randn(2, 2, 4, 5), torch.randn(2, 7, 5)
    product = OuterSum(left, right, torch.Size((6, 5)))
    expected = (left[..., None] * right[..., None, :]).movedim(2, 1).flatten(2).norm(dim=2).sum()  # [B, T, G L R]
    table = Lookup(torch.randint(6, (2, 7)), found, torch.Size((6, 5)))
    written = Dense(Rows(torch.randn(2, 30)), torch.Size((6, 5)))
    lazy = Lazy(
        lambda start, stop: OuterSum(left[start:stop], right[start:stop], product.shape), 2, product.shape, (), 1
    )
    turned = Rearranged(product, torch.Size((5, 6)), lambda grads: grads.mT, lambda tensor: tensor.mT)
    for form in (product, lazy, turned):
        assert positions.position_norm_sum(form) == pytest.approx(expected.item(), rel=1e-5)
    assert positions.position_norm_sum(table) == pytest.approx(found.norm(dim=2).sum().item(), rel=1e-5)
    assert positions.position_norm_sum(written) == pytest.approx(written.rows.tensor.norm(dim=1).sum().item(), rel=1e-5)
    both = expected + found.norm(dim=2).sum()
    assert positions.position_norm_sum(Total([product, table])) == pytest.approx(both.item(), rel=1e-5)


def test_a_table_s_rows_are_taken_one_look_up_at_a_time():
    torch.manual_seed(0)
    model, ids = nn.Embedding(3, 4).double(), torch.tensor([[0, 0, 1], [2, 2, 2]])
    probe = Probe(model, {"position_sqnorm", "sample_sqnorm"}, estimator="layers")
    with probe.measure(num_samples=2):
        outputs = model(ids)
        loss_of(outputs).backward()
    statistics = probe.read()
    terms = 2 * outputs.detach()
    assert statistics.position_sqnorm == pytest.approx((terms.square().sum() / 2).item(), rel=1e-12)
    assert statistics.sample_sqnorm > 1.5 * statistics.position_sqnorm
