r"""Sums over strides of a batch's samples, from which a part of the batch's gradient can be had.

With $S_j=\sum_{i\in j} g_i$ for stride $j$ of $n_j$ samples, the mean over some of the strides is
$\sum_j w_jS_j/\sum_j w_jn_j$ with $w_j=1$ for those and 0 for the others: no second backward pass.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gradbatch._types import Floats, Strides
from gradbatch.errors import InvalidInputError
from gradbatch.probe.heard import Heard
from gradbatch.probe.joining import Kept
from gradbatch.probe.moments import weighted_sum
from gradbatch.probe.strides import gram, stride_gram, stride_sums

__all__ = ["StrideTotals"]


@dataclass(slots=True)
class StrideTotals:
    """What the passes of one batch say of its strides, by the parameters' places.

    A batch in one pass keeps the forms of its per-sample gradients, from which inner products and means can be had
    without the sums, which are large. Several passes add up, and so must be summed.

    Attributes:
        size: Samples in each stride but the last.
        scale: Factor that makes the sums those of samples' gradients; the squares want it twice.
        forms: The per-sample gradients over ``scale`` of the only pass so far, where they are not summed.
        sums: $S_j$ over ``scale``, [k, *shape].
        square_sums: Elementwise sums of squares within each stride, over its square, [k, *shape], where asked for.
        sqnorms: Sums of squared norms within each stride, over its square, [k], where asked for.
    """

    size: int
    scale: float = 0.0
    forms: Mapping[int, Kept] = field(default_factory=dict)
    sums: dict[int, Tensor] = field(default_factory=dict)
    square_sums: dict[int, Tensor] = field(default_factory=dict)
    sqnorms: dict[int, Tensor] = field(default_factory=dict)

    def add(self, first_sample: int, heard: Heard, scale: float) -> None:
        """Add one more pass.

        Args:
            first_sample: Samples of the batch in earlier passes.
            heard: What it said.
            scale: Factor that makes its sums those of samples' gradients.
        """
        self.scale = self.scale or scale
        first, factor = first_sample // self.size, scale / self.scale
        _join(self.sqnorms, heard.stride_sqnorms, first, factor**2)
        if not first_sample and not heard.stride_sums:
            self.forms = heard.forms
            return
        self.sums |= {place: stride_sums(kept.form, self.size) for place, kept in self.forms.items()}
        self.forms = {}
        _join(self.sums, heard.stride_sums, first, factor)
        _join(self.square_sums, heard.stride_square_sums, first, factor**2)

    def counts(self, num_samples: int) -> tuple[int, ...]:
        """Samples $n_j$ in each stride of a batch of ``num_samples``."""
        return tuple([min(self.size, num_samples - start) for start in range(0, num_samples, self.size)])

    def pad(self, num_samples: int) -> None:
        """Give each parameter as many strides as the batch has, of which later passes may not have used it."""
        count = math.ceil(num_samples / self.size)
        for totals in (self.sums, self.square_sums, self.sqnorms):
            for place, rows in totals.items():
                totals[place] = _padded(rows, count)

    @property
    def places(self) -> list[int]:
        """The parameters that were used, in the model's order."""
        return sorted(self.forms or self.sums)

    def asked(self, quantities: frozenset[str]) -> dict[tuple[str, int], Tensor]:
        """What rules see as numbers, by its name and the parameter's place, without the scale.

        Args:
            quantities: What was asked for.

        Returns:
            Gram matrices [k, k] and squared norms [k].
        """
        numbers = {("sqnorms", place): own for place, own in self.sqnorms.items()}
        if f"stride_gram:{self.size}" in quantities:
            numbers |= {("gram", place): stride_gram(kept.form, self.size) for place, kept in self.forms.items()}
            numbers |= {("gram", place): gram(rows) for place, rows in self.sums.items()}
        return numbers

    def strides(
        self, num_samples: int, names: Sequence[str], numbers: Mapping[tuple[str, int], Floats], per_sample: float
    ) -> dict[str, Strides]:
        """The strides of each parameter, by its name.

        Args:
            num_samples: Samples in the batch.
            names: The parameters' names.
            numbers: What `asked` gave, on the host.
            per_sample: Factor on ``scale``, see `Sums.per_sample`.

        Returns:
            What a rule may see of them.
        """
        counts, scale = self.counts(num_samples), self.scale * per_sample
        scaled = {key: own * scale**2 for key, own in numbers.items()}
        has_moments = bool(self.square_sums)
        return {
            names[place]: Strides(
                counts=counts,
                gram=scaled.get(("gram", place)),
                sqnorms=scaled.get(("sqnorms", place)),
                sums=self.sums[place] if has_moments else None,
                square_sums=self.square_sums[place] if has_moments else None,
                scale=scale,
            )
            for place in self.places
        }

    def mean(self, place: int, weights: Sequence[float], num_samples: int, per_sample: float) -> Tensor:
        r"""The weighted mean $\sum_j w_jS_j/\sum_j w_jn_j$ of one parameter's gradients, [*shape].

        Where all weights are zero, it is zero.

        Args:
            place: The parameter.
            weights: $w_j$ for each stride.
            num_samples: Samples in the batch.
            per_sample: Factor on ``scale``, see `Sums.per_sample`.

        Returns:
            The mean.

        Raises:
            InvalidInputError: If there is not one weight for each stride, or one is negative or not finite.
        """
        counts = self.counts(num_samples)
        if len(weights) != len(counts):
            raise InvalidInputError(
                f"`weights` has {len(weights)} numbers for the batch's {len(counts)} strides of {self.size} samples: "
                "give one for each"
            )
        if not all(0 <= weight < math.inf for weight in weights):
            raise InvalidInputError(f"`weights` must be finite and not negative, got {list(weights)}")
        total = math.fsum(weight * count for weight, count in zip(weights, counts, strict=True))
        factor = self.scale * per_sample / total if total else 0.0
        shares = [weight * factor for weight in weights]
        if place in self.sums:
            sums = self.sums[place]
            return torch.tensordot(sums.new_tensor(shares), sums, 1)
        form = self.forms[place].form
        like = next(tensor for tensor in form.held() if tensor.is_floating_point())
        return weighted_sum(form, like.new_tensor([w for w, n in zip(shares, counts, strict=True) for _ in range(n)]))


def _join(totals: dict[int, Tensor], of_pass: Mapping[int, Tensor], first: int, factor: float) -> None:
    """Add a pass's strides, the first of which is stride ``first``, to running totals."""
    for place, rows in of_pass.items():
        if place not in totals and first == 0 and factor == 1:
            totals[place] = rows
            continue
        total = totals[place] = _padded(totals.get(place, rows[:0]), first + len(rows))
        total[first : first + len(rows)].add_(rows, alpha=factor)


def _padded(rows: Tensor, count: int) -> Tensor:
    """At least ``count`` rows, the further ones of zeros."""
    missing = count - len(rows)
    return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]) if missing > 0 else rows
