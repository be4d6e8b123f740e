"""Runs of BA and of Mini-32, made by hand, by the samples behind their updates."""

from dataclasses import replace
from statistics import mean


def sized(own, *sizes):
    """The outcome with as many samples as updates of these sizes have on average."""
    return replace(own, values={**own.values, "samples": mean(sizes) * own.values["updates"]})


def plain(variant, own):
    """The outcome as one of a fixed batch's runs, where the variant is Mini-32."""
    return sized(own, 32) if variant == "Mini-32" else own
