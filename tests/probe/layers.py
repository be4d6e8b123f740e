"""Layers and small models for the engine's tests: how to make each, and a batch for it, in double precision."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

DOUBLE = torch.float64
VOCABULARY = 7


@dataclass(frozen=True)
class Case:
    """A model whose output has the samples first, and what to feed it."""

    make: Callable[[], nn.Module]
    inputs: Callable[[int], torch.Tensor]


def noise(*shape):
    return lambda count: torch.randn(count, *shape, dtype=DOUBLE)


def ids(*shape):
    return lambda count: torch.randint(VOCABULARY, (count, *shape))


class Apply(nn.Module):
    """A model from parts and a function ``(parts, inputs) -> outputs``."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, inputs):
        return self.function(self, inputs)


def parameter(*shape):
    return nn.Parameter(torch.randn(shape))


def sequence_first(module):
    """The module between two transpositions, so that it sees the samples on the second axis."""
    return Apply(lambda m, x: m.inner(x.transpose(0, 1)).transpose(0, 1), inner=module)


def recurrent(module):
    return Apply(lambda m, x: torch.tanh(m.inner(x)[0]), inner=module)


def last_states(module):
    def states(m, x):
        hidden = m.inner(x)[1]
        hidden = torch.cat(hidden, -1) if isinstance(hidden, tuple) else hidden
        return hidden.transpose(0, 1)

    return Apply(states, inner=module)


def packed(module, length):
    """A recurrent module on packed sequences; ``length`` gives theirs from the inputs."""

    def run(m, x):
        pack = pack_padded_sequence(x, length(x), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(m.inner(pack)[0], batch_first=True, total_length=x.shape[1])[0]

    return Apply(run, inner=module)


def full_length(x):
    return torch.full((len(x),), x.shape[1])


def own_length(x):
    return (x[:, 0, 0].abs() * 10 % x.shape[1]).long() + 1


def attention(m, x):
    return m.inner(x, x, x, need_weights=False)[0]


def cross_attention(m, x):
    return m.inner(x[:, :2], x[:, 1:], x[:, 1:], need_weights=False)[0]


def encoder(**options):
    return nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True, **options)


def remembering_batch_norm():
    layer = nn.BatchNorm2d(3).eval()
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2.0)
    return layer


def orthogonal():
    return parametrizations.orthogonal(nn.Linear(6, 5))


class Tied(nn.Module):
    """A table that is looked up, and used again to score its rows."""

    def __init__(self, *, by_module):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 5)
        self.inner = nn.Linear(5, 5)
        self.by_module = by_module
        if by_module:
            self.head = nn.Linear(5, VOCABULARY, bias=False)
            self.head.weight = self.embedding.weight

    def forward(self, tokens):
        hidden = torch.tanh(self.inner(self.embedding(tokens)))
        return self.head(hidden) if self.by_module else hidden @ self.embedding.weight.T


LAYERS = {
    "linear": Case(lambda: nn.Linear(5, 4), noise(5)),
    "linear without bias": Case(lambda: nn.Linear(5, 4, bias=False), noise(5)),
    "linear on a sequence": Case(lambda: nn.Linear(5, 4), noise(3, 5)),
    "linear on a long sequence": Case(lambda: nn.Linear(3, 2), noise(8, 3)),
    "linear on a grid": Case(lambda: nn.Linear(5, 4), noise(2, 3, 5)),
    "linear, sequence first": Case(lambda: sequence_first(nn.Linear(5, 4)), noise(3, 5)),
    "linear of one output": Case(lambda: nn.Linear(5, 1), noise(5)),
    "conv1d": Case(lambda: nn.Conv1d(3, 4, 3, padding=1), noise(3, 7)),
    "conv1d dilated": Case(lambda: nn.Conv1d(2, 4, 3, dilation=2, stride=2, padding=2), noise(2, 9)),
    "conv2d": Case(lambda: nn.Conv2d(3, 4, 3), noise(3, 6, 5)),
    "conv2d full": Case(lambda: nn.Conv2d(1, 3, 3, padding=2, bias=False), noise(1, 5, 5)),
    "conv2d pointwise": Case(lambda: nn.Conv2d(3, 4, 1), noise(3, 4, 4)),
    "conv2d grouped": Case(lambda: nn.Conv2d(4, 6, (3, 2), groups=2, stride=(2, 1)), noise(4, 7, 5)),
    "conv2d depthwise": Case(lambda: nn.Conv2d(4, 8, 3, groups=4, padding="same"), noise(4, 5, 5)),
    "conv2d same, dilated": Case(lambda: nn.Conv2d(2, 3, 3, dilation=2, padding="same"), noise(2, 5, 5)),
    "conv2d circular": Case(lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), noise(2, 5, 4)),
    "conv2d reflect": Case(lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), noise(2, 5, 4)),
    "conv2d replicate": Case(lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="replicate"), noise(2, 5, 4)),
    "conv2d on frames": Case(
        lambda: Apply(lambda m, x: m.inner(x.flatten(0, 1)).unflatten(0, x.shape[:2]), inner=nn.Conv2d(2, 3, 3)),
        noise(3, 2, 5, 4),
    ),
    "conv3d": Case(lambda: nn.Conv3d(2, 3, 2, stride=(1, 2, 1)), noise(2, 3, 4, 3)),
    "transposed conv1d": Case(lambda: nn.ConvTranspose1d(3, 4, 3, stride=2, output_padding=1), noise(3, 5)),
    "transposed conv2d": Case(
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2, dilation=2), noise(4, 4, 3)
    ),
    "transposed conv3d": Case(lambda: nn.ConvTranspose3d(2, 2, 2), noise(2, 2, 3, 2)),
    "embedding": Case(lambda: nn.Embedding(VOCABULARY, 4), ids(5)),
    "embedding of one token": Case(lambda: nn.Embedding(VOCABULARY, 4), ids()),
    "embedding with padding": Case(lambda: nn.Embedding(VOCABULARY, 4, padding_idx=2), ids(9)),
    "embedding with padding at zero": Case(lambda: nn.Embedding(VOCABULARY, 4, padding_idx=0), ids(9)),
    "embedding, sequence first": Case(lambda: sequence_first(nn.Embedding(VOCABULARY, 4)), ids(5)),
    "sparse embedding": Case(lambda: nn.Embedding(VOCABULARY, 4, sparse=True), ids(5)),
    "bag of sums": Case(lambda: nn.EmbeddingBag(VOCABULARY, 4, mode="sum"), ids(5)),
    "bag of means": Case(lambda: nn.EmbeddingBag(VOCABULARY, 4, mode="mean", padding_idx=1), ids(6)),
    "bag of maxima": Case(lambda: nn.EmbeddingBag(VOCABULARY, 4, mode="max"), ids(6)),
    "ragged bags": Case(
        lambda: Apply(
            lambda m, x: m.inner(
                torch.cat([row[: 1 + int(row[0])] for row in x]), (1 + x[:, 0]).cumsum(0) - (1 + x[:, 0])
            ),
            inner=nn.EmbeddingBag(VOCABULARY, 4, mode="mean"),
        ),
        ids(8),
    ),
    "layer norm": Case(lambda: nn.LayerNorm(5), noise(3, 5)),
    "layer norm of images": Case(lambda: nn.LayerNorm((2, 3, 3)), noise(2, 3, 3)),
    "layer norm without bias": Case(lambda: nn.LayerNorm(5, bias=False), noise(5)),
    "rms norm": Case(lambda: nn.RMSNorm(5), noise(3, 5)),
    "group norm": Case(lambda: nn.GroupNorm(2, 4), noise(4, 3, 2)),
    "group norm of vectors": Case(lambda: nn.GroupNorm(2, 4), noise(4)),
    "instance norm": Case(lambda: nn.InstanceNorm2d(3, affine=True), noise(3, 4, 3)),
    "batch norm in evaluation": Case(remembering_batch_norm, noise(3, 4, 3)),
    "prelu": Case(lambda: nn.PReLU(), noise(3, 4)),
    "prelu by channel": Case(lambda: nn.PReLU(3), noise(3, 4)),
    "bilinear": Case(lambda: Apply(lambda m, x: m.inner(x[:, :3], x[:, 3:]), inner=nn.Bilinear(3, 2, 4)), noise(5)),
    "attention": Case(lambda: Apply(attention, inner=nn.MultiheadAttention(6, 2, batch_first=True)), noise(4, 6)),
    "attention, sequence first": Case(
        lambda: sequence_first(Apply(attention, inner=nn.MultiheadAttention(6, 2))), noise(4, 6)
    ),
    "attention to others": Case(
        lambda: Apply(cross_attention, inner=nn.MultiheadAttention(6, 2, batch_first=True)), noise(4, 6)
    ),
    "attention with own sizes": Case(
        lambda: Apply(
            lambda m, x: m.inner(x, x[..., :3], x[..., :2], need_weights=True)[0],
            inner=nn.MultiheadAttention(6, 2, batch_first=True, kdim=3, vdim=2, add_bias_kv=True),
        ),
        noise(4, 6),
    ),
    "transformer layer": Case(encoder, noise(4, 6)),
    "transformer layer, norm first": Case(lambda: encoder(norm_first=True, activation="gelu"), noise(4, 6)),
    "rnn": Case(lambda: recurrent(nn.RNN(4, 3, batch_first=True)), noise(5, 4)),
    "rnn, sequence first": Case(lambda: sequence_first(recurrent(nn.RNN(4, 3, nonlinearity="relu"))), noise(5, 4)),
    "gru": Case(lambda: recurrent(nn.GRU(4, 3, 2, batch_first=True, bidirectional=True)), noise(5, 4)),
    "lstm": Case(lambda: recurrent(nn.LSTM(4, 3, batch_first=True)), noise(5, 4)),
    "deep lstm both ways": Case(
        lambda: recurrent(nn.LSTM(4, 3, 2, batch_first=True, bidirectional=True, bias=False)), noise(5, 4)
    ),
    "lstm with projection": Case(lambda: recurrent(nn.LSTM(4, 3, batch_first=True, proj_size=2)), noise(5, 4)),
    "last state of a gru": Case(lambda: last_states(nn.GRU(4, 3, batch_first=True)), noise(5, 4)),
    "last states of an lstm": Case(lambda: last_states(nn.LSTM(4, 3, 2, batch_first=True)), noise(5, 4)),
    "packed lstm of full length": Case(lambda: packed(nn.LSTM(4, 3, batch_first=True), full_length), noise(5, 4)),
    "packed gru both ways": Case(
        lambda: packed(nn.GRU(4, 3, 2, batch_first=True, bidirectional=True), own_length), noise(5, 4)
    ),
    "packed lstm": Case(lambda: packed(nn.LSTM(4, 3, 2, batch_first=True), own_length), noise(5, 4)),
    "bare shift": Case(lambda: Apply(lambda m, x: torch.tanh(x + m.shift), shift=parameter(1, 3, 4)), noise(3, 4)),
    "bare scale": Case(
        lambda: Apply(lambda m, x: x * m.scale - m.shift, scale=parameter(4), shift=parameter(3, 1)), noise(3, 4)
    ),
    "bare exponent": Case(lambda: Apply(lambda m, x: x.abs() ** m.power, power=parameter(4)), noise(3, 4)),
    "bare temperature": Case(lambda: Apply(lambda m, x: x / m.log.exp(), log=parameter()), noise(4)),
    "bare matrix": Case(
        lambda: Apply(lambda m, x: x @ m.matrix @ m.other, matrix=parameter(5, 4), other=parameter(4)), noise(3, 5)
    ),
    "matrix from the left": Case(lambda: Apply(lambda m, x: (m.matrix @ x.T).T, matrix=parameter(4, 5)), noise(5)),
    "matrix for each head": Case(
        lambda: Apply(lambda m, x: torch.einsum("bhi,hio->bho", x, m.heads), heads=parameter(2, 5, 3)), noise(2, 5)
    ),
    "class token": Case(
        lambda: Apply(
            lambda m, x: torch.cat([m.token.expand(len(x), -1, -1), x], 1) + m.places,
            token=parameter(1, 1, 4),
            places=parameter(1, 4, 4),
        ),
        noise(3, 4),
    ),
    "learned positions": Case(
        lambda: Apply(
            lambda m, x: m.words(x) + m.places(torch.arange(x.shape[1])),
            words=nn.Embedding(VOCABULARY, 4),
            places=nn.Embedding(6, 4),
        ),
        ids(5),
    ),
    "learned positions with padding": Case(
        lambda: Apply(lambda m, x: x + m.places(torch.tensor([0, 1, 1])), places=nn.Embedding(2, 4, padding_idx=1)),
        noise(3, 4),
    ),
    "picked rows": Case(lambda: Apply(lambda m, x: m.table[x], table=parameter(VOCABULARY, 4)), ids(3)),
    "weight norm": Case(lambda: parametrizations.weight_norm(nn.Linear(5, 4)), noise(3, 5)),
    "spectral norm": Case(lambda: parametrizations.spectral_norm(nn.Conv2d(2, 3, 3)).eval(), noise(2, 5, 4)),
    "orthogonal": Case(orthogonal, noise(6)),
    "weights from weights": Case(
        lambda: Apply(
            lambda m, x: F.linear(x, torch.sin(m.weight) * torch.linspace(1, 2, 5, dtype=DOUBLE)),
            weight=parameter(4, 5),
        ),
        noise(5),
    ),
    "called twice": Case(lambda: Apply(lambda m, x: m.inner(torch.tanh(m.inner(x))), inner=nn.Linear(4, 4)), noise(4)),
    "convolved twice": Case(
        lambda: Apply(lambda m, x: m.inner(torch.tanh(m.inner(x))), inner=nn.Conv2d(2, 2, 3, padding=1)), noise(2, 4, 4)
    ),
    "normed twice": Case(
        lambda: Apply(lambda m, x: m.inner(torch.tanh(m.inner(x))), inner=nn.LayerNorm(4)), noise(3, 4)
    ),
    "tied by module": Case(lambda: Tied(by_module=True), ids(5)),
    "tied outside of its module": Case(lambda: Tied(by_module=False), ids(5)),
    "functional call": Case(
        lambda: Apply(
            lambda m, x: torch.func.functional_call(m.inner, dict(m.inner.named_parameters()), (x,)),
            inner=nn.Linear(5, 4),
        ),
        noise(5),
    ),
    "in place after": Case(
        lambda: Apply(lambda m, x: m.last(torch.relu_(m.first(x))), first=nn.Linear(5, 6), last=nn.Linear(6, 3)),
        noise(3, 5),
    ),
    "dropout between": Case(
        lambda: Apply(lambda m, x: m.last(m.first(x)), first=nn.Linear(5, 6), last=nn.Linear(6, 3)), noise(3, 5)
    ),
}
