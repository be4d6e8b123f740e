"""Whole networks against the loop over single samples, however the batch is cut."""

import itertools

import pytest
import torch

from gradbatch import Probe
from gradbatch.probe.reference import per_sample_gradients, reference_statistics

from .networks import NETWORKS, TextLSTM, loss_of, texts

QUANTITIES = (
    "grad_sqnorm",
    "sample_sqnorm",
    "grad_variance",
    "noise_scale",
    "projection_variance",
    "diagonal_projection_variance",
)
SAMPLES = 5


def network(name, dtype):
    case = NETWORKS[name]
    inputs, targets = case.batch(SAMPLES)
    return case.make().to(dtype), inputs.to(dtype) if inputs.is_floating_point() else inputs, targets


def singles(inputs, targets):
    return list(zip(inputs.split(1), targets.split(1), strict=True))


def expected_of(model, inputs, targets):
    """The quantities in total and each layer's second moment, from the definitions."""
    gradients = per_sample_gradients(model, loss_of, singles(inputs, targets))
    moments = reference_statistics(gradients)
    rows = torch.stack([torch.cat([grad.double().flatten() for grad in sample]) for sample in gradients])
    mean = rows.mean(0)
    total = {name: getattr(moments, name) for name in QUANTITIES[:4]}
    total["projection_variance"] = (rows @ mean).var().item()
    total["diagonal_projection_variance"] = (mean.square() * rows.var(0)).sum().item()
    layers = {}
    for place, (name, _) in enumerate(model.named_parameters()):
        share = sum(sample[place].double().square().sum().item() for sample in gradients) / len(gradients)
        layer = name.rpartition(".")[0]
        layers[layer] = layers.get(layer, 0.0) + share
    return total, layers


def measured(probe, model, inputs, targets, cut):
    model.zero_grad()
    for batch in zip(inputs.split(cut), targets.split(cut), strict=True):
        with probe.measure(num_samples=len(batch[0])):
            loss_of(model, batch).backward()
    return probe.read()


def assert_equal(statistics, expected, rel):
    total, layers = expected
    for name, value in total.items():
        assert getattr(statistics, name) == (None if value is None else pytest.approx(value, rel=rel)), name
    got = {name: layer.sample_sqnorm for name, layer in statistics.layers.items()}
    assert got == pytest.approx(layers, rel=rel)


@pytest.mark.parametrize("cut", [[5], [2, 3], [1, 4]], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_statistics_are_the_loop_s_however_the_batch_is_cut(name, cut):
    model, inputs, targets = network(name, torch.float64)
    expected = expected_of(model, inputs, targets)
    probe = Probe(model, {*QUANTITIES, "layers"})
    for _ in range(3):  # while the engine learns, and after
        # Sums of thousands of terms in double precision, and differences of such: 1e-9 leaves them six digits.
        assert_equal(measured(probe, model, inputs, targets, cut), expected, 1e-9)
    assert probe.estimator == "layers"


@pytest.mark.parametrize("name", ["lstm", "packed lstm", "gpt with a tied head"])
def test_what_was_learned_holds_for_other_batches(name):
    model, inputs, targets = network(name, torch.float64)
    probe = Probe(model, {*QUANTITIES, "layers"}, estimator="layers")
    measured(probe, model, inputs, targets, [5])
    probe._next_check = 1000  # nothing is learned from here on
    for samples, length in itertools.product((2, 3), (4, 6)):
        inputs, targets = NETWORKS[name].batch(samples)
        inputs = inputs[:, :length]
        targets = targets[:, :length] if targets.dim() > 1 else targets
        assert_equal(measured(probe, model, inputs, targets, [samples]), expected_of(model, inputs, targets), 1e-9)


def test_lstm_in_single_precision():
    # On the CPU torch then has one fused operation for each layer and direction (oneDNN), which shows no gates: they
    # are computed anew or sent back sample by sample. A gradient's rounding is a few units of 6e-8 for each of its
    # some 50 terms, and the variance cancels no more than a digit of them: 1e-4 covers both.
    model, inputs, targets = network("lstm", torch.float32)
    expected = expected_of(model, inputs, targets)
    probe = Probe(model, {*QUANTITIES, "layers"}, estimator="layers")
    for cut in ([5], [2, 3], [1, 4]):
        assert_equal(measured(probe, model, inputs, targets, cut), expected, 1e-4)


def test_single_precision_takes_the_fused_operation():
    # Else the test above would say nothing that those in double precision do not.
    nodes, names = [loss_of(TextLSTM(), texts(SAMPLES)).grad_fn], set()
    while nodes:
        node = nodes.pop()
        names.add(node.name())
        nodes += [child for child, _ in node.next_functions if child is not None]
    assert any("MkldnnRnn" in name for name in names) == torch.backends.mkldnn.is_available()
