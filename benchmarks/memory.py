"""What two steps of a contender add to the memory of a fresh process, for which this module is the program.

That is to the resident set, once model, data and contender are made (Linux only), or to torch's allocations on a GPU.
"""

import json
import resource
import subprocess
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

import torch

from contenders import CONTENDERS
from limits import MAX_BYTES, MAX_SECONDS, LeftOutError, first_step, reasons
from training import Setting

__all__ = ["peak_mib"]


def peak_mib(setting: Setting, contender: str) -> float:
    """The peak of a process that takes the steps."""
    command = [sys.executable, __file__, json.dumps(asdict(setting)), contender]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=3 * MAX_SECONDS, check=True)
    except subprocess.TimeoutExpired as error:
        raise LeftOutError(f"two steps took more than {3 * MAX_SECONDS:.0f} s") from error
    except subprocess.CalledProcessError as error:
        raise LeftOutError(f"its process ended with {error.returncode}") from error
    report = json.loads(done.stdout.splitlines()[-1])
    if "reason" in report:
        raise LeftOutError(report["reason"])
    return report["bytes"] / 2**20


def peak_bytes(device: torch.device) -> int:
    """The most memory held so far; ``ru_maxrss`` would begin at the peak of the process that started this one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def limit_memory() -> None:
    """Let allocations fail beyond the limit, before the machine runs out."""
    pages = int(Path("/proc/self/statm").read_text().split()[5])  # data and stack
    limit = pages * resource.getpagesize() + MAX_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def added_bytes(setting: Setting, contender: str) -> int:
    """What two steps add to the peak of this process."""
    case = setting.make_case(setting.make_data())
    with reasons(contender):
        run = CONTENDERS[contender].start(case)
        if case.device.type == "cpu":
            limit_memory()
        before = peak_bytes(case.device)
        first_step(run)
        run(1)
        return peak_bytes(case.device) - before


def main() -> None:
    """Print the bytes that the steps needed, or why they could not be taken."""
    setting, contender = Setting(**json.loads(sys.argv[1])), sys.argv[2]
    warnings.filterwarnings("ignore")  # the peers' own
    torch.set_num_threads(setting.threads)
    try:
        report = {"bytes": added_bytes(setting, contender)}
    except LeftOutError as error:
        report = {"reason": str(error)}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
