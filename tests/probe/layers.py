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


def self_attention(m, x):
    """Two heads, whose scores have a learned bias for each distance between positions."""
    positions = torch.arange(x.shape[1])
    distances = positions[:, None] - positions + x.shape[1] - 1
    bias = m.table[distances.flatten()].view(*distances.shape, 2).permute(2, 0, 1).contiguous()
    heads = (x @ m.query).unflatten(-1, (2, -1)).transpose(1, 2)
    return ((heads @ heads.mT + bias).softmax(-1) @ heads).transpose(1, 2).flatten(2)


def grid_attention(m, x):
    """Scores with a bias for each distance in a grid of two by two."""
    rows, columns = torch.arange(2).repeat_interleave(2), torch.arange(2).repeat(2)
    bias = m.table[:, rows[:, None] - rows + 1, columns[:, None] - columns + 1]
    return (x @ x.mT + bias.sum(0)).softmax(-1) @ x


def experts(m, x):
    """Experts in one product, weighted by a gate."""
    hidden = torch.einsum("bti,eio->bteo", x, m.weights) + m.biases
    return torch.einsum("bte,bteo->bto", (x @ m.gate).softmax(-1), torch.tanh(hidden))


def layers_as_experts(m, x):
    hidden = torch.stack([layer(x) for layer in m.layers], -2)
    return (m.gate(x).softmax(-1)[..., None] * hidden).sum(-2)


def squeeze_and_excite(m, x):
    scale = torch.sigmoid(m.up(torch.tanh(m.down(x.mean((2, 3))))))
    return x + m.gamma[:, None, None] * x * scale[:, :, None, None]


def standardised(m, x):
    weight = m.weight - m.weight.mean((1, 2, 3), keepdim=True)
    return F.conv2d(x, weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5), m.bias)


def tag_scores(m, x):
    """What a conditional random field makes of a sequence of tags."""
    return m.moves[x[:, :-1], x[:, 1:]].sum(1, keepdim=True) + m.start[x[:, :1]]


def ensemble(m, x):
    return torch.baddbmm(m.bias[:, None], x.transpose(0, 1), m.weights, beta=0.5, alpha=2).transpose(0, 1)


def ensemble_in_columns(m, x):
    columns = x.permute(1, 2, 0)
    return torch.baddbmm(m.bias[..., None], m.weights, columns).permute(2, 0, 1)


def filtered(act):
    """What a function ``(parts, spectrum) -> spectrum`` makes of sequences."""
    return lambda m, x: torch.fft.irfft(act(m, torch.fft.rfft(x)), n=x.shape[-1])


def mixed_channels(m, spectrum):
    return torch.einsum("bix,iox->box", spectrum, torch.view_as_complex(m.weights))


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
    "bilinear on a sequence": Case(
        lambda: Apply(lambda m, x: m.inner(x[..., :3], x[..., 3:]), inner=nn.Bilinear(3, 2, 4)), noise(6, 5)
    ),
    "bilinear of one output": Case(
        lambda: Apply(lambda m, x: m.inner(x[:, :3], x[:, 3:]), inner=nn.Bilinear(3, 2, 1)), noise(5)
    ),
    "bilinear by einsum": Case(
        lambda: Apply(lambda m, x: torch.einsum("bi,oij,bj->bo", x, m.weight, x), weight=parameter(3, 4, 4)), noise(4)
    ),
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
    "cells": Case(
        lambda: Apply(
            lambda m, x: m.gru(*m.lstm(x[:, 0], m.lstm(x[:, 1]))), lstm=nn.LSTMCell(4, 3), gru=nn.GRUCell(3, 3)
        ),
        noise(2, 4),
    ),
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
    "bare divisor and minuend": Case(
        lambda: Apply(
            lambda m, x: torch.rsub(x / m.scale, m.minuend, alpha=2), scale=parameter(4), minuend=parameter(3, 1)
        ),
        noise(3, 4),
    ),
    "bare dividend": Case(lambda: Apply(lambda m, x: m.top / (1 + x.abs()), top=parameter(4)), noise(3, 4)),
    "bare blend": Case(
        lambda: Apply(lambda m, x: torch.lerp(m.start, x, m.share), start=parameter(4), share=parameter(3, 1)),
        noise(3, 4),
    ),
    "bare vector": Case(lambda: Apply(lambda m, x: (x @ m.vector)[:, None], vector=parameter(4)), noise(4)),
    "bare matrix": Case(
        lambda: Apply(lambda m, x: x @ m.matrix @ m.other, matrix=parameter(5, 4), other=parameter(4)), noise(3, 5)
    ),
    "matrix from the left": Case(lambda: Apply(lambda m, x: (m.matrix @ x.T).T, matrix=parameter(4, 5)), noise(5)),
    "matrix from the left of a grid": Case(
        lambda: Apply(lambda m, x: m.matrix @ x, matrix=parameter(2, 3)), noise(2, 3, 4)
    ),
    "matrix across positions": Case(
        lambda: Apply(lambda m, x: torch.einsum("btc,ts->bsc", x, m.matrix), matrix=parameter(3, 5)), noise(3, 4)
    ),
    "scaled addmm": Case(
        lambda: Apply(
            lambda m, x: torch.addmm(m.bias, x, m.matrix, beta=2, alpha=0.5), bias=parameter(5), matrix=parameter(4, 5)
        ),
        noise(4),
    ),
    "ensemble": Case(lambda: Apply(ensemble, bias=parameter(2, 5), weights=parameter(2, 4, 5)), noise(2, 4)),
    "ensemble in columns": Case(
        lambda: Apply(ensemble_in_columns, bias=parameter(2, 5), weights=parameter(2, 5, 4)), noise(2, 4)
    ),
    "learned scores": Case(
        lambda: Apply(lambda m, x: torch.baddbmm(m.scores, x, x.mT, beta=0.5, alpha=2) @ x, scores=parameter(3, 3)),
        noise(3, 4),
    ),
    "matrices broadcast over heads": Case(
        lambda: Apply(lambda m, x: x @ m.heads, heads=parameter(2, 4, 5)), noise(2, 3, 4)
    ),
    "heads joined": Case(
        lambda: Apply(lambda m, x: torch.einsum("bhto,hoi->bti", x, m.heads), heads=parameter(2, 4, 3)), noise(2, 3, 4)
    ),
    "merged low-rank adapter": Case(
        lambda: Apply(
            lambda m, x: F.linear(x, m.w + m.b @ m.a), w=parameter(4, 5), a=parameter(2, 5), b=parameter(4, 2)
        ),
        noise(3, 5),
    ),
    "linear to one number": Case(lambda: Apply(lambda m, x: F.linear(x, m.w), w=parameter(5)), noise(3, 5)),
    "low-rank adapter": Case(
        lambda: Apply(
            lambda m, x: m.base(x) + x @ m.down @ m.up * 2,
            base=nn.Linear(4, 5),
            down=parameter(4, 2),
            up=parameter(2, 5),
        ),
        noise(3, 4),
    ),
    "experts": Case(
        lambda: Apply(experts, gate=parameter(4, 3), weights=parameter(3, 4, 5), biases=parameter(3, 5)), noise(3, 4)
    ),
    "layers as experts": Case(
        lambda: Apply(layers_as_experts, gate=nn.Linear(4, 3), layers=nn.ModuleList(nn.Linear(4, 5) for _ in range(3))),
        noise(3, 4),
    ),
    "squeeze and excite": Case(
        lambda: Apply(squeeze_and_excite, down=nn.Linear(3, 2), up=nn.Linear(2, 3), gamma=parameter(3)), noise(3, 4, 4)
    ),
    "standardised conv2d": Case(
        lambda: Apply(standardised, weight=parameter(3, 2, 3, 3), bias=parameter(3)), noise(2, 5, 4)
    ),
    "filter of frequencies": Case(
        lambda: Apply(filtered(lambda m, x: x * torch.view_as_complex(m.filter)), filter=parameter(3, 2)), noise(2, 4)
    ),
    "real filter of frequencies": Case(
        lambda: Apply(filtered(lambda m, x: x * m.filter + m.shift), filter=parameter(3), shift=parameter(2, 1)),
        noise(2, 4),
    ),
    "channels mixed by frequency": Case(
        lambda: Apply(filtered(mixed_channels), weights=parameter(2, 3, 3, 2)), noise(2, 4)
    ),
    "vector of frequencies": Case(
        lambda: Apply(filtered(lambda m, x: x.mT @ torch.view_as_complex(m.vector)), vector=parameter(2, 2)),
        noise(2, 4),
    ),
    "prototypes": Case(lambda: Apply(lambda m, x: torch.cdist(x, m.rows), rows=parameter(6, 4)), noise(3, 4)),
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
    "class token repeated": Case(
        lambda: Apply(
            lambda m, x: torch.tanh(torch.cat([m.token.repeat(len(x), 2, 1), x], 1)), token=parameter(1, 1, 4)
        ),
        noise(3, 4),
    ),
    "repeated, sequence first": Case(
        lambda: sequence_first(
            Apply(lambda m, x: torch.tanh(m.start.repeat(1, x.shape[1], 2) + x), start=parameter(3, 1, 2))
        ),
        noise(3, 4),
    ),
    "tiled": Case(
        lambda: Apply(
            lambda m, x: torch.tanh(m.tile.repeat(2 * len(x), 2) + x.flatten(0, 1)).view_as(x), tile=parameter(3, 2)
        ),
        noise(6, 4),
    ),
    "mask token": Case(
        lambda: Apply(lambda m, x: torch.tanh(torch.where(x[..., :1] > 0, m.token, x)), token=parameter(4)), noise(3, 4)
    ),
    "positions cut": Case(
        lambda: Apply(lambda m, x: torch.tanh(x + m.places[: x.shape[1]]), places=parameter(6, 4)), noise(3, 4)
    ),
    "positions picked": Case(
        lambda: Apply(lambda m, x: torch.tanh(x + m.places[torch.tensor([0, 2, 2])]), places=parameter(4, 4)),
        noise(3, 4),
    ),
    "relative positions": Case(
        lambda: Apply(self_attention, query=parameter(4, 4), table=parameter(7, 2)), noise(4, 4)
    ),
    "relative positions in a grid": Case(lambda: Apply(grid_attention, table=parameter(2, 3, 3)), noise(4, 3)),
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
    "picked numbers": Case(lambda: Apply(lambda m, x: m.table[x], table=parameter(VOCABULARY)), ids(3)),
    "picked matrices": Case(lambda: Apply(lambda m, x: m.table[x - 3], table=parameter(VOCABULARY, 2, 3)), ids(3)),
    "picked pairs": Case(
        lambda: Apply(tag_scores, moves=parameter(VOCABULARY, VOCABULARY), start=parameter(VOCABULARY)), ids(4)
    ),
    "picked for each position": Case(
        lambda: Apply(lambda m, x: m.table[x, torch.arange(3)], table=parameter(VOCABULARY, 3, 2)), ids(3)
    ),
    "picked columns": Case(
        lambda: Apply(lambda m, x: m.table[:, x].transpose(0, 1), table=parameter(2, VOCABULARY)), ids(3)
    ),
    "selected rows": Case(
        lambda: Apply(lambda m, x: m.table.index_select(0, x), table=parameter(VOCABULARY, 4)), ids()
    ),
    "selected matrices": Case(
        lambda: Apply(
            lambda m, x: m.table.index_select(0, x.flatten()).unflatten(0, x.shape), table=parameter(VOCABULARY, 2, 3)
        ),
        ids(3),
    ),
    "selected columns": Case(
        lambda: Apply(lambda m, x: m.table.index_select(-1, x).T, table=parameter(4, VOCABULARY)), ids()
    ),
    "gathered numbers": Case(
        lambda: Apply(lambda m, x: m.table.gather(-1, x)[:, None], table=parameter(VOCABULARY)), ids()
    ),
    "gathered by column": Case(
        lambda: Apply(lambda m, x: m.table.gather(0, x), table=parameter(VOCABULARY, 3)), ids(3)
    ),
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
