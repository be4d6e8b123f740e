"""Forms of several uses of one parameter made one, and forms that outlive their pass."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gradbatch.errors import MeasurementError
from gradbatch.probe.forms import Dense, Lookup, Mapped, Outer, OuterSum, PerSample, Rows, Total
from gradbatch.probe.operations import check_size

__all__ = ["Kept", "combined", "settled"]


def combined(uses: Sequence[PerSample]) -> PerSample:
    """The gradients of a parameter from those of its uses; what is alike becomes one form.

    Args:
        uses: The uses' gradients, of one shape and number of samples.

    Returns:
        Their sum.
    """
    if len(uses) == 1:
        return uses[0]
    alike: dict[object, list[PerSample]] = {}
    for use in uses:
        alike.setdefault(_kind(use), []).append(use)
    parts = [_joined(forms) for forms in alike.values()]
    return parts[0] if len(parts) == 1 else Total(parts)


def _kind(form: PerSample) -> object:
    """What forms must share to be joined."""
    if isinstance(form, Outer):
        return OuterSum, 1, *form.shape
    if isinstance(form, OuterSum):
        return OuterSum, form.left.shape[1], form.left.shape[3], form.right.shape[3]
    if isinstance(form, Dense | Lookup):
        return type(form)
    return id(form)


def _joined(forms: Sequence[PerSample]) -> PerSample:
    """One form for several of one kind."""
    first = forms[0]
    if len(forms) == 1:
        return first
    if isinstance(first, Dense):
        return Dense(Rows(torch.stack([form.rows.tensor for form in forms]).sum(0)), first.shape)  # type: ignore
    if isinstance(first, Lookup):
        ids, right = ([getattr(form, name) for form in forms] for name in ("ids", "right"))
        return Lookup(torch.cat(ids, 1), torch.cat(right, 1), first.shape)
    sides = [_sides(form) for form in forms]
    return OuterSum(torch.cat([left for left, _ in sides], 2), torch.cat([right for _, right in sides], 2), first.shape)


def _sides(form: PerSample) -> tuple[Tensor, Tensor]:
    """Both sides of an outer product or a sum of them, [B, G, T, L] and [B, G, T, R]."""
    if isinstance(form, Outer):
        return form.left.tensor[:, None, None], form.right.tensor[:, None, None]
    assert isinstance(form, OuterSum)
    return form.left, form.right


def settled(form: PerSample) -> PerSample:
    """The same gradients, in a form that outlives the graph of the pass.

    Args:
        form: The gradients.

    Returns:
        Them, without any use of the graph.

    Raises:
        UnknownOperationError: If that would take too much memory.
    """
    if isinstance(form, Mapped):
        check_size(form.num_samples, form.shape)
        return Dense(Rows(form.rows_of(0, form.num_samples)), form.shape)
    if isinstance(form, Total):
        return combined([settled(part) for part in form.parts])
    return form


class Kept:
    """Gradients kept after their pass, in the tensors that autograd saved, which nobody may change meanwhile.

    Args:
        form: The gradients.

    Raises:
        UnknownOperationError: If they would take too much memory.
    """

    __slots__ = ("_form", "_versions")

    def __init__(self, form: PerSample) -> None:
        self._form = settled(form)
        self._versions = self._now()

    def _now(self) -> list[int]:
        """How often each tensor was changed in place, as autograd itself keeps count."""
        return [tensor._version for tensor in self._form.held()]

    @property
    def form(self) -> PerSample:
        """The gradients.

        Raises:
            MeasurementError: If a tensor behind them was changed in place.
        """
        if self._now() != self._versions:
            raise MeasurementError(
                "a tensor that the model was given was changed in place after backward, and the measurement still "
                "needs it: give each pass tensors of its own, or `read` before they are filled anew"
            )
        return self._form
