"""The probe against the slow oracle, and what it leaves, ignores and refuses."""

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradbatch import Probe, Statistics
from gradbatch.errors import InvalidInputError, MeasurementError, UnsupportedLayerError
from gradbatch.probe.reference import per_sample_gradients, reference_statistics

MOMENTS = ("grad_sqnorm", "sample_sqnorm", "grad_variance", "noise_scale")
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


class TestFallingBack:
    @pytest.mark.parametrize(
        ("model", "why"),
        [
            (nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)), 'parameter "1.weight" belongs to a LayerNorm'),
            (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), "mixes samples"),
            (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, affine=False)), "mixes samples"),
            (Tied(), "shared between layers"),
        ],
    )
    def test_a_model_that_is_not_covered_goes_by_chunks_and_says_why_once(self, caplog, model, why):
        with caplog.at_level(logging.INFO, logger="gradbatch"):
            probe = Probe(model, MOMENTS)
            assert probe.estimator == "chunks"
            for _ in range(3):
                with probe.measure(num_samples=5):
                    model.to(DOUBLE)(torch.randn(5, 4, dtype=DOUBLE)).square().sum().backward()
        assert [why in record.message for record in caplog.records] == [True]

    @pytest.mark.parametrize(
        ("model", "why"),
        [
            (Twice(), "called more than once"),
            (Outside(), "disagrees with autograd"),
            (Bypassed(), "outside of its layer"),
        ],
    )
    def test_uses_that_the_hooks_do_not_see_are_noticed(self, caplog, model, why):
        probe = Probe(model, MOMENTS)
        assert probe.estimator == "layers"
        with probe.measure(num_samples=5):
            model(torch.randn(5, 4, dtype=DOUBLE)).square().sum(1).mean().backward()
        assert probe.estimator == "chunks"
        assert why in caplog.text
        assert probe.read().sample_sqnorm is None  # this batch was not measured in one way
        statistics = self.by_single_samples(probe, model)
        assert statistics.sample_sqnorm is not None

    @staticmethod
    def by_single_samples(probe, model):
        inputs = torch.randn(4, 4, dtype=DOUBLE)
        for x in inputs.split(1):
            with probe.measure(num_samples=1):
                model(x).square().sum(1).mean().backward()
        statistics = probe.read()
        samples = [(x,) for x in inputs.split(1)]
        slow = per_sample_gradients(model, lambda m, b: m(b[0]).square().sum(1).mean(), samples)
        assert_equal(statistics, reference_statistics(slow))
        return statistics

    def test_samples_folded_into_another_axis_are_noticed(self, caplog):
        model = nn.Linear(4, 3, dtype=DOUBLE)
        probe = Probe(model, MOMENTS)
        with probe.measure(num_samples=5):
            model(torch.randn(5, 6, 4, dtype=DOUBLE).flatten(0, 1)).square().mean().backward()
        assert "does not count the 5 samples" in caplog.text
        assert probe.estimator == "chunks"

    def test_a_layer_called_by_keyword_is_noticed(self, caplog):
        model = nn.Linear(4, 3, dtype=DOUBLE)
        probe = Probe(model, MOMENTS)
        with probe.measure(num_samples=5):
            model(input=torch.randn(5, 4, dtype=DOUBLE)).square().mean().backward()
        assert "keyword" in caplog.text
        assert probe.estimator == "chunks"

    def test_layers_on_demand_refuses_instead(self):
        with pytest.raises(UnsupportedLayerError, match=r'"1.weight" belongs to a LayerNorm.*use estimator="auto"'):
            Probe(nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)), MOMENTS, estimator="layers")
        model = Outside()
        probe = Probe(model, MOMENTS, estimator="layers")
        with pytest.raises(UnsupportedLayerError, match="disagrees"), probe.measure(num_samples=5):
            model(torch.randn(5, 4, dtype=DOUBLE)).square().mean().backward()

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


class TestLeavingNothing:
    @staticmethod
    def traces(model):
        hooks = [(dict(m._forward_hooks), dict(m._backward_hooks), dict(m._forward_pre_hooks)) for m in model.modules()]
        parameters = [(p._backward_hooks, p._post_accumulate_grad_hooks) for p in model.parameters()]
        return str(hooks), str([[bool(h) for h in pair] for pair in parameters]), sorted(vars(model))

    @pytest.mark.parametrize("estimator", ["layers", "chunks"])
    def test_on_the_model(self, estimator):
        model = mlp()
        before, state = self.traces(model), copy.deepcopy(model.state_dict())
        probe = Probe(model, MOMENTS, estimator=estimator)
        for _ in range(3):
            measured(probe, model, *data(6, 6), [3, 3])
        assert self.traces(model) == before
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())

    @pytest.mark.parametrize("where", ["forward", "backward"])
    def test_after_an_exception(self, where):
        model = mlp()
        before = self.traces(model)
        probe = Probe(model, MOMENTS)

        def fail(*_):
            raise RuntimeError("the user's own")

        with pytest.raises(RuntimeError, match="the user's own"), probe.measure(num_samples=6):
            output = model(data(6, 6)[0])
            if where == "forward":
                fail()
            output.register_hook(fail)
            output.sum().backward()
        assert self.traces(model) == before
        with pytest.raises(MeasurementError, match="nothing was measured"):
            probe.read()
        statistics = measured(probe, model, *data(6, 6), [6])  # and it works on
        assert statistics.num_samples == 6

    def test_gradients_and_outputs_are_the_same_bits(self):
        plain, probed = mlp(), mlp()
        probed.load_state_dict(plain.state_dict())
        batch = data(6, 6)
        mean_loss(plain, batch).backward()
        probe = Probe(probed, MOMENTS)
        with probe.measure(num_samples=6):
            mean_loss(probed, batch).backward()
        assert all(torch.equal(p.grad, q.grad) for p, q in zip(plain.parameters(), probed.parameters(), strict=True))

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


class TestBadInput:
    def test_unknown_quantity(self):
        with pytest.raises(InvalidInputError, match=r'"grad_norm" is unknown: choose from .*grad_sqnorm'):
            Probe(mlp(), {"grad_norm"})
        with pytest.raises(InvalidInputError, match=r'"projection_variance" is not measured yet'):
            Probe(mlp(), {"projection_variance"})

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
        class Faint(Outside):
            def forward(self, x):
                return self.layer(x) + size * (x @ self.layer.weight.T)

        model = Faint()
        probe = Probe(model, MOMENTS)
        with probe.measure(num_samples=5):
            model(torch.randn(5, 4, dtype=DOUBLE)).square().sum(1).mean().backward()
        assert probe.estimator == "chunks"

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

    def test_a_use_that_begins_later_is_seen_at_a_later_check(self):
        model = Outside()
        probe = Probe(model, MOMENTS)
        for count in range(1, 9):
            with probe.measure(num_samples=5):
                output = (
                    model(torch.randn(5, 4, dtype=DOUBLE)) if count > 5 else model.layer(torch.randn(5, 4).double())
                )
                output.square().sum(1).mean().backward()
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
        model = Outside()
        probe = Probe(model, MOMENTS)
        measurement = probe.measure(num_samples=5)
        measurement.begin()
        measurement.backward(model(torch.randn(5, 4, dtype=DOUBLE)).square().mean())
        measurement.close()
        assert probe.estimator == "chunks"
        measurement = probe.measure(num_samples=5)
        measurement.begin()
        assert not model.layer._forward_hooks
        measurement.close(failed=True)

    def test_a_fall_back_in_the_middle_of_a_batch_spoils_that_batch(self):
        model = Twice()
        probe = Probe(model, MOMENTS)
        for module in (model.layer, model, model, model, model):  # the layer alone is covered, the model is not
            with probe.measure(num_samples=5):
                module(torch.randn(5, 4, dtype=DOUBLE)).square().sum(1).mean().backward()
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

    def test_sparse_gradients_go_by_chunks(self):
        model = nn.Embedding(7, 3, sparse=True, dtype=DOUBLE)
        probe = Probe(model, {"sample_sqnorm", "grad_sqnorm"})
        assert probe.estimator == "chunks"
        for ids in ([1, 1, 2], [3, 4, 5]):
            with probe.measure(num_samples=3):
                model(torch.tensor(ids)).sum().backward()
        assert probe.read().sample_sqnorm > 0

    def test_an_older_spectral_norm_is_not_covered(self):
        model = nn.utils.spectral_norm(nn.Linear(4, 3))
        assert Probe(model, MOMENTS).estimator == "chunks"

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
