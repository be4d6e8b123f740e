"""The probe against the slow oracle, and what it leaves, ignores and refuses."""

import copy
import gc
import logging
import math
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from gradbatch import Probe, Statistics
from gradbatch._types import QUANTITIES
from gradbatch.errors import InvalidInputError, MeasurementError, UnsupportedLayerError
from gradbatch.probe.reference import per_sample_gradients, reference_statistics

MOMENTS = ("grad_sqnorm", "sample_sqnorm", "grad_variance", "noise_scale")
OF_LAYERS = (
    *("position_sqnorm", "preconditioned_variance", "preconditioned_sqnorm"),
    *("descent_variance", "descent_sqnorm"),
)
DOUBLE = torch.float64


class Sequence(nn.Module):
    """Linear layers along a sequence, with an activation in place on the view that nn.Linear returns."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 8, dtype=DOUBLE)
        self.last = nn.Linear(8, 3, dtype=DOUBLE)

    def forward(self, x):
        return self.last(torch.relu_(self.first(x))).sum(1)


class Tied(nn.Module):
    """One parameter in two layers."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4, dtype=DOUBLE)
        self.b = nn.Linear(4, 4, dtype=DOUBLE)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


class Twice(nn.Module):
    """One layer called twice."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4, dtype=DOUBLE)

    def forward(self, x):
        return self.layer(torch.tanh(self.layer(x)))


class Outside(nn.Module):
    """A weight that is also used outside of its layer's forward."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3, dtype=DOUBLE)

    def forward(self, x):
        return self.layer(x) + 0.1 * (x @ self.layer.weight.T)


class Bypassed(Outside):
    """A layer whose forward is never called."""

    def forward(self, x):
        return F.linear(x, self.layer.weight, self.layer.bias)


class Keyword(Outside):
    """A layer that is called by keyword."""

    def forward(self, x):
        return self.layer(input=x)


class Centred(Outside):
    """Samples that meet in no layer, but in the arithmetic between layers."""

    def forward(self, x):
        hidden = self.layer(x)
        return hidden - hidden.mean(0)


class Folded(Outside):
    """Outputs whose leading axis holds positions as well."""

    def forward(self, x):
        return self.layer(x.repeat_interleave(2, 0))


class Checkpointed(Outside):
    """A segment that is recomputed in backward, by autograd passes of its own."""

    def forward(self, x):
        return checkpoint(self.layer, x.requires_grad_(), use_reentrant=True)


class Doubled(torch.autograd.Function):
    """An operation whose backward is written by hand."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return 2 * x @ weight.T

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        return 2 * grad @ weight, 2 * grad.T @ x


class ByHand(Outside):
    """A parameter in an operation that nobody taught the engine."""

    def forward(self, x):
        return Doubled.apply(x, self.layer.weight) + self.layer.bias


def mlp():
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).to(DOUBLE)


def data(*shape, classes=3):
    return torch.randn(*shape, dtype=DOUBLE), torch.randint(0, classes, (shape[0],))


def mean_loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def oracle(model, inputs, targets, *, loss=mean_loss):
    samples = [(inputs[i : i + 1], targets[i : i + 1]) for i in range(len(inputs))]
    return reference_statistics(per_sample_gradients(model, loss, samples))


def measured(probe, model, inputs, targets, cut):
    for x, y in zip(inputs.split(cut), targets.split(cut), strict=True):
        with probe.measure(num_samples=len(x)):
            mean_loss(model, (x, y)).backward()
    return probe.read()


def assert_equal(statistics, reference, rtol=1e-10):
    for name in MOMENTS:
        got, expected = getattr(statistics, name), getattr(reference, name)
        assert (got is None) == (expected is None), name
        if expected is not None:
            # The variance is a difference of the moments: its rounding is relative to them.
            assert got == pytest.approx(expected, rel=rtol), name


@pytest.mark.parametrize("cut", [[11], [1] * 11, [3, 1, 7], [10, 1]])
@pytest.mark.parametrize(("make", "shape"), [(mlp, (11, 6)), (Sequence, (11, 4, 5))])
def test_statistics_are_the_oracle_s_however_the_batch_is_cut(make, shape, cut):
    model = make()
    inputs, targets = data(*shape)
    statistics = measured(Probe(model, MOMENTS), model, inputs, targets, cut)
    assert statistics.num_samples == 11
    assert_equal(statistics, oracle(model, inputs, targets))


def test_a_loss_scaled_before_backward_changes_nothing():
    model = mlp()
    inputs, targets = data(9, 6)
    probe = Probe(model, MOMENTS)
    for x, y in zip(inputs.split([4, 5]), targets.split([4, 5]), strict=True):
        scale = 37.0 * len(x) / 9
        with probe.measure(num_samples=len(x), loss_scale=scale):
            (scale * mean_loss(model, (x, y))).backward()
    assert_equal(probe.read(), oracle(model, inputs, targets))


def test_parts_add_up_to_the_whole_and_are_the_oracle_s():
    model = mlp()
    inputs, targets = data(8, 6)
    groups = [[model[0].weight, model[2].weight], [model[0].bias, model[2].bias]]
    probe = Probe(model, {"sample_sqnorm", "grad_sqnorm", "layers", "groups"}, groups=groups)
    statistics = measured(probe, model, inputs, targets, [8])
    samples = [(inputs[i : i + 1], targets[i : i + 1]) for i in range(8)]
    gradients = per_sample_gradients(model, mean_loss, samples)  # order: 0.weight 0.bias 2.weight 2.bias
    for part, places in [
        (statistics.layers["0"], (0, 1)),
        (statistics.layers["2"], (2, 3)),
        (statistics.groups[0], (0, 2)),
        (statistics.groups[1], (1, 3)),
    ]:
        expected = reference_statistics([[sample[p] for p in places] for sample in gradients])
        assert part.sample_sqnorm == pytest.approx(expected.sample_sqnorm, rel=1e-10)
        assert part.grad_sqnorm == pytest.approx(expected.grad_sqnorm, rel=1e-10)
    assert sum(p.sample_sqnorm for p in statistics.layers.values()) == pytest.approx(statistics.sample_sqnorm)


def test_what_was_not_asked_for_is_none():
    model = mlp()
    inputs, targets = data(8, 6)
    statistics = measured(Probe(model, {"grad_variance"}), model, inputs, targets, [8])
    assert statistics.grad_variance is not None
    assert (statistics.sample_sqnorm, statistics.noise_scale, statistics.layers) == (None, None, None)


def test_one_sample_has_no_variance():
    model = mlp()
    statistics = measured(Probe(model, MOMENTS), model, *data(1, 6), [1])
    assert statistics.grad_variance is None
    assert statistics.sample_sqnorm == pytest.approx(statistics.grad_sqnorm, rel=1e-12)


def test_frozen_and_unobserved_parameters_are_left_out():
    model = mlp()
    model[0].bias.requires_grad_(False)
    inputs, targets = data(7, 6)
    assert_equal(measured(Probe(model, MOMENTS), model, inputs, targets, [7]), oracle(model, inputs, targets))
    head = Probe(model, MOMENTS, groups=[list(model[2].parameters())])
    samples = [(inputs[i : i + 1], targets[i : i + 1]) for i in range(7)]
    only_head = [gradient[-2:] for gradient in per_sample_gradients(model, mean_loss, samples)]
    assert_equal(measured(head, model, inputs, targets, [7]), reference_statistics(only_head))


PROJECTIONS = ("projection_variance", "diagonal_projection_variance", "momentum_projection")


def materialised(model, inputs, targets):
    """Per-sample gradients by parameter, [B, N]."""
    samples = [(inputs[i : i + 1], targets[i : i + 1]) for i in range(len(inputs))]
    gradients = per_sample_gradients(model, mean_loss, samples)
    return [torch.stack(grads).flatten(1) for grads in zip(*gradients, strict=True)]


def projections_of(rows, momentum):
    """The three quantities along the gradient, from their definitions, of gradients [B, N] and ρ·buffer [N]."""
    mean = rows.mean(0)
    return {
        "projection_variance": (rows @ mean).var().item(),
        "diagonal_projection_variance": (mean.square() * rows.var(0)).sum().item(),
        "momentum_projection": (mean @ (momentum + mean)).item(),
    }


class Convolved(nn.Module):
    """A convolution, a recurrent layer and a norm, one after the other."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv1d(4, 3, 2, dtype=DOUBLE)
        self.recurrent = nn.LSTM(3, 4, batch_first=True, dtype=DOUBLE)
        self.norm = nn.LayerNorm(4, dtype=DOUBLE)
        self.norm.weight.data.normal_()

    def forward(self, x):
        return self.norm(self.recurrent(self.convolution(x).mT)[1][0][0])


class TestProjections:
    @pytest.mark.parametrize("cut", [[11], [3, 1, 7], [1] * 11])
    @pytest.mark.parametrize(
        ("make", "shape"), [(mlp, (11, 6)), (Sequence, (11, 4, 5)), (Tied, (11, 4)), (Convolved, (11, 4, 5))]
    )
    def test_are_their_definitions_in_total_and_in_parts(self, make, shape, cut):
        model = make()
        inputs, targets = data(*shape)
        names = [name for name, _ in model.named_parameters()]
        parameters = list(model.parameters())
        groups = [parameters[::2], parameters[1::2]]
        momenta = [torch.randn_like(parameter) for parameter in parameters]
        momenta[1] = None  # a parameter that was never updated has no buffer
        probe = Probe(model, {*PROJECTIONS, "layers", "groups"}, groups=groups)
        for _ in range(2):  # the second time nothing is learned
            for x, y in zip(inputs.split(cut), targets.split(cut), strict=True):
                with probe.measure(num_samples=len(x)):
                    mean_loss(model, (x, y)).backward()
            statistics = probe.read(momenta=momenta)
            gradients = materialised(model, inputs, targets)
            layers = [name.rpartition(".")[0] for name in names]
            parts = {layer: [k for k, own in enumerate(layers) if own == layer] for layer in layers}
            assert set(statistics.layers) == set(parts)
            everything = range(len(names))
            expected = [
                (statistics, everything),
                *zip(statistics.groups, (everything[::2], everything[1::2]), strict=True),
            ]
            expected += [(statistics.layers[layer], places) for layer, places in parts.items()]
            for part, places in expected:
                rows = torch.cat([gradients[k] for k in places], 1)
                buffers = [momenta[k] if momenta[k] is not None else torch.zeros_like(parameters[k]) for k in places]
                for name, value in projections_of(rows, torch.cat([b.flatten() for b in buffers])).items():
                    assert getattr(part, name) == pytest.approx(value, rel=1e-9), name

    def test_without_momentum_the_gradient_meets_itself(self):
        model = mlp()
        statistics = measured(Probe(model, {"momentum_projection", "grad_sqnorm"}), model, *data(6, 6), [6])
        assert statistics.momentum_projection == statistics.grad_sqnorm > 0

    def test_by_chunks_only_what_needs_no_single_samples(self):
        model = mlp()
        statistics = measured(Probe(model, QUANTITIES, estimator="chunks"), model, *data(6, 6), [3, 3])
        assert [name for name in QUANTITIES if getattr(statistics, name) is None] == [
            *PROJECTIONS[:2],
            *OF_LAYERS,
        ]


class TestSampleFraction:
    @pytest.mark.parametrize("fraction", [0, -0.5, 1.5, float("nan")])
    def test_that_cannot_be(self, fraction):
        with pytest.raises(InvalidInputError, match="`sample_fraction` must be above 0 and at most 1, got"):
            Probe(mlp(), MOMENTS, sample_fraction=fraction)

    @pytest.mark.parametrize(("fraction", "looked_at"), [(0.5, [4, 2, 1]), (0.3, [3, 2, 1]), (1.0, [7, 4, 1])])
    def test_the_first_samples_of_each_pass_stand_for_all(self, fraction, looked_at):
        model = mlp()
        inputs, targets = data(12, 6)
        probe = Probe(model, {*MOMENTS, *PROJECTIONS}, sample_fraction=fraction)
        cut = [7, 4, 1]
        for _ in range(2):  # measurements 1, 2, 4 and perhaps 8 look at all
            measured(probe, model, *data(4, 6), [4])
        measured(probe, model, *data(8, 6), [4, 4])
        statistics = measured(probe, model, inputs, targets, cut)  # 5, 6 and 7
        rows = torch.cat(materialised(model, inputs, targets), 1)
        mean = rows.mean(0)
        firsts = [piece[:count] for piece, count in zip(rows.split(cut), looked_at, strict=True)]
        # Each pass's samples stand for all of the pass.
        second = sum(n * first.square().sum(1).mean() for n, first in zip(cut, firsts, strict=True)).item() / 12
        moment = sum(n * first.square().mean(0) for n, first in zip(cut, firsts, strict=True)) / 12
        assert statistics.sample_sqnorm == pytest.approx(second, rel=1e-10)
        variance = 12 / 11 * (second - mean.square().sum().item())
        assert statistics.grad_variance == pytest.approx(variance, rel=1e-10)
        diagonal = (mean.square() * 12 / 11 * (moment - mean.square())).sum().item()
        assert statistics.diagonal_projection_variance == pytest.approx(diagonal, rel=1e-10)
        spread = (torch.cat(firsts) @ mean).var().item()
        assert statistics.projection_variance == pytest.approx(spread, rel=1e-10)

    def test_where_the_engine_learns_all_are_looked_at(self):
        model = mlp()
        inputs, targets = data(8, 6)
        probe = Probe(model, {"sample_sqnorm"}, sample_fraction=0.5)
        whole = materialised(model, inputs, targets)
        half = sum(rows[:4].square().sum().item() for rows in whole) / 4
        for count in range(1, 10):
            statistics = measured(probe, model, inputs, targets, [8])
            expected = oracle(model, inputs, targets).sample_sqnorm if count in (1, 2, 4, 8) else half
            assert statistics.sample_sqnorm == pytest.approx(expected, rel=1e-10), count

    def test_it_is_unbiased(self):
        # Gradients of a linear loss are the inputs themselves: iid with a known covariance.
        model = nn.Linear(3, 1, bias=False, dtype=DOUBLE)
        deviations = torch.tensor([1.0, 2.0, 0.5], dtype=DOUBLE)
        probe = Probe(model, {"grad_variance"}, sample_fraction=0.25)
        estimates = []
        for _ in range(400):
            for n in (2, 9):
                with probe.measure(num_samples=n):
                    model(torch.randn(n, 3, dtype=DOUBLE) * deviations + 1).mean().backward()
            estimates.append(probe.read().grad_variance)
        estimates = torch.tensor(estimates)
        error = estimates.std() / 400**0.5
        assert abs(estimates.mean() - deviations.square().sum()) < 4 * error


class TestChunks:
    def test_pieces_of_one_sample_are_the_oracle(self):
        model = mlp()
        inputs, targets = data(6, 6)
        statistics = measured(Probe(model, MOMENTS, estimator="chunks"), model, inputs, targets, [1] * 6)
        assert_equal(statistics, oracle(model, inputs, targets))

    def test_uneven_pieces_follow_the_formula(self):
        model = mlp()
        inputs, targets = data(10, 6)
        cut = [1, 2, 3, 4]
        statistics = measured(Probe(model, MOMENTS, estimator="chunks"), model, inputs, targets, cut)
        pieces = list(zip(inputs.split(cut), targets.split(cut), strict=True))
        means = [torch.cat([g.flatten() for g in per_sample_gradients(model, mean_loss, [p])[0]]) for p in pieces]
        mean = sum(n * g for n, g in zip(cut, means, strict=True)) / 10
        expected = sum(n * (g - mean).square().sum() for n, g in zip(cut, means, strict=True)) / 3
        assert statistics.grad_variance == pytest.approx(expected.item(), rel=1e-10)
        assert statistics.grad_sqnorm == pytest.approx(mean.square().sum().item(), rel=1e-10)

    def test_it_is_unbiased_for_uneven_pieces(self):
        # Gradients of a linear loss are the inputs themselves: iid with a known covariance.
        model = nn.Linear(3, 1, bias=False, dtype=DOUBLE)
        deviations = torch.tensor([1.0, 2.0, 0.5], dtype=DOUBLE)
        probe, estimates = Probe(model, {"grad_variance"}, estimator="chunks"), []
        for _ in range(400):
            for n in (2, 3, 7):
                with probe.measure(num_samples=n):
                    model(torch.randn(n, 3, dtype=DOUBLE) * deviations + 1).mean().backward()
            estimates.append(probe.read().grad_variance)
        estimates = torch.tensor(estimates)
        error = estimates.std() / 400**0.5
        assert abs(estimates.mean() - deviations.square().sum()) < 4 * error

    def test_one_piece_says_nothing_of_the_variance(self):
        model = mlp()
        statistics = measured(Probe(model, MOMENTS, estimator="chunks"), model, *data(6, 6), [6])
        assert statistics.sample_sqnorm is None
        assert statistics.grad_variance is None
        assert statistics.grad_sqnorm is not None


def square_loss(model, batch):
    return model(batch[0]).square().sum(1).mean()


def assert_measured_by_layers(model, inputs, loss=square_loss, *, measurements=3, **options):
    """Every measurement, those included in which the engine learns, is the oracle's."""
    probe = Probe(model, MOMENTS, estimator="layers", **options)  # a fallback would raise
    slow = per_sample_gradients(model, loss, [(x,) for x in inputs.split(1)])
    for _ in range(measurements):
        model.zero_grad()
        with probe.measure(num_samples=len(inputs)):
            loss(model, (inputs,)).backward()
        assert_equal(probe.read(), reference_statistics([[g.to_dense() for g in sample] for sample in slow]))


class TestUsesOfEveryKind:
    """What a graph shows and a layer does not."""

    @pytest.mark.parametrize("make", [Tied, Twice, Outside, Bypassed, Keyword])
    def test_are_measured_exactly(self, make):
        assert_measured_by_layers(make(), torch.randn(5, 4, dtype=DOUBLE))

    @pytest.mark.parametrize(
        "make",
        [
            lambda: nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)),
            lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval(),
            lambda: nn.utils.spectral_norm(nn.Linear(4, 3)).eval(),
            lambda: parametrizations.weight_norm(nn.Linear(4, 3)),
        ],
        ids=["layer norm", "batch norm in evaluation", "older spectral norm", "weight norm"],
    )
    def test_of_layers_as_well(self, make):
        assert_measured_by_layers(make().to(DOUBLE), torch.randn(5, 4, dtype=DOUBLE))

    def test_of_a_table_with_sparse_gradients(self):
        model = nn.Embedding(7, 3, sparse=True, dtype=DOUBLE)
        assert_measured_by_layers(model, torch.tensor([1, 1, 2, 5, 6]))

    @pytest.mark.parametrize("size", [1e-1, 1e-6, 1e-9])
    def test_of_any_size(self, size):
        class Faint(Outside):
            def forward(self, x):
                return self.layer(x) + size * (x @ self.layer.weight.T)

        assert_measured_by_layers(Faint(), torch.randn(5, 4, dtype=DOUBLE))

    def test_that_begin_in_the_middle_of_training(self):
        class Growing(Outside):
            is_grown = False

            def forward(self, x):
                return super().forward(x) if self.is_grown else self.layer(x)

        model = Growing()
        inputs = torch.randn(5, 4, dtype=DOUBLE)
        probe = Probe(model, MOMENTS, estimator="layers")
        complete = []
        for count in range(1, 9):
            model.is_grown = count > 5
            with probe.measure(num_samples=5):
                square_loss(model, (inputs,)).backward()
            statistics = probe.read()
            complete.append(statistics.sample_sqnorm is not None)
            if complete[-1]:  # a use that is not known yet costs a batch its second moment, and never makes it wrong
                slow = per_sample_gradients(model, square_loss, [(x,) for x in inputs.split(1)])
                assert_equal(statistics, reference_statistics(slow))
        assert complete.count(False) <= 1


UNCOVERED = {
    "mixed": (Centred, square_loss, 'samples are mixed between parameter "layer.weight" and the output'),
    "folded": (
        Folded,
        square_loss,
        "the model returned (10, 3), no tensor whose leading axis counts the 5 samples",
    ),
    "penalised": (
        Bypassed,
        lambda m, b: square_loss(m, b) + 0.1 * m.layer.weight.square().sum(),
        'the per-sample gradients of parameter "layer.weight" do not add up to autograd\'s gradient',
    ),
    "reentrant": (Checkpointed, square_loss, "reentrant checkpointing hides its operations"),
    "by hand": (ByHand, square_loss, 'parameter "layer.weight" has no per-sample gradients: DoubledBackward'),
    "in parts": (Outside, lambda m, b: square_loss(m.layer, b), "was used outside of the model's forward"),
}


class TestFallingBack:
    @pytest.mark.parametrize(
        "norm",
        [nn.BatchNorm1d(3), nn.BatchNorm1d(3, affine=False), nn.BatchNorm1d(3, track_running_stats=False).eval()],
    )
    def test_a_layer_that_mixes_by_design_is_named_at_once(self, caplog, norm):
        model = nn.Sequential(nn.Linear(4, 3), norm).to(DOUBLE)
        why = 'layer "1" (BatchNorm1d) mixes samples'
        with caplog.at_level(logging.INFO, logger="gradbatch"):
            probe = Probe(model, MOMENTS)
            assert probe.estimator == "chunks"
            for _ in range(3):
                with probe.measure(num_samples=5):
                    square_loss(model, (torch.randn(5, 4, dtype=DOUBLE),)).backward()
        assert [why in record.message for record in caplog.records] == [True]
        with pytest.raises(UnsupportedLayerError, match=r'mixes samples.*use estimator="auto"'):
            Probe(model, MOMENTS, estimator="layers")

    @pytest.mark.parametrize("case", UNCOVERED)
    def test_what_cannot_be_told_apart_goes_by_chunks_and_says_why_once(self, caplog, case):
        make, loss, why = UNCOVERED[case]
        model = make()
        inputs = torch.randn(10, 4, dtype=DOUBLE)
        probe = Probe(model, MOMENTS)
        assert probe.estimator == "layers"
        assert self.measured(probe, model, inputs, loss, 5).sample_sqnorm is None  # measured in two ways
        assert probe.estimator == "chunks"
        assert self.measured(probe, model, inputs, loss, 5).sample_sqnorm is not None
        assert [why in record.message for record in caplog.records] == [True]
        if case != "mixed":
            plain = model.layer if case == "reentrant" else model  # `autograd.grad` does not see a reentrant segment
            slow = per_sample_gradients(plain, loss, [(x,) for x in inputs.split(1)])
            assert_equal(self.measured(probe, model, inputs, loss, 1), reference_statistics(slow))

    @pytest.mark.parametrize("case", UNCOVERED)
    def test_layers_on_demand_refuses_instead(self, case):
        make, loss, why = UNCOVERED[case]
        model = make()
        probe = Probe(model, MOMENTS, estimator="layers")
        with pytest.raises(UnsupportedLayerError) as refusal:
            self.measured(probe, model, torch.randn(10, 4, dtype=DOUBLE), loss, 5)
        assert why in str(refusal.value)
        assert 'use estimator="auto" or "chunks"' in str(refusal.value)

    @staticmethod
    def measured(probe, model, inputs, loss, cut):
        for x in inputs.split(cut):
            with probe.measure(num_samples=len(x)):
                loss(model, (x,)).backward()
        return probe.read()

    def test_a_compiled_model_says_so(self, caplog):
        model = torch.compile(nn.Linear(4, 3, dtype=DOUBLE), backend="aot_eager")
        probe = Probe(model, MOMENTS)
        for _ in range(2):
            statistics = self.measured(probe, model, torch.randn(10, 4, dtype=DOUBLE), square_loss, 5)
        assert probe.estimator == "chunks"
        assert statistics.sample_sqnorm is not None
        assert "the model is compiled (torch.compile), which hides its operations" in caplog.text

    @pytest.mark.parametrize("tokens", [24, 27, 29])  # of 30: as many of each sample by their number, or not
    def test_sequences_that_lose_their_padding_never_stop_training(self, tokens):
        class Unpadded(Outside):
            def forward(self, x):
                mask = x[..., 0] != 0
                out = x.new_zeros(*mask.shape, 3)
                out[mask] = self.layer(x[mask])
                return out.sum(1)

        model = Unpadded()
        probe = Probe(model, MOMENTS)
        for count in range(1, 5):
            inputs = torch.randn(6, 5, 4, dtype=DOUBLE)
            if count > 2:
                inputs.view(30, 4)[: 30 - tokens] = 0
            with probe.measure(num_samples=6):
                square_loss(model, (inputs,)).backward()
            statistics = probe.read()
            if count < 3 or (tokens != 24 and statistics.sample_sqnorm is not None):
                slow = per_sample_gradients(model, square_loss, [(x,) for x in inputs.split(1)])
                assert_equal(statistics, reference_statistics(slow))
        assert probe.estimator == "chunks"  # at the check of the fourth measurement at the latest

    @pytest.mark.parametrize("count", [5, 7])
    def test_a_number_of_samples_that_is_not_the_batch_s_is_an_error(self, count):
        model = mlp()
        before = TestLeavingNothing.traces(model)
        probe = Probe(model, MOMENTS)
        why = rf"`num_samples` is {count} and the model returned \(6, 3\): give"
        with pytest.raises(MeasurementError, match=why), probe.measure(num_samples=count):
            mean_loss(model, data(6, 6)).backward()
        assert TestLeavingNothing.traces(model) == before
        assert measured(probe, model, *data(6, 6), [6]).sample_sqnorm is not None  # and it works on

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_the_check_does_not_mistake_rounding_for_a_hidden_use(self, dtype):
        model = nn.Sequential(nn.Linear(300, 64), nn.ReLU(), nn.Linear(64, 1)).to(dtype)
        probe = Probe(model, MOMENTS, estimator="layers")  # a disagreement would raise
        for seed in range(20):
            probe._next_check = 1
            inputs = torch.randn(128, 300, generator=torch.Generator().manual_seed(seed)).to(dtype)
            with probe.measure(num_samples=128):
                # Targets that cancel the gradient almost: the mean is far smaller than its terms.
                (model(inputs) - model(inputs.roll(1, 0)).detach()).square().mean().backward()
        assert probe._next_check > 20


class TestOthers:
    def test_backward_passes_of_others_are_ignored(self):
        model = mlp()
        inputs, targets = data(6, 6)
        probe = Probe(model, MOMENTS)
        for _ in range(4):  # beyond the checked measurements
            model.zero_grad()
            with probe.measure(num_samples=6):
                inputs.requires_grad_(True)
                loss = mean_loss(model, (inputs, targets))
                torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
                torch.autograd.grad(loss, inputs, retain_graph=True)
                loss.backward()
            statistics = probe.read()
        assert probe.estimator == "layers"
        assert_equal(statistics, oracle(model, inputs.detach(), targets))

    def test_forward_passes_without_gradients_are_ignored(self):
        model = mlp()
        inputs, targets = data(6, 6)
        probe = Probe(model, MOMENTS)
        with probe.measure(num_samples=6):
            with torch.no_grad():
                model(torch.randn(50, 6, dtype=DOUBLE))
            loss = mean_loss(model, (inputs, targets))
            with torch.inference_mode():
                model(torch.randn(50, 6, dtype=DOUBLE))
            loss.backward()
        assert_equal(probe.read(), oracle(model, inputs, targets))

    def test_a_read_without_a_backward_of_its_own_is_an_error(self):
        model = mlp()
        probe = Probe(model, MOMENTS)
        with pytest.raises(MeasurementError, match=r"nothing was measured.*call backward"):
            probe.read()
        with probe.measure(num_samples=6):
            torch.autograd.grad(mean_loss(model, data(6, 6)), list(model.parameters()))
        with pytest.raises(MeasurementError, match="nothing was measured"):
            probe.read()

    def test_two_backward_passes_in_one_measurement_are_an_error(self):
        model = mlp()
        probe = Probe(model, MOMENTS)
        with pytest.raises(MeasurementError, match="2 backward passes"), probe.measure(num_samples=6):
            mean_loss(model, data(6, 6)).backward()
            mean_loss(model, data(6, 6)).backward()


class Encoder(nn.TransformerEncoderLayer):
    """A transformer layer that returns one vector a sample."""

    def __init__(self):
        super().__init__(6, 2, 8, dropout=0.3, batch_first=True, dtype=DOUBLE)

    def forward(self, x):
        return super().forward(x).sum(1)


def cnn():
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Dropout(), nn.Flatten(), nn.Linear(36, 3)).to(
        DOUBLE
    )


MODELS = {
    "mlp": (mlp, (6, 6)),
    "cnn": (cnn, (6, 2, 6, 5)),
    "lstm": (Convolved, (6, 4, 5)),
    "transformer layer": (Encoder, (6, 4, 6)),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Linear(6, 3, dtype=DOUBLE)), (6, 6)),
}


@pytest.mark.parametrize("name", MODELS)
class TestLeavingNothing:
    @staticmethod
    def traces(model):
        """All that somebody could hang on a model."""
        hooks = [
            {name: list(value) for name, value in vars(module).items() if name.endswith("_hooks")}
            for module in model.modules()
        ]
        parameters = [(p._backward_hooks, p._post_accumulate_grad_hooks) for p in model.parameters()]
        attributes = [sorted(vars(module)) for module in model.modules()]
        own = [sorted(vars(p)) for p in [*model.parameters(), *model.buffers()]]
        return hooks, [[bool(h) for h in pair] for pair in parameters], attributes, own

    @pytest.mark.parametrize("estimator", ["layers", "chunks"])
    def test_on_the_model(self, name, estimator):
        make, shape = MODELS[name]
        model = make()
        before, state = self.traces(model), copy.deepcopy(model.state_dict())
        probe = Probe(model, {*MOMENTS, *PROJECTIONS}, estimator=estimator)
        for _ in range(3):
            measured(probe, model, *data(*shape), [3, 3])
        assert self.traces(model) == before
        assert model.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())

    @pytest.mark.parametrize("where", ["forward", "backward", "module hook", "module backward hook", "parameter hook"])
    @pytest.mark.parametrize("measurement", [1, 3])  # the engine learns in the first, and not in the third
    def test_after_an_exception(self, name, where, measurement):
        make, shape = MODELS[name]
        model = make()
        probe = Probe(model, MOMENTS)
        for _ in range(measurement - 1):
            measured(probe, model, *data(*shape), [6])
        before = self.traces(model)

        def fail(*_):
            raise RuntimeError("the user's own")

        module = next(module for module in model.modules() if module._parameters)
        own = {
            "module hook": lambda: module.register_forward_hook(fail),
            "module backward hook": lambda: model.register_full_backward_hook(fail),
            "parameter hook": lambda: next(model.parameters()).register_hook(fail),
        }
        handle = own[where]() if where in own else None
        with pytest.raises(RuntimeError, match="the user's own"), probe.measure(num_samples=6):
            output = model(data(*shape)[0].requires_grad_())
            if where == "forward":
                fail()
            if where == "backward":
                output.register_hook(fail)
            output.sum().backward()
        if handle is not None:
            handle.remove()
        assert self.traces(model) == before
        with pytest.raises(MeasurementError, match="nothing was measured"):
            probe.read()
        statistics = measured(probe, model, *data(*shape), [6])  # and it works on
        assert statistics.num_samples == 6
        assert statistics.sample_sqnorm > 0
        assert probe.estimator == "layers"

    def test_gradients_and_outputs_are_the_same_bits(self, name):
        make, shape = MODELS[name]
        plain = make()
        probed = copy.deepcopy(plain)
        probe = Probe(probed, {*MOMENTS, *PROJECTIONS})
        inputs, targets = data(*shape)
        for seed in range(5):  # the engine learns in the first, the second and the fourth
            plain.zero_grad()
            probed.zero_grad()
            torch.manual_seed(seed)
            expected = plain(inputs)
            F.cross_entropy(expected, targets).backward()
            after = torch.get_rng_state()
            torch.manual_seed(seed)
            with probe.measure(num_samples=6):
                outputs = probed(inputs)
                F.cross_entropy(outputs, targets).backward()
            assert torch.equal(torch.get_rng_state(), after)
            assert torch.equal(outputs, expected)
            pairs = zip(plain.parameters(), probed.parameters(), strict=True)
            assert all(torch.equal(p.grad, q.grad) for p, q in pairs)
        assert probe.estimator == "layers"

    def test_parameter_hooks_of_the_user_s_own_are_called_once_a_backward(self, name):
        make, shape = MODELS[name]
        model = make()
        inputs, targets = data(*shape)
        calls = {parameter: [] for parameter in model.parameters()}
        for parameter, heard in calls.items():
            parameter.register_hook(heard.append)
        probe = Probe(model, {*MOMENTS, *PROJECTIONS})
        for count in range(1, 5):
            model.zero_grad()
            with probe.measure(num_samples=6):
                mean_loss(model, (inputs, targets)).backward()
            assert {len(heard) for heard in calls.values()} == {count}
            assert all(torch.equal(heard[-1], parameter.grad) for parameter, heard in calls.items())

    @pytest.mark.parametrize("kind", ["tensor hook", "module backward hook", "retained gradient"])
    def test_what_the_user_hears_of_activations_is_the_backward_alone(self, name, kind):
        make, shape = MODELS[name]
        model = make()
        inputs, targets = data(*shape)
        heard, kept = [], []

        def on_forward(module, args, output):
            if kind == "tensor hook":
                output.register_hook(heard.append)
            elif kind == "retained gradient":
                output.retain_grad()
                kept.append(output)

        if kind == "module backward hook":
            called = [child for child in model.children() if not isinstance(child, nn.ModuleDict)]
            module = called[-1] if called else model
            module.register_full_backward_hook(lambda module, grads, output_grads: heard.append(output_grads[0]))
        else:
            model.register_forward_hook(on_forward)
        probe = Probe(model, {*MOMENTS, *PROJECTIONS})
        for seed in range(4):
            torch.manual_seed(seed)
            F.cross_entropy(model(inputs.requires_grad_()), targets).backward()
            expected = [*heard, *(tensor.grad for tensor in kept)]
            heard.clear(), kept.clear()
            torch.manual_seed(seed)
            with probe.measure(num_samples=6):
                F.cross_entropy(model(inputs), targets).backward()
            got = [*heard, *(tensor.grad for tensor in kept)]
            heard.clear(), kept.clear()
            assert len(got) == len(expected) == 1
            assert torch.equal(got[0], expected[0])


class Mark:
    """What a node of a graph holds, so as to be seen to die with it."""


class TestKeepingNothing:
    @pytest.mark.parametrize("quantities", [MOMENTS, PROJECTIONS])
    def test_no_graph_outlives_its_step(self, quantities):
        model = mlp()
        probe = Probe(model, quantities)
        inputs, targets = data(6, 6)
        gc.disable()  # references alone must do
        try:
            for _ in range(5):
                model.zero_grad()
                with probe.measure(num_samples=6):
                    outputs = model(inputs)
                    loss = F.cross_entropy(outputs, targets)
                    loss.backward()
                marks = [Mark(), Mark()]
                outputs.grad_fn.metadata[Mark] = marks[0]
                outputs.grad_fn.next_functions[1][0].metadata[Mark] = marks[1]
                traces = [weakref.ref(thing) for thing in (outputs, loss, *marks)]
                probe.read()
                del outputs, loss, marks
                assert [trace() for trace in traces] == [None] * 4
        finally:
            gc.enable()

    @pytest.mark.parametrize("estimator", ["layers", "chunks"])
    def test_nothing_grows_over_many_steps(self, estimator):
        model = mlp()
        probe = Probe(model, {*MOMENTS, *PROJECTIONS}, estimator=estimator)
        inputs, targets = data(6, 6)

        def train(steps):
            for _ in range(steps):
                model.zero_grad()
                measured(probe, model, inputs, targets, [6])
            gc.collect()
            tensors = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
            return len(gc.get_objects()), tensors

        objects, tensors = train(200)
        later, later_tensors = train(1800)
        assert later_tensors == tensors
        assert later - objects < 50  # a leak of one object a step would be 1800


class TestWhatIsKeptOrCalledAgain:
    def test_a_graph_that_is_kept_says_nothing_later(self):
        model = mlp()
        batch = data(6, 6)
        probe = Probe(model, MOMENTS)
        with probe.measure(num_samples=6):
            loss = mean_loss(model, batch)
            loss.backward(retain_graph=True)
        first = probe.read()
        loss.backward()
        with pytest.raises(MeasurementError):
            probe.read()
        assert isinstance(first, Statistics)

    def test_a_second_read_is_an_error(self):
        model = mlp()
        probe = Probe(model, MOMENTS)
        measured(probe, model, *data(6, 6), [6])
        with pytest.raises(MeasurementError, match=r"nothing was measured since the last `read`"):
            probe.read()

    def test_a_read_that_keeps_joins_what_comes(self):
        model = mlp()
        inputs, targets = data(9, 6)
        probe = Probe(model, MOMENTS)
        with probe.measure(num_samples=4):
            mean_loss(model, (inputs[:4], targets[:4])).backward()
        assert_equal(probe.read(reset=False), oracle(model, inputs[:4], targets[:4]))
        assert_equal(measured(probe, model, inputs[4:], targets[4:], [5]), oracle(model, inputs, targets))

    def test_a_second_backward_through_a_kept_graph_in_one_measurement_is_an_error(self):
        model = mlp()
        probe = Probe(model, MOMENTS)
        with pytest.raises(MeasurementError, match="2 backward passes"), probe.measure(num_samples=6):
            loss = mean_loss(model, data(6, 6))
            loss.backward(retain_graph=True)
            loss.backward()


class TestBadInput:
    def test_unknown_quantity(self):
        with pytest.raises(InvalidInputError, match=r'"grad_norm" is unknown: choose from .*grad_sqnorm'):
            Probe(mlp(), {"grad_norm"})

    def test_every_quantity_can_be_measured(self):
        model = mlp()
        statistics = measured(Probe(model, QUANTITIES), model, *data(6, 6), [6])
        assert [name for name in QUANTITIES if getattr(statistics, name) is None] == [*OF_LAYERS[1:]]  # for want of a p

    def test_unknown_estimator(self):
        with pytest.raises(InvalidInputError, match=r'`estimator` must be .* got "?\'?exact'):
            Probe(mlp(), MOMENTS, estimator="exact")

    def test_nothing_trainable(self):
        model = mlp().requires_grad_(False)
        with pytest.raises(InvalidInputError, match=r"`model` has no trainable parameters"):
            Probe(model, MOMENTS)

    @pytest.mark.parametrize("count", [0, -1, 2.0, None])
    def test_no_number_of_samples(self, count):
        with pytest.raises(InvalidInputError, match=r"`num_samples` must be"):
            Probe(mlp(), MOMENTS).measure(num_samples=count)

    def test_measurements_within_measurements(self):
        probe = Probe(mlp(), MOMENTS)
        with probe.measure(num_samples=2), pytest.raises(MeasurementError, match="still open"):
            probe.measure(num_samples=2)


class TestThePathsThatAreRarelyTaken:
    """Each of these stands for a change of the source that no other test noticed."""

    @pytest.mark.parametrize("size", [1e-1, 1e-6, 1e-9])
    def test_a_hidden_use_is_seen_at_any_size_above_rounding(self, caplog, size):
        model = mlp()
        probe = Probe(model, MOMENTS)
        with probe.measure(num_samples=6):
            (mean_loss(model, data(6, 6)) + size * model[0].weight.square().sum()).backward()
        assert probe.estimator == "chunks"
        assert '"0.weight" do not add up' in caplog.text

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_a_gradient_that_is_not_finite_proves_nothing(self, bad):
        model = mlp()
        probe = Probe(model, MOMENTS)
        inputs, targets = data(6, 6)
        with probe.measure(num_samples=6):
            (mean_loss(model, (inputs, targets)) * bad).backward()
        assert probe.estimator == "layers"
        assert probe._next_check == 1  # the check is still to be made
        assert not probe.read().is_finite

    def test_a_hidden_use_that_begins_later_is_seen_at_a_later_check(self):
        model = mlp()
        probe = Probe(model, MOMENTS)
        for count in range(1, 9):
            with probe.measure(num_samples=6):
                penalty = 1e-3 * model[0].weight.square().sum()  # too small for a contradiction
                (mean_loss(model, data(6, 6)) + (penalty if count > 5 else 0)).backward()
            probe.read()
            assert (probe.estimator == "chunks") == (count == 8)

    def test_a_mean_longer_than_its_samples_allow_has_no_second_moment(self, caplog):
        model = mlp()
        inputs, targets = data(6, 6)
        probe = Probe(model, MOMENTS)
        probe._next_check = 100  # between two checks
        with probe.measure(num_samples=6):
            (mean_loss(model, (inputs, targets)) + 50 * model[0].weight.square().sum()).backward()
        statistics = probe.read()
        assert statistics.sample_sqnorm is None
        assert statistics.grad_sqnorm is not None
        assert "longer than its samples' gradients" in caplog.text
        assert probe._next_check == 0

    def test_a_graph_kept_from_one_measurement_does_not_speak_in_the_next(self):
        model = mlp()
        first, second = data(6, 6), data(6, 6)
        probe = Probe(model, MOMENTS)
        probe._next_check = 100
        with probe.measure(num_samples=6):
            kept = mean_loss(model, first)
        with probe.measure(num_samples=6):
            (mean_loss(model, second) + 0 * kept).backward()
        assert probe.estimator == "layers"
        assert_equal(probe.read(), oracle(model, *second))

    def test_hooks_are_gone_after_falling_back(self):
        model = Centred()
        before = TestLeavingNothing.traces(model)
        probe = Probe(model, MOMENTS)
        measurement = probe.measure(num_samples=5)
        measurement.begin()
        assert TestLeavingNothing.traces(model) != before
        measurement.backward(model(torch.randn(5, 4, dtype=DOUBLE)).square().mean())
        measurement.close()
        assert probe.estimator == "chunks"
        assert TestLeavingNothing.traces(model) == before
        measurement = probe.measure(num_samples=5)
        measurement.begin()
        assert not any(module._forward_hooks for module in model.modules())
        measurement.close(failed=True)
        assert TestLeavingNothing.traces(model) == before

    def test_a_fall_back_in_the_middle_of_a_batch_spoils_that_batch(self):
        model = mlp()
        probe = Probe(model, MOMENTS)
        for penalty in (0, 0, 0, 1, 0):  # the fourth measurement is checked
            with probe.measure(num_samples=5):
                (mean_loss(model, data(5, 6)) + penalty * model[0].weight.square().sum()).backward()
        assert probe.estimator == "chunks"
        assert probe.read().sample_sqnorm is None

    def test_an_exception_after_the_backward_keeps_the_pass_out(self):
        model = mlp()
        probe = Probe(model, MOMENTS)
        with pytest.raises(KeyboardInterrupt), probe.measure(num_samples=6):
            mean_loss(model, data(6, 6)).backward()
            mean_loss(model, data(6, 6)).backward()  # nor may this hide the interrupt
            raise KeyboardInterrupt
        with pytest.raises(MeasurementError, match="nothing was measured"):
            probe.read()

    @pytest.mark.parametrize("estimator", ["layers", "chunks"])
    def test_an_exception_in_backward_takes_parameter_hooks_off_too(self, estimator):
        model = mlp()
        before = TestLeavingNothing.traces(model)
        probe = Probe(model, MOMENTS, estimator=estimator)

        def fail(*_):
            raise RuntimeError("the user's own")

        with pytest.raises(RuntimeError, match="the user's own"), probe.measure(num_samples=6):
            output = model(data(6, 6)[0])
            output.register_hook(fail)
            output.sum().backward()
        assert TestLeavingNothing.traces(model) == before

    def test_half_precision_chunks_are_summed_in_single(self):
        model = nn.Linear(300, 1, bias=False, dtype=torch.float16)
        probe = Probe(model, {"grad_sqnorm", "sample_sqnorm"}, estimator="chunks")
        for _ in range(2):
            with probe.measure(num_samples=1):
                model(torch.full((1, 300), 30.0, dtype=torch.float16)).sum().backward()
        # 300 entries of 30^2: beyond half precision's largest number, 65504.
        assert probe.read().sample_sqnorm == pytest.approx(300 * 900.0)

    @pytest.mark.filterwarnings("ignore:Using backward")
    def test_arithmetic_is_plain_under_autocast_and_create_graph(self):
        model = nn.Linear(3, 2)
        inputs = torch.randn(4, 6, 3)
        expected = Probe(model, {"sample_sqnorm"})
        with expected.measure(num_samples=4):
            model(inputs).square().sum().div(4).backward()
        ambient = Probe(model, {"sample_sqnorm"})
        with ambient.measure(num_samples=4):
            loss = model(inputs).square().sum().div(4)
            with torch.autocast("cpu", torch.bfloat16):
                loss.backward(create_graph=True)
        model.zero_grad()  # a gradient with a graph refers to itself
        # Single precision's own rounding; bfloat16 products would be off by 1e-3.
        assert ambient.read().sample_sqnorm == pytest.approx(expected.read().sample_sqnorm, rel=1e-5)

    def test_sparse_gradients_by_chunks(self):
        model = nn.Embedding(7, 3, sparse=True, dtype=DOUBLE)
        probe = Probe(model, {"sample_sqnorm", "grad_sqnorm"}, estimator="chunks")
        for ids in ([1, 1, 2], [3, 4, 5]):
            with probe.measure(num_samples=3):
                (model(torch.tensor(ids)).sum() / 3).backward()
        # Sums of the pieces: row 1 twice and row 2 once, then three rows once, 3 columns each.
        first, second = 3 * (4 + 1), 3 * 3
        mean = (first + second) / 6**2
        spread = (first + second) / 3 - 6 * mean
        assert probe.read().sample_sqnorm == pytest.approx(mean + 5 / 6 * spread, rel=1e-12)

    def test_a_parameter_that_is_not_observed_beside_one_that_is(self):
        model = nn.Linear(4, 3, dtype=DOUBLE)
        probe = Probe(model, {"sample_sqnorm"}, groups=[[model.weight]])
        inputs = torch.randn(5, 4, dtype=DOUBLE)
        with probe.measure(num_samples=5):
            model(inputs).square().sum(1).mean().backward()
        samples = [(x,) for x in inputs.split(1)]
        slow = per_sample_gradients(model, lambda m, b: m(b[0]).square().sum(1).mean(), samples)
        expected = reference_statistics([gradient[:1] for gradient in slow])
        assert probe.read().sample_sqnorm == pytest.approx(expected.sample_sqnorm, rel=1e-10)

    def test_parts_of_nothing_are_refused(self):
        with pytest.raises(InvalidInputError, match="ask for parts and for nothing in them"):
            Probe(mlp(), {"layers"})


@pytest.mark.parametrize(
    ("norms", "how"), [("gram", "products between positions"), ("instantiate", "written out"), ("auto", "positions, ")]
)
def test_the_way_to_the_norms_can_be_chosen_and_is_logged(norms, how, caplog):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 3, 2), nn.ReLU(), nn.Conv1d(3, 2, 1)).double()
    inputs = torch.randn(4, 2, 5, dtype=torch.float64)
    values = []
    for way in (norms, "auto"):
        probe = Probe(model, {"sample_sqnorm"}, norms=way)
        with caplog.at_level("INFO", logger="gradbatch"), probe.measure(num_samples=4):
            model(inputs).square().mean().backward()
        values.append(probe.read().sample_sqnorm)
        if way == norms:
            assert how in next(record.message for record in caplog.records if "0.weight" in record.message)
    assert values[0] == pytest.approx(values[1], rel=1e-12)


def test_an_unknown_way_to_the_norms_is_refused():
    with pytest.raises(InvalidInputError, match='`norms` must be "auto", "gram" or "instantiate"'):
        Probe(nn.Linear(2, 1), {"sample_sqnorm"}, norms="fast")


class TestSlips:
    """What a user may get wrong in a loop that has long been measured."""

    def loop(self, steps=6):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        probe = Probe(model, {"grad_variance"})
        for _ in range(steps):
            self.step(probe, model, 8, 8)
        return probe, model

    @staticmethod
    def step(probe, model, told, true):
        with probe.measure(num_samples=told):
            model(torch.randn(true, 3, dtype=DOUBLE)).square().mean().backward()
        return probe.read()

    @pytest.mark.parametrize("told", [4, 7, 16])
    def test_another_number_of_samples_than_the_model_returns_is_an_error_at_any_time(self, told):
        probe, model = self.loop()
        with pytest.raises(MeasurementError, match=rf"`num_samples` is {told} and the model returned \(8, 2\)"):
            self.step(probe, model, told, 8)
        assert probe.estimator == "layers"
        assert self.step(probe, model, 5, 5).grad_variance > 0  # and nothing is lost

    @pytest.mark.parametrize("steps", [0, 6])
    def test_a_forward_outside_of_the_block_is_an_error(self, steps):
        probe, model = self.loop(steps)
        loss = model(torch.randn(8, 3, dtype=DOUBLE)).square().mean()
        with pytest.raises(MeasurementError, match="put the forward into the"), probe.measure(num_samples=8):
            loss.backward()
        assert probe.estimator == "layers"
        assert self.step(probe, model, 8, 8).grad_variance > 0

    @pytest.mark.parametrize("loss_scale", [0.0, -1.0, math.nan, math.inf])
    def test_a_loss_scale_that_is_none(self, loss_scale):
        probe, _ = self.loop(1)
        with pytest.raises(InvalidInputError, match="`loss_scale` must be positive and finite"):
            probe.measure(num_samples=8, loss_scale=loss_scale)

    def test_one_name_in_place_of_a_set(self):
        with pytest.raises(InvalidInputError, match='must be a set of names, got "noise_scale"'):
            Probe(nn.Linear(2, 1), "noise_scale")


@pytest.mark.parametrize("cut", [[6], [2, 4], [1, 5]], ids=str)
def test_preconditioned_moments_are_their_definitions(cut):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    inputs, targets = torch.randn(6, 5, dtype=DOUBLE), torch.randint(3, (6,))
    factors = [torch.rand_like(p) + 0.1 for p in model.parameters()]
    names = {f"{kind}_{moment}" for kind in ("preconditioned", "descent") for moment in ("variance", "sqnorm")}
    probe = Probe(model, names | {"layers"})
    for x, t in zip(inputs.split(cut), targets.split(cut), strict=True):
        with probe.measure(num_samples=len(x)):
            F.cross_entropy(model(x), t).backward()
    statistics = probe.read(preconditioners=factors)

    def loss_of(model, sample):
        return F.cross_entropy(model(sample[0]), sample[1])

    samples = list(zip(inputs.split(1), targets.split(1), strict=True))
    rows = [torch.stack(own).flatten(1) for own in zip(*per_sample_gradients(model, loss_of, samples), strict=True)]
    for kind, power in {"preconditioned": 1, "descent": 0.5}.items():
        weighted = [own * p.flatten() ** power for own, p in zip(rows, factors, strict=True)]
        for layer, own in {"0": weighted[:2], "2": weighted[2:], None: weighted}.items():
            got = statistics if layer is None else statistics.layers[layer]
            variance, sqnorm = (getattr(got, f"{kind}_{moment}") for moment in ("variance", "sqnorm"))
            assert variance == pytest.approx(sum(r.var(0).sum().item() for r in own), rel=1e-10)
            assert sqnorm == pytest.approx(sum(r.mean(0).square().sum().item() for r in own), rel=1e-10)


def test_a_parameter_without_a_preconditioner_leaves_none():
    model = nn.Linear(3, 2)
    probe = Probe(model, {"preconditioned_variance"})
    with probe.measure(num_samples=4):
        model(torch.randn(4, 3)).square().mean().backward()
    assert probe.read(preconditioners=[torch.ones(2, 3), None]).preconditioned_variance is None
