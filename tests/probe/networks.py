"""Whole networks in small, each with its batches and its loss: the mean over samples of a loss of each one's own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

CLASSES = 4
VOCABULARY = 11
LENGTH = 6


@dataclass(frozen=True)
class Network:
    """How to make a model, and inputs and targets for it; the loss is mean cross-entropy over all targets."""

    make: Callable[[], nn.Module]
    batch: Callable[[int], tuple[torch.Tensor, torch.Tensor]]


def loss_of(model: nn.Module, batch: Any) -> torch.Tensor:
    inputs, targets = batch
    return F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())


def images(channels, size):
    return lambda count: (torch.randn(count, channels, size, size), torch.randint(CLASSES, (count,)))


def vectors(size):
    return lambda count: (torch.randn(count, size), torch.randint(CLASSES, (count,)))


def texts(count):
    return torch.randint(1, VOCABULARY, (count, LENGTH)), torch.randint(CLASSES, (count,))


def padded_texts(count):
    """Texts of unequal length, filled up with zeros; of five, two are alike, and the longest is not first."""
    tokens, targets = texts(count)
    lengths = torch.arange(count) * 3 % (LENGTH - 2) + 2
    return tokens * (torch.arange(LENGTH) < lengths[:, None]), targets


def next_tokens(count):
    tokens = torch.randint(VOCABULARY, (count, LENGTH + 1))
    return tokens[:, :-1], tokens[:, 1:]


def mlp():
    return nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, CLASSES))


def three_convolutions():
    """The network of BA-Momentum's Fashion-MNIST experiment, on 12x12 pixels: 14 -> 7 -> 5 -> 3 -> 1 -> 1."""
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=2, bias=False), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 5, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)),
        *(nn.Conv2d(5, 6, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)),
        *(nn.Flatten(), nn.Linear(6, 9, bias=False), nn.ReLU()),
        nn.Linear(9, CLASSES, bias=False),
    )


class Residual(nn.Module):
    """Two convolutions around which the input is passed, through a strided convolution where the size changes."""

    def __init__(self, channels_in, channels, stride):
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.first_norm = nn.GroupNorm(2, channels)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.second_norm = nn.GroupNorm(2, channels)
        self.shortcut = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.GroupNorm(2, channels)
            )

    def forward(self, x):
        inner = torch.relu_(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(inner)) + self.shortcut(x))


def resnet():
    stem = [nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.GroupNorm(2, 4), nn.ReLU(inplace=True)]
    stages = [Residual(4, 4, 1), Residual(4, 6, 2), Residual(6, 8, 2)]
    return nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))


class TextLSTM(nn.Module):
    """Two layers of LSTM both ways over an embedding; the mean of their outputs is classified."""

    def __init__(self, *, is_packed=False):
        super().__init__()
        self.is_packed = is_packed
        self.embedding = nn.Embedding(VOCABULARY, 5, padding_idx=0)
        self.lstm = nn.LSTM(5, 4, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, tokens):
        words = self.embedding(tokens)
        if not self.is_packed:
            return self.head(self.lstm(words)[0].mean(1))
        pack = pack_padded_sequence(words, (tokens != 0).sum(1), batch_first=True, enforce_sorted=False)
        return self.head(pad_packed_sequence(self.lstm(pack)[0], batch_first=True)[0].sum(1))


class Block(nn.Module):
    """Causal attention and two layers of neurons, each behind a norm."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm_1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norm_1(x)).chunk(3, 2))
        heard = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(heard.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm_2(x))


class GPT(nn.Module):
    """A decoder whose table of words also scores the next one, as a layer's weight or in a bare product."""

    def __init__(self, *, has_head):
        super().__init__()
        self.wte = nn.Embedding(VOCABULARY, 8)
        self.wpe = nn.Embedding(LENGTH, 8)
        self.blocks = nn.Sequential(Block(8, 2), Block(8, 2))
        self.norm = nn.LayerNorm(8)
        self.lm_head = None
        if has_head:
            self.lm_head = nn.Linear(8, VOCABULARY, bias=False)
            self.lm_head.weight = self.wte.weight

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        h = self.norm(self.blocks(x))
        return h @ self.wte.weight.T if self.lm_head is None else self.lm_head(h)


class ViT(nn.Module):
    """Patches of an image and a class token, with learned places, through an encoder."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.places = nn.Parameter(torch.randn(1, 5, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, norm_first=True, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(8), enable_nested_tensor=False)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, pixels):
        patches = self.patches(pixels).flatten(2).mT
        x = torch.cat([self.token.expand(len(pixels), -1, -1), patches], 1) + self.places
        return self.head(self.encoder(x)[:, 0])


NETWORKS = {
    "mlp": Network(mlp, vectors(7)),
    "three convolutions": Network(three_convolutions, images(1, 12)),
    "resnet": Network(resnet, images(3, 8)),
    "lstm": Network(TextLSTM, texts),
    "packed lstm": Network(lambda: TextLSTM(is_packed=True), padded_texts),
    "gpt with a tied head": Network(lambda: GPT(has_head=True), next_tokens),
    "gpt with a bare product": Network(lambda: GPT(has_head=False), next_tokens),
    "vit": Network(ViT, images(3, 8)),
}
