"""The ways in which people train: autocast, checkpoints, dropout, outputs of all shapes, passes on the side."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import gradbatch as gb
from gradbatch.probe.reference import per_sample_gradients, reference_statistics

DOUBLE = torch.float64
MOMENTS = ("grad_sqnorm", "sample_sqnorm", "grad_variance", "noise_scale")
ALL = (*MOMENTS, "projection_variance", "diagonal_projection_variance")


def definitions(gradients):
    """Every quantity, from the definitions, of per-sample gradients by sample and parameter."""
    moments = reference_statistics(gradients)
    rows = torch.stack([torch.cat([grad.double().flatten() for grad in sample]) for sample in gradients])
    mean = rows.mean(0)
    values = {name: getattr(moments, name) for name in MOMENTS}
    values["projection_variance"] = (rows @ mean).var().item()
    values["diagonal_projection_variance"] = (mean.square() * rows.var(0)).sum().item()
    return values


def assert_equal(statistics, expected, rel=1e-9):
    """Every quantity; the noise scale of a gradient that noise hides is ``None`` in both."""
    for name, value in expected.items():
        got = getattr(statistics, name)
        assert (got is None) == (value is None), name
        assert value is None or got == pytest.approx(value, rel=rel), name


def loss_of(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def data(*shape, dtype=DOUBLE):
    return torch.randn(*shape, dtype=dtype), torch.randint(3, (shape[0],))


def singles(batch):
    return [tuple(part[i : i + 1] for part in batch) for i in range(len(batch[0]))]


def assert_exact(model, batch, loss=loss_of, *, rel=1e-9, measurements=3):
    """All measurements are the loop's, those included in which the engine learns."""
    probe = gb.Probe(model, ALL, estimator="layers")  # a fallback would raise
    expected = definitions(per_sample_gradients(model, loss, singles(batch)))
    for _ in range(measurements):
        model.zero_grad()
        with probe.measure(num_samples=len(batch[0])):
            loss(model, batch).backward()
        statistics = probe.read()
        assert_equal(statistics, expected, rel)


def mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


class Sequential(nn.Module):
    """An LSTM, a norm and a head."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 5, batch_first=True)
        self.norm = nn.LayerNorm(5)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.norm(self.lstm(x)[0])).mean(1)


def cnn():
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))


class TestAutocast:
    @pytest.mark.parametrize(
        ("make", "shape"), [(mlp, (16, 6)), (mlp, (16, 4, 6)), (cnn, (16, 2, 6, 5)), (Sequential, (16, 4, 6))]
    )
    def test_statistics_are_the_loop_s_up_to_the_rounding_of_bfloat16(self, make, shape):
        model = make()
        batch = data(*shape, dtype=torch.float32)

        def loss(model, batch):
            with torch.autocast("cpu", torch.bfloat16):
                outputs = model(batch[0])
            return F.cross_entropy(outputs.float().reshape(len(batch[1]), -1, 3).mean(1), batch[1])

        expected = reference_statistics(per_sample_gradients(model, loss, singles(batch)))
        probe = gb.Probe(model, MOMENTS)
        for _ in range(5):
            model.zero_grad()
            with probe.measure(num_samples=16):
                loss(model, batch).backward()
            statistics = probe.read()
            # Each number of a gradient is off by some roundings, of 2^-8 each; a norm averages over many numbers.
            for name in ("sample_sqnorm", "grad_sqnorm"):
                assert getattr(statistics, name) == pytest.approx(getattr(expected, name), rel=4 * 2**-8), name
        assert probe.estimator == "layers"

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_a_model_in_half_precision(self, dtype):
        model, batch = mlp().to(dtype), data(16, 6, dtype=dtype)
        expected = reference_statistics(per_sample_gradients(model, loss_of, singles(batch)))
        probe = gb.Probe(model, MOMENTS)
        for _ in range(3):
            with probe.measure(num_samples=16):
                loss_of(model, batch).backward()
            statistics = probe.read()
            assert statistics.sample_sqnorm == pytest.approx(expected.sample_sqnorm, rel=4 * torch.finfo(dtype).eps)
        assert probe.estimator == "layers"


class Blocks(nn.Module):
    """Residual blocks, each of which may be checkpointed, with checkpoints in it."""

    def __init__(self, *, depth, dropout=0.0):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU(), nn.Dropout(dropout)) for _ in range(2)
        )
        self.attention = nn.MultiheadAttention(8, 2, dropout=dropout, batch_first=True)
        self.head = nn.Linear(8, 3)
        self.depth = depth

    def segment(self, function, *args):
        return checkpoint(function, *args, use_reentrant=False) if self.depth else function(*args)

    def inner(self, x):
        block = self.blocks[0]
        return x + (checkpoint(block, x, use_reentrant=False) if self.depth == 2 else block(x))

    def attend(self, x):
        return x + self.attention(x, x, x, need_weights=False)[0]

    def forward(self, x):
        x = self.first(x)
        x = self.segment(self.inner, x)
        x = self.segment(self.attend, x)
        x = x + self.segment(self.blocks[1], x)
        return self.head(x).mean(1)


class TestCheckpoints:
    @pytest.mark.parametrize("depth", [1, 2])
    def test_are_exact(self, depth):
        assert_exact(Blocks(depth=depth).to(DOUBLE), data(5, 4, 6))

    def test_around_recurrent_layers_and_convolutions(self):
        class Wrapped(nn.Module):
            def __init__(self):
                super().__init__()
                self.convolution = nn.Conv1d(6, 4, 2)
                self.lstm = nn.LSTM(4, 3, batch_first=True)

            def forward(self, x):
                x = checkpoint(self.convolution, x.mT, use_reentrant=False)
                return checkpoint(self.lstm, x.mT, use_reentrant=False)[0].sum(1)

        assert_exact(Wrapped().to(DOUBLE), data(5, 4, 6))

    @pytest.mark.parametrize("depth", [1, 2])
    def test_draw_the_same_masks_again(self, depth):
        plain = Blocks(depth=0, dropout=0.4).to(DOUBLE)
        checkpointed = Blocks(depth=depth, dropout=0.4).to(DOUBLE)
        checkpointed.load_state_dict(plain.state_dict())
        batch = data(5, 4, 6)
        probes = [gb.Probe(model, ALL, estimator="layers") for model in (plain, checkpointed)]
        for seed in range(5):
            read = []
            for model, probe in zip((plain, checkpointed), probes, strict=True):
                torch.manual_seed(seed)
                model.zero_grad()
                with probe.measure(num_samples=5):
                    loss_of(model, batch).backward()
                read.append(probe.read())
            assert read[0].projection_variance > 0
            assert_equal(read[1], {name: getattr(read[0], name) for name in ALL}, rel=1e-12)
            for p, q in zip(plain.parameters(), checkpointed.parameters(), strict=True):
                torch.testing.assert_close(q.grad, p.grad, rtol=1e-12, atol=1e-15)


class Dropping(nn.Module):
    """Layers that drop in a forward, of every kind."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.dropout = nn.Dropout(0.3)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.3, batch_first=True)
        self.gru = nn.GRU(8, 5, 2, dropout=0.3, batch_first=True)
        self.lstm = nn.LSTM(5, 4, 2, dropout=0.3, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.dropout(torch.relu(self.first(x)))
        x = self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.dropout(self.lstm(self.gru(x)[0])[0])).mean(1)


class TestDropout:
    @pytest.mark.parametrize(("dtype", "rel"), [(DOUBLE, 1e-9), (torch.float32, 1e-4)])
    def test_no_mask_is_drawn_anew(self, dtype, rel):
        model = Dropping().to(dtype)
        inputs, targets = data(5, 4, 6, dtype=dtype)
        parameters = list(model.parameters())
        probe = gb.Probe(model, ALL, estimator="layers")
        for seed in range(5):
            torch.manual_seed(seed)
            model.zero_grad()
            with probe.measure(num_samples=5):
                losses = F.cross_entropy(model(inputs), targets, reduction="none")
                drawn = torch.get_rng_state()
                losses.mean().backward(retain_graph=True)
            # The very graph, and so the very masks.
            gradients = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
            statistics = probe.read()
            assert_equal(statistics, definitions(gradients), rel)
            assert torch.equal(torch.get_rng_state(), drawn)

    def test_a_functional_dropout_of_the_weights_is_one_mask_for_all(self):
        class DropConnect(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.randn(3, 6))

            def forward(self, x):
                return x @ F.dropout(self.weight, 0.5).T

        model = DropConnect().to(DOUBLE)
        inputs, targets = data(5, 6)
        probe = gb.Probe(model, ALL, estimator="layers")
        for _ in range(3):
            model.zero_grad()
            with probe.measure(num_samples=5):
                losses = F.cross_entropy(model(inputs), targets, reduction="none")
                losses.mean().backward(retain_graph=True)
            gradients = [torch.autograd.grad(loss, [model.weight], retain_graph=True) for loss in losses]
            statistics = probe.read()
            assert_equal(statistics, definitions(gradients))


class Forked(nn.Module):
    """Two heads on one trunk, and what a model may make of two outputs."""

    def __init__(self, kind):
        super().__init__()
        self.trunk = nn.Linear(6, 8)
        self.heads = nn.ModuleList([nn.Linear(8, 3), nn.Linear(8, 2)])
        self.kind = kind

    def forward(self, x, targets=None):
        hidden = torch.tanh(self.trunk(x))
        logits, others = (head(hidden) for head in self.heads)
        loss = F.cross_entropy(logits, targets) + others.square().mean() if targets is not None else None
        outputs = {
            "tuple": lambda: (logits, others),
            "list": lambda: [logits, [others, None, "a note"]],
            "dict": lambda: {"logits": logits, "others": {"others": others}},
            "with loss": lambda: {"loss": loss, "logits": logits, "others": others},
            "loss first": lambda: (loss, logits, others),
            "head unseen": lambda: (loss, logits),
            "dataclass": lambda: Outputs(logits, others),
            "loss alone": lambda: loss,
        }
        return outputs[self.kind]()


@dataclass
class Outputs:
    """What no registered container holds."""

    logits: torch.Tensor
    others: torch.Tensor


def loss_of_both(model, batch):
    got = model(*batch) if model.kind in ("with loss", "loss first", "head unseen") else model(batch[0])
    if model.kind == "with loss":
        return got["loss"]
    if model.kind in ("loss first", "head unseen"):
        return got[0]
    logits, others = {
        "tuple": lambda: got,
        "list": lambda: (got[0], got[1][0]),
        "dict": lambda: (got["logits"], got["others"]["others"]),
        "dataclass": lambda: (got.logits, got.others),
    }[model.kind]()
    return F.cross_entropy(logits, batch[1]) + others.square().mean()


class TestOutputs:
    @pytest.mark.parametrize("kind", ["tuple", "list", "dict", "dataclass", "with loss", "loss first"])
    def test_several_of_which_all_are_used(self, kind):
        assert_exact(Forked(kind).to(DOUBLE), data(5, 6), loss_of_both)

    @pytest.mark.parametrize("kind", ["tuple", "dict"])
    def test_several_of_which_one_is_used(self, kind):
        model = Forked(kind).to(DOUBLE)
        assert_exact(model, data(5, 6), lambda m, b: F.cross_entropy(m(b[0])[0 if kind == "tuple" else "logits"], b[1]))

    @pytest.mark.parametrize(
        ("kind", "loss", "why"),
        [
            ("loss alone", lambda m, b: m(*b), "the model returned (), no tensor whose leading axis"),
            ("head unseen", loss_of_both, 'parameter "heads.1.'),  # of which no returned tensor has a trace
        ],
    )
    def test_without_a_tensor_of_samples_it_goes_by_chunks(self, caplog, kind, loss, why):
        model = Forked(kind).to(DOUBLE)
        probe = gb.Probe(model, MOMENTS)
        for cut in ([5], [2, 3]):
            inputs, targets = data(5, 6)
            for batch in zip(inputs.split(cut), targets.split(cut), strict=True):
                with probe.measure(num_samples=len(batch[0])):
                    loss(model, batch).backward()
            statistics = probe.read()
        assert why in caplog.text
        assert statistics.grad_variance is not None

    def test_a_second_output_that_begins_to_matter(self):
        model = Forked("tuple").to(DOUBLE)
        batch = data(5, 6)
        probe = gb.Probe(model, ALL, estimator="layers")

        def loss(model, batch, share):
            logits, others = model(batch[0])
            return F.cross_entropy(logits, batch[1]) + (share * others.square().mean() if share else 0)

        for count in range(1, 9):
            share = 1.0 if count > 4 else 0.0
            model.zero_grad()
            with probe.measure(num_samples=5):
                loss(model, batch, share).backward()
            statistics = probe.read()
            expected = definitions(
                per_sample_gradients(model, lambda m, b, share=share: loss(m, b, share), singles(batch))
            )
            assert_equal(statistics, expected)


INNER = {
    "lstm": lambda: nn.LSTM(6, 6, 2),
    "transformer layer": lambda: nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0),
    "linear": lambda: nn.Linear(6, 6),
}


class TestSequenceFirst:
    """Samples on the second axis inside of the model."""

    class Turned(nn.Module):
        def __init__(self, inner, *, back):
            super().__init__()
            self.inner, self.head, self.back = inner, nn.Linear(6, 3), back

        def forward(self, x):
            hidden = self.inner(x.transpose(0, 1))
            hidden = self.head(hidden[0] if isinstance(hidden, tuple) else hidden)
            return hidden.transpose(0, 1) if self.back else hidden

    @staticmethod
    def loss(model, batch):
        outputs = model(batch[0])
        outputs = outputs if model.back else outputs.transpose(0, 1)
        return F.cross_entropy(outputs.mean(1), batch[1])

    @pytest.mark.parametrize("length", [1, 4, 5, 10])  # the samples are 5
    @pytest.mark.parametrize("name", INNER)
    def test_is_exact(self, name, length):
        assert_exact(self.Turned(INNER[name](), back=True).to(DOUBLE), data(5, length, 6), self.loss)

    @pytest.mark.parametrize("count", range(2, 9))
    @pytest.mark.parametrize("name", ["lstm", "transformer layer"])
    def test_outputs_with_as_many_positions_as_samples_are_never_taken_for_them(self, name, count):
        model = self.Turned(INNER[name](), back=False).to(DOUBLE)
        batch = data(count, count, 6)
        probe = gb.Probe(model, MOMENTS)
        expected = reference_statistics(per_sample_gradients(model, self.loss, singles(batch))).sample_sqnorm
        for _ in range(4):
            with probe.measure(num_samples=count):
                self.loss(model, batch).backward()
            assert probe.read().sample_sqnorm in (None, pytest.approx(expected, rel=1e-9))


class TestBesides:
    def test_passes_between_and_within_steps_are_ignored(self):
        model = Blocks(depth=0, dropout=0.3).to(DOUBLE)
        probe = gb.Probe(model, ALL, estimator="layers")
        inputs, targets = data(5, 4, 6)
        for seed in range(5):
            for mode in (torch.no_grad, torch.inference_mode):
                model.eval()
                with mode():
                    model(torch.randn(7, 4, 6, dtype=DOUBLE))
                model.train()
            torch.manual_seed(seed)
            model.zero_grad()
            with probe.measure(num_samples=5):
                losses = F.cross_entropy(model(inputs), targets, reduction="none")
                with torch.no_grad():
                    model(torch.randn(7, 4, 6, dtype=DOUBLE))
                losses.mean().backward(retain_graph=True)
            gradients = [torch.autograd.grad(loss, list(model.parameters()), retain_graph=True) for loss in losses]
            statistics = probe.read()
            assert_equal(statistics, definitions(gradients))

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_a_pass_without_gradients_before_the_one_that_counts(self, mode):
        model, batch = mlp().to(DOUBLE), data(6, 6)

        def loss(model, batch):
            with mode():
                model(batch[0][:1])
            return loss_of(model, batch)

        assert_exact(model, batch, loss)

    def test_evaluation_with_a_graph_between_steps(self):
        model, batch = mlp().to(DOUBLE), data(6, 6)
        probe = gb.Probe(model, MOMENTS, estimator="layers")
        for _ in range(4):
            torch.autograd.grad(loss_of(model, data(9, 6)), list(model.parameters()))
            model.zero_grad()
            with probe.measure(num_samples=6):
                loss_of(model, batch).backward()
            expected = reference_statistics(per_sample_gradients(model, loss_of, singles(batch)))
            assert probe.read().sample_sqnorm == pytest.approx(expected.sample_sqnorm, rel=1e-10)

    @pytest.mark.filterwarnings("ignore:Using backward")
    def test_a_backward_that_makes_a_graph(self):
        model, batch = Sequential().to(DOUBLE), data(5, 4, 6)
        probe = gb.Probe(model, ALL, estimator="layers")
        expected = definitions(per_sample_gradients(model, loss_of, singles(batch)))
        for _ in range(3):
            with probe.measure(num_samples=5):
                loss_of(model, batch).backward(create_graph=True)
            statistics = probe.read()
            for parameter in model.parameters():
                parameter.grad = None  # a gradient with a graph refers to itself
            assert_equal(statistics, expected)

    def test_activations_in_place(self):
        class InPlace(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Conv1d(4, 4, 3, padding=1), nn.Linear(6, 3)])
                self.shift = nn.Parameter(torch.randn(6))
                self.relu = nn.ReLU(inplace=True)

            def forward(self, x):
                x = self.relu(self.layers[0](x))
                y = self.layers[1](x)
                y += self.shift
                y *= 0.5
                return self.layers[2](F.elu_(y)).sum(1)

        assert_exact(InPlace().to(DOUBLE), data(5, 4, 6))

    def test_clipping_changes_no_statistic(self):
        class Everything(gb.Rule[None]):
            def requires(self, progress):
                return frozenset(ALL)

            def init(self):
                return None

            def update(self, statistics, progress, state):
                return gb.Decision(batch_size=6), None

        records = []
        start = mlp().to(DOUBLE).state_dict()
        for limit in (None, 1e-3):
            model = mlp().to(DOUBLE)
            model.load_state_dict(start)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
            torch.manual_seed(0)
            stream = gb.SampleStream(data(24, 6), seed=0)
            controller = gb.Controller(
                Everything(), model, optimizer, stream, batch_size=6, micro_batch_size=4, clip_grad_norm=limit
            )
            for batch in controller.run(epochs=1):
                controller.backward(loss_of(model, batch))
                controller.step()
            norm = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).norm().item()
            assert (norm < 1.01e-3) == (limit is not None)
            records.append(controller.record)
        for name in ALL:
            assert getattr(records[0], name) == getattr(records[1], name) is not None
