import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradbatch as gb
from gradbatch.errors import InvalidInputError
from gradbatch.experiments.data import InputSpec
from gradbatch.experiments.evaluation import cross_entropy
from gradbatch.experiments.models import MODELS
from gradbatch.experiments.text_models import BiLstm, Transformer, bilstm, transformer


def texts(num_samples, length, num_tokens):
    """Random texts of random length, padded with 0."""
    tokens = torch.randint(1, num_tokens, (num_samples, length))
    lengths = torch.randint(1, length, (num_samples, 1))
    return tokens * (torch.arange(length) < lengths)


def test_sizes_are_those_that_were_asked_for():
    lstm = bilstm(InputSpec((100,), 500), 19)
    # Per direction and layer four gates, each of weights for input, state and two biases.
    directions = 2 * 4 * 100 * (100 + 100 + 2) + 2 * 4 * 100 * (200 + 100 + 2)
    assert sum(weight.numel() for weight in lstm.parameters()) == 500 * 100 + directions + 201 * 19
    gpt = transformer(InputSpec((64,), 65), 65)
    block = 2 * 256 + 129 * 384 + 129 * 128 + 129 * 512 + 513 * 128
    assert sum(weight.numel() for weight in gpt.parameters()) == (65 + 64) * 128 + 2 * block + 256 + 129 * 65
    small = MODELS["small-bilstm"](InputSpec((100,), 500), 19)
    assert (small.embedding.weight.shape, small.lstm.hidden_size, small.lstm.num_layers) == ((500, 50), 50, 2)
    block = 2 * 128 + 65 * 192 + 65 * 64 + 65 * 256 + 257 * 64
    small_gpt = MODELS["small-transformer"](InputSpec((64,), 65), 65)
    assert sum(weight.numel() for weight in small_gpt.parameters()) == (65 + 64) * 64 + 2 * block + 128 + 65 * 65
    assert gpt(torch.zeros(2, 64, dtype=torch.long)).shape == (2, 64, 65)
    assert not [layer for model in (lstm, gpt) for layer in model.modules() if isinstance(layer, nn.Dropout)]
    assert lstm.lstm.dropout == 0


def test_padding_is_not_read():
    model = BiLstm(20, 3, width=4, units=5).double()
    tokens = texts(6, 9, 20)
    together = model(tokens)
    for row, text in zip(together, tokens, strict=True):
        alone = model.embedding(text[text != 0].unsqueeze(0))
        expected = model.head(model.lstm(alone)[0].amax(dim=1))
        assert torch.allclose(row, expected[0], atol=1e-12)


def small_transformer():
    return Transformer(InputSpec((6,), 11), 11, width=8, heads=2, depth=2)


def test_a_position_sees_only_what_came_before():
    model = small_transformer()
    tokens = torch.randint(11, (1, 6))
    for place in range(6):
        changed = tokens.clone()
        changed[0, place] = (changed[0, place] + 1) % 11
        is_same = (model(tokens) == model(changed)).all(dim=2)[0]
        assert is_same.tolist() == [True] * place + [False] * (6 - place)


def test_the_first_weights_are_gpt_2_s():
    model = transformer(InputSpec((64,), 65), 65)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            assert (weight == 0).all()
        elif "norm" in name:
            assert (weight == 1).all()
        else:
            std = 0.01 if "from_heads" in name or "contract" in name else 0.02
            assert weight.std().item() == pytest.approx(std, rel=0.05), name
    tokens = torch.randint(65, (4, 65))
    loss = cross_entropy(model(tokens[:, :-1]), tokens[:, 1:])
    assert loss.item() == pytest.approx(math.log(65), abs=0.1)


def test_statistics_of_the_lstm_are_exact():
    batch = texts(4, 9, 20), torch.randint(3, (4,))
    model = BiLstm(20, 3, width=4, units=5)
    comparison = gb.check(model, batch, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]))
    assert comparison.estimator == "layers"
    assert comparison.is_exact


def test_statistics_of_the_transformer_are_exact():
    tokens = torch.randint(11, (4, 7))
    batch = tokens[:, :-1], tokens[:, 1:]
    comparison = gb.check(small_transformer(), batch, lambda model, batch: cross_entropy(model(batch[0]), batch[1]))
    assert comparison.estimator == "layers"
    assert comparison.is_exact


@pytest.mark.parametrize("make", [bilstm, transformer])
@pytest.mark.parametrize("spec", [InputSpec((1, 28, 28)), InputSpec((64,)), InputSpec((3, 4), 65)])
def test_anything_but_texts_is_refused(make, spec):
    with pytest.raises(InvalidInputError, match="takes texts, rows of tokens, got inputs of shape"):
        make(spec, 10)
