"""Throughput of `SampleStream` while the size changes at every step, beside a loader.

Both read the same map-style dataset of 3x32x32 images through the same number of workers, in shuffled order.
Runs of the two alternate in random order, and each is timed over whole epochs after its first batch has
arrived, so neither pays for the start of its workers. Only the ratio means anything on a shared machine.

    python benchmarks/stream.py --repeats 9 --samples 20000
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gradbatch.stream import SampleStream

BATCH_SIZE = 256
LEAST, MOST = 32, 512


class Images(Dataset[tuple[Tensor, int]]):
    """Random images that are normalised, and flipped where the index is odd, one by one."""

    def __init__(self, num_samples: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randint(256, (num_samples, 3, 32, 32), dtype=torch.uint8, generator=generator)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """An image [3, 32, 32] and its label."""
        image = self.pixels[index].float().div_(255).sub_(0.5).div_(0.25)
        return (image.flip(-1) if index % 2 else image), index % 10


def plain_batches(dataset: Images, num_workers: int, epochs: int) -> Iterator[Any]:
    """Batches of one size, from torch's own loader."""
    loader = DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True, num_workers=num_workers, persistent_workers=True)
    for _ in range(epochs):
        yield from loader


def stream_batches(dataset: Images, num_workers: int, epochs: int, seed: int) -> Iterator[Any]:
    """Batches whose size is drawn anew for each, from a stream."""
    sizes = random.Random(seed)
    with SampleStream(dataset, seed=seed, num_workers=num_workers) as stream:
        while stream.epoch < epochs:
            batch = stream.take(sizes.randint(LEAST, MOST))
            stream.commit(len(batch[0]))
            yield batch


def samples_per_second(batches: Iterator[Any]) -> dict[str, float]:
    """Samples after the first batch, over the time that they took, and the mean batch size."""
    next(batches)
    start = time.perf_counter()
    sizes = [len(inputs) for inputs, _ in batches]
    seconds = time.perf_counter() - start
    return {"samples_per_second": sum(sizes) / seconds, "mean_batch_size": statistics.mean(sizes)}


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One line for each run, ``options.repeats`` of each loader, in pairs of random order."""
    dataset, order = Images(options.samples), random.Random(options.seed)
    lines: list[dict[str, Any]] = []
    for repeat in range(options.repeats):
        for name in order.sample(["plain", "stream"], 2):
            batches = (
                plain_batches(dataset, options.num_workers, options.epochs)
                if name == "plain"
                else stream_batches(dataset, options.num_workers, options.epochs, seed=repeat)
            )
            lines.append({"repeat": repeat, "loader": name, **samples_per_second(batches)})
    return lines


def report(lines: list[dict[str, Any]]) -> str:
    """The medians, and the median of the ratios within the pairs, as a table."""

    def column(loader: str, name: str) -> list[float]:
        return [line[name] for line in lines if line["loader"] == loader]

    plain, stream = column("plain", "samples_per_second"), column("stream", "samples_per_second")
    ratios = [ours / theirs for ours, theirs in zip(stream, plain, strict=True)]
    rows = [f"{'loader':<14}{'batch size':>18}{'samples/s, median':>20}{'least':>9}{'most':>9}"]
    for name, values in (("plain", plain), ("stream", stream)):
        mean = statistics.mean(column(name, "mean_batch_size"))
        size = f"{LEAST}-{MOST}, mean {mean:.0f}" if name == "stream" else str(BATCH_SIZE)
        rows.append(f"{name:<14}{size:>18}{statistics.median(values):>20.0f}{min(values):>9.0f}{max(values):>9.0f}")
    rows.append(
        f"stream/plain: {statistics.median(ratios):.3f} (median of {len(ratios)} pairs, "
        f"{min(ratios):.3f} to {max(ratios):.3f})"
    )
    return "\n".join(rows)


def main() -> None:
    """Run, print the table, and write a line of JSON for each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9, help="runs of each loader")
    parser.add_argument("--samples", type=int, default=20_000, help="images in the dataset")
    parser.add_argument("--epochs", type=int, default=3, help="epochs in a run")
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the order of the runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "stream.jsonl")
    options = parser.parse_args()
    lines = run(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(report(lines))


if __name__ == "__main__":
    main()
