"""The most useful size of a walk: the specification's table, brute force over every size, and the laws of scale."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradbatch.rules._walk import best_size

DOUBLE = torch.float64
ENDLESS = 10**15

TABLE = {
    1e-8: 31.66,
    1e-6: 22.82,
    1e-5: 18.45,
    1e-4: 14.16,
    1e-3: 9.97,
    3e-3: 8.04,
    0.01: 5.99,
    0.03: 4.21,
    0.05: 3.42,
    0.1: 2.40,
    0.2: 1.46,
    0.3: 0.96,
    0.5: 0.41,
    0.7: 0.135,
    0.9: 0.014,
}
"""METHODS 2.4: z*(y), to half of its last digit."""


def scaled(step: float) -> float:
    """z*(y) = m* (1 - y)^2/r^2, from a size so large that rounding it does not matter."""
    noise = 1e5
    return best_size(step=step, noise=noise, most=ENDLESS) * ((1 - step) / noise) ** 2


@pytest.mark.parametrize(("step", "expected"), TABLE.items())
def test_the_table(step: float, expected: float) -> None:
    digits = len(str(expected).partition(".")[2])
    assert scaled(step) == pytest.approx(expected, abs=0.51 * 10**-digits)
    # Symmetric about 1; the difference to 2 has fewer digits than a small step itself.
    assert scaled(2 - step) == pytest.approx(scaled(step), rel=1e-7)


@pytest.mark.parametrize("power", [1, 10, 30, 50])
def test_a_step_as_far_beyond_as_another_falls_short(power: int) -> None:
    step = 2.0**-power  # so that its difference to 2 is exact
    for noise in (0.5, 3.0, 1e3, 1e6):
        assert best_size(step=2 - step, noise=noise, most=ENDLESS) == best_size(step=step, noise=noise, most=ENDLESS)


def test_a_step_of_the_whole_distance() -> None:
    assert best_size(step=1.0, noise=1e6, most=ENDLESS) == round(2.25 * 2 / math.pi * 1e12)
    assert best_size(step=1.0, noise=10.0, most=1000) == 143


def literal_utilities(step: float, noise: float, sizes: torch.Tensor) -> torch.Tensor:
    """(s - E_m)/m as the paper has it, in parts of s - S*."""
    left = 1 - step
    spread = noise / sizes.sqrt()
    a = left / spread
    rebound = left * torch.erf(a / math.sqrt(2)) + spread * math.sqrt(2 / math.pi) * (-a * a / 2).exp()
    return (1 - rebound) / sizes


def utilities(step: torch.Tensor, noise: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """The same without its cancellation; they agree where the paper's form has the digits."""
    gain = torch.minimum(step, 2 - step)
    spread = noise / sizes.sqrt()
    a = (1 - gain) / spread
    above = (-a * a / 2).exp() / math.sqrt(2 * math.pi) - a / 2 * torch.erfc(a / math.sqrt(2))
    return (gain - 2 * spread * above) / sizes


@pytest.mark.parametrize("step", [0.01, 0.1, 0.6, 1.0, 1.3, 1.99])
@pytest.mark.parametrize("noise", [0.1, 1.0, 30.0])
def test_brute_force_is_the_paper_s(step: float, noise: float) -> None:
    sizes = torch.arange(1, 2001, dtype=DOUBLE)
    ours = utilities(torch.tensor(step, dtype=DOUBLE), torch.tensor(noise, dtype=DOUBLE), sizes)
    theirs = literal_utilities(step, noise, sizes)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14 * (1 + noise))
    assert best_size(step=step, noise=noise, most=2000) == 1 + int(theirs.argmax())


@pytest.mark.parametrize(("step", "noise", "expected"), [(0.01, 3.0, 55), (0.1, 10.0, 297), (0.3, 20.0, 784)])
def test_the_specification_s_examples(step: float, noise: float, expected: int) -> None:
    assert best_size(step=step, noise=noise, most=ENDLESS) == expected


def random_steps(count: int) -> torch.Tensor:
    """Small ones, any, and ones near 2: from 1e-8 to 1.999."""
    part = torch.rand(count, dtype=DOUBLE)
    kinds = torch.stack([10 ** (-8 + 8 * part), 1e-8 + 1.999 * part, 2 - 10 ** (-3 + 3 * part)])
    return kinds.gather(0, torch.randint(3, (1, count)))[0].clamp(1e-8, 1.999)


@pytest.mark.parametrize(("count", "most"), [(10_000, 500), (200, 20_000)])
def test_brute_force(count: int, most: int) -> None:
    sizes = torch.arange(1, most + 1, dtype=DOUBLE)
    steps = random_steps(count)
    # Such that the best size lies anywhere up to the bound, on it, and at 1.
    noises = 10 ** (torch.rand(count, dtype=DOUBLE) * (math.log10(most) / 2 + 1) - 1)
    ours = [best_size(step=y, noise=r, most=most) for y, r in zip(steps.tolist(), noises.tolist(), strict=True)]
    for some in torch.arange(count).split(1000):
        table = utilities(steps[some, None], noises[some, None], sizes)
        best, where = table.max(1)
        answer = torch.tensor([ours[k] for k in some.tolist()])
        # Equal; two sizes whose utilities are equal to rounding are equally good.
        found = table.gather(1, answer[:, None] - 1)[:, 0]
        assert torch.all((answer == where + 1) | ((found - best).abs() <= 1e-15 * best))
    assert 1 in ours
    assert most in ours
    assert sum(1 < size < most for size in ours) > count // 3


@pytest.mark.parametrize("most", [1, 2, 296, 297, 298])
def test_the_bound(most: int) -> None:
    assert best_size(step=0.1, noise=10.0, most=most) == min(297, most)


@pytest.mark.parametrize("step", [5e-324, 1e-300, 1e-8, 0.5, 1.0, 1.5, 2 - 2.0**-52])
def test_the_edges(step: float) -> None:
    assert best_size(step=step, noise=0.0, most=9) == 1
    assert best_size(step=step, noise=1e-300, most=9) == 1
    assert best_size(step=step, noise=1e300, most=9) == 9
    assert best_size(step=step, noise=math.inf, most=9) == 9
    assert 1 <= best_size(step=step, noise=2.0, most=ENDLESS) < 10_000


@given(st.floats(1e-12, 1.99), st.floats(10.0, 1e4), st.floats(1.0, 30.0))
@settings(max_examples=200, deadline=None)
def test_it_grows_as_the_variance(step: float, noise: float, factor: float) -> None:
    # METHODS 6: m* = z*(y) (eta sigma)^2/(s - S* - eta mu)^2.
    small = best_size(step=step, noise=noise, most=ENDLESS)
    large = best_size(step=step, noise=factor * noise, most=ENDLESS)
    assert large == pytest.approx(factor**2 * small, abs=factor**2 + 1)
