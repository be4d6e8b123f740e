"""A record with plain values, for tests that care about a few of them."""

from gradbatch._types import Record


def record(step, **changes):
    values = {
        "step": step,
        "samples_seen": 10 * (step + 1),
        "epoch": 0.1 * (step + 1),
        "batch_size": 10,
        "requested": 10,
        "next_batch_size": 10,
        "micro_batches": 1,
        "lr": 0.1,
        "lr_scale": 1.0,
        "loss": 2.5,
        "seconds": 0.5,
    }
    return Record(**values | changes)
