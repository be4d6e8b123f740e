"""BA by hand, against a slow twin with materialised gradients and a full covariance, and at its edges."""

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradbatch as gb
from cases import progress
from gradbatch.errors import InvalidInputError
from gradbatch.probe.reference import per_sample_gradients

DOUBLE = torch.float64


def measured(drawn: int = 32, *, loss: float = 1.0, mu: float = 0.1, sigma: float = 30.0) -> gb.Statistics:
    """What BA-SGD asks for; at a learning rate of 0.1 the defaults are y = 0.01 and r = 3, so that m* = 55."""
    return gb.Statistics(num_samples=drawn, loss=loss, grad_sqnorm=mu, diagonal_projection_variance=sigma * sigma)


def decide(rule: gb.BA, statistics: gb.Statistics, **here: Any) -> gb.Decision:
    decision, state = rule.update(statistics, progress(samples_seen=statistics.num_samples, **here), None)
    assert state is None
    return decision


def test_the_paper_s_stop() -> None:
    rule = gb.BA()
    first = decide(rule, measured(32))
    assert (first.step, first.batch_size) == (False, 32)
    assert first.reason == "ba: m* = 55 with 32 samples, 32 more"
    assert first.numbers == {"state": 1.0, "mu": 0.1, "sigma": 30.0, "target": 55, "drawn": 32}
    second = decide(rule, measured(64))
    assert (second.step, second.batch_size) == (True, 32)
    assert second.reason == "ba: m* = 55 with 64 samples, enough"
    assert decide(gb.BA(m0=5), measured(55)).step
    assert not decide(gb.BA(m0=6), measured(54)).step


def test_the_code_s_stop() -> None:
    # 7 * 7 < 55 <= 8 * 8.
    rule = gb.BA(m0=2, stop="code")
    assert not decide(rule, measured(7)).step
    assert decide(rule, measured(8)).step
    # Its target is not bounded by the data but by their square: y = 0.01, r = 300, 89 samples of 100 at least.
    assert decide(rule, measured(70, sigma=3000.0), dataset_size=100).numbers["target"] == 10_000
    assert not decide(rule, measured(99, sigma=3000.0), dataset_size=100).step
    assert decide(rule, measured(80, sigma=300.0), dataset_size=100).numbers["target"] == 5497
    assert decide(rule, measured(74, sigma=300.0), dataset_size=100).step is False
    assert decide(rule, measured(75, sigma=300.0), dataset_size=100).step is True


@pytest.mark.parametrize("optimum", [-7.5, 0.5, 2.0])
def test_the_optimum_is_where_the_walk_ends(optimum: float) -> None:
    assert decide(gb.BA(optimum=optimum), measured(loss=optimum + 1.0)).numbers["target"] == 55


def test_the_learning_rate() -> None:
    # y = 0.1 and r = 10; y = 0.3 and r = 20.
    assert decide(gb.BA(), measured(mu=1.0, sigma=100.0)).numbers["target"] == 297
    assert decide(gb.BA(), measured(mu=1.0, sigma=200 / 3), lr=0.3).numbers["target"] == 784


def test_what_is_measured() -> None:
    everything = gb.Statistics(
        num_samples=32,
        loss=1.0,
        grad_sqnorm=0.1,
        momentum_projection=1.0,
        projection_variance=100.0**2,
        diagonal_projection_variance=30.0**2,
    )
    assert decide(gb.BA(), everything).numbers["target"] == 55
    both = gb.BA(momentum=0.9, covariance="exact")
    assert decide(both, everything).numbers["target"] == 297
    here = progress()
    assert gb.BA().requires(here) == {"grad_sqnorm", "diagonal_projection_variance"}
    assert gb.BA(covariance="exact").requires(here) == {"grad_sqnorm", "projection_variance"}
    assert both.requires(replace(here, momentum=0.9)) == {"momentum_projection", "projection_variance"}


@pytest.mark.parametrize("stop", ["paper", "code"])
def test_the_bound(stop: Any) -> None:
    noisy = {"sigma": 1e6}
    rule = gb.BA(max_batch_size=50, stop=stop)
    assert (decide(rule, measured(32, **noisy)).step, decide(rule, measured(32, **noisy)).batch_size) == (False, 18)
    last = decide(rule, measured(50, **noisy))
    assert (last.step, last.batch_size) == (True, 32)
    assert last.numbers["target"] == (50 if stop == "paper" else 2500)
    # The data set is a bound too, below one draw as well.
    assert decide(gb.BA(stop=stop), measured(32, **noisy), dataset_size=40).batch_size == 8
    assert decide(gb.BA(stop=stop, max_batch_size=500), measured(32, **noisy), dataset_size=40).batch_size == 8
    assert decide(gb.BA(stop=stop), measured(20, **noisy), dataset_size=20).step
    # More than there may be, from a first batch of any size.
    over = decide(rule, measured(60, **noisy))
    assert (over.step, over.batch_size) == (True, 32)
    assert last.reason.endswith("50 samples, the most")
    assert over.reason.endswith("60 samples, the most")


def test_the_end_of_an_epoch() -> None:
    # With 32 samples drawn the 1000 of the epoch are over: what it answers is the next batch's size.
    here = progress(samples_seen=1000, dataset_size=1000)
    decision, _ = gb.BA(max_batch_size=50).update(measured(32), here, None)
    assert (decision.step, decision.batch_size) == (True, 32)
    assert decision.reason.endswith("the rest of the epoch")


def test_a_first_batch_that_is_no_multiple_is_filled_up_to_one() -> None:
    assert decide(gb.BA(), measured(33)).batch_size == 31
    assert decide(gb.BA(), measured(5)).batch_size == 27


NO_PROGRESS = {
    "no step": (measured(mu=0.0), 0.1),
    "a step back": (measured(mu=-0.1), 0.1),
    "twice the distance": (measured(mu=20.0), 0.1),
    "more than twice": (measured(mu=1e300), 1e300),
    "at the optimum": (measured(loss=0.0), 0.1),
    "below the optimum": (measured(loss=-1.0), 0.1),
    "a step back below the optimum": (measured(loss=-1.0, mu=-0.1), 0.1),
    "no learning rate": (measured(), 0.0),
    "a loss that leaves the step without a digit": (measured(loss=1e300, mu=1e-300), 1e-300),
    "no step and no variance": (measured(mu=0.0, sigma=0.0), 0.1),
}


@pytest.mark.parametrize("stop", ["paper", "code"])
@pytest.mark.parametrize("case", NO_PROGRESS)
def test_no_progress(case: str, stop: Any) -> None:
    statistics, lr = NO_PROGRESS[case]
    one = "overshoot" if "twice" in case else "no_progress"
    other = ({"overshoot", "no_progress"} - {one}).pop()
    accepted = decide(gb.BA(stop=stop, **{other: "cap"}), statistics, lr=lr)
    assert (accepted.step, accepted.batch_size, accepted.numbers["target"]) == (True, 32, 1)
    capped = gb.BA(stop=stop, max_batch_size=100, **{one: "cap"})
    for drawn, more in ((32, 32), (64, 32), (96, 4)):
        decision = decide(capped, replace(statistics, num_samples=drawn), lr=lr)
        assert (decision.step, decision.batch_size) == (False, more)
    assert decide(capped, replace(statistics, num_samples=100), lr=lr).step


@pytest.mark.parametrize("variance", [0.0, -1e-9])
def test_equal_gradients_want_one_sample(variance: float) -> None:
    decision = decide(gb.BA(m0=2), replace(measured(2), diagonal_projection_variance=variance))
    assert decision.step
    assert (decision.numbers["target"], decision.numbers["sigma"]) == (1, 0.0)


def test_a_step_to_the_optimum_exactly() -> None:
    # y = 1, r = 10: 2.25 * 2/pi * 100 = 143.2.
    assert decide(gb.BA(), measured(mu=10.0, sigma=100.0)).numbers["target"] == 143


@pytest.mark.parametrize("field", ["loss", "grad_sqnorm", "diagonal_projection_variance"])
@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_numbers_that_are_not_there_or_not_finite(field: str, value: Any) -> None:
    if (field, value) == ("loss", None):
        value = -math.inf
    decision = decide(gb.BA(), replace(measured(), **{field: value}), batch_size=77)
    assert (decision.step, decision.batch_size, decision.numbers) == (True, 77, {})
    assert decision.reason.startswith("ba: held, ")


@pytest.mark.parametrize(
    ("here", "message"),
    [
        ({"optimizer": "Adam"}, "BA predicts the step of SGD.*, got Adam: "),
        ({"optimizer": "SGD with Nesterov momentum"}, "got SGD with Nesterov momentum: "),
        ({"momentum": 0.9}, r"`momentum` of BA must be the optimizer's, 0.9, got 0.0: .* BA\(momentum=0.9\)"),
        ({"group_lrs": (0.1, 0.02)}, r"one learning rate, got \(0.1, 0.02\)"),
        ({"batch_size": 1}, "`batch_size` must be at least 2 with BA.*, got 1: begin with 32"),
    ],
)
def test_training_that_is_not_the_model_s_is_refused(here: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        gb.BA().requires(replace(progress(), **here))


def test_groups_of_equal_rates_are_one_group() -> None:
    assert gb.BA().requires(progress(group_lrs=(0.1, 0.1))) == gb.BA().requires(progress())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("momentum", value) for value in (-0.1, 1.0, math.nan)],
        *[("m0", value) for value in (1, 0, 2.0, True, "32")],
        *[("optimum", value) for value in (math.nan, -math.inf)],
        *[("max_batch_size", value) for value in (31, 64.0)],
        *[(name, "both") for name in ("covariance", "stop", "no_progress", "overshoot")],
    ],
)
def test_bad_hyper_parameters(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"`{name}` must .*, got {value!r}$"):
        gb.BA(**{name: value})


class Draw(NamedTuple):
    """One asking of the rule."""

    statistics: gb.Statistics
    decision: gb.Decision


@dataclass(frozen=True, kw_only=True)
class Watched(gb.Rule[None]):
    """A rule, and what it was asked and answered."""

    rule: gb.BA
    seen: list[Draw]
    in_step = True

    def requires(self, progress: gb.Progress) -> frozenset[str]:
        return self.rule.requires(progress)

    def init(self) -> None:
        return

    def update(self, statistics: gb.Statistics, progress: gb.Progress, state: None) -> tuple[gb.Decision, None]:
        decision, state = self.rule.update(statistics, progress, state)
        self.seen.append(Draw(statistics, decision))
        return decision, state


def best_by_hand(s: float, mu: float, sigma: float, eta: float, optimum: float, most: int) -> int:
    """The argmax of the paper's utility over every size, with the normal distribution as it is printed."""

    def normal(x: float) -> float:
        return 0.5 * (1 + math.erf(x / math.sqrt(2)))

    def utility(m: int) -> float:
        left = s - optimum - eta * mu
        tau = eta * sigma / math.sqrt(m)
        a = left / tau
        expected = left * (normal(a) - normal(-a)) + tau * math.sqrt(2 / math.pi) * math.exp(-a * a / 2) + optimum
        return (s - expected) / m

    return max(range(1, most + 1), key=utility)


def margin(model: nn.Module, batch: Any) -> Tensor:
    """Between 0.5 and 2.5, and nearly all noise: the signs are random."""
    inputs, signs = batch
    return 1.5 + (signs * model(inputs)).sin().mean()


class Twin:
    """A small classifier, trained with BA and, beside it, with everything of BA materialised.

    At each draw the gradient of every sample drawn so far is computed anew, and the whole d x d covariance.
    """

    def __init__(self, rule: gb.BA, *, num_samples: int) -> None:
        inputs = torch.randn(num_samples, 3, dtype=DOUBLE)
        signs = torch.randn(num_samples, 1, dtype=DOUBLE).sign()
        self.rule, self.num_samples = rule, num_samples
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(DOUBLE)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0, momentum=rule.momentum)
        self.lr = self.draw_lr()
        self.watched = Watched(rule=rule, seen=[])
        self.controller = gb.Controller(
            self.watched, self.model, self.optimizer, gb.SampleStream((inputs, signs), seed=1), batch_size=rule.m0
        )
        self.drawn: list[tuple[Tensor, Tensor]] = []
        self.carried = torch.zeros(sum(p.numel() for p in self.model.parameters()), dtype=DOUBLE)
        self.sizes: list[int] = []

    def train(self, *, epochs: int) -> None:
        for batch in self.controller.run(epochs=epochs):
            self.drawn += zip(*[part.split(1) for part in batch], strict=True)
            self.controller.backward(margin(self.model, batch))
            self.follow()

    def draw_lr(self) -> float:
        """A learning rate of any size for the coming update, so that steps of all lengths are asked about."""
        self.optimizer.param_groups[0]["lr"] = lr = 10 ** (2 * torch.rand(()).item() - 1)
        return lr

    def weights(self) -> Tensor:
        return nn.utils.parameters_to_vector(self.model.parameters()).detach()

    def follow(self) -> None:
        """Compare one draw's decision, and the update if it comes to one."""
        gradients = per_sample_gradients(self.model, margin, self.drawn)
        rows = torch.stack([torch.cat([g.flatten() for g in sample]) for sample in gradients])
        mean, covariance = rows.mean(0), torch.cov(rows.T)
        if self.rule.covariance == "diagonal":
            covariance = covariance.diag().diag()
        loss = torch.stack([margin(self.model, sample) for sample in self.drawn]).mean().item()
        buffer = self.rule.momentum * self.carried + mean
        numbers = {"state": loss, "mu": (mean @ buffer).item(), "sigma": (mean @ covariance @ mean).sqrt().item()}
        before = self.weights()

        record = self.controller.step()
        statistics, decision = self.watched.seen[-1]
        assert decision.numbers["drawn"] == statistics.num_samples == len(rows)
        for name, value in numbers.items():
            assert decision.numbers[name] == pytest.approx(value, rel=1e-9), name
        step, size, target = self.answer(*numbers.values())
        assert (decision.step, decision.batch_size) == (step, size)
        assert decision.numbers["target"] == target
        if record is None:
            return
        torch.testing.assert_close(self.weights(), before - self.lr * buffer, rtol=1e-9, atol=1e-12)
        self.sizes.append(len(rows))
        self.carried = buffer
        self.drawn.clear()
        self.lr = self.draw_lr()

    def answer(self, s: float, mu: float, sigma: float) -> tuple[bool, int, int]:
        """What algorithm 1 says: whether to update, how many samples come next, and m*."""
        drawn, m0, largest = len(self.drawn), self.rule.m0, self.rule.max_batch_size or self.num_samples
        most = largest if self.rule.stop == "paper" else largest**2
        if not 0 < self.lr * mu < 2 * (s - self.rule.optimum):
            target = 1 if self.rule.overshoot == "accept" else most
        else:
            target = best_by_hand(s, mu, sigma, self.lr, self.rule.optimum, most)
        enough = target if self.rule.stop == "paper" else target / drawn
        left = self.num_samples - (sum(self.sizes) + drawn) % self.num_samples
        if drawn >= enough or drawn >= largest or left == self.num_samples:
            return True, m0, target
        return False, min(m0, largest - drawn), target


@pytest.mark.parametrize("covariance", ["diagonal", "exact"])
@pytest.mark.parametrize("stop", ["paper", "code"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("literal", ["accept", "cap"])
def test_the_slow_twin(momentum: float, covariance: Any, stop: Any, literal: Any) -> None:
    rule = gb.BA(
        momentum=momentum,
        m0=4,
        optimum=0.05,
        covariance=covariance,
        stop=stop,
        max_batch_size=22,
        no_progress=literal,
        overshoot=literal,
    )
    twin = Twin(rule, num_samples=50)
    twin.train(epochs=4)
    most = 22 if stop == "paper" else 22**2
    targets = [decision.numbers["target"] for _, decision in twin.watched.seen]
    assert sum(1 < target < most for target in targets) >= 3
    if literal == "cap":
        assert most in targets
        assert max(twin.sizes) > 12
    assert sum(twin.sizes) == 200


def test_one_draw_of_all_the_data_is_gradient_descent() -> None:
    inputs, targets = torch.randn(20, 3, dtype=DOUBLE), torch.randn(20, 1, dtype=DOUBLE)
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(DOUBLE))
    adapted, plain = models
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in models]
    stream = gb.SampleStream((inputs, targets), seed=1)
    controller = gb.Controller(gb.BA(momentum=0.9, m0=20), adapted, optimizers[0], stream, batch_size=20)
    for x, y in controller.run(steps=10):
        optimizers[1].zero_grad()
        F.mse_loss(plain(x), y).backward()  # in the stream's order, so that not a bit differs
        optimizers[1].step()
        controller.backward(F.mse_loss(adapted(x), y))
        assert controller.step().batch_size == 20
    assert all(torch.equal(p, q) for p, q in zip(adapted.parameters(), plain.parameters(), strict=True))


def test_an_epoch_s_last_single_sample_is_a_batch_of_its_own() -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    stream = gb.SampleStream((torch.randn(9, 3), torch.randn(9, 1)))
    controller = gb.Controller(gb.BA(m0=4), model, optimizer, stream, batch_size=4)
    sizes = []
    for inputs, targets in controller.run(epochs=2):
        controller.backward(F.mse_loss(model(inputs), targets) + 100)  # a distance that no step is long against
        record = controller.step()
        sizes += [record.batch_size] if record else []
    assert sizes == [4, 4, 1, 4, 4, 1]


def test_both_variances_agree_where_the_covariance_is_diagonal() -> None:
    # The gradient of a linear loss is the input; all corners of a shifted box have uncorrelated coordinates.
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=DOUBLE)] * 3)
    box = corners * torch.tensor([1.0, 2.0, 0.5], dtype=DOUBLE) + torch.tensor([0.3, -0.2, 0.9], dtype=DOUBLE)
    bent = box.clone()
    bent[:, 1] += box[:, 0]

    def sigma(data: Tensor, covariance: Any) -> float:
        model = nn.Linear(3, 1, bias=False).to(DOUBLE)
        watched = Watched(rule=gb.BA(m0=8, covariance=covariance), seen=[])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        controller = gb.Controller(watched, model, optimizer, gb.SampleStream((data,)), batch_size=8)
        for (inputs,) in controller.run(steps=1):
            controller.backward(model(inputs).mean() + 5)
            controller.step()
        return watched.seen[0].decision.numbers["sigma"]

    mean, variances = box.mean(0), box.var(0)
    assert sigma(box, "exact") == pytest.approx(math.sqrt((mean.square() * variances).sum()), rel=1e-12)
    assert sigma(box, "exact") == pytest.approx(sigma(box, "diagonal"), rel=1e-12)
    assert sigma(bent, "exact") != pytest.approx(sigma(bent, "diagonal"), rel=1e-2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: torch.optim.Adam(p), "got Adam"),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), "`momentum` of BA"),
        (
            lambda p: torch.optim.SGD([{"params": [q], "lr": lr} for q, lr in zip(p, (0.1, 0.2), strict=True)]),
            "one lear",
        ),
    ],
)
def test_a_controller_refuses_at_once(make: Any, message: str) -> None:
    model = nn.Linear(3, 1)
    with pytest.raises(InvalidInputError, match=message):
        gb.Controller(gb.BA(), model, make(model.parameters()), gb.SampleStream((torch.randn(40, 3),)), batch_size=32)
