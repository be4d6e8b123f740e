"""By which operations the layers are taken apart, and operations within a checkpoint."""

import pytest
from torch.utils.checkpoint import checkpoint

from gradbatch.probe import moments
from gradbatch.probe.operations import ONE_BY_ONE

from .layers import LAYERS, Apply, Case
from .test_layers import assert_moments, batch_of, forms_of, oracle

ONE_BY_ONE_LAYERS = {"bag of maxima", "gathered by column", "picked columns", "prototypes", "selected columns"}
"""The layers with an operation that has no function of its own."""

CHECKPOINTED = [
    "bilinear",
    "class token repeated",
    "ensemble",
    "bare vector",
    "picked pairs",
    "gathered numbers",
    "filter of frequencies",
    "weight norm",
    "merged low-rank adapter",
]


@pytest.mark.parametrize("name", LAYERS)
def test_few_layers_go_one_by_one(name):
    forms, _ = forms_of(*batch_of(LAYERS[name], 5))
    ways = [moments.method(form) for form in forms.values()]
    assert any(ONE_BY_ONE in way for way in ways) == (name in ONE_BY_ONE_LAYERS), ways


@pytest.mark.parametrize("name", CHECKPOINTED)
def test_what_was_saved_is_asked_for_once(name):
    case = LAYERS[name]

    def make():
        return Apply(lambda m, x: checkpoint(m.inner, x, use_reentrant=False), inner=case.make())

    model, inputs, weights = batch_of(Case(make, case.inputs), 5)
    forms, factor = forms_of(model, inputs, weights)
    for place, slow in enumerate(oracle(model, inputs, weights)):
        assert_moments(forms[place], slow / factor)
