"""Layers whose backward is written by hand, and the formulas that make them known."""

import pytest
import torch
from torch import nn

import gradbatch as gb
from gradbatch.errors import InvalidInputError, UnsupportedLayerError
from gradbatch.probe.own_layers import FORMULAS
from gradbatch.probe.reference import per_sample_gradients, reference_statistics

DOUBLE = torch.float64
MOMENTS = ("grad_sqnorm", "sample_sqnorm", "grad_variance", "noise_scale")


class Product(torch.autograd.Function):
    """A product with a kernel of its own, as it were."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return x @ weight.T + bias

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        return grad @ weight, grad.flatten(0, -2).T @ x.flatten(0, -2), grad.flatten(0, -2).sum(0)


class Own(nn.Module):
    """The layer around it."""

    def __init__(self, size=4):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, size, dtype=DOUBLE))
        self.bias = nn.Parameter(torch.randn(size, dtype=DOUBLE))

    def forward(self, x):
        return Product.apply(x, self.weight, self.bias)


class Kind(Own):
    """A subclass, which may compute something else."""


class Round(torch.autograd.Function):
    """Values that are rounded, and gradients that are passed on as they are."""

    @staticmethod
    def forward(ctx, x):
        return (4 * x).round() / 4

    @staticmethod
    def backward(ctx, grad):
        return grad


class Quantised(nn.Linear):
    """A layer with rounded weights, as in training for few bits."""

    def forward(self, x):
        return nn.functional.linear(x, Round.apply(self.weight), self.bias)


class Rounded(nn.Linear):
    """A layer with rounded outputs."""

    def forward(self, x):
        return Round.apply(super().forward(x))


def formula(layer, inputs, output_grads):
    """The per-sample gradients of `Own`, whatever positions a sample has."""
    x, grads = (t.reshape(len(t), -1, t.shape[-1]) for t in (inputs[0], output_grads))
    return {"weight": grads.mT @ x, "bias": grads.sum(1)}


@pytest.fixture(autouse=True)
def formulas():
    """The table of formulas, with what a test adds taken out again."""
    before = dict(FORMULAS)
    yield FORMULAS
    FORMULAS.clear()
    FORMULAS.update(before)


def between(*layers):
    return nn.Sequential(nn.Linear(3, 4, dtype=DOUBLE), *layers, nn.Linear(4, 2, dtype=DOUBLE))


def loss_of(model, batch):
    return model(batch[0]).square().flatten(1).sum(1).mean()


def train(model, inputs, *, estimator="auto", measurements=3):
    """The statistics of each measurement, and the probe."""
    probe = gb.Probe(model, MOMENTS, estimator=estimator)
    statistics = []
    for _ in range(measurements):
        model.zero_grad()
        with probe.measure(num_samples=len(inputs)):
            loss_of(model, (inputs,)).backward()
        statistics.append(probe.read())
    return statistics, probe


def assert_exact(model, inputs):
    expected = reference_statistics(per_sample_gradients(model, loss_of, [(x,) for x in inputs.split(1)]))
    for statistics in train(model, inputs, estimator="layers")[0]:
        for name in MOMENTS:
            got, value = getattr(statistics, name), getattr(expected, name)
            assert (got is None) == (value is None), name
            assert value is None or got == pytest.approx(value, rel=1e-10), name


class Twice(nn.Module):
    """One layer called twice in a forward."""

    def __init__(self):
        super().__init__()
        self.own = Own()

    def forward(self, x):
        return self.own(torch.tanh(self.own(x)))


class TestWithAFormula:
    @pytest.fixture(autouse=True)
    def registered(self, formulas):
        assert gb.register_formula(Own)(formula) is formula

    @pytest.mark.parametrize("shape", [(6, 3), (6, 5, 3), (1, 3)])
    def test_it_is_exact(self, shape):
        assert_exact(between(Own(), nn.Tanh(), Own()), torch.randn(shape, dtype=DOUBLE))

    @pytest.mark.parametrize("shape", [(6, 4), (6, 5, 4)])
    def test_a_layer_called_twice(self, shape):
        assert_exact(Twice(), torch.randn(shape, dtype=DOUBLE))

    @pytest.mark.parametrize("name", ["weight", "bias"])
    def test_a_frozen_parameter(self, name):
        model = between(Own())
        getattr(model[1], name).requires_grad_(False)
        assert_exact(model, torch.randn(6, 3, dtype=DOUBLE))

    @pytest.mark.parametrize("name", ["weight", "bias"])
    def test_a_parameter_that_is_not_observed(self, name):
        model = between(Own())
        groups = [[parameter for parameter in model.parameters() if parameter is not getattr(model[1], name)]]
        probe = gb.Probe(model, {"sample_sqnorm"}, groups=groups, estimator="layers")
        inputs = torch.randn(6, 3, dtype=DOUBLE)
        with probe.measure(num_samples=6):
            loss_of(model, (inputs,)).backward()
        slow = per_sample_gradients(model, loss_of, [(x,) for x in inputs.split(1)])
        kept = [k for k, (key, _) in enumerate(model.named_parameters()) if key != f"1.{name}"]
        expected = reference_statistics([[sample[k] for k in kept] for sample in slow])
        assert probe.read().sample_sqnorm == pytest.approx(expected.sample_sqnorm, rel=1e-10)

    def test_a_part_of_the_samples(self):
        model = between(Own())
        inputs = torch.randn(6, 3, dtype=DOUBLE)
        probe = gb.Probe(model, {"sample_sqnorm"}, estimator="layers", sample_fraction=0.5)
        for _ in range(3):  # the third looks at the first half
            with probe.measure(num_samples=6):
                loss_of(model, (inputs,)).backward()
            statistics = probe.read()
        slow = per_sample_gradients(model, loss_of, [(x,) for x in inputs[:3].split(1)])
        assert statistics.sample_sqnorm == pytest.approx(reference_statistics(slow).sample_sqnorm, rel=1e-10)

    def test_a_subclass_is_not_meant(self, caplog):
        probe = train(between(Kind()), torch.randn(6, 3, dtype=DOUBLE))[1]
        assert probe.estimator == "chunks"
        assert "ProductBackward" in caplog.text


class TestAFormulaThatIsWrong:
    def test_is_found_by_its_sum(self, caplog):
        gb.register_formula(Own)(lambda *given: {name: 2 * grads for name, grads in formula(*given).items()})
        statistics, probe = train(between(Own()), torch.randn(6, 3, dtype=DOUBLE))
        assert probe.estimator == "chunks"
        assert statistics[0].sample_sqnorm is None
        assert 'the registered formula gives for parameter "1.weight" do not add up' in caplog.text

    @pytest.mark.parametrize("missing", ["weight", "bias"])
    def test_and_lacks_a_parameter(self, missing):
        gb.register_formula(Own)(lambda *given: {k: v for k, v in formula(*given).items() if k != missing})
        with pytest.raises(InvalidInputError, match=missing):
            train(between(Own()), torch.randn(6, 3, dtype=DOUBLE))

    @pytest.mark.parametrize("change", [lambda grads: grads.sum(0), lambda grads: grads[:, :-1]])
    def test_and_has_another_shape(self, change):
        gb.register_formula(Own)(lambda *given: {name: change(grads) for name, grads in formula(*given).items()})
        with pytest.raises(InvalidInputError, match="weight"):
            train(between(Own()), torch.randn(6, 3, dtype=DOUBLE))


class TestWithoutAFormula:
    def test_a_backward_by_hand_goes_by_chunks_and_says_so(self, caplog):
        model = between(Own())
        statistics, probe = train(model, torch.randn(6, 3, dtype=DOUBLE))
        assert probe.estimator == "chunks"
        assert statistics[0].sample_sqnorm is None
        assert [("1." in r.message, "ProductBackward" in r.message) for r in caplog.records] == [(True, True)]
        with pytest.raises(UnsupportedLayerError, match='ProductBackward.*use estimator="auto"'):
            train(model, torch.randn(6, 3, dtype=DOUBLE), estimator="layers")

    def test_one_that_no_parameter_enters_is_no_matter(self):
        assert_exact(between(Rounded(4, 4, dtype=DOUBLE)), torch.randn(6, 3, dtype=DOUBLE))

    @pytest.mark.parametrize("shape", [(6, 3), (6, 5, 3)])
    def test_one_between_a_weight_and_its_use_never_stops_training(self, caplog, shape):
        model, inputs = between(Quantised(4, 4, dtype=DOUBLE)), torch.randn(shape, dtype=DOUBLE)
        statistics, probe = train(model, inputs)
        if probe.estimator == "layers":
            expected = reference_statistics(per_sample_gradients(model, loss_of, [(x,) for x in inputs.split(1)]))
            assert statistics[-1].sample_sqnorm == pytest.approx(expected.sample_sqnorm, rel=1e-10)
        else:
            assert "RoundBackward" in caplog.text
