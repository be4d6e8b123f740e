"""Sums over strides of whole networks, and the gradients that are selected from them, against the loop."""

import math

import pytest
import torch
from torch import nn

from gradbatch import Probe
from gradbatch.errors import InvalidInputError, MeasurementError, UnsupportedLayerError
from gradbatch.probe.reference import per_sample_gradients

from .networks import NETWORKS, loss_of

SAMPLES = 7
SIZES = (1, 2, 3, 10)


def network(name):
    case = NETWORKS[name]
    inputs, targets = case.batch(SAMPLES)
    model = case.make().double()
    return model, inputs.double() if inputs.is_floating_point() else inputs, targets


def oracle(model, inputs, targets):
    """Gradients [B, *shape] by the parameters' names."""
    samples = list(zip(inputs.split(1), targets.split(1), strict=True))
    rows = per_sample_gradients(model, loss_of, samples)
    names = [name for name, _ in model.named_parameters()]
    return {name: torch.stack(own) for name, own in zip(names, zip(*rows, strict=True), strict=True)}


def measure(probe, model, inputs, targets, cut, announced=True):
    """As the controller does: the mean over the batch, accumulated over its pieces."""
    model.zero_grad()
    for number, batch in enumerate(zip(inputs.split(cut), targets.split(cut), strict=True)):
        share = len(batch[0]) / len(inputs)
        is_part = announced and number + 1 < len(cut)
        with probe.measure(num_samples=len(batch[0]), loss_scale=share, is_part=is_part):
            (loss_of(model, batch) * share).backward()
    return probe.read(reset=False)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cut", [[7], [2, 5], [4, 1, 2]], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_strides_are_the_loop_s_however_the_batch_is_cut(name, cut, size):
    model, inputs, targets = network(name)
    gradients = oracle(model, inputs, targets)
    probe = Probe(model, {f"stride_gram:{size}", f"stride_sqnorms:{size}", f"stride_moments:{size}"})
    measure(probe, model, inputs, targets, cut)
    probe.reset()
    strides = measure(probe, model, inputs, targets, cut).strides  # the engine has learned by now
    assert strides.keys() == gradients.keys()
    for parameter, own in gradients.items():
        pieces, got = own.split(size), strides[parameter]
        sums = torch.stack([piece.sum(0) for piece in pieces])
        squares = torch.stack([piece.square().sum(0) for piece in pieces])
        gram = sums.reshape(len(sums), -1) @ sums.reshape(len(sums), -1).T
        # Rounding in proportion to the terms of each sum, 1e-9 of them at most.
        largest = own.abs().max().item()
        assert got.counts == tuple(map(len, pieces))
        assert (got.sums * got.scale - sums).abs().max() <= 1e-9 * size * largest
        assert (got.square_sums * got.scale**2 - squares).abs().max() <= 1e-9 * size * largest**2
        total = own.square().sum().item()
        assert (torch.from_numpy(got.gram) - gram).abs().max() <= 1e-9 * SAMPLES * total
        assert got.sqnorms == pytest.approx([piece.square().sum().item() for piece in pieces], abs=1e-9 * total)


@pytest.mark.parametrize(("cut", "announced"), [([7], True), ([4, 3], True), ([4, 3], False)], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_selected_gradient_is_the_weighted_mean(name, cut, announced):
    model, inputs, targets = network(name)
    gradients = oracle(model, inputs, targets)
    probe = Probe(model, {"stride_gram:3", "stride_sqnorms:3"})
    strides = measure(probe, model, inputs, targets, cut, announced).strides
    for parameter, own in gradients.items():
        sums = torch.stack([piece.sum(0).flatten() for piece in own.split(3)])
        sqnorms = [piece.square().sum().item() for piece in own.split(3)]
        assert strides[parameter].sqnorms == pytest.approx(sqnorms, rel=1e-9, abs=1e-9 * max(sqnorms))
        gram = torch.from_numpy(strides[parameter].gram)
        assert (gram - sums @ sums.T).abs().max() <= 1e-9 * SAMPLES * own.square().sum()
    first = next(iter(gradients))
    layers = {parameter.rpartition(".")[0] for parameter in gradients}
    chosen, of_first = (1, 0, 1), (0.5, 2, 0)
    selected = probe.select(dict.fromkeys(layers, chosen) | {first: of_first})
    for parameter, p in model.named_parameters():
        weights = torch.tensor(of_first if parameter == first else chosen, dtype=torch.float64)
        weights = weights.repeat_interleave(torch.tensor([3, 3, 1]))
        own = gradients[parameter]
        expected = torch.tensordot(weights, own, 1) / weights.sum()
        assert (selected[p] - expected).abs().max() <= 1e-9 * own.abs().max()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("announced", [True, False])
def test_passes_may_be_weighted_and_scaled_each_in_its_own_way(size, announced):
    r"""With weights $w_k$ the mean is $\sum_k w_kL_k/\sum_k w_k$, and sample i of pass k has its share of that."""
    model, inputs, targets = network("mlp")
    gradients, names = oracle(model, inputs, targets), dict(model.named_parameters())
    cut, weights, scales = (4, 1, 2), (3.0, 5.0, 0.5), (8.0, 1.0, 0.25)
    probe = Probe(
        model,
        {f"stride_gram:{size}", f"stride_sqnorms:{size}", f"stride_moments:{size}"}
        if announced
        else {f"stride_gram:{size}", f"stride_sqnorms:{size}"},
    )
    batches = zip(inputs.split(cut), targets.split(cut), strict=True)
    for batch, weight, scale in zip(batches, weights, scales, strict=True):
        with probe.measure(num_samples=len(batch[0]), weight=weight, loss_scale=scale, is_part=announced):
            (loss_of(model, batch) * scale).backward()
    strides = probe.read(reset=False).strides
    factors = [SAMPLES * weight / (sum(weights) * count) for weight, count in zip(weights, cut, strict=True)]
    factors = torch.tensor(factors, dtype=torch.float64).repeat_interleave(torch.tensor(cut))
    selection = [1.0, *[0.5] * (math.ceil(SAMPLES / size) - 1)]
    selected = probe.select(dict.fromkeys(gradients, selection))
    shares = torch.tensor(selection, dtype=torch.float64).repeat_interleave(size)[:SAMPLES]
    for parameter, own in gradients.items():
        got, rows = strides[parameter], (own.flatten(1).T * factors).T
        sums = torch.stack([piece.sum(0) for piece in rows.split(size)])
        assert got.gram.flatten() == pytest.approx((sums @ sums.T).flatten().tolist(), rel=1e-9, abs=1e-12)
        assert got.sqnorms == pytest.approx([piece.square().sum().item() for piece in rows.split(size)], rel=1e-9)
        mean = shares @ rows / shares.sum()
        assert (selected[names[parameter]].flatten() - mean).abs().max() <= 1e-12
        if announced:
            squares = torch.stack([piece.square().sum(0) for piece in rows.split(size)])
            assert (got.sums.flatten(1) * got.scale - sums).abs().max() <= 1e-12
            assert (got.square_sums.flatten(1) * got.scale**2 - squares).abs().max() <= 1e-12


class Branches(nn.Module):
    """Uses one of two layers in each pass."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 2), nn.Linear(3, 2, bias=False)
        self.turns_left = True

    def forward(self, x):
        return (self.left if self.turns_left else self.right)(x)


@pytest.mark.parametrize("announced", [True, False])
def test_a_parameter_of_some_passes_only_has_zeros_for_the_others(announced):
    torch.manual_seed(0)
    model, inputs = Branches().double(), torch.randn(5, 3, dtype=torch.float64)
    targets = torch.randint(2, (5,))
    names = [f"stride_{what}:2" for what in ("gram", "sqnorms", *(["moments"] if announced else []))]
    probe = Probe(model, {*names, "projection_variance"})
    rows = {name: [] for name, _ in model.named_parameters()}
    for _ in range(3):
        probe.reset()
        for model.turns_left, part in ((True, slice(0, 3)), (False, slice(3, 5))):
            share = len(inputs[part]) / 5
            with probe.measure(num_samples=len(inputs[part]), loss_scale=share, is_part=announced and part.stop < 5):
                (loss_of(model, (inputs[part], targets[part])) * share).backward()
    for index in range(5):
        model.turns_left = index < 3
        part = slice(index, index + 1)
        for name, own in oracle(model, inputs[part], targets[part]).items():
            rows[name].append(own[0].flatten())
    statistics = probe.read(reset=False)
    whole = torch.cat([torch.stack(own) for own in rows.values()], 1)
    assert statistics.projection_variance == pytest.approx((whole @ whole.mean(0)).var().item(), rel=1e-9)
    selected = probe.select(dict.fromkeys(rows, (1, 0, 1)))
    for name, parameter in model.named_parameters():
        own, got = torch.stack(rows[name]), statistics.strides[name]
        sums = torch.stack([piece.sum(0) for piece in own.split(2)])
        assert got.counts == (2, 2, 1)
        assert (torch.from_numpy(got.gram) - sums @ sums.T).abs().max() <= 1e-12
        assert got.sqnorms == pytest.approx([piece.square().sum().item() for piece in own.split(2)], abs=1e-12)
        assert (selected[parameter].flatten() - own[[0, 1, 4]].mean(0)).abs().max() <= 1e-12
        if announced:
            assert (got.sums.flatten(1) * got.scale - sums).abs().max() <= 1e-12
            assert got.square_sums.shape == got.sums.shape


def test_a_parameter_that_comes_later_has_its_pass_s_weight():
    torch.manual_seed(0)
    model, inputs = Branches().double(), torch.randn(4, 3, dtype=torch.float64)
    targets, weights = torch.randint(2, (4,)), (3.0, 5.0)
    probe = Probe(model, {"stride_gram:10"})
    for model.turns_left, weight, part in zip((True, False), weights, (slice(0, 2), slice(2, 4)), strict=True):
        with probe.measure(num_samples=2, weight=weight, is_part=part.stop < 4):
            loss_of(model, (inputs[part], targets[part])).backward()
    strides = probe.read().strides
    for name, parameter in model.named_parameters():
        assert strides[name].gram.item() == pytest.approx(
            4**2 * (parameter.grad * (3 if "left" in name else 5) / 8).square().sum().item(), rel=1e-9
        )


def small():
    model = nn.Linear(3, 2)
    return model, Probe(model, {"stride_gram:2"})


def test_a_layer_without_weights_is_left_out():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    probe = Probe(model, {"stride_gram:2"})
    with probe.measure(num_samples=4):
        model(torch.randn(4, 3)).mean().backward()
    probe.read(reset=False)
    assert probe.select({"1": (1, 0)}).keys() == set(model[1].parameters())


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1.0,), "1 numbers for the batch's 2 strides of 2 samples"),
        ((1.0, -1.0), "finite and not negative"),
        ((math.nan, 1.0), "finite and not negative"),
        ((math.inf, 1.0), "finite and not negative"),
    ],
)
def test_weights_that_are_none_are_refused(weights, message):
    model, probe = small()
    with probe.measure(num_samples=4):
        model(torch.randn(4, 3)).mean().backward()
    probe.read(reset=False)
    with pytest.raises(InvalidInputError, match=message):
        probe.select({"": weights})


def test_nothing_selected_is_no_gradient():
    model, probe = small()
    with probe.measure(num_samples=4):
        model(torch.randn(4, 3)).mean().backward()
    probe.read(reset=False)
    assert all(not grad.any() for grad in probe.select({"": (0, 0)}).values())


def test_unknown_names_are_refused():
    model, probe = small()
    with probe.measure(num_samples=4):
        model(torch.randn(4, 3)).mean().backward()
    probe.read(reset=False)
    with pytest.raises(InvalidInputError, match='"head", which is no layer and no parameter'):
        probe.select({"head": (1, 1)})


def test_selecting_without_strides_is_refused():
    model, probe = small()
    with pytest.raises(MeasurementError, match="strides were not measured"):
        probe.select({"": (1, 1)})
    with probe.measure(num_samples=4):
        model(torch.randn(4, 3)).mean().backward()
    probe.read()
    with pytest.raises(MeasurementError, match="reset=False"):
        probe.select({"": (1, 1)})


@pytest.mark.parametrize("name", ["stride_gram:0", "stride_gram:x", "stride_norm:4", "stride_gram:-1"])
def test_strides_of_no_size_are_refused(name):
    with pytest.raises(InvalidInputError, match=f'"{name}" is unknown: ask for "stride_gram:16"'):
        Probe(nn.Linear(3, 2), {name})


def test_strides_of_two_sizes_are_refused():
    with pytest.raises(InvalidInputError, match="strides of 4 and 16 samples are asked for at once"):
        Probe(nn.Linear(3, 2), {"stride_gram:16", "stride_moments:4"})


def test_a_part_of_the_samples_has_no_strides():
    with pytest.raises(InvalidInputError, match="strides are of the whole batch"):
        Probe(nn.Linear(3, 2), {"stride_gram:4"}, sample_fraction=0.5)
    probe = Probe(nn.Linear(3, 2), {"sample_sqnorm"}, sample_fraction=0.5)
    with pytest.raises(InvalidInputError, match="strides are of the whole batch"):
        probe.set_quantities({"stride_gram:4"})


def test_a_model_that_mixes_samples_has_no_strides():
    with pytest.raises(UnsupportedLayerError, match="strides of samples, among which a rule selects"):
        Probe(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), {"stride_gram:4"})


def test_strides_cannot_be_had_by_chunks():
    probe = Probe(nn.Linear(3, 2), {"stride_gram:4"}, estimator="chunks")
    with pytest.raises(UnsupportedLayerError, match="cannot be measured by chunks"), probe.measure(num_samples=4):
        pass
