"""Every form of per-sample gradients, of random sizes, against gradients that are written out by other means."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from gradbatch.probe import forms, joining, moments, strides
from gradbatch.probe.forms import Dense, Lazy, Lookup, Mapped, Outer, OuterSum, Rearranged, Rows, Total
from gradbatch.probe.joining import combined

MOMENTS = {
    "sqnorms": lambda form, a: moments.sqnorms(form),
    "sqnorm_sum": lambda form, a: moments.sqnorm_sum(form),
    "second_moment": lambda form, a: moments.second_moment(form),
    "projections": lambda form, a: moments.projections(form, a.direction),
    "weighted_sum": lambda form, a: moments.weighted_sum(form, a.weights),
    "stride_sums": lambda form, a: strides.stride_sums(form, *a.stride),
    "stride_square_sums": lambda form, a: strides.stride_square_sums(form, *a.stride),
    "stride_gram": lambda form, a: strides.stride_gram(form, a.stride[0]),
}
DEFINITIONS = {
    "sqnorms": lambda g, a: torch.einsum("bvd,bvd->b", g, g),
    "sqnorm_sum": lambda g, a: torch.einsum("bvd,bvd->", g, g),
    "second_moment": lambda g, a: torch.einsum("bvd,bvd->vd", g, g),
    "projections": lambda g, a: torch.einsum("bvd,vd->b", g, a.direction),
    "weighted_sum": lambda g, a: torch.einsum("bvd,b->vd", g, a.weights),
    "stride_sums": lambda g, a: torch.einsum("kb,bvd->kvd", a.strides, g),
    "stride_square_sums": lambda g, a: torch.einsum("kb,bvd,bvd->kvd", a.strides, g, g),
    "stride_gram": lambda g, a: torch.einsum("kb,bvd,cvd,lc->kl", a.whole_strides, g, g, a.whole_strides),
}


@dataclass(frozen=True)
class Sizes:
    """B samples, T positions, and a parameter [V, D] with V = G L rows and D = R columns."""

    b: int
    t: int
    g: int
    l: int  # noqa: E741
    r: int

    @property
    def shape(self):
        return torch.Size((self.g * self.l, self.r))


@dataclass
class Arguments:
    """What is asked of the gradients; ``stride`` is a size and a lead, ``strides`` [k, B] tells who is in which."""

    direction: torch.Tensor
    weights: torch.Tensor
    stride: tuple[int, int]

    @property
    def strides(self):
        return self.owned_by((torch.arange(len(self.weights)) + self.stride[1]) // self.stride[0])

    @property
    def whole_strides(self):
        return self.owned_by(torch.arange(len(self.weights)) // self.stride[0])

    def owned_by(self, strides):
        return torch.nn.functional.one_hot(strides).T.to(self.weights)

    def abs(self):
        return Arguments(self.direction.abs(), self.weights.abs(), self.stride)


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64)


# One function for each form: it and the same gradients [B, V, D], made without it.


def dense(s):
    rows = noise(s.b, s.shape.numel())
    return Dense(Rows(rows), s.shape), rows.unflatten(1, s.shape)


def outer(s):
    left, right = noise(s.b, s.shape[0]), noise(s.b, s.r)
    return Outer(Rows(left), Rows(right)), torch.einsum("bv,bd->bvd", left, right)


def outer_sum(s):
    left, right = noise(s.b, 1, s.t, s.shape[0]), noise(s.b, 1, s.t, s.r)
    return OuterSum(left, right, s.shape), torch.einsum("bgtv,bgtd->bvd", left, right)


def outer_sum_in_groups(s):
    left, right = noise(s.b, s.g, s.t, s.l), noise(s.b, s.g, s.t, s.r)
    return OuterSum(left, right, s.shape), torch.einsum("bgtl,bgtr->bglr", left, right).flatten(1, 2)


def lookup(s):
    ids, right = torch.randint(s.shape[0], (s.b, s.t)), noise(s.b, s.t, s.r)
    return Lookup(ids, right, s.shape), table(ids, right, s.shape[0])


def lookup_of_one_row(s):
    ids, right = torch.randint(s.shape[0], (s.b, 1)).expand(-1, s.t), noise(s.b, s.t, s.r)
    return Lookup(ids, right, s.shape), table(ids, right, s.shape[0])


def table(ids, right, rows):
    return torch.einsum("btv,btd->bvd", torch.nn.functional.one_hot(ids, rows).to(right), right)


def lazy(s):
    whole, written = outer_sum_in_groups(s)

    def make(start, stop):
        return OuterSum(whole.left[start:stop], whole.right[start:stop], s.shape)

    return Lazy(make, s.b, s.shape, whole.held(), s.g * s.t * (s.l + s.r)), written


def reshaped(s):
    base, written = outer_sum_in_groups(s)
    base.shape = torch.Size((s.g, s.l, s.r))
    push, pull = (lambda grads: grads.flatten(1, 2)), (lambda tensor: tensor.unflatten(0, (s.g, s.l)))
    return Rearranged(base, s.shape, push, pull), written


def transposed(s):
    turned = Sizes(s.b, s.t, 1, s.r, s.shape[0])
    base, written = lookup(turned)
    return Rearranged(base, s.shape, lambda grads: grads.mT, lambda tensor: tensor.mT), written.mT


def flipped(s):
    base, written = lazy(s)
    return Rearranged(base, s.shape, lambda grads: grads.flip(2), lambda tensor: tensor.flip(1)), written.flip(2)


def mapped(s):
    matrix = noise(s.shape[0], s.shape[0] + 1)
    base, written = outer(Sizes(s.b, s.t, 1, s.shape[0] + 1, s.r))
    return Mapped(base, s.shape, lambda grads: matrix @ grads), torch.einsum("vw,bwd->bvd", matrix, written)


KINDS = [
    dense,
    outer,
    outer_sum,
    outer_sum_in_groups,
    lookup,
    lookup_of_one_row,
    lazy,
    reshaped,
    transposed,
    flipped,
    mapped,
]

sizes = st.builds(Sizes, st.integers(1, 7), st.integers(1, 5), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))
seeds = st.integers(0, 10_000)
sizes_of_strides = st.integers(1, 9).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1)))
few = settings(derandomize=True, deadline=None, max_examples=10, phases=[Phase.generate, Phase.shrink])


def assert_is(form, parts, stride):
    """The form is the sum of these gradients, and all that is asked of it is what its definition says."""
    written = sum(parts)
    magnitude = sum(part.abs() for part in parts)
    a = Arguments(noise(*form.shape), noise(form.num_samples), stride)
    assert form.num_samples == len(written)
    assert form.shape == written.shape[1:]
    half = form.num_samples // 2
    close(form.piece(0, form.num_samples), written, magnitude)
    close(form.piece(half, form.num_samples), written[half:], magnitude)
    close(form.rows_of(0, form.num_samples), written.flatten(1), magnitude)
    for name, asked in MOMENTS.items():
        # The same sum over magnitudes is what rounding goes by.
        close(asked(form, a), DEFINITIONS[name](written, a), DEFINITIONS[name](magnitude, a.abs()), name)
    form = joining.settled(form)
    close(form.piece(0, form.num_samples), written, magnitude, "settled")


def close(got, expected, magnitude, name="pieces"):
    assert got.shape == expected.shape, name
    assert (got - expected).abs().max() <= 1e-10 * magnitude.max(), name


@pytest.fixture(
    params=[forms.MAX_WRITTEN_OUT, 1], ids=["whole", "in pieces of one sample"], autouse=True, scope="module"
)
def _limit(request):
    with pytest.MonkeyPatch.context() as patch:
        for module in (forms, moments):
            patch.setattr(module, "MAX_WRITTEN_OUT", request.param)
        yield


@pytest.mark.parametrize("kind", KINDS)
@few
@given(sizes, seeds, sizes_of_strides)
def test_a_form(kind, size, seed, stride):
    torch.manual_seed(seed)
    form, written = kind(size)
    assert_is(form, [written], stride)


@pytest.mark.parametrize("join", [combined, Total])
@few
@given(st.lists(st.sampled_from(KINDS), min_size=2, max_size=4), sizes, seeds, sizes_of_strides)
def test_a_sum_of_any_forms(join, kinds, size, seed, stride):
    torch.manual_seed(seed)
    uses, written = zip(*[kind(size) for kind in kinds], strict=True)
    assert_is(join(uses), written, stride)


@pytest.mark.parametrize("product", [outer, outer_sum, outer_sum_in_groups])
@few
@given(sizes, seeds, sizes_of_strides, st.booleans())
def test_a_table_that_is_looked_up_and_multiplied(product, size, seed, stride, product_first):
    torch.manual_seed(seed)
    uses, written = zip(*[kind(size) for kind in (lookup, product)], strict=True)
    form = combined(uses[::-1] if product_first else uses)
    assert isinstance(form, Total)
    assert_is(form, written, stride)


@pytest.mark.parametrize(
    ("kinds", "joined"),
    [
        ((dense, dense), Dense),
        ((outer, outer), OuterSum),
        ((outer, outer_sum, outer), OuterSum),
        ((outer_sum_in_groups, outer_sum_in_groups), OuterSum),
        ((lookup, lookup_of_one_row, lookup), Lookup),
    ],
)
@few
@given(sizes, seeds, sizes_of_strides)
def test_what_is_alike_becomes_one_form(kinds, joined, size, seed, stride):
    torch.manual_seed(seed)
    uses, written = zip(*[kind(size) for kind in kinds], strict=True)
    form = combined(uses)
    assert type(form) is joined
    assert_is(form, written, stride)


def test_a_single_use_is_itself():
    form, _ = outer(Sizes(3, 2, 1, 4, 5))
    assert combined([form]) is form


@few
@given(sizes, seeds)
def test_a_limit_is_kept(size, seed):
    torch.manual_seed(seed)
    for kind in KINDS:
        form, _ = kind(size)
        lengths = [stop - start for start, stop in form.bounds()]
        assert sum(lengths) == size.b
        assert max(lengths) == min(size.b, form.piece_size)
        assert form.piece_size == 1 or form.piece_size * size.shape.numel() <= forms.MAX_WRITTEN_OUT
