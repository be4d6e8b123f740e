"""What measuring costs: a step with statistics beside a plain one and the peers'.

All contenders take the same steps on the same model and data, in rounds whose order is drawn anew each time; a figure
is the median over the rounds, a ratio is the median of the rounds' own ratios to the plain step. Only ratios mean
anything on a shared machine. Memory is what two steps add to the resident set of a fresh process of each contender's
own, once model, data and contender are made (Linux only; on a GPU, to torch's allocations there).

    python benchmarks/overhead.py --rounds 41 --threads 2
    python benchmarks/overhead.py --models cnn,bilstm --contenders gradbatch --no-memory

What does not work on a model, is not installed, or takes more than a minute a step or 8 GiB is left out and named
with the reason; `make bench` installs the peers. ``--device cuda --dtype bfloat16`` (autocast) has not been tried.
"""

import argparse
import json
import warnings
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch

from contenders import wanted
from measuring import enter_all, measure
from models import SUBJECTS
from table import table
from training import BATCH_SIZE, Setting


def compare(setting: Setting, options: argparse.Namespace, run_name: str) -> None:
    """Measure on one model, print its table, append the raw numbers."""
    contenders = wanted(setting.model, options.contenders)
    entries = enter_all(setting, contenders, seconds=options.seconds, with_memory=options.memory)
    rounds = list(measure(entries, options.rounds))
    peaks = {name: entry.mib for name, entry in entries.items()}
    numbers: list[dict] = [{"seconds": seconds} for seconds in rounds]
    if options.memory:
        numbers.append({"peak_mib": peaks})
    with options.out.open("a") as file:
        file.writelines(json.dumps({"run": run_name, **asdict(setting), **line}) + "\n" for line in numbers)
    print(f"\n{setting.model}, batch {BATCH_SIZE}, {setting.threads} threads, {options.rounds} rounds")
    print(table(rounds, peaks), end="\n\n", flush=True)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(SUBJECTS), help="some of %(default)s")
    parser.add_argument("--contenders", default="", help="part of the names of those to compare with plain")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--seconds", type=float, default=0.1, help="length of a contender's turn in a round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", help="bfloat16 runs the models under autocast")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="no peaks, and no limit on them")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).parent / "results" / "overhead.jsonl",
        help="raw numbers are appended there, model by model",
    )
    options = parser.parse_args()
    options.models = options.models.split(",")
    if unknown := set(options.models) - set(SUBJECTS):
        parser.error(f"unknown models {sorted(unknown)}: choose from {', '.join(SUBJECTS)}")
    return options


def main() -> None:
    """Compare the contenders on each model."""
    options = parsed()
    warnings.filterwarnings("ignore")  # the peers' own
    torch.set_num_threads(options.threads)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    run_name = datetime.now(UTC).isoformat(timespec="seconds")
    for model in options.models:
        compare(Setting(model, options.threads, options.device, options.dtype), options, run_name)


if __name__ == "__main__":
    main()
