"""BA-Momentum's and BA-SGD's experiments on Fashion-MNIST: Table 1, and Figures 1 and 3."""

from collections.abc import Mapping, Sequence
from statistics import mean, median
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
    GROWN,
    IF_DREW,
    MOMENTA,
    SOURCE,
    STOPS,
    VARIANTS,
    hardly_drew,
    judge_falling,
    judge_level,
    judge_loss_rank,
    loss_panel,
    score_table,
    size_plot,
    variant_settings,
)

__all__ = ["EXPERIMENTS", "RATES", "early_and_late", "size_table", "whole_trials"]

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
            "epoch that held-out training images would choose; a dash where it was not run. Samples an update: with "
            "momentum and without."
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
    """Batch sizes in the first quarter of a run's updates and in the last.

    Args:
        outcome: Of the run.

    Returns:
        Both, medians over the stretches there, each of which has a mean of its own: BA-SGD now and then takes a single
        batch of nearly all samples, which decides any mean.
    """
    sizes = outcome.values["course"]["mean"]
    quarter = max(1, len(sizes) // 4)
    return median(sizes[:quarter]), median(sizes[-quarter:])


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
    caption = (
        f"Batch sizes in the first and the last quarter of the updates, {_MEDIANS}; the largest batch; and the last "
        "m\\*, which with the code's stop is looked for up to N² for N samples."
    )
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


def _judge_late_rise(optimizer: str, **place: Any) -> Claim:
    """Whether batches have about 32 samples early, and more late.

    Args:
        optimizer: Of `MOMENTA`.
        **place: Where in the tables.

    Returns:
        The claim.
    """

    def judge(results: Results) -> Verdict:
        sizes = {variant: _quarters(results.of(variant=variant)) for variant in BA}
        texts = ", ".join(f"{v} {early:.0f}, then {late:.0f}" for v, (early, late) in sizes.items())
        evidence = f"sizes in the first and the last quarter: {texts}"
        if idle := hardly_drew(results, optimizer):
            return Verdict("undecided", f"{idle}. {evidence}")
        return Verdict(answer_of([early < 40 and late > 1.5 * early for early, late in sizes.values()]), evidence)

    return Claim(
        text=f"BA-{optimizer}'s batches stay near 32 early and grow late.",
        criterion=f"with each stop, the size is below 40 in the first quarter of the updates and more than 1.5 times "
        f"as large in the last, {_MEDIANS}; {IF_DREW}",
        judge=judge,
        place={**place, "optimizer": optimizer},
    )


def _judge_growth(**place: Any) -> Claim:
    """Whether batches grow larger without momentum.

    Args:
        **place: Where in the tables.

    Returns:
        The claim.
    """

    def judge(results: Results) -> Verdict:
        late = {
            variant: [_quarters(results.of(variant=variant, optimizer=name))[1] for name in MOMENTA] for variant in BA
        }
        texts = ", ".join(f"{variant} {sgd:.0f} and {momentum:.0f}" for variant, (momentum, sgd) in late.items())
        evidence = f"sizes in the last quarter without and with momentum: {texts}"
        if idle := "; ".join(filter(None, (hardly_drew(results.at(optimizer=name), name) for name in MOMENTA))):
            return Verdict("undecided", f"{idle}. {evidence}")
        return Verdict(answer_of([sgd > GROWN * momentum for momentum, sgd in late.values()]), evidence)

    return Claim(
        text="BA-SGD's batches grow larger than BA-Momentum's.",
        criterion=f"with each stop, BA-SGD's size in the last quarter of the updates is more than {GROWN:g} times "
        f"BA-Momentum's, {_MEDIANS}; {IF_DREW}",
        judge=judge,
        place=place,
    )


def _judge_cause(results: Results) -> Verdict:
    """Whether batches stay small where an overshoot is accepted, and grow where it is not."""
    late = {variant: _quarters(results.of(variant=variant))[1] for variant in (BA_PAPER, BA_ACCEPTS)}
    texts = ", ".join(f"{variant} {size:.0f}" for variant, size in late.items())
    evidence = f"sizes in the last quarter: {texts}"
    if late[BA_PAPER] <= 40:
        return Verdict("undecided", f"{evidence}; without growth there is no cause to find")
    return Verdict("holds" if late[BA_ACCEPTS] < 40 else "does not hold", evidence)


def _quarters(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """Early and late sizes, means over seeds."""
    early, late = zip(*map(early_and_late, outcomes), strict=True)
    return mean(early), mean(late)


_MEDIANS = "medians over stretches of a twenty-fourth of the updates"

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
        paper="BA",
        title="BA-Momentum and BA-SGD, Table 1: accuracy on Fashion-MNIST",
        source=f"{SOURCE}, Table 1, left half",
        about=_ABOUT,
        trials=whole_trials,
        blocks=_table1,
        why="BA draws more samples where the decrease that a step promises is small against its own noise, and where "
        "the step would carry the loss over twice the distance to 0. With momentum neither happens within our "
        "budget, and so BA does what Mini-32 does; the paper's batches begin to grow after more updates than ours has. "
        "Without momentum, and with a rate ten times as large, steps would overshoot: in the first updates one draws "
        "nearly all images, and later batches of 64 or 96 come up, more of them as the loss falls. With the authors' "
        "network and its tiny weights nothing is drawn in the first 1,280 updates or so, while it is at chance; then "
        "two updates take more than an epoch of the three between them, of which little is left for learning.",
        claims=(
            judge_level("Momentum", num_test=10_000, score="accuracy, with the small network,", network=_SMALL),
            judge_level("SGD", num_test=10_000, score="accuracy, with the small network,", network=_SMALL),
            judge_falling("Without momentum, larger fixed batches are less accurate.", "SGD", network=_SMALL),
        ),
    ),
    Experiment(
        name="ba-figure1",
        log="ba",
        paper="BA",
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
        paper="BA",
        title="BA-Momentum and BA-SGD, Figure 3: batch sizes on Fashion-MNIST",
        source=f"{SOURCE}, Figure 3",
        about="The runs of [Table 1](ba-table1.md). In the paper the sizes stay at 32 for long and rise late, with "
        f"BA-SGD up to about 500 (about 1,000 in its first version), with BA-Momentum far less. {STOPS} One run "
        "accepts such batches, to tell what else makes sizes grow.",
        trials=_size_trials,
        blocks=_figure3,
        why="See [Table 1](ba-table1.md). The sizes without momentum grow little: in most stretches the largest batch "
        "is two or three times the first, and most are the first.",
        claims=(
            _judge_late_rise("Momentum", network=_SMALL),
            _judge_late_rise("SGD", network=_SMALL),
            _judge_growth(network=_SMALL),
            Claim(
                text="It is the overshooting steps that make BA-SGD's batches grow.",
                criterion="with the paper's stop, the size in the last quarter is above 40 (undecided if not), and "
                f"below 40 where an overshooting batch is accepted, {_MEDIANS}",
                judge=_judge_cause,
                is_ours=True,
                place={"network": _SMALL, "optimizer": "SGD"},
            ),
        ),
    ),
)
