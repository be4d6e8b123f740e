"""BA-Momentum's and BA-SGD's experiments on Fashion-MNIST: Table 1, and Figures 1 and 3."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gradbatch.experiments.reproduce.cells import answer_of, lines, spread
from gradbatch.experiments.reproduce.experiment import Block, Claim, Experiment, Plot, Scale, Table, Verdict
from gradbatch.experiments.reproduce.results import Outcome, Results
from gradbatch.experiments.reproduce.trial import Trial, trial
from gradbatch.experiments.studies.ba_variants import (
    BA,
    BA_ACCEPTS,
    BA_CODE,
    BA_PAPER,
    MOMENTA,
    SOURCE,
    STOPS,
    VARIANTS,
    judge_falling,
    judge_level,
    judge_loss_rank,
    loss_panel,
    mean_of,
    not_run,
    score_table,
    size_plot,
    variant_settings,
)

__all__ = ["EXPERIMENTS", "RATES", "early_and_late", "judge_growth", "judge_late_rise", "size_table", "whole_trials"]

_SMALL, _AUTHORS = "small network", "authors' network"
_MODELS: Mapping[str, str] = {_SMALL: "small-cnn", _AUTHORS: "cnn"}

RATES: Mapping[str, float] = {"Momentum": 0.02, "SGD": 0.2}
"""With momentum as in the authors' example; without it the same step in the long run, 0.02 / (1 - 0.9)."""

_COMMON: Mapping[str, Any] = {"task": "fashion-mnist", "validation": 1 / 12, "evaluate_training": True}

_QUICK = ("Mini-32", BA_CODE, BA_PAPER)
_FIRST = (BA_CODE, "Mini-32", BA_PAPER, "Mini-128", "Mini-256", "Manual", "Mini-64")
"""All variants, the most telling first."""

_BUDGETS: Mapping[str, int] = {_SMALL: 20, _AUTHORS: 3}
"""Epochs at full scale."""

_PAPER: Mapping[str, Mapping[str, str]] = {
    "Mini-32": {"Momentum": "90.93", "SGD": "90.87"},
    "Mini-64": {"Momentum": "91.17", "SGD": "90.64"},
    "Mini-128": {"Momentum": "91.64", "SGD": "90.37"},
    "Mini-256": {"Momentum": "90.76", "SGD": "90.16"},
    "Manual": {"Momentum": "91.35", "SGD": "90.84"},
    "BA": {"Momentum": "91.33", "SGD": "91.01"},
}
"""The paper's Table 1, the best test accuracy in per cent."""


def _run(network: str, optimizer: str, variant: str, *, epochs: int, **extra: Any) -> Trial:
    """One variant on one network."""
    settings = variant_settings(variant, momentum=MOMENTA[optimizer], epochs=epochs)
    place = {"network": network, "optimizer": optimizer, "variant": variant}
    return trial(place=place, model=_MODELS[network], lr=RATES[optimizer], **_COMMON, **settings, **extra)


def whole_trials(scale: Scale) -> list[Trial]:
    """All variants on a small network, and those about BA on the authors'.

    Args:
        scale: Of the runs.

    Returns:
        The trials, the most telling first.
    """
    if scale == "quick":
        return [
            _run(_SMALL, optimizer, variant, epochs=1, per_class=100) for optimizer in MOMENTA for variant in _QUICK
        ]
    small = [_run(_SMALL, optimizer, variant, epochs=_BUDGETS[_SMALL]) for optimizer in MOMENTA for variant in _FIRST]
    authors = [
        _run(_AUTHORS, optimizer, variant, epochs=_BUDGETS[_AUTHORS])
        for optimizer, variants in (("Momentum", _FIRST[:3]), ("SGD", _FIRST[:2]))
        for variant in variants
    ]
    return [*small[:3], *authors[:3], *small[3:], *authors[3:]]


def _size_trials(scale: Scale) -> list[Trial]:
    """The same, and a run that shows what overshoots have to do with the sizes."""
    epochs, changes = (1, {"per_class": 100}) if scale == "quick" else (_BUDGETS[_SMALL], {})
    return [*whole_trials(scale), _run(_SMALL, "SGD", BA_ACCEPTS, epochs=epochs, **changes)]


def _networks(results: Results) -> list[str]:
    """Those with a run."""
    return [network for network in _MODELS if results.of(network=network)]


def _table1(results: Results) -> list[Block]:
    """Accuracies beside the paper's, for each network."""
    blocks: list[Block] = []
    for network in _networks(results):
        caption = (
            f"Test accuracy in per cent with the {network}: the paper's best of 100 epochs, our best, and ours at the "
            "epoch that held-out training images would choose. Samples an update: with momentum and without."
        )
        blocks += [f"### The {network}", score_table(results, _PAPER, place={"network": network}, caption=caption)]
    return blocks


def _figure1(results: Results) -> list[Block]:
    """Training losses of both optimizers."""
    return [
        Plot(
            name="small" if network == _SMALL else "authors",
            caption=f"Loss on the full training set with the {network}, (a) with momentum and (b) without.",
            legend=VARIANTS,
            panels=[
                loss_panel(results, f"({letter}) training loss, {optimizer}", network=network, optimizer=optimizer)
                for letter, optimizer in zip("ab", MOMENTA, strict=True)
            ],
        )
        for network in _networks(results)
    ]


def early_and_late(outcome: Outcome) -> tuple[float, float]:
    """Mean batch sizes of the first quarter of a run's samples and of the last.

    Args:
        outcome: Of the run.

    Returns:
        Both; means over the stretches of the run, of equal numbers of updates, that end there.
    """
    samples, sizes = outcome.values["course"]["samples"], outcome.values["course"]["mean"]
    parts = [
        [size for place, size in zip(samples, sizes, strict=True) if low <= place / samples[-1] <= high]
        for low, high in ((0, 0.25), (0.75, 1))
    ]
    early, late = parts[0] or sizes[:1], parts[1]
    return sum(early) / len(early), sum(late) / len(late)


def size_table(results: Results, **place: Any) -> Table:
    """How large BA's batches are early and late.

    Args:
        results: What came out.
        **place: Where in the tables.

    Returns:
        A row for each optimizer and stopping rule.
    """
    rows = []
    for optimizer in MOMENTA:
        for variant in (*BA, BA_ACCEPTS):
            found = results.of(optimizer=optimizer, variant=variant, **place)
            if found:
                early, late = zip(*map(early_and_late, found), strict=True)
                most = [max(outcome.values["course"]["largest"]) for outcome in found]
                targets = [outcome.said("last_target") for outcome in found]
                row = [f"BA-{optimizer}, {variant.removeprefix('BA, ')}"]
                cells = [spread(values, lambda x: f"{x:.0f}") for values in (early, late, most, targets)]
                rows.append([*row, *cells, lines(found)])
    caption = "Mean batch sizes in the first and the last quarter of the samples, the largest batch, and the last m\\*."
    return Table(caption=caption, head=["", "early", "late", "largest", "last m\\*", "log lines"], rows=rows)


def _figure3(results: Results) -> list[Block]:
    """Batch sizes along training."""
    blocks: list[Block] = []
    for network in _networks(results):
        caption = f"Batch sizes of BA with the {network}: means over stretches of the run, and dashed the largest."
        name = "small" if network == _SMALL else "authors"
        blocks += [
            size_plot(results, name=name, caption=caption, network=network),
            size_table(results, network=network),
        ]
    return blocks


def judge_late_rise(optimizer: str, **place: Any) -> Claim:
    """Whether batches have about 32 samples early, and more late.

    Args:
        optimizer: Of `MOMENTA`.
        **place: Where in the tables.

    Returns:
        The claim.
    """

    def judge(results: Results) -> Verdict:
        found = {v: results.of(variant=v, optimizer=optimizer, **place) for v in BA}
        sizes = {v: early_and_late(outcomes[0]) for v, outcomes in found.items() if outcomes}
        if not sizes or not_run(results, BA, optimizer=optimizer, **place):
            return Verdict("open", "not run")
        checks = [early < 40 and late > 1.5 * early for early, late in sizes.values()]
        texts = ", ".join(f"{v} {early:.0f}, then {late:.0f}" for v, (early, late) in sizes.items())
        return Verdict(answer_of(checks), f"mean sizes in the first and the last quarter: {texts}")

    return Claim(
        text=f"BA-{optimizer}'s batches stay near 32 early and grow late.",
        criterion="with each stop, the mean size is below 40 in the first quarter of the samples and more than 1.5 "
        "times "
        "as large in the last",
        judge=judge,
    )


def judge_growth(**place: Any) -> Claim:
    """Whether batches grow larger without momentum.

    Args:
        **place: Where in the tables.

    Returns:
        The claim.
    """

    def judge(results: Results) -> Verdict:
        late = {
            variant: [
                mean_of(results, lambda outcome: early_and_late(outcome)[1], variant=variant, optimizer=name, **place)
                for name in MOMENTA
            ]
            for variant in BA
        }
        late = {variant: pair for variant, pair in late.items() if all(map(math.isfinite, pair))}
        if not late or not_run(results, BA, **place):
            return Verdict("open", "not run")
        texts = ", ".join(f"{variant} {sgd:.0f} and {momentum:.0f}" for variant, (momentum, sgd) in late.items())
        checks = [sgd > 1.1 * momentum for momentum, sgd in late.values()]
        return Verdict(answer_of(checks), f"mean sizes in the last quarter without and with momentum: {texts}")

    return Claim(
        text="BA-SGD's batches grow larger than BA-Momentum's.",
        criterion="with each stop, BA-SGD's mean size in the last quarter is more than 1.1 times BA-Momentum's",
        judge=judge,
    )


def _judge_cause(results: Results) -> Verdict:
    """Whether batches stay small where an overshoot is accepted, and grow where it is not."""
    late = {
        variant: mean_of(
            results, lambda outcome: early_and_late(outcome)[1], network=_SMALL, optimizer="SGD", variant=variant
        )
        for variant in (BA_PAPER, BA_ACCEPTS)
    }
    if not all(map(math.isfinite, late.values())):
        return Verdict("open", "not run")
    texts = ", ".join(f"{variant} {size:.0f}" for variant, size in late.items())
    evidence = f"mean sizes in the last quarter: {texts}"
    if late[BA_PAPER] <= 40:
        return Verdict("open", f"{evidence}; without growth there is no cause to find")
    return Verdict("holds" if late[BA_ACCEPTS] < 40 else "does not hold", evidence)


_ABOUT = f"""
Fashion-MNIST, batches of 32 to begin with, no weight decay, 1/12 of the training images held out. The paper trains its
network (three convolutions, no biases, weights from N(0, 0.01²)) for 100 epochs. On two cores that would take days, and
within the {_BUDGETS[_AUTHORS]} epochs that we can spend on it most of the table would be about its initialisation:
from such small weights it stays at chance for some 1,400 updates, with batches of 32 most of an epoch and with batches
of 256 over six. So the table is run in full with a small network that learns from the first update on (two
convolutions, PyTorch's own initialisation, {_BUDGETS[_SMALL]} epochs), and the authors' network with BA and Mini-32
alone. One seed. Numbers beside the paper's compare the order of the rows, not the rows.

The paper does not state its rates. With momentum 0.9 the rate is 0.02, as in the authors' example. Plain SGD takes 0.2,
which goes as far in the long run (0.02 / (1 - 0.9)) and takes the authors' network from chance within the first epoch,
as momentum does. Manual doubles the batch at each quarter of the budget. {STOPS} Batches end with the epoch, where the
authors draw each from the whole set.
"""

EXPERIMENTS: Sequence[Experiment] = (
    Experiment(
        name="ba-table1",
        log="ba",
        title="BA-Momentum and BA-SGD, Table 1: accuracy on Fashion-MNIST",
        source=f"{SOURCE}, Table 1, left half",
        about=_ABOUT,
        trials=whole_trials,
        blocks=_table1,
        claims=(
            judge_level("Momentum", within=0.003, score="accuracy", network=_SMALL),
            judge_level("SGD", within=0.003, score="accuracy", network=_SMALL),
            judge_falling("Without momentum, larger fixed batches are less accurate.", "SGD", network=_SMALL),
        ),
    ),
    Experiment(
        name="ba-figure1",
        log="ba",
        title="BA-Momentum and BA-SGD, Figure 1: training loss on Fashion-MNIST",
        source=f"{SOURCE}, Figure 1",
        about="The runs of [Table 1](ba-table1.md), along training. In the paper, after 100 epochs, BA-Momentum has "
        "the lowest loss of (a), and BA-SGD the lowest of (b) but for Mini-32-SGD.",
        trials=whole_trials,
        blocks=_figure1,
        claims=(
            judge_loss_rank("BA-Momentum ends with the lowest training loss.", "Momentum", rank=1, network=_SMALL),
            judge_loss_rank("BA-SGD ends with the lowest or second lowest loss.", "SGD", rank=2, network=_SMALL),
        ),
    ),
    Experiment(
        name="ba-figure3",
        log="ba",
        title="BA-Momentum and BA-SGD, Figure 3: batch sizes on Fashion-MNIST",
        source=f"{SOURCE}, Figure 3",
        about="The runs of [Table 1](ba-table1.md). In the paper the sizes stay at 32 for long and rise late, with "
        f"BA-SGD up to about 500 (about 1,000 in its first version), with BA-Momentum far less. {STOPS} One run "
        "accepts such batches, to tell what else makes sizes grow.",
        trials=_size_trials,
        blocks=_figure3,
        claims=(
            judge_late_rise("Momentum", network=_SMALL),
            judge_late_rise("SGD", network=_SMALL),
            judge_growth(network=_SMALL),
            Claim(
                text="It is the overshooting steps that make BA-SGD's batches grow.",
                criterion="with the paper's stop, the mean size in the last quarter is above 40 (open if not), and "
                "below 40 where "
                "an overshooting batch is accepted",
                judge=_judge_cause,
            ),
        ),
    ),
)
