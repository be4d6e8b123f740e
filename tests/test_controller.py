"""The controller: budgets, pieces, decisions applied, records, states, and what it refuses."""

import json
import logging
import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import gradbatch as gb
from gradbatch._types import QUANTITIES
from gradbatch.controller import MAX_SKIPPED_IN_A_ROW
from gradbatch.errors import InvalidInputError, MeasurementError, NonFiniteError, UnsupportedLayerError
from gradbatch.probe.reference import per_sample_gradients, reference_statistics

DOUBLE = torch.float64


@dataclass(frozen=True, kw_only=True)
class Sizes(gb.Rule[int]):
    """Given sizes in turn, and what to measure."""

    sizes: tuple[int, ...] = (10,)
    quantities: frozenset[str] = frozenset({"sample_sqnorm", "grad_sqnorm", "grad_variance"})
    lr_scale: float = 1.0

    def requires(self, progress):
        return self.quantities

    def init(self):
        return 0

    def update(self, statistics, progress, state):
        size = self.sizes[state % len(self.sizes)]
        return gb.Decision(batch_size=size, lr_scale=self.lr_scale, reason=f"turn {state}"), state + 1


@dataclass(frozen=True, kw_only=True)
class DrawUntil(gb.Rule[None]):
    """An in-step rule: draw ``more`` samples at a time until the batch holds ``enough``."""

    more: int
    enough: int
    in_step = True

    def requires(self, progress):
        return frozenset({"sample_sqnorm", "grad_sqnorm"})

    def init(self):
        return None

    def update(self, statistics, progress, state):
        is_enough = statistics.num_samples >= self.enough
        return gb.Decision(batch_size=self.more, step=is_enough), None


class Setup:
    """A small regression in double precision and a controller on it."""

    def __init__(self, rule=None, *, num_samples=40, batch_size=10, lr=0.1, model=None, optimizer=None, **options):
        torch.manual_seed(0)
        self.data = (torch.randn(num_samples, 3, dtype=DOUBLE), torch.randn(num_samples, 1, dtype=DOUBLE))
        self.model = model or nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(DOUBLE)
        self.optimizer = optimizer or torch.optim.SGD(self.model.parameters(), lr=lr)
        self.stream = gb.SampleStream(self.data, seed=1)
        self.controller = gb.Controller(
            rule or Sizes(), self.model, self.optimizer, self.stream, batch_size=batch_size, **options
        )

    def loss(self, inputs, targets, reduction="mean"):
        return F.mse_loss(self.model(inputs), targets, reduction=reduction)

    def train(self, *, reduction="mean", **budget):
        records = []
        for inputs, targets in self.controller.run(**budget):
            self.controller.backward(self.loss(inputs, targets, reduction), reduction=reduction)
            records.append(self.controller.step())
        return [record for record in records if record is not None]

    def weights(self):
        return [p.detach().clone() for p in self.model.parameters()]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class TestBudgets:
    def test_epochs_end_with_the_epoch_and_a_batch_never_crosses_it(self):
        setup = Setup(Sizes(sizes=(15, 7)), batch_size=15)
        sizes = [record.batch_size for record in setup.train(epochs=2)]
        assert sum(sizes) == 80
        assert sizes[:3] == [15, 15, 7]
        assert 40 in [sum(sizes[: k + 1]) for k in range(len(sizes))]
        assert setup.controller.record.epoch == 2.0

    def test_samples_are_exact_and_cut_the_last_batch(self):
        records = Setup().train(samples=37)
        assert [r.batch_size for r in records] == [10, 10, 10, 7]
        assert records[-1].requested == 10

    @pytest.mark.parametrize(
        ("num_samples", "batch_size", "expected"),
        [(22, 10, [10, 6, 6]), (20, 10, [10, 10]), (39, 10, [10, 10, 10, 9]), (31, 10, [10, 10, 6, 5]), (7, 7, [7])],
    )
    @pytest.mark.parametrize("budget", ["epochs", "samples"])
    def test_even_ends_leave_no_batch_below_half_of_a_constant_size(self, num_samples, batch_size, expected, budget):
        is_epoch = budget == "epochs"
        setup = Setup(num_samples=num_samples if is_epoch else 100, batch_size=batch_size, even_ends=True)
        records = setup.train(**{budget: 1 if is_epoch else num_samples})
        assert [r.batch_size for r in records] == expected
        assert {r.requested for r in records} == {batch_size}

    def test_even_ends_halve_what_an_in_step_rule_would_leave(self):
        rule = DrawUntil(more=10, enough=20)
        sizes = [r.batch_size for r in Setup(rule, num_samples=33, batch_size=32, even_ends=True).train(epochs=1)]
        assert sizes == [25, 8]  # 17 of 33, then 8 of the 16 that are left

    def test_a_resumed_run_ends_its_epochs_as_it_began_them(self):
        state = Setup(even_ends=True).controller.state_dict()
        with pytest.raises(InvalidInputError, match="even_ends=True and this controller has even_ends=False"):
            Setup().controller.load_state_dict(state)
        old = Setup().controller.state_dict()
        del old["even_ends"]
        Setup().controller.load_state_dict(old)

    def test_steps_count_updates_not_micro_batches(self):
        assert len(Setup(micro_batch_size=3).train(steps=6)) == 6

    def test_each_run_counts_from_where_training_stands(self):
        setup = Setup()
        setup.train(steps=3)
        setup.train(epochs=1)  # the rest of the epoch under way
        assert setup.controller.record.samples_seen == 40

    @pytest.mark.parametrize("budget", [{}, {"epochs": 0}, {"epochs": 1, "steps": 2}, {"samples": -5}, {"epochs": 1.5}])
    def test_not_one_budget(self, budget):
        with pytest.raises(InvalidInputError, match=r"`run` needs one budget, a whole number of at least 1.*got"):
            Setup().controller.run(**budget)


class TestPieces:
    @pytest.mark.parametrize("micro_batch_size", [1, 3, 4, 9, 10])
    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    def test_gradient_loss_and_statistics_do_not_depend_on_the_cut(self, micro_batch_size, reduction):
        whole, cut = Setup(num_samples=37), Setup(num_samples=37, micro_batch_size=micro_batch_size)
        for a, b in zip(whole.train(epochs=2), cut.train(epochs=2, reduction=reduction), strict=True):
            assert b.micro_batches == -(-b.batch_size // micro_batch_size)
            assert (a.batch_size, a.next_batch_size) == (b.batch_size, b.next_batch_size)
            for name in ("loss", "sample_sqnorm", "grad_sqnorm", "grad_variance"):
                assert getattr(b, name) == pytest.approx(getattr(a, name), rel=1e-10)
        for p, q in zip(whole.weights(), cut.weights(), strict=True):
            torch.testing.assert_close(q, p, rtol=1e-12, atol=1e-14)

    def test_micro_batches_are_no_larger_than_asked(self):
        setup = Setup(micro_batch_size=4)
        sizes = []
        for inputs, targets in setup.controller.run(steps=1):
            sizes.append(len(inputs))
            setup.controller.backward(setup.loss(inputs, targets))
            record = setup.controller.step()
            assert (record is None) == (len(sizes) < 3)
        assert sizes == [3, 3, 4]

    def test_chunks_cut_a_batch_in_four_only_where_something_is_measured(self):
        measured = Setup(estimator="chunks").train(steps=1)[0]
        assert measured.micro_batches == 4
        assert measured.grad_variance is not None
        assert Setup(gb.Fixed(), estimator="chunks").train(steps=1)[0].micro_batches == 1
        every = Setup(gb.Every(rule=Sizes(), steps=2), estimator="chunks").train(steps=4)
        assert [record.micro_batches for record in every] == [4, 1, 4, 1]

    def test_statistics_are_the_oracle_s(self):
        setup = Setup(gb.CABS(), micro_batch_size=3)
        batch, before = [], setup.weights()
        for inputs, targets in setup.controller.run(steps=1):
            batch.append((inputs, targets))
            setup.controller.backward(setup.loss(inputs, targets))
            setup.controller.step()
        with torch.no_grad():
            for parameter, value in zip(setup.model.parameters(), before, strict=True):
                parameter.copy_(value)
        samples = [(x[i : i + 1], y[i : i + 1]) for x, y in batch for i in range(len(x))]
        gradients = per_sample_gradients(setup.model, lambda m, s: F.mse_loss(m(s[0]), s[1]), samples)
        expected = reference_statistics(gradients)
        assert setup.controller.record.sample_sqnorm == pytest.approx(expected.sample_sqnorm, rel=1e-10)
        assert setup.controller.record.grad_sqnorm == pytest.approx(expected.grad_sqnorm, rel=1e-10)


class TestDecisions:
    def test_the_next_size_holds_at_the_next_step(self):
        records = Setup(Sizes(sizes=(5, 8, 3)), num_samples=1000).train(steps=5)
        assert [r.batch_size for r in records] == [10, 5, 8, 3, 5]
        assert [r.requested for r in records] == [10, 5, 8, 3, 5]
        assert [r.next_batch_size for r in records] == [5, 8, 3, 5, 8]
        assert records[1].reason == "turn 1"

    @pytest.mark.parametrize("as_tensor", [False, True])
    def test_the_learning_rate_is_borrowed(self, as_tensor):
        lr = torch.tensor(0.1, dtype=DOUBLE) if as_tensor else 0.1
        scaled, plain = Setup(Sizes(lr_scale=0.5), lr=lr), Setup(Sizes(), lr=0.05)
        record = scaled.train(steps=3)[-1]
        plain.train(steps=3)
        for p, q in zip(scaled.weights(), plain.weights(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=0)
        assert float(scaled.optimizer.param_groups[0]["lr"]) == 0.1
        assert (record.lr, record.lr_scale) == (0.1, 0.5)

    def test_an_in_step_rule_draws_before_it_updates(self):
        drawn, plain = Setup(DrawUntil(more=4, enough=18)), Setup(Sizes(sizes=(18,)), batch_size=18)
        record = drawn.train(steps=1)[0]
        expected = plain.train(steps=1)[0]
        assert (record.batch_size, record.micro_batches) == (18, 3)
        for name in ("loss", "sample_sqnorm", "grad_sqnorm"):
            assert getattr(record, name) == pytest.approx(getattr(expected, name), rel=1e-12)
        for p, q in zip(drawn.weights(), plain.weights(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-15)

    def test_an_in_step_rule_updates_with_what_it_has_at_an_epoch_s_or_budget_s_end(self):
        assert [r.batch_size for r in Setup(DrawUntil(more=30, enough=100)).train(epochs=1)] == [40]
        assert [r.batch_size for r in Setup(DrawUntil(more=30, enough=100)).train(samples=25)] == [25]

    def test_clipping_comes_after_the_statistics(self):
        clipped, plain = Setup(clip_grad_norm=1e-3), Setup()
        before = clipped.weights()
        a, b = clipped.train(steps=1)[0], plain.train(steps=1)[0]
        assert a.grad_sqnorm == b.grad_sqnorm > 1e-6
        moved = sum((p - q).square().sum() for p, q in zip(clipped.weights(), before, strict=True))
        # clip_grad_norm_ divides by (norm + 1e-6).
        assert moved.sqrt().item() == pytest.approx(0.1 * 1e-3, rel=1e-4)

    def test_shadows_are_asked_and_not_obeyed(self):
        shadows = [gb.CABS(min_batch_size=1), Sizes(sizes=(3,)), Sizes(sizes=(4,))]
        shadowed, plain = Setup(gb.Fixed(), shadows=shadows), Setup(gb.Fixed())
        driven = Setup(gb.CABS(min_batch_size=1))
        records = shadowed.train(epochs=2)
        plain.train(epochs=2)
        assert {record.batch_size for record in records} == {10}
        assert same(shadowed.weights(), plain.weights())
        first = driven.train(steps=1)[0]
        assert records[0].shadows == {"CABS": first.next_batch_size, "Sizes": 3, "Sizes-2": 4}

    def test_several_parameter_groups_reach_the_rule(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(DOUBLE)
        groups = [{"params": model[0].parameters(), "lr": 2.0}, {"params": model[2].parameters(), "lr": 0.5}]
        rule = gb.CABS(decay=0.0, min_batch_size=1)
        setup = Setup(rule, model=model, optimizer=torch.optim.SGD(groups), micro_batch_size=10)
        inputs, targets = next(iter(setup.controller.run(steps=1)))
        samples = [(inputs[i : i + 1], targets[i : i + 1]) for i in range(10)]
        gradients = per_sample_gradients(model, lambda m, s: F.mse_loss(m(s[0]), s[1]), samples)
        parts = [
            reference_statistics([g[:2] for g in gradients]),
            reference_statistics([g[2:] for g in gradients]),
        ]
        variances = [part.sample_sqnorm - part.grad_sqnorm for part in parts]
        loss = F.mse_loss(model(inputs), targets).item()
        record = setup.train(steps=1)[0]
        assert record.next_batch_size == max(1, round((2.0 * variances[0] + 0.5 * variances[1]) / loss))

    def test_gradients_can_be_looked_at_after_a_step(self):
        setup = Setup()
        setup.train(steps=1)
        norm = sum(p.grad.square().sum() for p in setup.model.parameters()).item()
        assert norm == pytest.approx(setup.controller.record.grad_sqnorm, rel=1e-12)


class TestNotFinite:
    def poisoned(self, bad, rule=None, **options):
        setup = Setup(rule or gb.CABS(min_batch_size=1), **options)
        records = []
        for step, (inputs, targets) in enumerate(setup.controller.run(steps=6)):
            loss = setup.loss(inputs, targets)
            setup.controller.backward(loss * float("nan") if step in bad else loss)
            before = setup.weights()
            records.append(setup.controller.step())
            assert same(before, setup.weights()) == (step in bad)
        return setup, records

    @pytest.mark.parametrize("rule", [None, gb.Fixed()])
    def test_a_nan_loss_skips_the_update_and_holds_the_size(self, caplog, rule):
        setup, records = self.poisoned({2}, rule)
        assert [r.skipped for r in records] == [False, False, True, False, False, False]
        assert records[2].next_batch_size == records[2].requested
        assert "not finite" in records[2].reason
        assert records[2].to_dict()["loss"] is None
        assert "update 2 was skipped, since the loss was nan" in caplog.text
        assert json.dumps(setup.controller.state_dict(), allow_nan=False)  # no nan in an average

    def test_gradients_that_are_not_finite_are_found_by_clipping_too(self):
        setup = Setup(gb.Fixed(), clip_grad_norm=1.0)
        before = setup.weights()
        for inputs, targets in setup.controller.run(steps=1):
            output = setup.model(inputs)
            output.register_hook(lambda grad: grad * float("inf"))
            setup.controller.backward(F.mse_loss(output, targets))
            record = setup.controller.step()
        assert record.skipped
        assert record.loss < 10
        assert same(before, setup.weights())

    def test_skipping_all_the_time_stops(self):
        setup = Setup()
        with pytest.raises(NonFiniteError, match=r"the loss was nan .* 10 times in a row: lower the learning rate"):
            for inputs, targets in setup.controller.run(steps=100):
                setup.controller.backward(setup.loss(inputs, targets) * float("nan"))
                setup.controller.step()
        assert setup.controller.record.step == MAX_SKIPPED_IN_A_ROW - 1


class TestScaler:
    def test_statistics_and_updates_are_those_of_unscaled_gradients(self):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        scaled, plain = (
            Setup(gb.CABS(), scaler=scaler, micro_batch_size=4),
            Setup(gb.CABS(), micro_batch_size=4),
        )
        for a, b in zip(scaled.train(steps=5), plain.train(steps=5), strict=True):
            for name in ("loss", "sample_sqnorm", "grad_sqnorm"):
                assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-10)
        for p, q in zip(scaled.weights(), plain.weights(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-9)  # the scaler unscales in single precision

    @pytest.mark.parametrize("rule", [gb.Fixed(), gb.CABS()])
    def test_an_overflow_is_a_skipped_update_and_shrinks_the_scale(self, rule):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        setup = Setup(rule, scaler=scaler)
        before = setup.weights()
        for inputs, targets in setup.controller.run(steps=1):
            output = setup.model(inputs)
            output.register_hook(lambda grad: grad * float("inf"))
            setup.controller.backward(F.mse_loss(output, targets))
            assert setup.controller.step().skipped
        assert same(before, setup.weights())
        assert scaler.get_scale() == 512.0

    def test_not_with_an_in_step_rule(self):
        with pytest.raises(InvalidInputError, match="`scaler` cannot go with DrawUntil"):
            Setup(DrawUntil(more=1, enough=2), scaler=torch.amp.GradScaler("cpu"))


class TestState:
    @pytest.mark.parametrize("stop", [1, 3, 6, 7, 11])
    def test_a_resumed_run_is_the_run(self, stop):
        rule = gb.Warmup(rule=gb.CABS(decay=0.5, min_batch_size=3), steps=2)
        whole = Setup(rule, micro_batch_size=4, shadows=[gb.CABS()], lr=1.0)
        first = Setup(rule, micro_batch_size=4, shadows=[gb.CABS()], lr=1.0)
        expected = whole.train(steps=12)
        first.train(steps=stop)
        state = json.loads(json.dumps(first.controller.state_dict()))
        second = Setup(rule, micro_batch_size=4, shadows=[gb.CABS()], lr=1.0)
        second.model.load_state_dict(first.model.state_dict())
        second.controller.load_state_dict(state)
        for a, b in zip(second.train(steps=12 - stop), expected[stop:], strict=True):
            a, b = a.to_dict(), b.to_dict()
            assert a.pop("seconds") > 0
            assert b.pop("seconds") > 0
            assert a == b
        assert same(second.weights(), whole.weights())

    def test_samples_of_a_loop_that_was_left_are_given_again(self):
        setup = Setup(micro_batch_size=5)
        setup.train(steps=1)
        seen = []
        for inputs, targets in setup.controller.run(steps=5):
            seen.append(inputs)
            if len(seen) == 2:
                break
            setup.controller.backward(setup.loss(inputs, targets))
            setup.controller.step()
        again = next(iter(setup.controller.run(steps=5)))[0]
        assert torch.equal(again, seen[0])
        assert setup.controller.state_dict()["samples_seen"] == 10

    def test_another_rule_s_state_is_refused(self):
        state = Setup(gb.CABS()).controller.state_dict()
        with pytest.raises(InvalidInputError, match=r"`state` has rule='CABS' and this controller has rule='Fixed'"):
            Setup(gb.Fixed()).controller.load_state_dict(state)
        with pytest.raises(InvalidInputError, match="version=None"):
            Setup(gb.Fixed()).controller.load_state_dict({})


class TestWrongOrder:
    def test_step_without_backward(self):
        setup = Setup()
        with pytest.raises(MeasurementError, match="`step` comes after `backward`"):
            setup.controller.step()
        next(iter(setup.controller.run(steps=1)))
        with pytest.raises(MeasurementError, match="`step` comes after `backward`"):
            setup.controller.step()

    def test_backward_without_a_micro_batch(self):
        setup = Setup()
        with pytest.raises(MeasurementError, match=r"`backward` needs a micro-batch"):
            setup.controller.backward(setup.loss(*setup.data))

    def test_backward_twice(self):
        setup = Setup()
        for inputs, targets in setup.controller.run(steps=1):
            setup.controller.backward(setup.loss(inputs, targets))
            with pytest.raises(MeasurementError, match="takes each once"):
                setup.controller.backward(setup.loss(inputs, targets))
            setup.controller.step()

    def test_a_loop_that_forgets_backward_or_step(self):
        setup = Setup()
        with pytest.raises(MeasurementError, match="before `backward`"):
            for _ in setup.controller.run(steps=2):
                pass
        with pytest.raises(MeasurementError, match="before `step`"):
            for inputs, targets in setup.controller.run(steps=2):
                setup.controller.backward(setup.loss(inputs, targets))


class TestBadInput:
    @pytest.mark.parametrize("size", [0, -3, 41, 2.5, True])
    @pytest.mark.parametrize("name", ["batch_size", "micro_batch_size"])
    def test_sizes(self, name, size):
        message = rf"`{name}` must be a whole number of samples from 1 to the data set's 40, got {size}"
        with pytest.raises(InvalidInputError, match=message):
            Setup(**{name: size})

    def test_a_loss_that_is_no_scalar(self):
        setup = Setup()
        loop = setup.controller.run(steps=1)
        inputs, targets = next(loop)
        message = r"`loss` must be a scalar tensor, got a tensor of shape \(10, 1\): take the mean"
        with pytest.raises(InvalidInputError, match=message):
            setup.controller.backward(setup.loss(inputs, targets, "none"))
        with pytest.raises(InvalidInputError, match="got 0.5"):
            setup.controller.backward(0.5)
        with pytest.raises(InvalidInputError, match="`loss` has no graph"):
            setup.controller.backward(torch.tensor(1.0))
        with pytest.raises(InvalidInputError, match="`reduction` must be"):
            setup.controller.backward(setup.loss(inputs, targets), reduction="none")
        setup.controller.backward(setup.loss(inputs, targets))  # nothing is lost
        assert setup.controller.step().batch_size == 10

    def test_a_model_without_trainable_parameters(self):
        model = nn.Linear(3, 1, dtype=DOUBLE)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model.requires_grad_(False)
        with pytest.raises(InvalidInputError, match=r"`model` has no trainable parameters: set requires_grad=True"):
            Setup(model=model, optimizer=optimizer)

    def test_an_optimizer_of_another_model(self):
        other = torch.optim.SGD(nn.Linear(3, 1).parameters(), lr=0.1)
        with pytest.raises(InvalidInputError, match="holds 2 parameters and none of the 4 trainable ones"):
            Setup(optimizer=other)

    def test_no_rule_no_stream_no_clip(self):
        with pytest.raises(InvalidInputError, match=r"`rule` must be a rule such as gradbatch.CABS\(\), got 'cabs'"):
            Setup("cabs")
        setup = Setup()
        with pytest.raises(InvalidInputError, match=r"`stream` must be a SampleStream, got tuple: wrap it"):
            gb.Controller(gb.Fixed(), setup.model, setup.optimizer, setup.data, batch_size=1)
        with pytest.raises(InvalidInputError, match="`clip_grad_norm` must be positive, got -1"):
            Setup(clip_grad_norm=-1.0)

    def test_a_layer_that_cannot_be_measured_as_asked_is_refused_at_once(self):
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).to(DOUBLE)
        with pytest.raises(UnsupportedLayerError, match=r'layer "1" \(BatchNorm1d\) mixes samples'):
            Setup(gb.CABS(), model=model, estimator="layers")

    def test_an_optimizer_step_of_the_user_s_own(self):
        setup = Setup()
        run = setup.controller.run(steps=1)
        setup.controller.backward(setup.loss(*next(run)))
        setup.optimizer.step()
        with pytest.raises(MeasurementError, match=r"leave out `optimizer.step\(\)`"):
            setup.controller.step()

    def test_a_rule_whose_statistics_the_model_cannot_give(self):
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).to(DOUBLE)
        with pytest.raises(UnsupportedLayerError, match="the rule needs diagonal_projection_variance, and of this"):
            Setup(gb.BA(m0=4), model=model)
        # A shadow is only asked: what it lacks does not stop training.
        setup = Setup(gb.Fixed(), model=model, shadows=[gb.InnerProductTest()])
        assert len(setup.train(steps=2)) == 2

    def test_what_is_no_set_of_quantities(self):
        class Says(Sizes):
            def requires(self, progress):
                return "loss"

        with pytest.raises(
            InvalidInputError, match="Says.requires answered with 'loss': it must return a set of names"
        ):
            Setup(Says())

    def test_what_is_no_state(self):
        with pytest.raises(InvalidInputError, match="`state` must be what `state_dict` returned, got None"):
            Setup().controller.load_state_dict(None)

    def test_a_rule_that_answers_with_no_size(self):
        with pytest.raises(InvalidInputError, match="Sizes answered with batch_size='many'"):
            Setup(Sizes(sizes=("many",))).train(steps=1)


class TestAbsurdAnswers:
    def test_the_last_good_size_is_held_counted_and_logged(self, caplog):
        setup = Setup(Sizes(sizes=(8, math.nan, 0, 12)), batch_size=4)
        records = setup.train(steps=4)
        assert [record.next_batch_size for record in records] == [8, 8, 8, 12]
        assert [record.numbers.get("held") for record in records] == [None, 1.0, 1.0, None]
        assert records[1].reason == "held: Sizes answered with batch_size=nan (turn 1)"
        assert setup.controller.num_held == 2
        assert setup.controller.state_dict()["num_held"] == 2
        assert [record.levelname for record in caplog.records] == ["WARNING"]  # the second is only counted

    def test_the_last_learning_rate_scale_is_held_too_also_after_a_resume(self):
        setup = Setup(Sizes(sizes=(8, math.nan, 8, math.nan), lr_scale=0.5), batch_size=4)
        assert [record.lr_scale for record in setup.train(steps=3)] == [0.5, 0.5, 0.5]
        resumed = Setup(Sizes(sizes=(8, math.nan, 8, math.nan), lr_scale=0.5), batch_size=4)
        resumed.controller.load_state_dict(setup.controller.state_dict())
        assert [record.lr_scale for record in resumed.train(steps=1)] == [0.5]


class TestAtABudgetsEnd:
    def test_a_rule_that_would_have_drawn_more_says_nothing_of_the_next_batch(self):
        setup = Setup(DrawUntil(more=4, enough=18), batch_size=10)
        record = setup.train(samples=14)[-1]
        assert (record.batch_size, record.requested, record.next_batch_size) == (14, 10, 10)


class TestFallingBack:
    def test_training_goes_on_by_chunks_and_the_batch_without_statistics_is_held(self, caplog):
        class Centred(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(3, 1, dtype=DOUBLE)

            def forward(self, x):
                hidden = self.layer(x)
                return hidden - 0.5 * hidden.mean(0)

        with caplog.at_level(logging.WARNING, logger="gradbatch"):
            setup = Setup(gb.CABS(min_batch_size=4), model=Centred())
            records = setup.train(steps=4)
        assert setup.controller.estimator == "chunks"
        assert len(caplog.records) == 1
        assert 'samples are mixed between parameter "layer.weight" and the output' in caplog.text
        assert records[0].reason == "held: this batch cannot give sample_sqnorm"
        assert [r.micro_batches for r in records[:2]] == [1, 4]
        assert records[1].sample_sqnorm is not None


def test_hooks_are_gone_after_the_loop_is_left_in_any_way():
    setup = Setup(gb.CABS())

    def hooked():
        return any(m._forward_hooks for m in setup.model.modules())

    for _ in setup.controller.run(steps=3):
        assert hooked()
        break
    assert not hooked()
    with pytest.raises(RuntimeError, match="the user's own"):
        for _ in setup.controller.run(steps=3):
            raise RuntimeError("the user's own")
    assert not hooked()
    loop = setup.controller.run(steps=3)
    next(loop)
    setup.controller.close()
    assert not hooked()


def test_records_reach_the_sinks_in_order():
    class Kept:
        def __init__(self):
            self.records, self.closed = [], False

        def log(self, record):
            self.records.append(record)

        def close(self):
            self.closed = True

    sink = Kept()
    setup = Setup(sinks=[sink])
    assert setup.train(steps=4) == sink.records
    setup.controller.close()
    assert sink.closed
    assert [r.step for r in sink.records] == [0, 1, 2, 3]
    assert all(a.seconds < b.seconds for a, b in zip(sink.records, sink.records[1:], strict=False))


class TestParametersThatChange:
    def test_thawed_and_frozen_layers_are_measured_from_then_on(self):
        setup = Setup(gb.CABS())
        first, last = setup.model[0], setup.model[2]
        first.requires_grad_(False)
        setup.train(steps=3)
        only_last = sum(p.grad.square().sum() for p in last.parameters()).item()
        assert setup.controller.record.grad_sqnorm == pytest.approx(only_last, rel=1e-12)
        first.requires_grad_(True)
        last.bias.requires_grad_(False)
        last.bias.grad = None
        setup.train(steps=1)
        parts = [p.grad.square().sum() for p in setup.model.parameters() if p.requires_grad]
        assert len(parts) == 3
        assert setup.controller.record.grad_sqnorm == pytest.approx(sum(parts).item(), rel=1e-12)

    def test_a_frozen_parameter_does_not_stop_chunks(self):
        setup = Setup(gb.CABS(), estimator="chunks")
        setup.train(steps=2)
        setup.model[0].bias.requires_grad_(False)
        assert setup.train(steps=2)[-1].sample_sqnorm is not None

    def test_an_added_parameter_group_needs_a_new_controller_for_cabs(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(DOUBLE)
        optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
        setup = Setup(gb.CABS(), model=model, optimizer=optimizer)
        setup.train(steps=1)
        optimizer.add_param_group({"params": list(model[2].parameters())})
        with pytest.raises(InvalidInputError, match="averaged over 1 parameter groups .* now has 2"):
            setup.train(steps=1)


class Checkpointed(nn.Module):
    """The usual model in two checkpointed segments."""

    def __init__(self, use_reentrant):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
        self.last = nn.Linear(4, 1)
        self.use_reentrant = use_reentrant

    def forward(self, x):
        x = checkpoint(self.first, x.requires_grad_(), use_reentrant=self.use_reentrant)
        return checkpoint(self.last, x, use_reentrant=self.use_reentrant)


def test_checkpointed_segments_are_measured_like_any_other():
    torch.manual_seed(0)
    checkpointed = Setup(gb.CABS(), model=Checkpointed(use_reentrant=False).to(DOUBLE))
    plain = Setup(gb.CABS())
    for p, q in zip(plain.model.parameters(), checkpointed.model.parameters(), strict=True):
        q.data.copy_(p.data)
    for a, b in zip(checkpointed.train(steps=4), plain.train(steps=4), strict=True):
        assert a.sample_sqnorm == pytest.approx(b.sample_sqnorm, rel=1e-10)
        assert a.grad_sqnorm == pytest.approx(b.grad_sqnorm, rel=1e-10)
    assert checkpointed.controller.estimator == "layers"


def test_reentrant_checkpoints_go_by_chunks_of_which_each_is_one_backward(caplog):
    setup = Setup(Sizes(), model=Checkpointed(use_reentrant=True).to(DOUBLE), micro_batch_size=1)
    plain = Setup(Sizes(), model=Checkpointed(use_reentrant=True).to(DOUBLE), micro_batch_size=5, estimator="auto")
    plain.train(steps=2)
    assert plain.controller.estimator == "chunks"
    assert "call torch.utils.checkpoint with use_reentrant=False" in caplog.text
    assert plain.controller.record.grad_variance is not None
    # Passes of one sample are the sample's own gradients, in whatever pieces they come.
    batch, before = [], setup.weights()
    for inputs, targets in setup.controller.run(steps=1):
        batch.append((inputs, targets))
        setup.controller.backward(setup.loss(inputs, targets))
        setup.controller.step()
    with torch.no_grad():
        for parameter, value in zip(setup.model.parameters(), before, strict=True):
            parameter.copy_(value)
    setup.model.use_reentrant = False
    gradients = per_sample_gradients(setup.model, lambda m, s: F.mse_loss(m(s[0]), s[1]), batch)
    expected = reference_statistics(gradients)
    assert setup.controller.record.sample_sqnorm == pytest.approx(expected.sample_sqnorm, rel=1e-10)


def test_an_optimizer_that_fails_leaves_the_rule_as_it_was():
    setup = Setup(gb.CABS())
    setup.train(steps=2)
    state = setup.controller.state_dict()

    def fail(*_):
        raise RuntimeError("out of memory")

    handle = setup.optimizer.register_step_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        setup.train(steps=1)
    handle.remove()
    after = setup.controller.state_dict()
    assert after == state
    assert setup.train(steps=1)[0].step == 2


class TestWhatARuleIsShown:
    def test_progress_before_and_after_the_batch(self):
        shown = []

        @dataclass(frozen=True, kw_only=True)
        class Witness(gb.Rule[None]):
            def requires(self, progress):
                shown.append(progress)
                return frozenset()

            def init(self):
                return None

            def update(self, statistics, progress, state):
                shown.append(progress)
                return gb.Decision(batch_size=7), None

        torch.manual_seed(0)
        model = nn.Linear(3, 1).to(DOUBLE)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.25, momentum=0.5)
        records = Setup(Witness(), model=model, optimizer=optimizer).train(steps=2)
        _, before, after, second_before, second = shown
        assert (before.step, before.samples_seen, before.batch_size) == (0, 0, 10)
        assert (after.step, after.samples_seen, after.epoch, after.batch_size) == (0, 10, 0.25, 10)
        assert (second_before.step, second_before.samples_seen, second_before.batch_size) == (1, 10, 7)
        assert (second.lr, second.momentum, second.dataset_size, second.group_lrs) == (0.25, 0.5, 40, ())
        assert [after.seconds, second.seconds] == [r.seconds for r in records]
        assert 0 < after.seconds < second_before.seconds < second.seconds


class TestChunksThroughTheController:
    def test_single_samples_are_the_oracle_with_every_scale_in_place(self):
        exact, chunks = Setup(gb.CABS()), Setup(gb.CABS(), estimator="chunks", micro_batch_size=1)
        for a, b in zip(exact.train(steps=3), chunks.train(steps=3), strict=True):
            assert b.micro_batches == b.batch_size
            assert b.sample_sqnorm == pytest.approx(a.sample_sqnorm, rel=1e-10)

    @pytest.mark.parametrize(("size", "pieces"), [(1, [1]), (3, [3]), (5, [2, 3]), (7, [2, 2, 3]), (9, [2, 2, 2, 3])])
    def test_no_pass_has_a_single_sample_if_it_can_be_helped(self, size, pieces):
        setup = Setup(gb.CABS(), batch_size=size, estimator="chunks")
        seen = []
        for inputs, targets in setup.controller.run(steps=1):
            seen.append(len(inputs))
            setup.controller.backward(setup.loss(inputs, targets))
            setup.controller.step()
        assert seen == pieces

    @pytest.mark.parametrize("last", [2, 3, 4, 7])
    def test_batch_norm_trains_to_an_epoch_s_end(self, last):
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).to(DOUBLE)
        setup = Setup(gb.CABS(), model=model, num_samples=32 + last, batch_size=16)
        assert setup.train(epochs=1)[-1].batch_size == last


class TestFailuresInTheMiddle:
    def test_a_backward_that_failed_begins_the_batch_anew(self):
        setup, plain = Setup(gb.CABS()), Setup(gb.CABS())
        failed = []
        for inputs, targets in setup.controller.run(steps=3):
            loss = setup.loss(inputs, targets)
            if not failed:
                failed.append(inputs)
                loss.register_hook(lambda grad: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    setup.controller.backward(loss)
                with pytest.raises(MeasurementError, match="needs a micro-batch"):
                    setup.controller.backward(setup.loss(inputs, targets))
                continue
            if len(failed) == 1:
                failed.append(inputs)
            setup.controller.backward(loss)
            setup.controller.step()
        assert torch.equal(*failed)
        plain.train(steps=3)
        assert same(setup.weights(), plain.weights())

    def test_a_step_that_failed_begins_the_batch_anew(self):
        setup, plain = Setup(gb.CABS()), Setup(gb.CABS())
        seen = []
        for inputs, targets in setup.controller.run(steps=3):
            seen.append(inputs)
            setup.controller.backward(setup.loss(inputs, targets))
            if len(seen) == 1:
                handle = setup.optimizer.register_step_pre_hook(lambda *_: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    setup.controller.step()
                handle.remove()
            else:
                setup.controller.step()
        assert torch.equal(seen[0], seen[1])
        plain.train(steps=3)
        assert same(setup.weights(), plain.weights())
        assert setup.controller.record.samples_seen == plain.controller.record.samples_seen

    def test_a_noise_scale_of_one_sample_is_not_none_for_want_of_signal(self):
        record = Setup(Sizes(quantities=frozenset({"noise_scale"})), batch_size=1).train(steps=1)[0]
        assert record.reason == "held: this batch cannot give noise_scale"

    def test_zero_grad_in_the_loop_is_noticed(self):
        setup = Setup(micro_batch_size=5)
        with pytest.raises(MeasurementError, match=r"leave out `zero_grad\(\)`"):
            for inputs, targets in setup.controller.run(steps=1):
                setup.optimizer.zero_grad()
                setup.controller.backward(setup.loss(inputs, targets))
                setup.controller.step()

    def test_a_backward_of_the_user_s_own_in_the_middle_is_noticed(self):
        setup = Setup(micro_batch_size=5)
        with pytest.raises(MeasurementError, match="send one loss backward"):
            for inputs, targets in setup.controller.run(steps=1):
                setup.controller.backward(setup.loss(inputs, targets))
                setup.loss(inputs, targets).backward()
                setup.controller.step()

    def test_gradients_may_be_clipped_by_hand_before_the_step(self):
        setup = Setup()
        for inputs, targets in setup.controller.run(steps=1):
            setup.controller.backward(setup.loss(inputs, targets))
            nn.utils.clip_grad_norm_(setup.model.parameters(), 1e-3)
            assert setup.controller.step() is not None

    def test_draws_of_a_batch_that_was_left_do_not_reach_the_rule_s_state(self):
        @dataclass(frozen=True, kw_only=True)
        class Counting(gb.Rule[int]):
            in_step = True

            def requires(self, progress):
                return frozenset()

            def init(self):
                return 0

            def update(self, statistics, progress, state):
                return gb.Decision(batch_size=2, step=state >= 5), state + 1

        setup = Setup(Counting(), batch_size=2)
        for drawn, (inputs, targets) in enumerate(setup.controller.run(steps=1)):
            if drawn == 3:
                break
            setup.controller.backward(setup.loss(inputs, targets))
            setup.controller.step()
        assert setup.controller.state_dict()["rule_state"] == 0

    def test_a_loss_of_something_else_is_refused(self):
        setup = Setup(gb.CABS())
        other = torch.zeros(1, requires_grad=True)
        with pytest.raises(MeasurementError, match="compute `loss` from the output of `model`"):
            for _ in setup.controller.run(steps=1):
                setup.controller.backward((other * 2).sum())
                setup.controller.step()

    def test_a_run_that_ends_late_leaves_the_next_alone(self):
        setup = Setup(gb.CABS())
        first = setup.controller.run(steps=5)
        next(first)
        second = setup.controller.run(steps=1)
        inputs, targets = next(second)
        del first
        setup.controller.backward(setup.loss(inputs, targets))
        assert setup.controller.step() is not None

    def test_a_few_skipped_updates_apart_do_not_stop(self):
        setup = Setup()
        for step, (inputs, targets) in enumerate(setup.controller.run(steps=19)):
            loss = setup.loss(inputs, targets)
            setup.controller.backward(loss if step == 9 else loss * float("nan"))
            setup.controller.step()
        assert setup.controller.record.step == 18


def test_a_copy_of_the_model_made_between_steps_has_no_hooks():
    import copy

    setup = Setup(gb.CABS())
    for inputs, targets in setup.controller.run(steps=3):
        setup.controller.backward(setup.loss(inputs, targets))
        setup.controller.step()
        assert not any(m._forward_hooks for m in copy.deepcopy(setup.model).modules())


def test_a_penalty_outside_of_the_layers_is_noticed_whenever_it_begins(caplog):
    setup = Setup(gb.CABS(min_batch_size=4))  # of one sample the gradient itself is measured, penalty and all
    records = []
    for inputs, targets in setup.controller.run(steps=40):
        loss = setup.loss(inputs, targets)
        if len(records) >= 5:  # a penalty large enough to be seen at the next check at the latest
            loss = loss + 0.5 * setup.model[0].weight.square().sum()
        setup.controller.backward(loss)
        records.append(setup.controller.step())
    assert setup.controller.estimator == "chunks"
    assert "do not add up to autograd's gradient" in caplog.text


def test_a_loss_scaler_s_first_overflow_does_not_condemn_the_model():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    setup = Setup(gb.CABS(), scaler=scaler)
    for step, (inputs, targets) in enumerate(setup.controller.run(steps=4)):
        output = setup.model(inputs)
        if step == 0:
            output.register_hook(lambda grad: grad * float("inf"))
        setup.controller.backward(F.mse_loss(output, targets))
        assert setup.controller.step().skipped == (step == 0)
    assert setup.controller.estimator == "layers"


def test_another_wrapping_s_state_and_half_a_state_are_refused():
    state = Setup(gb.Clip(rule=gb.CABS())).controller.state_dict()
    with pytest.raises(InvalidInputError, match=r"rule='Clip\(CABS\)' and this controller has rule='Clip\(Fixed\)'"):
        Setup(gb.Clip(rule=gb.Fixed())).controller.load_state_dict(state)
    state.pop("samples_seen")
    with pytest.raises(InvalidInputError, match=r"`state` lacks \['samples_seen'\]"):
        Setup(gb.Clip(rule=gb.CABS())).controller.load_state_dict(state)


@pytest.mark.parametrize("shadows", [gb.CABS(), ["cabs"], [DrawUntil(more=1, enough=2)]])
def test_shadows_that_cannot_be(shadows):
    with pytest.raises(InvalidInputError, match="`shadows` must be a list of rules that decide once a batch"):
        Setup(shadows=shadows)


def test_sinks_and_optimizers_that_cannot_be():
    with pytest.raises(InvalidInputError, match="`sinks` must be a list of sinks"):
        Setup(sinks="log.jsonl")
    with pytest.raises(InvalidInputError, match=r"`optimizer` must be a torch.optim.Optimizer, got 0.1"):
        Setup(optimizer=0.1)


@dataclass(frozen=True, kw_only=True)
class Everything(gb.Rule[None]):
    """Asks for all there is, and keeps what it is shown."""

    shown: list
    size: int = 10

    def requires(self, progress):
        return frozenset({*QUANTITIES, "layers", "groups"} - {"position_sqnorm"})  # which a pass of one sample lacks

    def init(self):
        return None

    def update(self, statistics, progress, state):
        self.shown.append(statistics)
        return gb.Decision(batch_size=self.size), None


PROJECTIONS = ("projection_variance", "diagonal_projection_variance", "momentum_projection")


def rows_of(model, loss, samples):
    """Per-sample gradients by parameter, [B, N]."""
    gradients = per_sample_gradients(model, loss, samples)
    return [torch.stack(grads).flatten(1) for grads in zip(*gradients, strict=True)]


def mse(model, sample):
    return F.mse_loss(model(sample[0]), sample[1])


class TestProjections:
    @pytest.mark.parametrize("micro_batch_size", [10, 4, 1])
    def test_are_their_definitions_with_the_buffers_before_the_update(self, micro_batch_size):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(DOUBLE)
        groups = [
            {"params": model[0].parameters(), "momentum": 0.9},
            {"params": model[2].parameters(), "momentum": 0.5},
        ]
        optimizer = torch.optim.SGD(groups, lr=0.1)
        rule = Everything(shown=[])
        setup = Setup(rule, model=model, optimizer=optimizer, micro_batch_size=micro_batch_size)
        batch = []
        for inputs, targets in setup.controller.run(steps=3):
            batch += list(zip(inputs.split(1), targets.split(1), strict=True))
            setup.controller.backward(setup.loss(inputs, targets))
            if len(batch) == 10:
                gradients = rows_of(model, mse, batch)
                states = [optimizer.state[p].get("momentum_buffer") for p in model.parameters()]
                buffers = [p * 0 if b is None else b for p, b in zip(model.parameters(), states, strict=True)]
                carried = [r * b.flatten() for r, b in zip((0.9, 0.9, 0.5, 0.5), buffers, strict=True)]
            record = setup.controller.step()
            if record is None:
                continue
            statistics = rule.shown[-1]
            parts = [(record, range(4)), (statistics, range(4))]
            parts += [(part, p) for part, p in zip(statistics.groups, ((0, 1), (2, 3)), strict=True)]
            parts += [(statistics.layers["0"], (0, 1)), (statistics.layers["2"], (2, 3))]
            for part, places in parts:
                rows, momentum = torch.cat([gradients[k] for k in places], 1), torch.cat([carried[k] for k in places])
                mean = rows.mean(0)
                expected = (
                    (rows @ mean).var(),
                    (mean.square() * rows.var(0)).sum(),
                    mean @ (momentum + mean),
                )
                for name, value in zip(PROJECTIONS, expected, strict=True):
                    assert getattr(part, name) == pytest.approx(value.item(), rel=1e-9), name
            batch.clear()
        assert len(rule.shown) == 3

    def test_of_an_in_step_rule_s_whole_batch(self):
        @dataclass(frozen=True, kw_only=True)
        class Drawing(DrawUntil):
            def requires(self, progress):
                return frozenset(PROJECTIONS)

        drawn = Setup(Drawing(more=4, enough=18))
        plain = Setup(Sizes(sizes=(18,), quantities=frozenset(PROJECTIONS)), batch_size=18)
        record, expected = drawn.train(steps=1)[0], plain.train(steps=1)[0]
        assert record.batch_size == expected.batch_size == 18
        for name in PROJECTIONS:
            assert getattr(record, name) == pytest.approx(getattr(expected, name), rel=1e-9)


class TestWeights:
    """Losses that are means over tokens, of which samples have unequal numbers."""

    TOKENS = 5

    def setup(self, micro_batch_size, rule=None, **options):
        torch.manual_seed(1)
        inputs = torch.randn(40, self.TOKENS, 3, dtype=DOUBLE)
        mask = torch.rand(40, self.TOKENS) < 0.5
        mask[:, 0] = True
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(DOUBLE)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        stream = gb.SampleStream((inputs, mask), seed=1)
        rule = rule or Sizes(quantities=frozenset({"sample_sqnorm", "grad_sqnorm", "grad_variance", *PROJECTIONS}))
        return gb.Controller(
            rule, model, optimizer, stream, batch_size=10, micro_batch_size=micro_batch_size, **options
        ), model

    @staticmethod
    def token_sum(model, batch):
        inputs, mask = batch
        return (model(inputs).square().squeeze(-1) * mask).sum()

    def train(self, controller, model, reduction, steps=1):
        batch = []
        for inputs, mask in controller.run(steps=steps):
            if len(batch) == 10:
                batch.clear()
            batch += list(zip(inputs.split(1), mask.split(1), strict=True))
            count = int(mask.sum())
            loss = self.token_sum(model, (inputs, mask)) / (count if reduction == "mean" else 1)
            controller.backward(loss, weight=count, reduction=reduction)
            controller.step()
        return batch

    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    @pytest.mark.parametrize("micro_batch_size", [10, 7, 3, 1])
    def test_the_mean_is_over_all_tokens_of_the_batch(self, micro_batch_size, reduction):
        controller, model = self.setup(micro_batch_size)
        for _ in range(3):
            batch = self.train(controller, model, reduction)
            record = controller.record
            tokens = sum(int(mask.sum()) for _, mask in batch)
            inputs, masks = (torch.cat(parts) for parts in zip(*batch, strict=True))
            loss = self.token_sum(model, (inputs, masks)) / tokens
            for parameter, whole in zip(
                model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True
            ):
                torch.testing.assert_close(parameter.grad, whole, rtol=1e-12, atol=1e-14)
            assert record.loss == pytest.approx(loss.item(), rel=1e-12)
            # A sample's gradient is its tokens' sum, times samples per token of the batch.
            rows = 10 / tokens * torch.cat(rows_of(model, self.token_sum, batch), 1)
            mean = rows.mean(0)
            expected = {
                "grad_sqnorm": mean.square().sum(),
                "sample_sqnorm": rows.square().sum(1).mean(),
                "grad_variance": rows.var(0).sum(),
                "projection_variance": (rows @ mean).var(),
                "diagonal_projection_variance": (mean.square() * rows.var(0)).sum(),
                "momentum_projection": mean.square().sum(),
            }
            for name, value in expected.items():
                assert getattr(record, name) == pytest.approx(value.item(), rel=1e-9), name

    @pytest.mark.parametrize("micro_batch_size", [3, 1])
    def test_chunks_count_by_their_tokens(self, micro_batch_size):
        rule = Sizes(quantities=frozenset({"grad_sqnorm", "grad_variance"}))
        controller, model = self.setup(micro_batch_size, rule, estimator="chunks")
        batch = self.train(controller, model, "mean")
        tokens = torch.tensor([mask.sum() for _, mask in batch], dtype=DOUBLE)
        sums = torch.cat(rows_of(model, self.token_sum, batch), 1)
        sizes = [2, 3, 2, 3] if micro_batch_size == 3 else [1] * 10
        weights = torch.stack([piece.sum() for piece in tokens.split(sizes)])
        means = torch.stack([piece.sum(0) for piece in sums.split(sizes)]) / weights[:, None]
        mean = sums.sum(0) / tokens.sum()
        spread = (weights * (means - mean).square().sum(1)).sum() * 10 / tokens.sum()
        assert controller.record.grad_sqnorm == pytest.approx(mean.square().sum().item(), rel=1e-10)
        assert controller.record.grad_variance == pytest.approx(spread.item() / (len(sizes) - 1), rel=1e-10)

    def test_a_batch_that_grows_makes_room_by_weight(self):
        grown, model = self.setup(3, DrawUntil(more=4, enough=18))
        whole, same_model = self.setup(18, Sizes(sizes=(18,)))
        whole._next_size = 18
        batch = self.train(grown, model, "mean")
        assert len(batch) <= 18
        self.train(whole, same_model, "mean")
        for name in ("loss", "grad_sqnorm", "sample_sqnorm", "batch_size"):
            assert getattr(grown.record, name) == pytest.approx(getattr(whole.record, name), rel=1e-10)

    def test_equal_weights_change_nothing(self):
        weighted, plain = Setup(micro_batch_size=5), Setup(micro_batch_size=5)
        for inputs, targets in weighted.controller.run(steps=2):
            weighted.controller.backward(weighted.loss(inputs, targets), weight=0.25)
            record = weighted.controller.step()
        expected = plain.train(steps=2)[-1]
        for name in ("loss", "grad_sqnorm", "sample_sqnorm", "grad_variance"):
            assert getattr(record, name) == pytest.approx(getattr(expected, name), rel=1e-10)

    @pytest.mark.parametrize("weight", [0, -2.0, float("nan"), float("inf")])
    def test_that_cannot_be(self, weight):
        setup = Setup()
        loop = setup.controller.run(steps=1)
        inputs, targets = next(loop)
        with pytest.raises(InvalidInputError, match="`weight` must be what the loss is a mean over"):
            setup.controller.backward(setup.loss(inputs, targets), weight=weight)

    @pytest.mark.parametrize("weights", [(3.0, None), (None, 3.0)])
    def test_for_some_of_a_batch_only(self, weights):
        setup = Setup(micro_batch_size=5)
        with pytest.raises(MeasurementError, match="give `weight` with every micro-batch of a batch, or with none"):
            for (inputs, targets), weight in zip(setup.controller.run(steps=1), weights, strict=True):
                setup.controller.backward(setup.loss(inputs, targets), weight=weight)
                setup.controller.step()


class TestSampleFraction:
    @pytest.mark.parametrize("rule", [gb.CABS(), gb.Fixed()])
    @pytest.mark.parametrize("fraction", [0.0, 1.5, float("nan")])
    def test_that_cannot_be(self, rule, fraction):
        with pytest.raises(InvalidInputError, match="`sample_fraction` must be above 0 and at most 1"):
            Setup(rule, sample_fraction=fraction)

    def test_the_first_half_stands_for_all_but_where_the_engine_learns(self):
        setup = Setup(Sizes(quantities=frozenset({"sample_sqnorm", "grad_variance"})), sample_fraction=0.5)
        for step, (inputs, targets) in enumerate(setup.controller.run(steps=6), start=1):
            setup.controller.backward(setup.loss(inputs, targets))
            rows = torch.cat(rows_of(setup.model, mse, list(zip(inputs.split(1), targets.split(1), strict=True))), 1)
            record = setup.controller.step()
            second = rows[: 10 if step in (1, 2, 4) else 5].square().sum(1).mean().item()
            variance = 10 / 9 * (second - rows.mean(0).square().sum().item())
            assert record.sample_sqnorm == pytest.approx(second, rel=1e-10)
            assert record.grad_variance == pytest.approx(variance, rel=1e-10)
