"""What is read from an optimizer, and that the learning rate is given back as it was."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradbatch.updating import borrowed_lr, learning_rates, momenta_of, momentum_of, parameters_of, preconditioners_of


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(2)) for _ in range(3)]


def two_groups(lr: Any, other: Any, kind: Any = torch.optim.SGD) -> torch.optim.Optimizer:
    a, b, c = parameters()
    return kind([{"params": [a, b], "lr": lr}, {"params": [c], "lr": other}])


def test_parameters_by_group() -> None:
    a, b, c = parameters()
    optimizer = torch.optim.SGD([{"params": [a, b]}, {"params": [c], "lr": 0.5}], lr=0.1)
    groups = parameters_of(optimizer)
    assert [[id(p) for p in group] for group in groups] == [[id(a), id(b)], [id(c)]]
    # The lists are the caller's own.
    groups[0].clear()
    assert len(optimizer.param_groups[0]["params"]) == 2


def test_learning_rates() -> None:
    rates = learning_rates(two_groups(0.1, torch.tensor(0.25)))
    assert rates == (0.1, 0.25)
    assert all(type(rate) is float for rate in rates)


@pytest.mark.parametrize(
    ("kind", "options", "momentum"),
    [
        (torch.optim.SGD, {"momentum": 0.9}, 0.9),
        (torch.optim.SGD, {}, 0.0),
        (torch.optim.RMSprop, {"momentum": 0.5}, 0.5),
        (torch.optim.Adam, {}, 0.0),
        (torch.optim.Adagrad, {}, 0.0),
    ],
)
def test_momentum(kind: Any, options: dict[str, float], momentum: float) -> None:
    assert momentum_of(kind(parameters(), lr=0.1, **options)) == momentum


def test_momenta_are_each_group_s_share_of_the_buffers() -> None:
    a, b, c = parameters()
    stranger = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([{"params": [a, b], "momentum": 0.9}, {"params": [c], "momentum": 0.5}], lr=0.1)
    assert momenta_of(optimizer, [a, b, c]) == [None, None, None]
    a.grad, c.grad = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])  # b has none, and so no buffer
    optimizer.step()
    of_a, of_b, of_c, of_stranger = momenta_of(optimizer, [a, b, c, stranger])
    assert torch.equal(of_a, 0.9 * torch.tensor([1.0, 2.0]))
    assert torch.equal(of_c, 0.5 * torch.tensor([3.0, 4.0]))
    assert of_b is of_stranger is None
    assert torch.equal(optimizer.state[a]["momentum_buffer"], a.grad)  # the buffer itself is left alone


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.Adagrad, torch.optim.SGD])
def test_optimizers_without_buffers_carry_nothing_over(kind: Any) -> None:
    (weight, *_) = parameters()
    optimizer = kind([weight], lr=0.1)
    weight.grad = torch.ones(2)
    optimizer.step()
    assert momenta_of(optimizer, [weight]) == [None]


# Not of the kind that a division undoes: 0.1 * 3 / 3 is another float than 0.1, and 0.1 * 0 / 0 is none.
SCALES = [3.0, 0.7, 1.0, 0.0]


@pytest.mark.parametrize("scale", SCALES)
def test_a_float_is_borrowed_and_given_back(scale: float) -> None:
    optimizer = two_groups(0.1, 1e-3)
    with borrowed_lr(optimizer, scale):
        assert learning_rates(optimizer) == (0.1 * scale, 1e-3 * scale)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 1e-3]
    assert all(type(group["lr"]) is float for group in optimizer.param_groups)


@pytest.mark.parametrize("scale", SCALES)
def test_a_tensor_is_borrowed_in_place_and_given_back(scale: float) -> None:
    tensors = torch.tensor(0.1), torch.tensor(0.3)
    optimizer = two_groups(*tensors)
    with borrowed_lr(optimizer, scale):
        assert torch.equal(tensors[0], torch.tensor(0.1) * scale)
        assert torch.equal(tensors[1], torch.tensor(0.3) * scale)
    assert [group["lr"] for group in optimizer.param_groups] == [torch.tensor(0.1), torch.tensor(0.3)]
    # The very tensors that captured and compiled optimizers hold.
    assert all(group["lr"] is tensor for group, tensor in zip(optimizer.param_groups, tensors, strict=True))


def test_a_tensor_shared_by_two_groups_is_scaled_once() -> None:
    shared = torch.tensor(0.1)
    optimizer = two_groups(shared, shared)
    with borrowed_lr(optimizer, 3.0):
        assert torch.equal(shared, torch.tensor(0.1) * 3)
    assert torch.equal(shared, torch.tensor(0.1))


@pytest.mark.parametrize("rate", [0.1, torch.tensor(0.1)], ids=["float", "tensor"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_given_back_when_the_body_raises(rate: float | Tensor, error: type[BaseException]) -> None:
    optimizer = two_groups(rate, 0.5)
    before = learning_rates(optimizer)
    with pytest.raises(error), borrowed_lr(optimizer, 3.0):
        raise error
    assert learning_rates(optimizer) == before
    assert optimizer.param_groups[0]["lr"] is rate


def test_given_back_when_the_body_changes_it() -> None:
    optimizer = two_groups(0.1, torch.tensor(0.25))
    with borrowed_lr(optimizer, 3.0):
        optimizer.param_groups[0]["lr"] = 77.0
        optimizer.param_groups[1]["lr"].fill_(77.0)
    assert learning_rates(optimizer) == (0.1, 0.25)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_the_update_is_scaled(as_tensor: bool) -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=torch.tensor(0.25) if as_tensor else 0.25)
    weight.grad = torch.ones(1)
    with borrowed_lr(optimizer, 2.0):
        optimizer.step()
    assert weight.item() == -0.5
    optimizer.step()
    assert weight.item() == -0.75


def test_a_scheduler_keeps_its_own() -> None:
    # Multiplicative schedulers read the rate that they find: one that was not given back would go on growing.
    optimizer = torch.optim.SGD(parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    for expected in (0.25, 0.125, 0.0625):
        with borrowed_lr(optimizer, 3.0):
            optimizer.step()
        scheduler.step()
        assert learning_rates(optimizer) == (expected,)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_the_preconditioner_of_adam_is_what_its_update_divides_by(amsgrad: bool) -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, dtype=torch.float64))
    optimizer = torch.optim.Adam([weight], lr=0.1, betas=(0.0, 0.99), eps=1e-3, amsgrad=amsgrad)
    for step in range(8):
        factor = preconditioners_of(optimizer, [weight])[0]
        assert (factor is None) == (step < 5)
        weight.grad = torch.randn(4, dtype=torch.float64) * (step + 1) ** -2
        optimizer.step()
    # Without momentum the update is lr * p * gradient, with this gradient in p.
    before, weight.grad = weight.detach().clone(), torch.tensor([0.0, 1e-6, 0.1, 50.0], dtype=torch.float64)
    state = {name: value.clone() for name, value in optimizer.state[weight].items()}
    factor = preconditioners_of(optimizer, [weight])[0]
    assert all(torch.equal(value, state[name]) for name, value in optimizer.state[weight].items())
    optimizer.step()
    assert torch.allclose(factor * weight.grad * 0.1, before - weight.detach(), rtol=1e-9, atol=1e-15)


def test_a_weight_whose_inputs_are_seen_for_the_first_time_has_a_factor_that_is_not_one_over_eps() -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    for grad in [0.0] * 10 + [3.0]:
        factor = preconditioners_of(optimizer, [weight])[0]
        weight.grad = torch.tensor([grad], dtype=torch.float64)
        if grad == 0:
            optimizer.step()
    assert factor.item() == pytest.approx(1e8)
    # Of eleven gradients one was 3: the corrected second moment is 0.001 * 9 / (1 - 0.999^11).
    expected = (0.001 * 9 / (1 - 0.999**11)) ** -0.5
    assert preconditioners_of(optimizer, [weight])[0].item() == pytest.approx(expected, rel=1e-6)


def test_the_preconditioner_of_sgd_is_one_and_of_others_unknown() -> None:
    weight = nn.Parameter(torch.ones(3))
    assert torch.equal(preconditioners_of(torch.optim.SGD([weight], lr=0.1), [weight])[0], torch.ones(3))
    assert preconditioners_of(torch.optim.RMSprop([weight]), [weight]) == [None]
