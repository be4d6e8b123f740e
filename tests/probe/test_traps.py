"""Models that misled the engine once: exact now, or refused with a sentence."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from gradbatch import Probe
from gradbatch.errors import InvalidInputError, MeasurementError
from gradbatch.probe import graph
from gradbatch.probe.reference import per_sample_gradients, reference_statistics

from .layers import Apply, own_length, packed, parameter

DOUBLE = torch.float64
QUANTITIES = ("sample_sqnorm", "grad_variance", "diagonal_projection_variance", "projection_variance")


def loss_of(model, batch):
    return model(*batch).square().flatten(1).sum(1).mean()


def measured(probe, model, *batch):
    model.zero_grad()
    with probe.measure(num_samples=len(batch[0])):
        loss_of(model, batch).backward()
    return probe.read()


def oracle(model, *batch):
    samples = [tuple(part[i : i + 1] for part in batch) for i in range(len(batch[0]))]
    return reference_statistics(per_sample_gradients(model, loss_of, samples))


def assert_exact(model, *batches, probe=None):
    probe = probe or Probe(model, QUANTITIES, estimator="layers")
    for batch in batches:
        statistics, expected = measured(probe, model, *batch), oracle(model, *batch)
        assert statistics.sample_sqnorm == pytest.approx(expected.sample_sqnorm, rel=1e-9)
        assert statistics.grad_variance == pytest.approx(expected.grad_variance, rel=1e-9)


def noise(*shape):
    return torch.randn(*shape, dtype=DOUBLE)


DERIVED = {
    "one parameter, two derived weights": lambda: Apply(
        lambda m, x: torch.tanh(x @ F.normalize(m.w)) @ F.normalize(m.w), w=parameter(4, 4)
    ),
    "weight norm, called twice": lambda: Apply(
        lambda m, x: m.inner(torch.tanh(m.inner(x))), inner=parametrizations.weight_norm(nn.Linear(4, 4))
    ),
    "orthogonal, called twice": lambda: Apply(
        lambda m, x: m.inner(torch.tanh(m.inner(x))), inner=parametrizations.orthogonal(nn.Linear(4, 4))
    ),
    "a parameter as it is and derived": lambda: Apply(lambda m, x: (x + m.b.roll(1)).sin() * m.b, b=parameter(4)),
    "alternating normalisation": lambda: Apply(sinkhorn, w=parameter(4, 4)),
    "a product with a factor": lambda: Apply(
        lambda m, x: torch.addmm(m.b, x, m.w, beta=0.5, alpha=2.0), b=parameter(3), w=parameter(4, 3)
    ),
    "a sum with a factor": lambda: Apply(lambda m, x: torch.add(x, m.b, alpha=3.0).sin(), b=parameter(4)),
    "a product with a vector": lambda: Apply(lambda m, x: torch.mv(x, m.w)[:, None].sin(), w=parameter(4)),
    "distances": lambda: Apply(lambda m, x: torch.cdist(x, m.w), w=parameter(4, 4)),
}


def sinkhorn(m, x):
    w = m.w.exp()
    for _ in range(20):
        w = w / w.sum(0, keepdim=True)
        w = w / w.sum(1, keepdim=True)
    return torch.tanh(x @ w)


@pytest.mark.parametrize("name", DERIVED)
def test_derived_weights_and_factors_are_exact(name):
    model = DERIVED[name]().to(DOUBLE)
    assert_exact(model, (noise(3, 4),), (noise(4, 4),), (noise(5, 4),))


class Ragged(nn.Module):
    """Layers on the tokens that a mask picks, all samples' in one row after the other."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x, mask):
        tokens = self.last(torch.tanh(self.first(x[mask])))
        whole = torch.zeros(*mask.shape, 2, dtype=tokens.dtype)
        whole[mask] = tokens
        return whole


@pytest.mark.parametrize("lengths", [([4, 2], [3, 3], [4, 2]), ([3, 3], [3, 3], [4, 2], [2, 4], [1, 3])])
def test_uneven_rows_are_never_taken_for_even_ones(lengths):
    model = Ragged().to(DOUBLE)
    probe = Probe(model, QUANTITIES)
    for of_batch in lengths:
        mask = torch.arange(4) < torch.tensor(of_batch)[:, None]
        batch = noise(2, 4, 3), mask
        got = measured(probe, model, *batch).sample_sqnorm
        assert got is None or got == pytest.approx(oracle(model, *batch).sample_sqnorm, rel=1e-9)


@pytest.mark.parametrize(("count", "channel"), [(2, 0), (4, 1)])
def test_an_axis_that_happens_to_be_as_long_as_the_batch(count, channel):
    model = Apply(lambda m, x: (x.reshape(-1, x.shape[-1]) * m.a).sin().view(x.shape)[..., channel], a=parameter())
    assert_exact(model.to(DOUBLE), *[(noise(count, 3, count),) for _ in range(4)])


def test_an_output_of_an_own_function_that_is_not_used():
    class Two(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.sin(), x.cos()

        @staticmethod
        def backward(ctx, first, second):
            return first * 2 + second * 3

    model = Apply(lambda m, x: Two.apply(m.inner(x))[0], inner=nn.Linear(4, 3)).to(DOUBLE)
    assert_exact(model, (noise(5, 4),), (noise(5, 4),))


def test_complex_parameters_are_refused_with_a_sentence(caplog):
    model = Apply(lambda m, x: torch.view_as_real(torch.fft.fft(x) * m.c), c=nn.Parameter(torch.randn(4) + 1j))
    probe = Probe(model, QUANTITIES)
    with probe.measure(num_samples=3):
        model(torch.randn(3, 4)).square().mean().backward()
    assert probe.read().grad_variance is None
    assert 'parameter "c" is complex' in caplog.text


def test_an_output_that_begins_to_matter_is_noticed_at_once():
    model = Apply(lambda m, x: (m.inner(x), m.inner.weight.square().sum()), inner=nn.Linear(4, 3)).to(DOUBLE)
    probe = Probe(model, QUANTITIES)
    for step in range(4):
        model.zero_grad()
        with probe.measure(num_samples=5):
            main, aside = model(noise(5, 4))
            (main.square().mean() + (aside if step == 3 else 0)).backward()
        assert (probe.read().sample_sqnorm is None) == (step == 3)


@pytest.mark.parametrize(
    ("make", "shape", "most"),
    [
        (lambda: Apply(first_token, inner=nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True)), (4, 9, 4), 30),
        (lambda: Apply(lambda m, x: m.a(x) + 0 * m.b(x), a=nn.Linear(4, 3), b=nn.Linear(4, 3)), (8, 4), 40 * 6),
    ],
)
def test_learning_comes_to_an_end(monkeypatch, make, shape, most):
    calls, masked_pass = [], graph.masked_pass
    monkeypatch.setattr(graph, "masked_pass", lambda *args: calls.append(1) or masked_pass(*args))
    model = make().to(DOUBLE)
    probe = Probe(model, {"sample_sqnorm"}, estimator="layers")
    for _ in range(100):
        measured(probe, model, noise(*shape))
    assert len(calls) <= most


def first_token(m, x):
    return m.inner(x)[:, 0]


def test_a_backward_that_fails_in_learning_does_not_end_training(caplog):
    class Fails(torch.autograd.Function):
        calls = 0

        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            Fails.calls += 1
            if Fails.calls == 1:
                raise RuntimeError("only this once")
            return grad * 2

    model = Apply(lambda m, x: Fails.apply(m.inner(x)), inner=nn.Linear(4, 3)).to(DOUBLE)
    assert measured(Probe(model, QUANTITIES), model, noise(5, 4)).sample_sqnorm is None
    assert "only this once" in caplog.text
    assert model.inner.weight.grad is not None


def test_packed_sequences_are_not_learned_at_every_step(monkeypatch):
    calls, masked_pass = [], graph.masked_pass
    monkeypatch.setattr(graph, "masked_pass", lambda *args: calls.append(1) or masked_pass(*args))
    model = packed(nn.LSTM(4, 3, batch_first=True), own_length).to(DOUBLE)
    probe = Probe(model, {"sample_sqnorm"}, estimator="layers")
    for _ in range(20):
        measured(probe, model, noise(6, 5, 4))
    assert len(calls) <= 2 * 5 * 3  # both halves, at 1, 2, 4, 8, 16; more masks where a batch leaves a doubt


class Attention(nn.Module):
    """Keys of their own, whose bias changes no softmax: its gradient is zero, and computed as rounding."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return (self.query(x) @ self.key(x).mT).softmax(-1) @ self.value(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (Attention, (16, 20, 8)),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8), nn.ReLU()), (16, 3, 9, 9)),
        (lambda: nn.Sequential(nn.BatchNorm2d(3).eval(), nn.InstanceNorm2d(3), nn.ReLU()), (16, 3, 9, 9)),
    ],
    ids=["keys", "convolution before a norm", "norm before a norm"],
)
def test_a_gradient_of_rounding_alone_is_no_use_elsewhere(make, shape, dtype):
    torch.manual_seed(0)
    model = make().to(dtype)
    probe = Probe(model, {"sample_sqnorm"}, estimator="layers")  # a disagreement would raise
    for _ in range(4):
        with probe.measure(num_samples=shape[0]):
            model(torch.randn(shape, dtype=dtype)).float().square().flatten(1).sum(1).mean().backward()
        assert probe.read().sample_sqnorm is not None


def test_derived_weights_in_half_precision():
    torch.manual_seed(0)
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 3)).bfloat16()
    x = torch.randn(6, 5, dtype=torch.bfloat16)
    probe = Probe(model, {"sample_sqnorm"}, estimator="layers")
    for _ in range(3):
        assert measured(probe, model, x).sample_sqnorm == pytest.approx(oracle(model, x).sample_sqnorm, rel=0.02)


def clipped(model):
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)


def zeroed(model):
    model.zero_grad(set_to_none=False)


@pytest.mark.parametrize("count", [1, 6])
@pytest.mark.parametrize("change", [clipped, zeroed])
def test_gradients_may_be_changed_before_the_measurement_ends(change, count):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    probe = Probe(model, {"grad_sqnorm", "sample_sqnorm"}, estimator="layers")
    for _ in range(3):  # at the third nothing is learned
        x = torch.randn(count, 5, dtype=torch.float64)
        model.zero_grad()
        with probe.measure(num_samples=count):
            loss_of(model, (x,)).backward()
            change(model)
        got, expected = probe.read(), oracle(model, x)
        assert got.grad_sqnorm == pytest.approx(expected.grad_sqnorm, rel=1e-12)
        assert got.sample_sqnorm == pytest.approx(expected.sample_sqnorm, rel=1e-12)


@pytest.mark.parametrize("quantity", ["projection_variance", "stride_gram:2"])
def test_inputs_that_are_filled_anew_are_noticed(quantity):
    model, buffer = nn.Linear(5, 3), torch.empty(4, 5)
    probe = Probe(model, {quantity})
    with pytest.raises(MeasurementError, match="changed in place after backward"):
        for _ in range(2):
            buffer.copy_(torch.randn(4, 5))
            with probe.measure(num_samples=4):
                loss_of(model, (buffer,)).backward()
        probe.read()
    with probe.measure(num_samples=4):  # and the probe goes on
        loss_of(model, (buffer,)).backward()


def test_other_quantities_begin_anew():
    model = nn.Linear(5, 3)
    probe = Probe(model, {"stride_gram:2"})
    for quantity in ("stride_gram:2", "stride_gram:4"):
        probe.set_quantities({quantity})
        with probe.measure(num_samples=4):
            loss_of(model, (torch.randn(4, 5),)).backward()
    assert probe.read().strides["weight"].gram.shape == (1, 1)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_pass_that_weighs_nothing_is_refused(weight):
    with pytest.raises(InvalidInputError, match="`weight` must be positive and finite"):
        Probe(nn.Linear(5, 3), {"sample_sqnorm"}).measure(num_samples=4, weight=weight)
