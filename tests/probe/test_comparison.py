"""`check`: the table for a user's own model, and that nothing is left on it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradbatch as gb
from gradbatch.errors import InvalidInputError
from gradbatch.probe.own_layers import FORMULAS

DOUBLE = torch.float64


class Recurrent(nn.Module):
    """An embedding, an LSTM that would drop out between its layers, and a head."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.lstm = nn.LSTM(4, 5, 2, batch_first=True, dropout=0.5)
        self.head = nn.Linear(5, 3)

    def forward(self, tokens):
        return self.head(self.lstm(self.embedding(tokens))[1][0][-1])


class Scale(nn.Module):
    """A layer of the test's own, which no other test knows."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.randn(3))

    def forward(self, x):
        return x * self.factor


def mlp():
    return nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3))


def cnn():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Dropout2d(), nn.GroupNorm(2, 4), nn.Flatten(), nn.Dropout(), nn.Linear(48, 3)
    )


def labels(count):
    return torch.randint(3, (count,))


def loss_fn(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


MODELS = {
    "mlp": (mlp, lambda: torch.randn(6, 4)),
    "conv net with dropout": (cnn, lambda: torch.randn(6, 2, 6, 5)),
    "lstm with dropout": (Recurrent, lambda: torch.randint(7, (6, 5))),
}


@pytest.fixture
def formulas():
    """The table of formulas, with what a test adds taken out again."""
    before = dict(FORMULAS)
    yield FORMULAS
    FORMULAS.clear()
    FORMULAS.update(before)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("name", MODELS)
def test_engine_and_loop_agree_and_the_table_says_so(capsys, name, dtype):
    make, inputs = MODELS[name]
    model, inputs = make().to(dtype), inputs()
    inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs
    comparison = gb.check(model, (inputs, labels(6)), loss_fn)
    assert comparison.is_exact
    assert (comparison.estimator, comparison.reason, comparison.num_samples) == ("layers", "", 6)
    layers = {name.rpartition(".")[0] for name, _ in model.named_parameters()}
    assert {layer.name for layer in comparison.layers} == layers
    assert all(layer.error <= comparison.tolerance < 1e-3 for layer in comparison.layers)
    assert all(layer.slow > 0 for layer in comparison.layers)
    printed = capsys.readouterr().out
    assert printed == f"{comparison}\n"
    title, head, *rows = printed.splitlines()
    assert title == "mean squared norm of 6 per-sample gradients, measured by layers"
    assert head.split() == ["layer", "engine", "loop", "error"]
    assert [row.split()[0] for row in rows] == [layer.name for layer in comparison.layers]
    assert "differs" not in printed


def test_the_numbers_are_the_loop_s():
    model = nn.Linear(4, 1, bias=False, dtype=DOUBLE)
    inputs = torch.randn(5, 4, dtype=DOUBLE)
    (layer,) = gb.check(model, inputs, lambda m, x: m(x).mean()).layers  # the gradients are the inputs
    assert layer.slow == pytest.approx(inputs.square().sum(1).mean().item(), rel=1e-12)
    assert layer.fast == pytest.approx(layer.slow, rel=1e-12)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(48, 3)), (6, 2, 6, 5)),
        (lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)), (6, 4)),
    ],
    ids=["images", "vectors"],  # on one vector alone a batch norm cannot be trained at all
)
def test_a_model_that_mixes_samples_gives_its_reason(capsys, make, shape):
    comparison = gb.check(make().to(DOUBLE), (torch.randn(shape, dtype=DOUBLE), labels(6)), loss_fn)
    assert not comparison.is_exact
    assert comparison.estimator == "chunks"
    assert 'layer "1" (BatchNorm' in comparison.reason
    assert "mixes samples" in comparison.reason
    assert comparison.reason in capsys.readouterr().out


def test_a_formula_that_is_wrong_is_caught(capsys, formulas):
    @gb.register_formula(Scale)
    def scale(layer, inputs, output_grads):
        return {"factor": 1.5 * output_grads * inputs[0]}

    model = nn.Sequential(nn.Linear(4, 3), Scale(), nn.Linear(3, 3)).to(DOUBLE)
    batch = torch.randn(6, 4, dtype=DOUBLE), labels(6)
    comparison = gb.check(model, batch, loss_fn)
    assert not comparison.is_exact
    assert '"1.factor" do not add up to autograd' in comparison.reason
    del formulas[Scale]
    assert gb.check(model, batch, loss_fn).is_exact
    capsys.readouterr()


def test_a_formula_whose_sum_alone_is_right_is_caught(capsys, formulas):
    @gb.register_formula(Scale)
    def scale(layer, inputs, output_grads):
        own = output_grads * inputs[0]
        return {"factor": own.mean(0).expand_as(own)}  # the mean, for every sample

    model = nn.Sequential(nn.Linear(4, 3), Scale(), nn.Linear(3, 3)).to(DOUBLE)
    comparison = gb.check(model, (torch.randn(6, 4, dtype=DOUBLE), labels(6)), loss_fn)
    assert not comparison.is_exact
    assert comparison.estimator == "layers"
    marked = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.endswith("differs")]
    assert marked == ["1"]


class TestBadInput:
    @pytest.mark.parametrize(
        ("batch", "lengths"),
        [((), "[]"), ({"n": 3}, "[]"), ((torch.randn(6, 4), labels(5)), "[5, 6]"), (torch.tensor(1.0), "[]")],
    )
    def test_a_batch_without_samples(self, batch, lengths):
        with pytest.raises(InvalidInputError) as refusal:
            gb.check(mlp(), batch, loss_fn)
        assert "`batch` must hold tensors with the samples along their leading axes" in str(refusal.value)
        assert f"got lengths {lengths}" in str(refusal.value)

    @pytest.mark.parametrize("function", [lambda outputs: outputs, lambda model, inputs, targets: model(inputs)])
    def test_a_loss_of_other_arguments(self, function):
        with pytest.raises(InvalidInputError, match=r"`loss_fn` must take \(model, batch\).*write lambda model, batch"):
            gb.check(mlp(), (torch.randn(6, 4), labels(6)), function)

    def test_a_model_without_parameters(self):
        with pytest.raises(InvalidInputError, match="no trainable parameters"):
            gb.check(mlp().requires_grad_(False), (torch.randn(6, 4), labels(6)), loss_fn)


@pytest.mark.parametrize("name", MODELS)
def test_the_user_s_model_is_left_alone(capsys, name):
    make, inputs = MODELS[name]
    model, batch = make(), (inputs(), labels(6))
    model[0].eval() if isinstance(model, nn.Sequential) else model.head.eval()
    loss_fn(model, batch).backward()

    def look():
        hooks = [[len(h) for k, h in vars(m).items() if k.endswith("_hooks")] for m in model.modules()]
        return hooks, [module.training for module in model.modules()], [sorted(vars(m)) for m in model.modules()]

    before, state = look(), copy.deepcopy(model.state_dict())
    grads = [parameter.grad.clone() for parameter in model.parameters()]
    gb.check(model, batch, loss_fn)
    assert look() == before
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(parameter.grad, grad) for parameter, grad in zip(model.parameters(), grads, strict=True))


def test_frozen_parameters_and_containers_of_batches(capsys):
    model = mlp()
    model[0].weight.requires_grad_(False)
    batch = {"inputs": torch.randn(6, 4), "rest": [labels(6), "a note", 3]}
    comparison = gb.check(model, batch, lambda m, b: F.cross_entropy(m(b["inputs"]), b["rest"][0]))
    assert comparison.is_exact
    assert [layer.name for layer in comparison.layers] == ["0", "2"]
