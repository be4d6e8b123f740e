"""BA-SGD and BA-Momentum: draw samples until one more is not worth its cost."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from gradbatch._types import Decision, Progress, Rule, Statistics
from gradbatch.errors import InvalidInputError
from gradbatch.rules._check import check_at_least, check_below, check_choice, check_finite
from gradbatch.rules._sizes import hold, largest_size
from gradbatch.rules._walk import best_size

__all__ = ["BA"]


@dataclass(frozen=True, kw_only=True)
class BA(Rule[None]):
    r"""Batch Adaptive SGD and Momentum: draw samples until the batch has the size of the largest utility.

    With the mean loss $s$ and the mean gradient $\bar g$ of the samples drawn so far, learning rate $\eta$ and
    smallest reachable loss $S^*$, the loss after an update with $m$ samples is taken for a normal walk with rebound,

    $$ s' = |s-S^*-\eta\Delta|+S^*, \qquad \Delta\sim N(\mu,\sigma^2/m), \qquad \sigma^2=\bar g^\top\hat\Sigma\bar g, $$

    with $\mu=\bar g\cdot\bar g$ for plain SGD and $\mu=\bar g\cdot(\rho b+\bar g)$ with momentum $\rho$ and the
    optimizer's buffer $b$. More samples are drawn, $m_0$ at a time, until there are at least

    $$ m^* = \operatorname*{argmax}_{1\le m\le B_\max} u(m), \qquad u(m) = \frac{s-E[s'\,|\,m]}{m}; $$

    all numbers are measured anew on the grown batch. The argmax is exact on the whole numbers.

    Source: Chen, Wu and Luo (ICLR 2018 submission, openreview SybqeKgA-), algorithm 1, with its $u(m)$ and sample
    covariance (eq. 4), after Yin, Luo and Nakamura (KDD 2017); ``stop="code"`` as in the authors' code. That code
    divides $\sigma$ by $\sqrt{m}$ twice, so that it stops at $m\ge m^*/m$, near $\sqrt{m^*}$; the sizes in the paper's
    figures are probably its own. Deviations: the exact $\sigma^2$ needs no matrix, as it is the variance of the
    projections $g_i\cdot\bar g$; a batch ends with the epoch, where the paper draws each from the whole data set; the
    code's shortcut, accept where $a>5$ at the present batch, is left out, as is its comparison of derivatives in place
    of utilities where the search ends. Choices where the sources are silent or at odds: $S^*$ is 0 unless given; the
    batch is accepted as it is where no progress is expected ($\mu\le0$, or a loss $s\le S^*$, of which the formula
    says nothing) and where the step is over twice the distance. Literally the utility is negative then and its argmax
    $B_\max$: ``"cap"``, which is what the code does with an overshoot. $m^*$ grows, like a logarithm, as the step nears
    0 or twice the distance from between, so that accepting beyond is a jump. Equal gradients ($\sigma=0$) want one
    sample.

    The model is one of SGD's step: weight decay, gradient clipping and layers that draw random numbers are not in it.
    The first batch of a controller should have $m_0$ samples; batches are multiples of $m_0$, but for those that end at
    $B_\max$ or with the data. A decision's ``numbers`` are ``state`` $s$, ``mu`` $\mu$, ``sigma`` $\sigma$, ``target``
    $m^*$ (for ``stop="code"`` up to $B_\max^2$) and ``drawn`` $m$.

    Attributes:
        momentum: $\rho$, that of the optimizer, in [0, 1); 0 is BA-SGD.
        m0: $m_0$, how many samples are drawn at a time, at least 2, in samples.
        optimum: $S^*$, in units of the loss.
        covariance: $\hat\Sigma$: its diagonal only, or ``"exact"``.
        stop: At $m\ge m^*$ as in the paper, or at $m\ge m^*/m$ as in the authors' code.
        max_batch_size: $B_\max$, in samples; ``None`` for the size of the data set, which bounds it in any case.
        no_progress: What to do where none is expected, $\mu\le0$ or $s\le S^*$: accept the batch, or draw up to the
            ``"cap"``, $B_\max$.
        overshoot: The same for steps over twice the distance, $\eta\mu\ge2(s-S^*)$.
    """

    in_step: ClassVar[bool] = True

    momentum: float = 0.0
    m0: int = 32
    optimum: float = 0.0
    covariance: Literal["diagonal", "exact"] = "diagonal"
    stop: Literal["paper", "code"] = "paper"
    max_batch_size: int | None = None
    no_progress: Literal["accept", "cap"] = "accept"
    overshoot: Literal["accept", "cap"] = "accept"

    def __post_init__(self) -> None:
        check_below("momentum", self.momentum, 0, 1)
        check_at_least("m0", self.m0, 2)
        check_finite("optimum", self.optimum)
        check_choice("covariance", self.covariance, ("diagonal", "exact"))
        check_choice("stop", self.stop, ("paper", "code"))
        check_choice("no_progress", self.no_progress, ("accept", "cap"))
        check_choice("overshoot", self.overshoot, ("accept", "cap"))
        if self.max_batch_size is not None:
            check_at_least("max_batch_size", self.max_batch_size, self.m0)

    def requires(self, progress: Progress) -> frozenset[str]:
        """The expected step and its variance.

        Args:
            progress: Where training stands, with what the optimizer is.

        Returns:
            Names of two quantities.

        Raises:
            InvalidInputError: If the optimizer's step is not the one that is modelled, or the batch has one sample.
        """
        self._check_training(progress)
        spread = "projection_variance" if self.covariance == "exact" else "diagonal_projection_variance"
        return frozenset({"momentum_projection" if self.momentum else "grad_sqnorm", spread})

    def init(self) -> None:
        """No state."""
        return

    def update(self, statistics: Statistics, progress: Progress, state: None) -> tuple[Decision, None]:
        """Update with the samples drawn so far, or draw more; see the class."""
        mu = statistics.momentum_projection if self.momentum else statistics.grad_sqnorm
        is_exact = self.covariance == "exact"
        variance = statistics.projection_variance if is_exact else statistics.diagonal_projection_variance
        if mu is None or variance is None or not statistics.is_finite:
            return hold("ba", progress, "this batch has no finite loss, step and variance"), None
        drawn, largest = statistics.num_samples, largest_size(self.max_batch_size, progress)
        sigma = math.sqrt(max(0.0, variance))  # rounding can make that of equal gradients negative
        target = self._target(statistics.loss, mu, sigma, progress.lr, largest)
        numbers = {"state": statistics.loss, "mu": mu, "sigma": sigma, "target": target, "drawn": drawn}
        reason = f"ba: m* = {target} with {drawn} samples"
        end = self._end(drawn, target, largest, is_epoch_end=progress.samples_seen % progress.dataset_size == 0)
        if end:
            return Decision(batch_size=self.m0, reason=f"{reason}, {end}", numbers=numbers), None
        # Up to a multiple, should the first batch have been none.
        more = min(self.m0 - drawn % self.m0, largest - drawn)
        return Decision(batch_size=more, step=False, reason=f"{reason}, {more} more", numbers=numbers), None

    def _target(self, loss: float, mu: float, sigma: float, lr: float, largest: int) -> int:
        """$m^*$, as far as the stopping rule looks."""
        most = largest if self.stop == "paper" else largest * largest
        distance = loss - self.optimum
        step = lr * mu / distance if distance > 0 else 0.0
        if not 0 < step < 2:
            answer = self.overshoot if step >= 2 else self.no_progress
            return most if answer == "cap" else 1
        return best_size(step=step, noise=lr * sigma / distance, most=most)

    def _end(self, drawn: int, target: int, largest: int, *, is_epoch_end: bool) -> str:
        """Why no more samples are drawn; empty if they are."""
        if drawn >= largest:
            return "the most"
        if drawn >= target if self.stop == "paper" else drawn * drawn >= target:
            return "enough"
        return "the rest of the epoch" if is_epoch_end else ""

    def _check_training(self, progress: Progress) -> None:
        """Refuse an optimizer that takes another step than the one modelled, and a batch without a variance."""
        if progress.optimizer != "SGD":
            raise InvalidInputError(
                f"BA predicts the step of SGD, with heavy-ball momentum or without, got {progress.optimizer}: train "
                "with torch.optim.SGD, or take another rule such as CABS"
            )
        if progress.momentum != self.momentum:
            raise InvalidInputError(
                f"`momentum` of BA must be the optimizer's, {progress.momentum}, got {self.momentum}: make the rule "
                f"with BA(momentum={progress.momentum})"
            )
        if len(set(progress.group_lrs)) > 1:
            raise InvalidInputError(
                f"BA predicts a step with one learning rate, got {progress.group_lrs} in the optimizer's parameter "
                "groups: give them the same, or take another rule such as CABS"
            )
        if progress.batch_size < 2:
            raise InvalidInputError(
                f"`batch_size` must be at least 2 with BA, which needs a variance, got {progress.batch_size}: begin "
                f"with {self.m0}, its `m0`"
            )
