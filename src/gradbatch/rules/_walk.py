r"""The most useful batch size of a random walk with rebound: the mathematics of the rule `BA`.

A step of gradient descent is taken for one step of a walk towards the smallest loss, which lies a distance of 1 away:
it goes $y$ on average, with standard deviation $\tau_m=r/\sqrt m$ if the batch has $m$ samples, and what oversteps is
thrown back. The gain per sample, $u(m)=(1-E|1-y-\tau_m\xi|)/m$ with normal $\xi$, is to be as large as can be.

With $c=\min(y,2-y)$, $d=1-c$, $a=d/\tau$, the normal density $\varphi$, upper tail $Q$ and
$L(a)=\varphi(a)-a\,Q(a)$ the mean of the folded normal is $d+2\tau L(a)$, so that

$$ u(m) = \frac{c-2\tau_m L(a_m)}{m}, \qquad u'(m) = \frac{g(\tau_m)-c}{m^2}, \qquad
   g(\tau) = \tau\,(3\varphi(a)-2a\,Q(a)), \qquad g'(\tau) = \varphi(a)\,(3+a^2) > 0. $$

Nothing cancels here, however small $y$ is, while the paper's $s-E_m$ loses the digits of a small $y$. As $g$ rises from
0 without bound, it equals $c$ at one $\tau^*$ only: $u$ has one maximum, at $m=(r/\tau^*)^2$, and the best whole number
is next to it. (Derived for this library; METHODS 2.4 has the same maximum as $z^*(y)=(d/\tau^*)^2$.)
"""

import math

__all__ = ["best_size"]

_SMALLEST_GAIN = 1e-280
"""Of smaller ones the normal density underflows; the size depends on the gain's logarithm."""

_MAX_STEPS = 20
"""Of Newton's method, which takes up to 5."""

_MANY = 1e6
"""Of larger sizes two neighbours' utilities are equal to some 12 digits, and rounding the maximum tells better which of
them is the best."""

_DENSITY_AT_0 = 1 / math.sqrt(2 * math.pi)


def best_size(*, step: float, noise: float, most: int) -> int:
    r"""Whole number of samples at which the gain per sample is largest.

    Where two neighbours are equally good, to rounding, the smaller one.

    Args:
        step: Mean step $y=\eta\mu/(s-S^*)$, as a part of the distance, between 0 and 2.
        noise: Its standard deviation for one sample, $r=\eta\sigma/(s-S^*)\ge0$.
        most: Largest number of samples, at least 1.

    Returns:
        $m^*$, from 1 to ``most``, in samples.

    Example:
        >>> best_size(step=0.01, noise=3.0, most=1000)
        55
    """
    assert 0 < step < 2
    gain = max(min(step, 2 - step), _SMALLEST_GAIN)
    ratio = noise / _best_spread(gain)
    peak = ratio * ratio
    if peak >= most:
        return most
    if peak <= 1:
        return 1
    if peak > _MANY:
        return round(peak)
    below = int(peak)
    return below if _utility(below, gain, noise) >= _utility(below + 1, gain, noise) else below + 1


def _best_spread(gain: float) -> float:
    r"""$\tau^*$, where $g(\tau)=c$."""
    # Newton's method on log g over log tau, which rises and is concave: from the second step on it comes from below and
    # cannot overshoot.
    distance = 1 - gain
    target = math.log(gain)
    spread = 1 / math.sqrt(1.43 - 1.7 * target)  # right at a gain of 1, within 36 % everywhere
    for _ in range(_MAX_STEPS):
        a = distance / spread
        density = _DENSITY_AT_0 * math.exp(-0.5 * a * a)
        value = 3 * spread * density - distance * math.erfc(a * math.sqrt(0.5))
        change = (target - math.log(value)) * value / (spread * density * (3 + a * a))
        spread *= math.exp(change)
        if abs(change) < 1e-9:  # the next would be its square
            break
    return spread


def _utility(size: int, gain: float, noise: float) -> float:
    """$u(m)$, in parts of the distance per sample."""
    spread = noise / math.sqrt(size)
    a = (1 - gain) / spread
    loss = _DENSITY_AT_0 * math.exp(-0.5 * a * a) - 0.5 * a * math.erfc(a * math.sqrt(0.5))
    return (gain - 2 * spread * loss) / size
