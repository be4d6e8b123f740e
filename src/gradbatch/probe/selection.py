r"""Sums over strides of a batch's samples, from which a part of the batch's gradient can be had.

With $S_j=\sum_{i\in j} g_i$ for stride $j$ of $n_j$ samples, the mean over some of the strides is
$\sum_j w_jS_j/\sum_j w_jn_j$ with $w_j=1$ for those and 0 for the others: no second backward pass.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gradbatch._types import Strides
from gradbatch.errors import InvalidInputError

__all__ = ["StrideTotals"]


@dataclass(slots=True)
class StrideTotals:
    """What the passes of one batch say of its strides, by the parameters' places.

    Attributes:
        size: Samples in each stride but the last.
        scale: Factor that makes the sums those of samples' gradients; the squares want it twice.
        sums: $S_j$ over ``scale``, [k, *shape].
        square_sums: Elementwise sums of squares within each stride, over its square, [k, *shape], where asked for.
    """

    size: int
    scale: float = 0.0
    sums: dict[int, Tensor] = field(default_factory=dict)
    square_sums: dict[int, Tensor] = field(default_factory=dict)

    def add(
        self, first_sample: int, sums: Mapping[int, Tensor], square_sums: Mapping[int, Tensor], scale: float
    ) -> None:
        """Add one more pass.

        Args:
            first_sample: Samples of the batch in earlier passes.
            sums: What it gave for the strides from that of ``first_sample`` on.
            square_sums: The same of squares.
            scale: Factor that makes its sums those of samples' gradients.
        """
        self.scale = self.scale or scale
        first, factor = first_sample // self.size, scale / self.scale
        for place, rows in sums.items():
            self.sums[place] = _joined(self.sums.get(place), rows, first, factor)
        for place, rows in square_sums.items():
            self.square_sums[place] = _joined(self.square_sums.get(place), rows, first, factor**2)

    def counts(self, num_samples: int) -> tuple[int, ...]:
        """Samples $n_j$ in each stride of a batch of ``num_samples``."""
        return tuple([min(self.size, num_samples - start) for start in range(0, num_samples, self.size)])

    def pad(self, num_samples: int) -> None:
        """Give each parameter as many strides as the batch has, of which later passes may not have used it."""
        count = math.ceil(num_samples / self.size)
        for totals in (self.sums, self.square_sums):
            for place, rows in totals.items():
                totals[place] = _padded(rows, count)

    def grams(self) -> dict[int, Tensor]:
        """Inner products of the sums, [k, k], without the scale."""
        flats = {place: rows.reshape(len(rows), -1) for place, rows in self.sums.items()}
        return {place: flat @ flat.mT for place, flat in flats.items()}

    def strides(
        self, num_samples: int, names: Sequence[str], grams: Mapping[int, Sequence[float]], per_sample: float
    ) -> dict[str, Strides]:
        """The strides of each parameter, by its name.

        Args:
            num_samples: Samples in the batch.
            names: The parameters' names.
            grams: The numbers of `grams`, row by row, where those are asked for.
            per_sample: Factor on ``scale``, see `Sums.per_sample`.

        Returns:
            What a rule may see of them.
        """
        counts, scale = self.counts(num_samples), self.scale * per_sample
        has_moments = bool(self.square_sums)
        return {
            names[place]: Strides(
                counts=counts,
                gram=_rows(grams[place], len(counts), scale**2) if place in grams else None,
                sums=self.sums[place] if has_moments else None,
                square_sums=self.square_sums[place] if has_moments else None,
                scale=scale,
            )
            for place in self.sums
        }

    def mean(self, place: int, weights: Sequence[float], num_samples: int) -> Tensor:
        r"""The weighted mean $\sum_j w_jS_j/\sum_j w_jn_j$ of one parameter's gradients, [*shape], without the scale.

        Args:
            place: The parameter.
            weights: $w_j$ for each stride.
            num_samples: Samples in the batch.

        Returns:
            The mean.

        Raises:
            InvalidInputError: If there is not one weight for each stride, or their sum is not positive.
        """
        counts, sums = self.counts(num_samples), self.sums[place]
        if len(weights) != len(counts):
            raise InvalidInputError(
                f"`weights` has {len(weights)} numbers for the batch's {len(counts)} strides of {self.size} samples: "
                "give one for each"
            )
        total = math.fsum(weight * count for weight, count in zip(weights, counts, strict=True))
        if not 0 < total < math.inf:
            raise InvalidInputError(f"`weights` must select samples, got {list(weights)}: give one above 0")
        shares = torch.tensor([weight / total for weight in weights], dtype=sums.dtype, device=sums.device)
        return torch.tensordot(shares, sums, 1)


def _joined(total: Tensor | None, rows: Tensor, first: int, factor: float) -> Tensor:
    """A running total of strides with a pass's rows added, the first of which is stride ``first``."""
    if total is None and first == 0 and factor == 1:
        return rows
    total = _padded(rows[:0] if total is None else total, first + len(rows))
    total[first : first + len(rows)].add_(rows, alpha=factor)
    return total


def _padded(rows: Tensor, count: int) -> Tensor:
    """At least ``count`` rows, the further ones of zeros."""
    missing = count - len(rows)
    return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]) if missing > 0 else rows


def _rows(numbers: Sequence[float], count: int, factor: float) -> tuple[tuple[float, ...], ...]:
    """A square matrix from its numbers, times a factor."""
    return tuple([tuple([x * factor for x in numbers[k * count : (k + 1) * count]]) for k in range(count)])
