"""The time of an update as a function of its samples, fitted while training goes on."""

from dataclasses import dataclass
from typing import TypedDict

from gradbatch._types import Progress

__all__ = ["StepTimes", "TimeFit", "fit", "no_times", "observe"]

_SHORTEST = 1e-9
"""What a clock can tell, in seconds; no update is as short."""


class StepTimes(TypedDict):
    """Sums over the timed updates, of sizes M and times T, and where the clock stood last.

    ``inverse`` is the sum of 1/T, ``sizes`` of M/T, and ``inverse_squares``, ``products``, ``size_squares`` those of
    1/T^2, M/T^2 and M^2/T^2; ``largest`` is the largest M. ``step`` is -1 before the first batch.
    """

    count: int
    inverse: float
    sizes: float
    inverse_squares: float
    products: float
    size_squares: float
    largest: float
    step: int
    samples_seen: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeFit:
    """Seconds of an update, and seconds that each of its samples adds."""

    constant: float
    per_sample: float

    def predict(self, batch_size: float) -> float:
        """Seconds of an update with that many samples."""
        return self.constant + self.per_sample * batch_size


def no_times() -> StepTimes:
    """No update timed, no batch seen."""
    return StepTimes(
        count=0,
        inverse=0.0,
        sizes=0.0,
        inverse_squares=0.0,
        products=0.0,
        size_squares=0.0,
        largest=0.0,
        step=-1,
        samples_seen=0,
        seconds=0.0,
    )


def observe(times: StepTimes, progress: Progress) -> StepTimes:
    """The sums with what passed since the last call: one update, or the mean of several.

    From decision to decision a difference of the clock holds the last update's optimizer step, which does not depend
    on the size, and this one's passes.

    Returns:
        The sums; as they were, but for the clock, where nothing was timed.
    """
    now = times.copy()
    now["step"], now["samples_seen"], now["seconds"] = progress.step, progress.samples_seen, progress.seconds
    updates, samples = progress.step - times["step"], progress.samples_seen - times["samples_seen"]
    if times["step"] < 0 or updates < 1 or samples < 1:
        return now
    size, seconds = samples / updates, (progress.seconds - times["seconds"]) / updates
    if seconds < _SHORTEST:
        return now
    now["count"] += 1
    now["inverse"] += 1 / seconds
    now["sizes"] += size / seconds
    now["inverse_squares"] += 1 / seconds**2
    now["products"] += size / seconds**2
    now["size_squares"] += (size / seconds) ** 2
    now["largest"] = max(times["largest"], size)
    return now


def fit(times: StepTimes) -> TimeFit | None:
    r"""The least-squares fit of $(a+bM)/T$ to 1, neither part below 0; ``None`` before an update was timed.

    In units of the mean size, $c=b\bar M$, and with the prior $a=c$ in the weight of one mean observation, the normal
    equations are $\begin{pmatrix}w+\mu&w-\mu\\w-\mu&q+\mu\end{pmatrix}\binom ac=\binom{r_0}{r_1}$.

    Returns:
        The fit.
    """
    if times["count"] == 0:
        return None
    w = times["inverse_squares"]
    mean = times["products"] / w
    q, r0, r1, prior = times["size_squares"] / mean**2, times["inverse"], times["sizes"] / mean, w / times["count"]
    # In these two unknowns, where one is below 0 the optimum has it at 0.
    determinant = (w + prior) * (q + prior) - (w - prior) ** 2
    constant = (r0 * (q + prior) - r1 * (w - prior)) / determinant
    varying = (r1 * (w + prior) - r0 * (w - prior)) / determinant
    if constant < 0:
        constant, varying = 0.0, r1 / (q + prior)
    elif varying < 0:
        constant, varying = r0 / (w + prior), 0.0
    return TimeFit(constant=constant, per_sample=varying / mean)
