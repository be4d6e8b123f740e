"""When BA-Momentum's batches begin to grow: Figure 5."""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from gradbatch.experiments.figures import Panel
from gradbatch.experiments.reproduce.cells import answer_of, last_loss, lines, mean_of, spread, spread_of_all
from gradbatch.experiments.reproduce.drawing import course_curve, curves_of
from gradbatch.experiments.reproduce.experiment import Block, Claim, Experiment, Plot, Table, Verdict
from gradbatch.experiments.reproduce.results import Outcome, Results
from gradbatch.experiments.studies.ba_rates import GOOD, JUDGED, NUM_EPOCHS, PAPER, RATES, parts_of, rate_trials, slug
from gradbatch.experiments.studies.ba_variants import BA, GROWN, SOURCE

__all__ = ["EXPERIMENTS", "boom", "plateau"]


def boom(outcome: Outcome) -> float:
    """The samples at which batches begin to grow: at the first evaluation kept since which their mean is over 40.

    Args:
        outcome: Of a run with BA.

    Returns:
        Samples; nan where the batches of the end are no larger.
    """
    samples, sizes = outcome.curve("samples_seen"), outcome.curve("batch_size")
    found = math.nan
    for place, size in zip(reversed(samples), reversed(sizes), strict=True):
        if size <= 32 * GROWN:
            break
        found = place
    return found


def plateau(outcome: Outcome) -> float:
    """The samples at which the training loss has gone nine tenths of its way, on a logarithmic scale.

    Args:
        outcome: Of a run whose training loss was evaluated.

    Returns:
        Samples at the first evaluation, of those kept, that is so near to the lowest one; nan where there is none.
    """
    samples, losses = np.array(outcome.curve("samples_seen")), np.array(outcome.curve("train_loss"))
    usable = np.isfinite(losses) & (losses > 0)
    if not usable.any():
        return math.nan
    logs = np.log(losses[usable])
    return float(samples[usable][logs <= logs.min() + 0.1 * (logs[0] - logs.min())][0])


def _epochs(outcome: Outcome, samples: float) -> float:
    return samples / outcome.number("train_samples")


def _boom_epoch(outcome: Outcome) -> float:
    return _epochs(outcome, boom(outcome))


def _plateau_epoch(outcome: Outcome) -> float:
    return _epochs(outcome, plateau(outcome))


def _figure5(results: Results) -> list[Block]:
    """Sizes of BA, and when they grow beside when Mini-32 stops getting on, for each part of the training set."""
    return [block for name, part in parts_of(results) for block in (f"### {name}", *_sizes(name, part))]


def _sizes(name: str, results: Results) -> list[Block]:
    """Sizes of BA above, and when they grow beside when Mini-32 stops getting on."""
    rates = [lr for lr in RATES if results.of(lr=lr)]
    panels = []
    for variant in BA:
        found = [results.of(variant=variant, lr=lr) for lr in RATES]
        curves = curves_of([course_curve(runs[0]) if runs else None for runs in found])
        panels.append(Panel(title=f"batch size, {variant}", x_label="samples", curves=curves, scale="log2"))
    rows = []
    for lr in rates:
        cells = [spread_of_all(map(_boom_epoch, results.of(variant=v, lr=lr)), lambda x: f"{x:.0f}") for v in BA]
        flat = spread_of_all(map(_plateau_epoch, results.of(variant="Mini-32", lr=lr)), lambda x: f"{x:.0f}")
        largest = [
            spread((max(o.values["course"]["largest"]) for o in results.of(variant=v, lr=lr)), lambda x: f"{x:.0f}")
            for v in BA
        ]
        rows.append([f"{lr:g}", flat, *cells, *largest, lines(results.of(lr=lr))])
    head = ["rate", "plateau of Mini-32", *(f"boom, {v}" for v in BA), *(f"largest, {v}" for v in BA), "log lines"]
    caption = (
        f"Epochs at which the training loss of Mini-32 has gone nine tenths of its way (in the logarithm), and from "
        f"which on BA's mean batch is over {32 * GROWN:g} until the end, a dash unless all seeds "
        "came so far; and the largest batch."
    )
    return [
        Plot(
            name=slug(name),
            caption="Mean batch sizes of BA-Momentum over stretches of the run.",
            legend=[f"rate {lr:g}" for lr in RATES],
            panels=panels,
        ),
        Table(caption=caption, head=head, rows=rows),
    ]


def _booms(results: Results, variant: str) -> dict[float, float]:
    """The epoch of the boom at each rate, infinite where there was none."""
    found = {lr: mean_of(map(_boom_epoch, results.of(variant=variant, lr=lr))) for lr in GOOD}
    return {lr: math.inf if math.isnan(epoch) else epoch for lr, epoch in found.items()}


def _too_short(results: Results) -> str:
    """Why the absence of a boom says nothing; empty where training went as far as the paper's at every rate."""
    factors = [mean_of(map(last_loss, results.of(variant="Mini-32", lr=lr))) / PAPER[lr] for lr in GOOD]
    texts = ", ".join(f"{factor:.1f}" for factor in factors)
    is_far = max(factors) <= 1
    return (
        "" if is_far else f"; training losses of Mini-32 end at {texts} times the paper's, so that nothing can be said"
    )


def _judge_earlier(results: Results) -> Verdict:
    """Whether batches grow earlier at larger rates."""
    booms = {variant: _booms(results, variant) for variant in BA}
    texts = "; ".join(f"{v}: {', '.join(map(_epoch_text, epochs.values()))}" for v, epochs in booms.items())
    evidence = f"epochs of the boom at 0.005, 0.01, 0.02: {texts}"
    if (why := _too_short(results)) and not _any_boom(booms):
        return Verdict("undecided", f"{evidence}{why}")
    checks = [all(after < before for before, after in itertools.pairwise(epochs.values())) for epochs in booms.values()]
    return Verdict(answer_of(checks), evidence)


def _judge_together(results: Results) -> Verdict:
    """Whether batches grow when Mini-32's loss stops falling: at most a tenth of the run apart."""
    flat = {lr: mean_of(map(_plateau_epoch, results.of(variant="Mini-32", lr=lr))) for lr in GOOD}
    booms = {variant: _booms(results, variant) for variant in BA}
    texts = "; ".join(
        f"{lr:g}: plateau {flat[lr]:.0f}, boom {' and '.join(_epoch_text(booms[v][lr]) for v in BA)}" for lr in GOOD
    )
    evidence = f"epochs, code's stop and paper's: {texts}"
    if (why := _too_short(results)) and not _any_boom(booms):
        return Verdict("undecided", f"{evidence}{why}")
    near = 0.1 * NUM_EPOCHS
    return Verdict(answer_of([abs(booms[v][lr] - flat[lr]) <= near for v in BA for lr in GOOD]), evidence)


def _any_boom(booms: Mapping[str, Mapping[float, float]]) -> bool:
    """Whether batches grew at any rate."""
    return any(math.isfinite(epoch) for epochs in booms.values() for epoch in epochs.values())


def _epoch_text(epoch: float) -> str:
    return f"{epoch:.0f}" if math.isfinite(epoch) else "none"


EXPERIMENTS: Sequence[Experiment] = (
    Experiment(
        name="ba-figure5",
        log="ba",
        paper="BA",
        title="BA-Momentum, Figure 5: when batches begin to grow",
        source=f"{SOURCE}, Figure 5 and section 4.3",
        about="The runs of [Figure 4](ba-figure4.md). The paper sees a boom of the batch size at iterations 80,000 to "
        "110,000 with rate 0.005, 60,000 to 80,000 with 0.01 and earlier with 0.02, each when the training loss of "
        "Mini-32-Momentum comes to a plateau; what is taken for one here, a loss that falls steadily has as well.",
        trials=rate_trials,
        blocks=_figure5,
        claims=(
            Claim(
                text="The boom of the batch size comes earlier at larger rates.",
                criterion="with each stop, it comes earlier at 0.01 than at 0.005 and earlier still at 0.02",
                judge=_judge_earlier,
                place=JUDGED,
            ),
            Claim(
                text="The boom coincides with the plateau of Mini-32-Momentum.",
                criterion="with each stop, at each rate up to 0.02, they are at most a tenth of the run apart",
                judge=_judge_together,
                place=JUDGED,
            ),
        ),
    ),
)
