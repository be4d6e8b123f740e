"""Where a number comes from: commit, versions, machine, date."""

import datetime
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

import gradbatch
from gradbatch.experiments.run import version

__all__ = ["commit_of_source", "provenance"]


def provenance(*, commit: str, jobs: int, device: str) -> dict[str, Any]:
    """What is written beside every result.

    Args:
        commit: See `commit_of_source`; of when the runs began.
        jobs: Runs at a time, which the seconds depend on.
        device: Where it ran, as torch names it.

    Returns:
        Ready for JSON.
    """
    return {
        "commit": commit,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "gradbatch": version(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": _processor(),
        "num_cpus": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "threads": 1,
        "jobs": jobs,
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,  # what else kept the cores busy
    }


def commit_of_source() -> str:
    """The commit of the source tree, with a plus where it was changed since; empty outside of one.

    Returns:
        As ``"aae4776fb3+"``.
    """
    folder = Path(gradbatch.__file__).parent
    try:
        name = _git(folder, "rev-parse", "--short=10", "HEAD")
        return name + ("+" if _git(folder, "status", "--porcelain", "--", str(folder)) else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@cache
def _processor() -> str:
    """The processor's name, as Linux gives it, or the machine's."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text(encoding="utf-8").splitlines() if table.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
