"""The models whose steps are timed, each with data to draw batches from."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["SUBJECTS", "Data", "Subject"]

Data = tuple[Tensor, Tensor]
"""Inputs and targets, all samples of a data set in memory."""


@dataclass(frozen=True)
class Subject:
    """A model to train and what it is trained on; both are made anew at each call."""

    model: Callable[[], nn.Module]
    data: Callable[[], Data]
    is_mlp: bool = False


def mlp(*sizes: int) -> nn.Sequential:
    """A ReLU perceptron."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def three_convolutions() -> nn.Sequential:
    """Three 3x3 convolutions without biases, the first one "full", and two dense layers, for 28x28 images."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=2, bias=False), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)),
        *(nn.Conv2d(64, 128, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)),
        *(nn.Flatten(), nn.Linear(1152, 625), nn.ReLU(), nn.Linear(625, 10)),
    )


class Block(nn.Module):
    """Causal self-attention and a perceptron, each behind a layer norm and beside a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_before_attention, self.norm_before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_queries_keys_values, self.from_heads = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, T, width] to the same."""
        parts = self.to_queries_keys_values(self.norm_before_attention(x))
        queries, keys, values = parts.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each [B, H, T, D]
        seen = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.from_heads(seen.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm_before_mlp(x))


class Transformer(nn.Module):
    """A GPT-like model of characters; positions are looked up for each sample, as Opacus needs them."""

    def __init__(self, vocabulary: int = 65, width: int = 256, depth: int = 4, length: int = 128) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads=4) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [B, T] to scores [B, T, vocabulary]."""
        positions = torch.arange(tokens.shape[1], device=tokens.device).repeat(len(tokens), 1)
        return self.head(self.norm(self.blocks(self.tokens(tokens) + self.positions(positions))))


class BiLstm(nn.Module):
    """A classifier of texts that reads the mean over time of two bidirectional layers."""

    def __init__(self, vocabulary: int = 5000, width: int = 100, hidden: int = 128, classes: int = 10) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, hidden, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * hidden, classes)

    def forward(self, words: Tensor) -> Tensor:
        """Map words [B, T] to scores [B, classes]."""
        return self.head(self.lstm(self.words(words))[0].mean(1))


def images(*shape: int) -> Data:
    """Noise in ten classes."""
    return torch.randn(60_000, *shape), torch.randint(10, (60_000,))


def characters() -> Data:
    """Random texts, each of which is its own target."""
    tokens = torch.randint(65, (6_000, 129))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def texts() -> Data:
    """Random texts in ten classes."""
    return torch.randint(5000, (6_000, 50)), torch.randint(10, (6_000,))


SUBJECTS = {
    "784-64-10": Subject(partial(mlp, 784, 64, 10), partial(images, 784), is_mlp=True),
    "784-1024-1024-10": Subject(partial(mlp, 784, 1024, 1024, 10), partial(images, 784), is_mlp=True),
    "cnn": Subject(three_convolutions, partial(images, 1, 28, 28)),
    "transformer": Subject(Transformer, characters),
    "bilstm": Subject(BiLstm, texts),
}
