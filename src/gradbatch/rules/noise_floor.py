"""NoiseFloor: a batch so large that gradient noise is not what stops the loss from falling."""

import math
from dataclasses import dataclass
from typing import TypedDict

from gradbatch._types import Decision, Progress, Rule, Statistics
from gradbatch.estimators import DebiasedEma, Ema, RunningMean, grown
from gradbatch.rules._check import check_above, check_bounds, check_decay, check_from, check_positive
from gradbatch.rules._groups import averages_of, parts_of, with_groups, with_rates
from gradbatch.rules._sizes import hold, largest_size, ratio

__all__ = ["NoiseFloor", "NoiseFloorState"]


class NoiseFloorState(TypedDict):
    """Running averages of the variance (of each parameter group) and of the loss, and what they are over.

    ``watched`` counts the samples that the loss was averaged over, ``samples_seen`` says where the last batch ended.
    """

    variances: list[RunningMean]
    watched: int
    samples_seen: int
    slow: float
    fast: float


@dataclass(frozen=True, kw_only=True)
class NoiseFloor(Rule[NoiseFloorState]):
    r"""NoiseFloor: keep the floor that noise sets to the loss below the progress that the loss still makes.

    With the learning rate $\eta$ and heavy-ball momentum $\rho$, $\eta_\text{eff}=\eta/(1-\rho)$, the averaged variance
    $\operatorname{tr}\Sigma$ of the per-sample gradients, the averaged loss $F$ and its decrease $D$ over the last $H$
    samples,

    $$ B_{t+1} = \max\Big(\frac{\eta_\text{eff}\operatorname{tr}\Sigma}{4D},\;
       \frac{\eta_\text{eff}\operatorname{tr}\Sigma}{F}\Big). $$

    Why: let a direction of the loss have curvature $h$ and gradient noise of variance $\sigma^2/B$. SGD then does not
    reach the minimum: $x\leftarrow(1-\eta h)x-\eta\varepsilon$ has the stationary variance
    $\eta\sigma^2/(B h(2-\eta h))\approx\eta\sigma^2/(2Bh)$, which costs $\frac h2$ times that. Whatever $h$ is,
    the sum over directions is the floor $\eta\operatorname{tr}\Sigma/(4B)$, and momentum acts on it as the rate
    $\eta_\text{eff}$ does. The first term asks that the floor be at most $D$; it grows when the loss stops falling, as
    a decay of the learning rate would lower the floor. The second, CABS with $\eta_\text{eff}$, is a guard at large
    rates: the floor is at most a quarter of the loss.

    $F$ is the mean of the batch losses with time constant $H/8$ samples, and $D$ that with time constant $H$ less $F$,
    or $10^{-4}|F|$ if that is more.

    Source: our own, under study (its numbers so far are of small tasks). Choices: the averages have no bias from
    their start (each is a weighted mean of what was seen); until $H$ samples were watched $D$ says nothing and only
    the guard decides, or without the guard the size is held; the size grows by a tenth per update at most and falls
    at once; with several parameter groups $\sum_g\eta_g\operatorname{tr}\Sigma_g$ takes the place of
    $\eta\operatorname{tr}\Sigma$, with the first group's momentum; optimizers other than SGD count as having no
    momentum, and their preconditioner is not seen. A loss of 0 or less has no guard. A batch of one sample changes
    nothing, and so does one whose numbers are not finite, and a momentum of 1 or more, for which there is no floor.

    Attributes:
        horizon: $H$, in epochs.
        min_batch_size: Smallest size, in samples; so it is where there is no noise.
        max_batch_size: Largest size, in samples; the data set is a bound, too.
        decay: Coefficient of the past in the average of the variance, in [0, 1).
        growth: The most that the size grows by per update, as a factor above 1; one sample is always allowed.
        min_decrease: Smallest $D$, as a share of $|F|$; at least 0.
        guard: Whether the second term takes part.
    """

    horizon: float = 0.5
    min_batch_size: int = 16
    max_batch_size: int = 4096
    decay: float = 0.95
    growth: float = 1.1
    min_decrease: float = 1e-4
    guard: bool = True

    def __post_init__(self) -> None:
        check_positive("horizon", self.horizon)
        check_bounds(self.min_batch_size, self.max_batch_size)
        check_decay(self.decay)
        check_above("growth", self.growth, 1)
        check_from("min_decrease", self.min_decrease, 0)

    def requires(self, progress: Progress) -> frozenset[str]:
        """The variance; per parameter group where there are several."""
        return with_groups(frozenset({"grad_variance"}), progress)

    def init(self) -> NoiseFloorState:
        """Nothing averaged."""
        return NoiseFloorState(variances=[], watched=0, samples_seen=0, slow=0.0, fast=0.0)

    def update(
        self, statistics: Statistics, progress: Progress, state: NoiseFloorState
    ) -> tuple[Decision, NoiseFloorState]:
        """Average this batch in, then apply the rule; see the class."""
        variances = _variances(statistics, progress)
        if not all(map(math.isfinite, (statistics.loss, *variances))) or progress.momentum >= 1:
            because = "no finite loss and variance, or a momentum of 1 or more"
            return hold("noise-floor", progress, because), state
        averaged = self._average(variances, statistics, progress, state)
        noise = with_rates([own["mean"] for own in averaged["variances"]], progress) / (1 - progress.momentum)
        loss = averaged["fast"]
        decrease = max(averaged["slow"] - loss, self.min_decrease * abs(loss))
        if not (math.isfinite(noise) and math.isfinite(decrease)):
            return hold("noise-floor", progress, "numbers too large to divide"), state
        return self._decide(noise, loss, decrease, progress, averaged), averaged

    def _decide(
        self, noise: float, loss: float, decrease: float, progress: Progress, state: NoiseFloorState
    ) -> Decision:
        """The size for these numbers."""
        asked: list[float] = []
        numbers = {"noise": noise, "loss": loss}
        reason = f"noise-floor: lr*variance {noise:.4g}, loss {loss:.4g}"
        if self.guard and loss > 0:
            asked.append(noise / loss)
        if state["watched"] >= self.horizon * progress.dataset_size:
            asked.append(ratio(noise, 4 * decrease))
            numbers["decrease"] = decrease
            reason += f", decrease {decrease:.4g}"
        elif not asked:
            return hold("noise-floor", progress, "the loss was not watched for long enough")
        asked_for = max(asked)
        most = min(grown(progress.batch_size, self.growth), largest_size(self.max_batch_size, progress))
        # Bounds first, since the number may be infinite; the lower one wins.
        size = round(max(self.min_batch_size, min(asked_for, most)))
        return Decision(batch_size=size, reason=f"{reason}: {asked_for:.4g} samples", numbers=numbers)

    def _average(
        self, variances: list[float], statistics: Statistics, progress: Progress, state: NoiseFloorState
    ) -> NoiseFloorState:
        """The averages with this batch in them."""
        ema = DebiasedEma(decay=self.decay)
        old = averages_of("NoiseFloor", state["variances"], len(variances), ema.init())
        # The batch stands for all samples since the last one that was seen, so that time is in samples always.
        passed = progress.samples_seen - state["samples_seen"] if state["watched"] else 0
        passed = max(passed, statistics.num_samples)
        watched = state["watched"] + passed
        horizon = self.horizon * progress.dataset_size
        slow, fast = (_ema_of_samples(passed, watched, constant) for constant in (horizon, horizon / 8))
        return NoiseFloorState(
            variances=[ema.update(a, b) for a, b in zip(old, variances, strict=True)],
            watched=watched,
            samples_seen=progress.samples_seen,
            slow=slow.update(state["slow"], statistics.loss),
            fast=fast.update(state["fast"], statistics.loss),
        )


def _variances(statistics: Statistics, progress: Progress) -> list[float]:
    """The variance in each parameter group, nan where there is none."""
    variances = [part.grad_variance for part in parts_of(statistics, progress)]
    return [math.nan if variance is None else variance for variance in variances] or [math.nan]


def _ema_of_samples(passed: int, watched: int, constant: float) -> Ema:
    r"""The running mean for ``passed`` of ``watched`` samples, with a time constant and no bias of the start.

    The samples' share in the mean is $(1-e^{-n/\tau})/(1-e^{-N/\tau})$.

    Returns:
        The average.
    """
    return Ema(decay=1 - math.expm1(-passed / constant) / math.expm1(-watched / constant))
