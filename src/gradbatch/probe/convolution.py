r"""Convolutions of one, two or three dimensions, transposed ones too, as sums of outer products over positions.

With the windows of the input unfolded, $r_{it}$ [C/G K], and the output gradient $\ell_{it}$ [O/G] at the T positions
of the output, the gradient of a kernel is $g_i=\sum_t\ell_{it}r_{it}^\top$ for each of G groups. A transposed
convolution has the two change places: its windows are those of the output gradient, at the positions of the input.

Letters: N images, C channels in and O out, K numbers in a kernel's window.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gradbatch.probe.forms import Lazy, OuterSum, PerSample
from gradbatch.probe.operations import Call, operation, over_positions, reduced

__all__ = ["convolution", "windows"]


@operation("ConvolutionBackward0")
def convolution(call: Call) -> dict[int, PerSample]:
    """Kernel and bias of a convolution."""
    forms: dict[int, PerSample] = {}
    if 1 in call.operands:
        forms[1] = _kernel(call, call.shape(1))
    if 2 in call.operands and call.by_position:
        shape = call.shape(2)
        grads = call.by_sample(call.grad)
        channels = grads.dim() - (call.grad.dim() - 1)  # their axis; before it, passes of the layer over one sample
        grads = grads.movedim(channels, -1)
        forms[2] = over_positions(grads.reshape(len(grads), -1, shape.numel()), shape)
    elif 2 in call.operands:
        forms[2] = reduced(call, call.grad.flatten(2).sum(2), call.shape(2))
    return forms


def _kernel(call: Call, shape: torch.Size) -> PerSample:
    """The kernel's gradients, unfolded for a few samples at a time."""
    stride, padding, dilation = call.saved("stride"), call.saved("padding"), call.saved("dilation")
    groups, is_transposed = call.saved("groups"), call.saved("transposed")
    a, b = call.by_sample(call.saved("input")), call.by_sample(call.grad)
    slid, still = (b, a) if is_transposed else (a, b)
    space = still.shape[-len(stride) :]
    numbers = math.prod(slid.shape[1 : slid.dim() - len(stride)]) * math.prod(shape[2:]) * math.prod(space)

    def make(start: int, stop: int) -> PerSample:
        count = stop - start
        images = slid[start:stop].reshape(-1, *slid.shape[-len(stride) - 1 :])
        right = windows(images, shape[2:], space, stride, padding, dilation, groups)  # [n T', G, T, C/G K]
        left = still[start:stop].reshape(count, -1, groups, still.shape[-len(stride) - 1] // groups, math.prod(space))
        left = left.permute(0, 2, 1, 4, 3).flatten(2, 3)  # [n, G, T' T, O/G]
        right = right.unflatten(0, (count, -1)).transpose(1, 2).flatten(2, 3)
        return OuterSum(left, right, shape)

    return Lazy(make, len(a), shape, (slid, still), numbers)


def windows(
    images: Tensor,
    kernel: Sequence[int],
    space: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """The windows of images over which a kernel slides.

    Args:
        images: The images, [N, C, *size].
        kernel: Size of the kernel along each axis.
        space: Positions along each axis, T in all.
        stride: Step from one position to the next.
        padding: Zeros around the image.
        dilation: Step from one number of a window to the next.
        groups: Groups G of channels.

    Returns:
        The windows, [N, G, T, C/G K].
    """
    if any(padding):
        images = F.pad(images, [size for size in reversed(padding) for _ in range(2)])
    strides = images.stride()
    view = images.as_strided(
        (*images.shape[:2], *kernel, *space),
        (
            *strides[:2],
            *(step * apart for step, apart in zip(strides[2:], dilation, strict=True)),
            *(step * apart for step, apart in zip(strides[2:], stride, strict=True)),
        ),
        images.storage_offset(),
    )
    return view.reshape(len(images), groups, -1, math.prod(space)).mT  # a copy, [N, G, C/G K, T] turned
