"""Milliseconds a training step of the CIFAR-10 networks at several batch sizes on a GPU, one reading each.

Random images in the GPU's memory, SGD with momentum, the loss read at every step as a loop that logs does.
"""

import argparse
import json
import time

import torch
import torch.nn.functional as F

from gradbatch.experiments.data import InputSpec
from gradbatch.experiments.deep_models import alexnet, resnet20, vgg19_bn

NETWORKS = {"alexnet": alexnet, "resnet20": resnet20, "vgg19-bn": vgg19_bn}
FEW = 5
"""Steps between looks at the clock."""


def milliseconds(name: str, size: int, seconds: float) -> float:
    """Time steps of a network for about so many seconds, after a warm-up of as many.

    Args:
        name: Of the network.
        size: Samples in a step.
        seconds: About how long.

    Returns:
        Milliseconds a step.
    """
    model = NETWORKS[name](InputSpec((3, 32, 32), 0), 10).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    inputs = torch.randn(size, 3, 32, 32, device="cuda")
    targets = torch.randint(10, (size,), device="cuda")

    def take_few() -> None:
        for _ in range(FEW):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            loss.item()

    for _ in ("warm-up", "reading"):
        torch.cuda.synchronize()
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            take_few()
            steps += FEW
        torch.cuda.synchronize()
        taken = time.perf_counter() - start
    return 1e3 * taken / steps


def main() -> None:
    """Print a line for each network and size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 512, 2048, 4096])
    parser.add_argument("--seconds", type=float, default=0.4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in NETWORKS:
        for size in args.sizes:
            found = {"network": name, "batch_size": size, "ms": round(milliseconds(name, size, args.seconds), 2)}
            print(json.dumps({**found, "device": torch.cuda.get_device_name(), "torch": torch.__version__}), flush=True)


if __name__ == "__main__":
    main()
