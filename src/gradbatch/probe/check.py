"""The engine's check of itself: the formulas' sum against autograd's own gradient."""

import torch
from torch import Tensor

from gradbatch.probe.coverage import ParameterTable
from gradbatch.probe.heard import Heard
from gradbatch.probe.own_layers import OWN_FORMULA

__all__ = ["disagreement"]

_HALF = 2.0**-15
"""Between the unit roundings of half and of single precision."""

_FORWARD = "the model's forward, or for what it does not return"

_SLACK = {"single": 1024.0, "half": 4.0}
"""Roundings of unit size that two orders of the same summation may differ by, generously: in single precision and
finer, where autograd may add thousands of terms one after the other; and in half, where sums are kept in single."""

_CANCELLING = 16.0
"""The same in single precision and finer, of what the positions give, which may cancel all but completely: the bias of
attention's keys, or of a convolution before an instance norm, has a gradient of rounding alone."""


def disagreement(heard: Heard, table: ParameterTable, num_samples: int) -> str | None:
    r"""Where $\sum_i g_i$ of the formulas and autograd's gradient truly differ.

    Two summations of the same terms differ by rounding in proportion to $\sum_i\|g_i\|$, which is at most
    $\sqrt{n\sum_i\|g_i\|^2}$ (Cauchy-Schwarz), or, where the positions' terms cancel within a sample, to
    $\sum_i\sum_t\|g_{it}\|$; a use of the parameter that the hooks did not see differs by that use's whole gradient.

    Args:
        heard: A pass whose gradients were kept and whose layers gave their sums.
        table: The parameters.
        num_samples: Samples $n$ in the pass.

    Returns:
        A sentence about the first parameter that differs, an empty string if none does, and ``None`` if that cannot
        be told because a gradient is not finite, as a loss scaler's first ones may be.
    """
    for place, grad in heard.grads.items():
        if place in heard.unsettled:
            continue
        grad = grad.to_dense() if grad.is_sparse else grad
        seen = heard.grad_sums.get(place)
        if not bool(torch.isfinite(grad).all()):
            return None
        if seen is None:
            if not bool(grad.any()):
                continue
            return f'parameter "{table.names[place]}" was used outside of {_FORWARD}'
        scale = (num_samples * heard.sqnorm_sums[place].double()).sqrt()
        error = torch.linalg.vector_norm(grad.double() - seen.double())
        if not bool(torch.isfinite(error + scale)):
            return None
        rounding = max(heard.rounding, _rounding(grad, seen))
        is_half = rounding > _HALF
        bound = _SLACK["half" if is_half else "single"] * scale
        if not is_half:
            bound = torch.maximum(bound, _CANCELLING * heard.norm_sums[place].double())
        if error > rounding * bound:
            return _sentence(table.names[place], is_by_formula=heard.methods.get(place) == OWN_FORMULA)
    return ""


def _sentence(name: str, *, is_by_formula: bool) -> str:
    """What a difference means."""
    if is_by_formula:
        return (
            f'the per-sample gradients that the registered formula gives for parameter "{name}" do not add up to '
            "autograd's gradient, so the formula is wrong, or the parameter is used elsewhere, too"
        )
    return (
        f'the per-sample gradients of parameter "{name}" do not add up to autograd\'s gradient, so the parameter is '
        f"also used outside of {_FORWARD}"
    )


def _rounding(*tensors: Tensor) -> float:
    """Unit rounding of the coarsest of the tensors' types."""
    return max(torch.finfo(tensor.dtype).eps for tensor in tensors)
