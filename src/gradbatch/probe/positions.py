r"""What is asked of the single positions of a sequence or an image, where $g_i=\sum_tg_{it}$ is a sum over them.

As in `gradbatch.probe.moments`, each function has one plain definition, for forms that keep no positions apart: there
each sample is one position.
"""

from functools import singledispatch

import torch
from torch import Tensor
from torch.linalg import vector_norm

from gradbatch.probe.forms import Lazy, Lookup, OuterSum, PerSample, Rearranged, Total
from gradbatch.probe.moments import added, sqnorm_sum, sqnorms

__all__ = ["position_norm_sum", "position_sqnorm_sum"]


@singledispatch
def position_sqnorm_sum(form: PerSample) -> Tensor:
    r"""$\sum_i\sum_t\|g_{it}\|^2$ where $g_i=\sum_tg_{it}$ over positions, else $\sum_i\|g_i\|^2$; 0-dim."""
    return sqnorm_sum(form)


@position_sqnorm_sum.register
def _(form: OuterSum) -> Tensor:
    return torch.sum(form.left.square().sum(3) * form.right.square().sum(3))


@position_sqnorm_sum.register
def _(form: Lookup) -> Tensor:
    return form.right.square().sum()


@position_sqnorm_sum.register
def _(form: Lazy) -> Tensor:
    return added(position_sqnorm_sum(part) for part in form.forms())


@position_sqnorm_sum.register
def _(form: Rearranged) -> Tensor:
    return position_sqnorm_sum(form.base)


@position_sqnorm_sum.register
def _(form: Total) -> Tensor:
    return added(position_sqnorm_sum(part) for part in form.parts)


@singledispatch
def position_norm_sum(form: PerSample) -> Tensor:
    r"""$\sum_i\sum_t\|g_{it}\|$, 0-dim: rounding of $\sum_ig_i$ is in proportion to it, however much cancels."""
    return sqnorms(form).sqrt().sum()


@position_norm_sum.register
def _(form: OuterSum) -> Tensor:
    return (form.left.square().sum(3) * form.right.square().sum(3)).sum(1).sqrt().sum()


@position_norm_sum.register
def _(form: Lookup) -> Tensor:
    return vector_norm(form.right, dim=2).sum()


@position_norm_sum.register
def _(form: Lazy) -> Tensor:
    return added(position_norm_sum(part) for part in form.forms())


@position_norm_sum.register
def _(form: Rearranged) -> Tensor:
    return position_norm_sum(form.base)


@position_norm_sum.register
def _(form: Total) -> Tensor:
    return added(position_norm_sum(part) for part in form.parts)
