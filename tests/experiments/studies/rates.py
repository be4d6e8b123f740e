"""Runs of BA-Momentum at several rates, made by hand."""

from experiments.reproduce.outcomes import outcome
from experiments.studies.sizes import plain, sized

VARIANTS = ("Mini-32", "BA, code's stop", "BA, paper's stop")


def run(losses, sizes=None, **totals):
    """A run with a training loss and a mean batch size at each evaluation."""
    sizes = [32] * len(losses) if sizes is None else sizes
    own = outcome(train_loss=list(losses), batch_size=list(sizes), test_score=[0.5] * len(losses), **totals)
    own.values["course"].update(mean=list(sizes), largest=list(sizes))
    return sized(own, *sizes)


def at(lr, own, variants=VARIANTS):
    """The run stands for all variants at a rate."""
    return [({"images": "600 images", "variant": variant, "lr": lr}, plain(variant, own)) for variant in variants]
