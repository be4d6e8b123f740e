"""Time that work takes on whatever device does it."""

import time
from collections.abc import Callable

import torch

__all__ = ["elapsed", "wait_for"]


def elapsed(work: Callable[[], object], device: torch.device) -> float:
    """Time some work until the device has done it.

    Args:
        work: What is timed.
        device: That does it; idle before.

    Returns:
        Seconds.
    """
    wait_for(device)
    start = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - start


def wait_for(device: torch.device) -> None:
    """Wait until a device has done all that was asked of it; a CPU always has.

    Args:
        device: Which.
    """
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
