"""NoiseFloor: a batch so large that gradient noise is not what stops the loss from falling."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from gradbatch._types import Decision, Progress, Rule, Statistics
from gradbatch.estimators import DebiasedEma, Ema, RunningMean, grown
from gradbatch.rules._check import check_above, check_at_least, check_bounds, check_decay, check_from, check_positive
from gradbatch.rules._groups import averages_of, parts_of, with_groups, with_rates
from gradbatch.rules._sizes import largest_size, ratio

__all__ = ["NoiseFloor", "NoiseFloorState"]


class NoiseFloorState(TypedDict):
    """Running averages of variance and squared gradient (of each parameter group) and of the loss.

    ``watched`` counts the samples that the loss was averaged over, ``samples_seen`` says where the last batch ended,
    ``lr_scale`` is the factor on the rate at the last update.
    """

    variances: list[RunningMean]
    signals: list[RunningMean]
    watched: int
    samples_seen: int
    slow: float
    fast: float
    lr_scale: float


@dataclass(frozen=True, kw_only=True)
class NoiseFloor(Rule[NoiseFloorState]):
    r"""NoiseFloor: keep the floor that noise sets to the loss below the progress that the loss still makes.

    With the learning rate $\eta$ and heavy-ball momentum $\rho$, $\eta_\text{eff}=\eta/(1-\rho)$, the averaged variance
    $\operatorname{tr}\Sigma$ of the per-sample gradients, the averaged loss $F$ and its decrease $D$ over the last $H$
    samples, training wants

    $$ B^* = \max\Big(\frac{\eta_\text{eff}\operatorname{tr}\Sigma}{4D},\;
       \frac{\eta_\text{eff}\operatorname{tr}\Sigma}{2F}\Big) $$

    samples. Why: let a direction of the loss have curvature $h$ and gradient noise of variance $\sigma^2/B$. SGD then
    does not reach the minimum: $x\leftarrow(1-\eta h)x-\eta\varepsilon$ has the stationary variance $\eta\sigma^2/(B
    h(2-\eta h))\approx\eta\sigma^2/(2Bh)$, which costs $\frac h2$ times that. Whatever $h$ is, the sum over directions
    is the floor $\eta\operatorname{tr}\Sigma/(4B)$, and momentum acts on it as the rate $\eta_\text{eff}$ does. The
    first term asks that the floor be at most $D$; it grows when the loss stops falling, as a decay of the learning
    rate would lower the floor. The second, half of what CABS asks for with $\eta_\text{eff}$, is a guard at large
    rates: the floor is at most half of the loss.

    What counts is $\eta_\text{eff}/B$ alone, as long as $\eta_\text{eff}h$ is small: per sample, both progress and
    floor depend on nothing else. So where $B^*$ is below the smallest size, the batch keeps that size $B_\min$ and the
    rate is multiplied by $s=B_\min/B^*$ instead, which takes fewer updates than small batches would; at most by
    ``max_lr_scale``, and only as far as a step, to first order, takes no more than twice the loss (twice Polyak's
    step):

    $$ s\,\eta_\text{eff}\,\big(\|G\|^2+\operatorname{tr}\Sigma/B_\min\big)\le 2F. $$

    On a quadratic loss that keeps $s\,\eta_\text{eff}h\le1$ along the gradient. Where the batch is as large as
    it can be, the rate is divided by what is missing.

    Where it is known after how many samples training ends, and $R<H$ of them are left, $D\,R/H$ takes the place of
    $D$: the floor is to be below what the loss can still fall by. That takes noise away towards the end, as a decay of
    the learning rate does.

    Adam's update is $-\eta\,p_d\,\bar g_d$ with $p_d=1/(\sqrt{\hat v_d}+\epsilon)$: the same holds with $\eta p_d$ for
    the rate of each direction, so that $\sum_dp_d\operatorname{var}_d$ and $\sum_dp_dG_d^2$ take the places of
    $\operatorname{tr}\Sigma$ and $\|G\|^2$, and $\eta_\text{eff}=\eta$.

    $F$ is the mean of the batch losses with time constant $H/8$ samples, and $D$ that with time constant $H$ less $F$,
    or $10^{-4}|F|$ if that is more.

    Source: our own. Choices: the averages have no bias from their start (each is a weighted mean of what was seen);
    until $H$ samples were watched $D$ says nothing: the guard alone decides on the size, or without it the size is
    held, and the rate is not raised;
    the size grows by a tenth per update at most and falls at once; the rate's factor moves by a tenth per update at
    most; with several parameter groups sums over the groups of $\eta_g$ times their share take the place of
    $\eta\operatorname{tr}\Sigma$ and $\eta\|G\|^2$, with the first group's momentum; optimizers other than SGD, Adam
    and AdamW are taken for SGD. A loss of 0 or less has no guard, and without one the rate is not raised. A batch of
    one sample changes nothing, and so does one whose numbers are not finite, the first steps of Adam, and a momentum
    of 1 or more, for which there is no floor.

    Attributes:
        horizon: $H$, in epochs.
        budget: Samples of the whole training, where that is known; ``None`` for no end in sight.
        min_batch_size: $B_\min$, in samples.
        max_batch_size: Largest size, in samples; the data set is a bound, too.
        max_lr_scale: The most that the rate is multiplied or divided by, at least 1; 1 leaves the rate alone.
        decay: Coefficient of the past in the averages of variance and squared gradient, in [0, 1).
        growth: The most that the size grows by per update, as a factor above 1; one sample is always allowed.
        min_decrease: Smallest $D$, as a share of $|F|$; at least 0.
        guard: Whether the loss bounds size and rate.
        preconditioned: Whether Adam's $p_d$ count, which takes the estimator ``layers``; SGD has none.
    """

    horizon: float = 1.0
    budget: int | None = None
    min_batch_size: int = 16
    max_batch_size: int = 4096
    max_lr_scale: float = 8.0
    decay: float = 0.95
    growth: float = 1.1
    min_decrease: float = 1e-4
    guard: bool = True
    preconditioned: bool = True

    def __post_init__(self) -> None:
        check_positive("horizon", self.horizon)
        if self.budget is not None:
            check_at_least("budget", self.budget, 1)
        check_bounds(self.min_batch_size, self.max_batch_size)
        check_from("max_lr_scale", self.max_lr_scale, 1)
        check_decay(self.decay)
        check_above("growth", self.growth, 1)
        check_from("min_decrease", self.min_decrease, 0)

    def requires(self, progress: Progress) -> frozenset[str]:
        """Variance and squared gradient, as the optimizer's updates see them; per parameter group if there are several.

        Args:
            progress: Where training stands, with what the optimizer is.

        Returns:
            Names of quantities.
        """
        kind = self._kind(progress)
        return with_groups(frozenset({f"{kind}_variance", f"{kind}_sqnorm"}), progress)

    def init(self) -> NoiseFloorState:
        """Nothing averaged."""
        return NoiseFloorState(variances=[], signals=[], watched=0, samples_seen=0, slow=0.0, fast=0.0, lr_scale=1.0)

    def update(
        self, statistics: Statistics, progress: Progress, state: NoiseFloorState
    ) -> tuple[Decision, NoiseFloorState]:
        """Average this batch in, then apply the rule; see the class."""
        variances, signals = self._moments(statistics, progress)
        if not all(map(math.isfinite, (statistics.loss, *variances, *signals))) or progress.momentum >= 1:
            return _held("no finite loss, variance and gradient, or a momentum of 1 or more", progress, state), state
        averaged = self._average(variances, signals, statistics, progress, state)
        noise, signal = (_pace(averages, progress) for averages in (averaged["variances"], averaged["signals"]))
        loss = averaged["fast"]
        decrease = max(averaged["slow"] - loss, self.min_decrease * abs(loss)) * self._share_ahead(progress)
        if not (math.isfinite(noise) and math.isfinite(signal) and math.isfinite(decrease)):
            return _held("numbers too large to divide", progress, state), state
        is_known = averaged["watched"] >= self.horizon * progress.dataset_size
        asked = [ratio(noise, 4 * decrease)] if is_known else []
        if self.guard and loss > 0:
            asked.append(noise / (2 * loss))
        if not asked:
            return _held("the loss was not watched for long enough", progress, averaged), averaged
        wanted = max(asked)
        # Only the decrease gives leave to raise the rate: the guard says what would be too much, not what is enough.
        most = self._most(noise, signal, loss) if is_known else 1.0
        factor = self._moved(self._lr_scale(wanted, most, progress), state["lr_scale"])
        reason = f"noise-floor: lr*variance {noise:.4g}, loss {loss:.4g}"
        numbers = {"noise": noise, "loss": loss}
        if is_known:
            reason += f", decrease {decrease:.4g}"
            numbers["decrease"] = decrease
        decision = Decision(
            batch_size=self._size(wanted, progress),
            lr_scale=factor,
            reason=f"{reason}: {_written(wanted)}" + (f", rate x {factor:.3g}" if factor != 1 else ""),
            numbers=numbers,
        )
        averaged["lr_scale"] = factor
        return decision, averaged

    def _kind(self, progress: Progress) -> str:
        """Which moments the noise of the optimizer's update is made of."""
        return "descent" if self.preconditioned and progress.optimizer in _ADAMS else "grad"

    def _moments(self, statistics: Statistics, progress: Progress) -> tuple[list[float], list[float]]:
        """Variance, and squared gradient without the noise that the mean carries, in each group; nan without."""
        kind = self._kind(progress)
        variances: list[float] = []
        signals: list[float] = []
        for part in parts_of(statistics, progress):
            variance, sqnorm = getattr(part, f"{kind}_variance"), getattr(part, f"{kind}_sqnorm")
            is_known = variance is not None and sqnorm is not None
            variances.append(variance if is_known else math.nan)
            signals.append(sqnorm - variance / statistics.num_samples if is_known else math.nan)
        return variances or [math.nan], signals or [math.nan]

    def _share_ahead(self, progress: Progress) -> float:
        """How much of the horizon is left to train: 1 with no end in sight."""
        if self.budget is None:
            return 1.0
        left = self.budget - progress.samples_seen
        return max(0.0, min(1.0, left / (self.horizon * progress.dataset_size)))

    def _size(self, wanted: float, progress: Progress) -> int:
        """The next size: what is wanted, within bounds and not too much larger than now."""
        most = min(grown(progress.batch_size, self.growth), largest_size(self.max_batch_size, progress))
        # Bounds first, since the number may be infinite; the lower one wins.
        return round(max(self.min_batch_size, min(wanted, most)))

    def _most(self, noise: float, signal: float, loss: float) -> float:
        """The most that the rate may be multiplied by: a step takes at most twice the loss; 1 without a guard."""
        if not self.guard or loss <= 0:
            return 1.0
        step = max(signal, 0.0) + noise / self.min_batch_size
        return min(ratio(2 * loss, step), self.max_lr_scale)

    def _lr_scale(self, wanted: float, most: float, progress: Progress) -> float:
        """What the rate makes up for where the size is at one of its bounds."""
        largest = largest_size(self.max_batch_size, progress)
        if wanted > largest and progress.batch_size >= largest:
            return max(largest / wanted, 1 / self.max_lr_scale)
        return max(1.0, min(ratio(self.min_batch_size, wanted), most))

    def _moved(self, factor: float, last: float) -> float:
        """The factor, or as far towards it as one update may go."""
        return max(last / self.growth, min(factor, last * self.growth))

    def _average(
        self,
        variances: Sequence[float],
        signals: Sequence[float],
        statistics: Statistics,
        progress: Progress,
        state: NoiseFloorState,
    ) -> NoiseFloorState:
        """The averages with this batch in them."""
        # The batch stands for all samples since the last one that was seen, so that time is in samples always.
        passed = progress.samples_seen - state["samples_seen"] if state["watched"] else 0
        passed = max(passed, statistics.num_samples)
        watched = state["watched"] + passed
        horizon = self.horizon * progress.dataset_size
        slow, fast = (_ema_of_samples(passed, watched, constant) for constant in (horizon, horizon / 8))
        return NoiseFloorState(
            variances=self._means(state["variances"], variances),
            signals=self._means(state["signals"], signals),
            watched=watched,
            samples_seen=progress.samples_seen,
            slow=slow.update(state["slow"], statistics.loss),
            fast=fast.update(state["fast"], statistics.loss),
            lr_scale=state["lr_scale"],
        )

    def _means(self, old: list[RunningMean], values: Sequence[float]) -> list[RunningMean]:
        """Running means of the groups with one more value each."""
        ema = DebiasedEma(decay=self.decay)
        means = averages_of("NoiseFloor", old, len(values), ema.init())
        return [ema.update(a, b) for a, b in zip(means, values, strict=True)]


_ADAMS = frozenset({"Adam", "AdamW"})


def _held(because: str, progress: Progress, state: NoiseFloorState) -> Decision:
    """Size and rate as they were, where a batch says nothing."""
    reason = f"noise-floor: held, {because}"
    return Decision(batch_size=progress.batch_size, lr_scale=state["lr_scale"], reason=reason)


def _written(wanted: float) -> str:
    """The size that the rule asks for, infinite where the loss can fall no further, as at the end of a budget."""
    return f"{wanted:.4g} samples" if math.isfinite(wanted) else "as many samples as it may"


def _pace(averages: Sequence[RunningMean], progress: Progress) -> float:
    """The groups' averages times their rates, with what momentum makes of these."""
    return with_rates([own["mean"] for own in averages], progress) / (1 - progress.momentum)


def _ema_of_samples(passed: int, watched: int, constant: float) -> Ema:
    r"""The running mean for ``passed`` of ``watched`` samples, with a time constant and no bias of the start.

    The samples' share in the mean is $(1-e^{-n/\tau})/(1-e^{-N/\tau})$.

    Returns:
        The average.
    """
    return Ema(decay=1 - math.expm1(-passed / constant) / math.expm1(-watched / constant))
