import pytest
import torch

from gradbatch.experiments.data import InputSpec
from gradbatch.experiments.models import MODELS

SHAPES = {"cabs-cifar10": (3, 24, 24), "cabs-mnist": (1, 28, 28), "cnn": (1, 28, 28)}
TEXTS = dict.fromkeys(["bilstm", "small-bilstm", "transformer", "small-transformer"], InputSpec((9,), 20))


@pytest.mark.parametrize("name", MODELS)
def test_a_seed_fixes_the_weights(name):
    spec = TEXTS.get(name, InputSpec(SHAPES.get(name, (3, 32, 32))))

    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([weight.flatten() for weight in MODELS[name](spec, 10).parameters()])

    first = weights(5)
    assert torch.equal(weights(5), first)
    assert not torch.equal(weights(6), first)
