"""What the passes behind one batch's statistics add up to."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from gradbatch.probe.heard import Heard, Plan
from gradbatch.probe.joining import Kept
from gradbatch.probe.selection import StrideTotals

__all__ = ["Sums"]


@dataclass(slots=True)
class Sums:
    r"""What the passes behind one `Statistics` add up to.

    Sums, never means, so that uneven cuts are exact. The numbers stay on the device, as 0-dim tensors, until
    `summarise` copies all of them at once.

    Attributes:
        num_samples: Samples $B$ so far.
        num_counted: Samples whose own gradients were looked at.
        weight: What the mean over the batch is a mean over: the samples, or what they were weighted by.
        num_passes: Passes $J$ so far.
        values: Squared norms heard, for every parameter of every pass.
        owners: What each is of, ``"sample"`` or ``"position"``, and the parameter that it belongs to.
        factors: The factor that turns each into its share of $\sum_i\|g_i\|^2$ (``layers``) or of
            $\sum_j n_j\|\bar g_j\|^2$ (``chunks``).
        second_moments: Elementwise $\sum_i g_i\circ g_i$ by parameter, where asked for.
        forms: Each pass's per-sample gradients by parameter, and the factor to them, where they are kept.
        strides: Sums over strides of the samples, where asked for.
        gradient_sum: $\sum_i g_i$ by parameter, where the probe keeps it.
        is_complete: False once a pass was heard whose second moment cannot be had.
        has_positions: False once a pass of one sample was heard, of which the gradient is known and no positions.
        is_contradicted: Whether the mean gradient turned out longer than the samples' gradients allow.
        by_chunks: Whether the values are of whole passes (``chunks``) or of samples (``layers``).
    """

    num_samples: int = 0
    num_counted: int = 0
    weight: float = 0.0
    num_passes: int = 0
    values: list[Tensor] = field(default_factory=list)
    owners: list[tuple[str, int]] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)
    second_moments: dict[int, Tensor] = field(default_factory=dict)
    forms: list[tuple[Mapping[int, Kept], float]] = field(default_factory=list)
    strides: StrideTotals | None = None
    gradient_sum: dict[int, Tensor] = field(default_factory=dict)
    is_complete: bool = True
    has_positions: bool = True
    is_contradicted: bool = False
    by_chunks: bool = False

    def take_in(self, heard: Heard, plan: Plan, weight: float, loss_scale: float, *, is_known: bool) -> None:
        """Add one more pass.

        Args:
            heard: What it said.
            plan: What was heard of it.
            weight: What it counts in the mean over the batch.
            loss_scale: Factor on the mean loss of its samples before backward.
            is_known: Whether it said all that was to be heard of the samples.
        """
        # A batch whose passes were not all heard in one way has no second moment.
        is_alike = self.num_passes == 0 or plan.by_layers != self.by_chunks
        self.is_complete &= is_known and is_alike
        self.has_positions &= plan.num_samples > 1
        self.by_chunks = not plan.by_layers
        per_unit = weight / loss_scale  # what turns a gradient that was heard into a sample's
        if plan.by_layers:
            self._take_in_samples(heard, plan, per_unit)
        else:
            self._add("sample", heard.sqnorm_sums, weight / loss_scale**2)
        self.num_samples += plan.num_samples
        self.num_counted += plan.count
        self.weight += weight
        self.num_passes += 1
        if plan.sum_grads:
            _add_up(self.gradient_sum, heard.grads, per_unit)

    def _take_in_samples(self, heard: Heard, plan: Plan, per_unit: float) -> None:
        """Add what one more pass said of its samples."""
        share = per_unit**2 * plan.num_samples / plan.count
        self._add("sample", heard.sqnorm_sums, share)
        self._add("position", heard.position_sqnorms, share)
        _add_up(self.second_moments, heard.second_moments, share)
        if plan.stride:
            self.strides = self.strides or StrideTotals(plan.stride)
            self.strides.add(self.num_samples, heard, per_unit)
        if plan.keep_for_projections and heard.forms:
            self.forms.append((heard.forms, per_unit))

    def _add(self, kind: str, values: Mapping[int, Tensor], factor: float) -> None:
        """Add the squared norms of one more pass, times what makes them shares."""
        self.values += values.values()
        self.owners += [(kind, place) for place in values]
        self.factors += [factor] * len(values)

    def mean_gradient(self, num_parameters: int) -> list[Tensor | None]:
        """The mean gradient by parameter, from the probe's own sum."""
        grads = [self.gradient_sum.get(place) for place in range(num_parameters)]
        return [None if grad is None else grad / self.weight for grad in grads]

    @property
    def per_sample(self) -> float:
        """Factor on a gradient of unit weight that makes it a sample's: the mean over samples is to be the mean."""
        return self.num_samples / self.weight

    def sample_sqnorm(self, total: float, grad_sqnorm: float) -> float | None:
        r"""The second moment $\frac1B\sum_i\|g_i\|^2$ of some parameters.

        For ``chunks`` it is what makes their unbiased variance,
        $(\sum_j n_j\|\bar g_j\|^2 - B\|\bar g\|^2)/(J-1)$, come out of the usual formula.

        Args:
            total: Those parameters' values times their factors, summed.
            grad_sqnorm: $\|\bar g\|^2$ of those parameters.

        Returns:
            The second moment, or ``None`` where the passes cannot give it.
        """
        size, passes = self.num_samples, self.num_passes
        if not self.is_complete or (self.by_chunks and passes < 2):
            return None
        if not self.by_chunks:
            return total * self.per_sample**2 / size
        spread = (total - self.weight * grad_sqnorm) * self.per_sample
        return grad_sqnorm + (size - 1) / size * spread / (passes - 1)


def _add_up(totals: dict[int, Tensor], values: Mapping[int, Tensor], factor: float) -> None:
    """Add fresh tensors, which may be changed in place, times a factor to running totals."""
    for place, value in values.items():
        total = totals.get(place)
        totals[place] = value.mul_(factor) if total is None else total.add_(value, alpha=factor)
