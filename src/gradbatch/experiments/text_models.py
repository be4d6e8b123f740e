"""Models of texts."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from gradbatch.errors import InvalidInputError
from gradbatch.experiments.data import InputSpec

__all__ = ["bilstm", "transformer"]

_PADDING = 0
"""The token that fills a text up; all of it lies at the end."""


def bilstm(inputs: InputSpec, num_classes: int, *, units: int = 100) -> nn.Module:
    """A classifier of texts: the maximum over time of two bidirectional LSTM layers.

    After Zhang and Wang 2015 (arXiv:1508.01006), who classify the relations of SemEval-2010 task 8 by the maximum over
    time of a bidirectional recurrent network. Word vectors are learned from scratch, and nothing is dropped out, which
    would add a noise of its own to the gradients that rules listen to.

    Args:
        inputs: Texts of tokens, of which 0 is padding at the end.
        num_classes: Number of outputs.
        units: Of a layer in a direction, and numbers in a word vector.

    Returns:
        The model, from tokens [B, T] to [B, num_classes].
    """
    _require_tokens("bilstm", inputs)
    return BiLstm(inputs.num_tokens, num_classes, width=units, units=units)


def transformer(inputs: InputSpec, num_classes: int, *, width: int = 128) -> nn.Module:
    """A small GPT of characters: two layers with four heads.

    Pre-norm, GELU, learned positions, as GPT-2, and drawn as GPT-2: normal with deviation 0.02, divided by the square
    root of the number of residual branches in the layers that end one; biases 0. The output layer is one of its own,
    not the embedding again, and nothing is dropped out.

    Source: Radford et al. 2019, section 2.3; the size is ours.

    Args:
        inputs: Texts of tokens, all of the same length.
        num_classes: Number of outputs for each position; for text, the number of tokens.
        width: Of the layers, a multiple of four.

    Returns:
        The model, from tokens [B, T] to [B, T, num_classes]; position t sees the tokens up to t.
    """
    _require_tokens("transformer", inputs)
    return Transformer(inputs, num_classes, width=width, heads=4, depth=2)


class BiLstm(nn.Module):
    """Embedding, two bidirectional LSTM layers, maximum over the positions that are not padding, dense layer."""

    def __init__(self, num_tokens: int, num_classes: int, *, width: int, units: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_tokens, width, padding_idx=_PADDING)
        self.lstm = nn.LSTM(width, units, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * units, num_classes)

    # `typing.override` needs Python 3.12.
    def forward(self, tokens: Tensor) -> Tensor:  # pyrefly: ignore[missing-override-decorator]
        """Map [B, T] to [B, num_classes]."""
        lengths = (tokens != _PADDING).sum(1).cpu()  # packing wants them on the CPU: a sync with a GPU
        packed = pack_padded_sequence(self.embedding(tokens), lengths, batch_first=True, enforce_sorted=False)
        outputs, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, padding_value=-math.inf)
        return self.head(outputs.max(dim=1).values)


class Transformer(nn.Module):
    """Embeddings of tokens and positions, blocks, norm, dense layer."""

    def __init__(self, inputs: InputSpec, num_classes: int, *, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(inputs.num_tokens, width)
        self.positions = nn.Embedding(inputs.num_features, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_classes)
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(weight)
            elif weight.dim() == 2:
                is_last_of_branch = name.endswith(("from_heads.weight", "contract.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * depth) if is_last_of_branch else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:  # pyrefly: ignore[missing-override-decorator]
        """Map [B, T] to [B, T, num_classes]."""
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        return self.head(self.norm(self.blocks(self.tokens(tokens) + self.positions(positions))))


class Block(nn.Module):
    """Causal self-attention and a perceptron, each behind a layer norm and beside a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_before_attention, self.norm_before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_queries_keys_values, self.from_heads = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:  # pyrefly: ignore[missing-override-decorator]
        """Map [B, T, width] to the same."""
        parts = self.to_queries_keys_values(self.norm_before_attention(x))
        queries, keys, values = parts.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each [B, H, T, D]
        seen = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.from_heads(seen.transpose(1, 2).flatten(2))
        return x + self.contract(F.gelu(self.expand(self.norm_before_mlp(x))))


def _require_tokens(name: str, inputs: InputSpec) -> None:
    if inputs.num_tokens == 0 or len(inputs.shape) != 1:
        shape = "x".join(map(str, inputs.shape))
        raise InvalidInputError(
            f'the model "{name}" takes texts, rows of tokens, got inputs of shape {shape}: choose another model'
        )
