"""How samples lie in a tensor, from the zeros that a masked pass leaves in its gradient."""

import pytest
import torch

from gradbatch.probe.layout import Folded, LayoutError, Packed, find_layouts

MASK = torch.tensor([True, False, True, False])
B, T, D = 4, 3, 5
FIRST, SECOND = Folded(0), Folded(1)
INNER = Folded(0, is_inner=True)


def noise(*shape):
    return torch.randn(shape, dtype=torch.float64)


def masked(*shape):
    """A batch-first gradient, zero where a sample was not sent back."""
    return noise(*shape) * MASK.view(-1, *[1] * (len(shape) - 1))


def layouts(grad, mask=MASK, packings=()):
    return find_layouts(grad, mask, packings)


def places(layouts, shape):
    """Where each layout finds the samples; with one position of each, inner and outer folding are the same."""
    places = torch.arange(shape.numel()).view(shape)
    return {tuple(layout.by_sample(places, B).flatten().tolist()) for layout in layouts}


@pytest.mark.parametrize(
    ("grad", "expected"),
    [
        (lambda: masked(B), FIRST),
        (lambda: masked(B, D), FIRST),
        (lambda: masked(B, T, D), FIRST),
        (lambda: masked(B, T, D).transpose(0, 1), SECOND),
        (lambda: masked(B, D).T, SECOND),
        (lambda: masked(B, T, D).movedim(0, 2), Folded(2)),
        (lambda: masked(B, T, D).flatten(0, 1), FIRST),
        (lambda: masked(B, T, D).transpose(0, 1).flatten(0, 1), INNER),
        (lambda: masked(B, T, D).flatten(0, 1).T, SECOND),
        (lambda: masked(B, T, D).transpose(0, 1).flatten(0, 1).T, Folded(1, is_inner=True)),
        (lambda: masked(B, B, D), FIRST),
        (lambda: masked(B, B, D).transpose(0, 1), SECOND),
        (lambda: masked(B, B, D).flatten(0, 1), FIRST),
        (lambda: masked(B, B, D).transpose(0, 1).flatten(0, 1), INNER),
    ],
)
def test_one_layout_accounts_for_the_zeros(grad, expected):
    grad = grad()
    assert places(layouts(grad), grad.shape) == places({expected}, grad.shape)


def test_by_sample_undoes_what_was_done():
    whole = noise(B, T, D)
    second, inner = whole.transpose(0, 1), whole.transpose(0, 1).flatten(0, 1)
    for layout, lying in [
        (FIRST, whole),
        (SECOND, second),
        (FIRST, whole.flatten(0, 1)),
        (INNER, inner),
        (Folded(1, is_inner=True), inner.T),
    ]:
        got = layout.by_sample(lying, B)
        assert torch.equal(got, whole), layout
        for sample in range(B):
            alone = layout.by_sample(layout.only(lying, sample, B), B)
            assert torch.equal(alone[sample], whole[sample])
            assert torch.count_nonzero(alone) == D * T


def test_a_sparse_gradient_leaves_a_doubt_that_the_other_half_settles():
    # Only the first position was heard, so that both axes of length B look masked.
    mask = torch.tensor([True, True, False, False])
    whole = noise(B, B, D)
    first = torch.zeros_like(whole)
    first[0, 1] = whole[0, 1]
    found = layouts(first, mask)
    assert places(found, first.shape) == places({FIRST, SECOND}, first.shape)
    other = torch.zeros_like(whole)
    other[3, 1] = whole[3, 1]
    settled = found & layouts(other, ~mask)
    assert places(settled, first.shape) == places({FIRST}, first.shape)


def test_samples_that_are_mixed_have_no_layout():
    assert layouts(noise(B, D)) == frozenset()
    assert layouts(noise(B, T, D).flatten(0, 1)) == frozenset()
    assert layouts(masked(B, D).roll(1, 0)) == frozenset()


@pytest.mark.parametrize("shape", [(), (T,), (T, D)])
def test_no_axis_counts_the_samples(shape):
    assert layouts(noise(*shape)) == frozenset()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_says_nothing(value):
    grad = masked(B, T, D)
    grad[0, 1, 2] = value
    assert layouts(grad) is None


def test_silence_says_nothing():
    assert layouts(None) is None
    assert layouts(torch.zeros(B, D)) is None


@pytest.mark.parametrize("layout", [FIRST, INNER, Folded(0, is_single=True)])
def test_what_cannot_be_laid_out_so_is_refused(layout):
    assert torch.equal(layout.by_sample(torch.arange(B), B), torch.arange(B))
    with pytest.raises(LayoutError):
        layout.by_sample(noise(B + 1, D), B)
    if layout.is_single:  # it was not seen which of the two foldings it is
        with pytest.raises(LayoutError):
            layout.by_sample(noise(2 * B, D), B)


class TestPacked:
    """Four sequences of lengths 2, 3, 1 and 2: longest first they are samples 1, 0, 3 and 2."""

    SIZES, ORDER = torch.tensor([4, 3, 1]), torch.tensor([1, 0, 3, 2])
    LENGTHS = torch.tensor([2, 3, 1, 2])

    def packing(self):
        return Packed(self.SIZES, self.ORDER, torch.device("cpu"))

    def padded(self):
        return noise(B, T, D) * (torch.arange(T) < self.LENGTHS[:, None])[..., None]

    def packed(self, padded):
        pack = torch.nn.utils.rnn.pack_padded_sequence(padded, self.LENGTHS, batch_first=True, enforce_sorted=False)
        return pack.data

    def test_rows_are_those_of_a_packed_sequence(self):
        packing, padded = self.packing(), self.padded()
        rows = self.packed(padded)
        assert torch.equal(packing.by_sample(rows, B), padded)
        # The first rows alone are the first position.
        assert torch.equal(packing.by_sample(rows[:3], B)[packing.samples[:3], 0], rows[:3])
        for sample in range(B):
            alone = packing.by_sample(packing.only(rows, sample, B), B)
            assert torch.equal(alone[sample], padded[sample])
            assert torch.count_nonzero(alone) == D * self.LENGTHS[sample]

    def test_the_order_may_be_that_of_the_batch(self):
        packing = Packed(torch.tensor([3, 2]), None, torch.device("cpu"))
        assert packing.samples.tolist() == [0, 1, 2, 0, 1]
        assert packing.positions.tolist() == [0, 0, 0, 1, 1]

    def test_it_is_found(self):
        packing = self.packing()
        # Eight rows are two positions of four samples as well, but for the zeros.
        assert layouts(self.packed(self.padded() * MASK[:, None, None]), packings=[packing]) == {packing}

    def test_it_is_found_among_others(self):
        other = Packed(self.SIZES, None, torch.device("cpu"))
        grad = self.packed(self.padded() * MASK[:, None, None])
        packing = self.packing()
        assert layouts(grad, packings=[other, packing]) == {packing}

    def test_rows_of_another_number_are_not_its_own(self):
        packing = self.packing()
        assert [count for count in range(1, 10) if packing.holds(count)] == [1, 2, 3, 4, 8]
        with pytest.raises(LayoutError):
            packing.by_sample(noise(5, D), B)
