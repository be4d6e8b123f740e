"""What is learned of a graph's nodes, and that it is remembered."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradbatch import Probe
from gradbatch.probe import graph
from gradbatch.probe.coverage import parameter_table
from gradbatch.probe.graph import Tracer
from gradbatch.probe.layout import Folded
from gradbatch.probe.reference import per_sample_gradients, reference_statistics

from .layers import Apply, Tied, noise, parameter, sequence_first
from .networks import GPT, VOCABULARY, TextLSTM

DOUBLE = torch.float64


@pytest.fixture
def passes(monkeypatch):
    """One entry for each masked pass."""
    calls, masked_pass = [], graph.masked_pass

    def counted(*args):
        calls.append(args)
        return masked_pass(*args)

    monkeypatch.setattr(graph, "masked_pass", counted)
    return calls


def tracer_of(model):
    return Tracer(model, parameter_table(model, None))


def learned(tracer, outputs):
    """A walk from some outputs, after what is new there was learned."""
    trace = tracer.trace([outputs.grad_fn], [])
    if trace.unknown:
        assert tracer.learn(trace, [outputs], len(outputs), []) == ""
        trace = tracer.trace([outputs.grad_fn], [])
    assert not trace.unknown
    return trace


def operations(trace):
    return sorted(junction.node.name() for junction in trace.junctions)


def tokens(count, length=5):
    return torch.randint(VOCABULARY, (count, length))


SEQUENCES = {
    "linear": (lambda: nn.Linear(4, 3), lambda count, length: torch.randn(count, length, 4)),
    "sequence first": (lambda: sequence_first(nn.Linear(4, 3)), lambda count, length: torch.randn(count, length, 4)),
    "gpt": (lambda: GPT(has_head=True), tokens),
    "gpt with a bare product": (lambda: GPT(has_head=False), tokens),
    "lstm": (TextLSTM, tokens),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_what_was_learned_holds_for_other_sizes(passes, name):
    make, inputs = SEQUENCES[name]
    model = make().to(DOUBLE)
    convert = (lambda x: x.to(DOUBLE)) if inputs(1, 1).is_floating_point() else (lambda x: x)
    tracer = tracer_of(model)
    # An unrolled LSTM shows each step, and the keys of a shorter one's steps are among those of a longer one's.
    trace = learned(tracer, model(convert(inputs(5, 6))))
    count = len(passes)
    assert 1 <= count <= 2
    for samples, length in [(5, 6), (2, 6), (7, 4), (4, 4), (3, 2)]:
        other = learned(tracer, model(convert(inputs(samples, length))))
        assert {j.key for j in other.junctions} <= {j.key for j in trace.junctions}
    assert len(passes) == count


def test_a_probe_learns_nothing_new_between_its_checks(passes):
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    probe = Probe(model, {"sample_sqnorm"}, estimator="layers")
    counts = []
    for samples in (5, 3, 8, 2, 6, 7, 4, 9):
        with probe.measure(num_samples=samples):
            model(torch.randn(samples, 4)).square().mean().backward()
        counts.append(len(passes))
    learning = [after > before for before, after in zip([0, *counts], counts, strict=False)]
    assert learning == [True, True, False, True, False, False, False, True]  # measurements 1, 2, 4, 8


def test_a_branch_that_is_new_is_learned_when_it_comes(passes):
    model = Apply(
        lambda m, x: m.last(m.first(x)) if x[0, 0] > 0 else m.first(x), first=nn.Linear(4, 4), last=nn.Linear(4, 4)
    )
    probe = Probe(model, {"sample_sqnorm"}, estimator="layers")
    probe._next_check = 1
    inputs, values = torch.rand(5, 4) + 0.1, []
    for x in (-inputs, inputs, inputs, -inputs):
        with probe.measure(num_samples=5):
            model(x).square().mean().backward()
        values.append(probe.read().sample_sqnorm)
        probe._next_check = 1000
    assert len(passes) == 4  # two halves each
    assert None not in values


def test_nodes_that_are_free_are_not_junctions():
    model = Apply(
        lambda m, x: F.linear(x, torch.sin(m.weight) * m.scale) + m.shift,
        weight=parameter(3, 4),
        scale=parameter(3, 1),
        shift=parameter(3),
    )
    trace = learned(tracer_of(model), model(torch.randn(5, 4)))
    assert operations(trace) == ["AddBackward0", "MmBackward0"]
    product = next(j for j in trace.junctions if j.node.name() == "MmBackward0")
    assert product.places == {0, 1}
    assert (product.layout.axis, product.layout.is_inner) == (0, False)


def test_every_use_of_a_tied_weight_is_a_junction():
    model = Tied(by_module=True)
    trace = learned(tracer_of(model), model(torch.randint(7, (4, 5))))
    uses = [junction for junction in trace.junctions if 0 in junction.places]
    assert len(uses) == 2
    assert "EmbeddingBackward0" in operations(trace)


def test_the_layout_is_that_of_the_node():
    # The same layer sees the samples first and, in the other model, second and so folded inside.
    x = noise(3, 5)(4)
    for model, inner in ((nn.Linear(5, 2, dtype=DOUBLE), False), (sequence_first(nn.Linear(5, 2, dtype=DOUBLE)), True)):
        trace = learned(tracer_of(model), model(x))
        product = next(j for j in trace.junctions if "mm" in j.node.name().lower())
        assert product.layout == Folded(0, is_inner=inner)


@pytest.mark.parametrize("make", [lambda module: module, sequence_first])
def test_one_position_does_not_tell_where_several_lie(make):
    # A batch of which that is not known has no second moment, rather than a wrong one; the next one is learned from.
    model = make(nn.Linear(5, 2, dtype=DOUBLE))
    probe, values = Probe(model, {"sample_sqnorm"}, estimator="layers"), []
    for length in (1, 3, 3, 1):
        inputs = noise(length, 5)(4)
        with probe.measure(num_samples=4):
            model(inputs).square().sum((1, 2)).mean().backward()
        slow = per_sample_gradients(model, lambda m, x: m(x).square().sum(), inputs.split(1))
        values.append((probe.read().sample_sqnorm, reference_statistics(slow).sample_sqnorm))
        probe._next_check = min(probe._next_check, 1) * 1000  # checked only where the engine asks for it
    assert all(got is None or got == pytest.approx(expected, rel=1e-10) for got, expected in values)
    assert [got is None for got, _ in values][-2:] == [False, False]


def test_samples_that_are_mixed_are_named():
    model = Apply(lambda m, x: m.inner(x) - m.inner(x).mean(0), inner=nn.Linear(4, 3))
    outputs = model(torch.randn(5, 4))
    tracer = tracer_of(model)
    problem = tracer.learn(tracer.trace([outputs.grad_fn], []), [outputs], 5, [])
    assert problem.startswith('samples are mixed between parameter "inner.')


def penalised(model, inputs):
    return model(inputs).square().mean() + 0.1 * model.weight.square().sum()


def test_a_penalty_outside_of_the_outputs_is_learned_as_outside():
    model = nn.Linear(4, 1, dtype=DOUBLE)
    outputs = model(noise(4)(5))
    loss = outputs.square().mean() + 0.1 * model.weight.square().sum()
    tracer = tracer_of(model)
    trace = tracer.trace([loss.grad_fn], [])
    assert tracer.learn(trace, [outputs], 5, []) == ""
    penalty = {key for key, known in tracer._learned.items() if known == "outside"}
    assert penalty
    assert all(tracer._places_of(key) <= {0} for key in penalty if "Pow" in key[0])
    assert {name for name, *_ in penalty} >= {"PowBackward0"}
    trace = tracer.trace([loss.grad_fn], [])
    assert not trace.unknown
    assert operations(trace) == ["AddmmBackward0"]


def test_a_probe_does_not_take_a_penalty_for_a_sample_s():
    # The penalty is in the mean gradient and in none of the samples', so that the two do not add up.
    model, inputs = nn.Linear(4, 1, dtype=DOUBLE), noise(4)(5)
    probe = Probe(model, {"sample_sqnorm"})
    with probe.measure(num_samples=5):
        penalised(model, inputs).backward()
    assert probe.estimator == "chunks"
    assert probe.read().sample_sqnorm is None


def test_parameters_left_out_are_constants():
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)).to(DOUBLE)
    model[0].requires_grad_(False)
    inputs = noise(4)(5)
    probe = Probe(model, {"sample_sqnorm"}, estimator="layers")
    with probe.measure(num_samples=5):
        model(inputs).square().sum(1).mean().backward()
    slow = per_sample_gradients(model, lambda m, x: m(x).square().sum(1).mean(), inputs.split(1))
    assert probe.read().sample_sqnorm == pytest.approx(reference_statistics(slow).sample_sqnorm, rel=1e-10)
