"""BA-Momentum at several learning rates: Figure 4, how robust it is, and Figure 5, when its batches begin to grow."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gradbatch.experiments.figures import Panel
from gradbatch.experiments.reproduce.cells import (
    NONE,
    answer_of,
    best,
    last_loss,
    lines,
    mean_of,
    percent,
    spread,
    spread_of_all,
)
from gradbatch.experiments.reproduce.drawing import course_curve, curves_of, mean_curve
from gradbatch.experiments.reproduce.experiment import Block, Claim, Experiment, Plot, Scale, Table, Verdict
from gradbatch.experiments.reproduce.results import Outcome, Results
from gradbatch.experiments.reproduce.trial import Trial, trial
from gradbatch.experiments.studies.ba_variants import (
    BA,
    BA_CODE,
    BA_PAPER,
    SOURCE,
    STOPS,
    variant_settings,
)

__all__ = ["EXPERIMENTS", "boom", "plateau", "rate_trials"]

_RATES = (0.005, 0.01, 0.02, 0.05)
_GOOD = _RATES[:3]
"""Those at which the paper's training goes well."""

_VARIANTS = ("Mini-32", BA_CODE, BA_PAPER)


class _Images(NamedTuple):
    """A part of the training set, for 480,000 samples.

    Attributes:
        per_class: Images of each class.
        epochs: How often they pass.
    """

    per_class: int
    epochs: int


_TENTH, _HUNDREDTH = "6,000 images", "600 images"
_PARTS: Mapping[str, _Images] = {_TENTH: _Images(600, 80), _HUNDREDTH: _Images(60, 800)}
"""The first does not come near the paper's training losses; the second does, and is what the claims are judged by."""

_JUDGED = {"images": _HUNDREDTH}

_FITTED = 1e-3
"""Training loss below which the absence of a boom says something; the paper's are a tenth of that and less."""

_PAPER: Mapping[float, str] = {0.005: "1.13e-4", 0.01: "1.69e-5", 0.02: "5.77e-6", 0.05: "fails"}
"""BA-Momentum's training loss after the paper's 100 epochs."""

_WELL = 0.1 * math.log(10)
_BADLY = 0.5 * math.log(10)
"""Final training losses that count as good and as failed: parts of the loss of a guess."""

_GROWN = 1.25
"""Times 32 samples: mean size from which on batches count as growing."""


def rate_trials(scale: Scale) -> list[Trial]:
    """BA-Momentum and Mini-32-Momentum at each rate, on a hundredth and on a tenth of the images.

    Args:
        scale: Of the runs.

    Returns:
        The trials, 0.02 first.
    """
    if scale == "quick":
        return [_trial(_HUNDREDTH, _Images(50, 2), lr, variant) for lr in (0.02, 0.05) for variant in _VARIANTS]
    rates = (0.02, 0.01, 0.05, 0.005)
    return [
        _trial(name, _PARTS[name], lr, variant)
        for name in (_HUNDREDTH, _TENTH)
        for lr in rates
        for variant in _VARIANTS
    ]


def _trial(name: str, images: _Images, lr: float, variant: str) -> Trial:
    """A run that is evaluated after each epoch, or 80 times where there are more."""
    often: dict[str, Any] = {"evaluate_every": 6_000} if images.epochs > 80 else {}
    return trial(
        place={"images": name, "variant": variant, "lr": lr},
        task="fashion-mnist",
        model="small-cnn",
        lr=lr,
        per_class=images.per_class,
        evaluate_training=True,
        **variant_settings(variant, momentum=0.9, epochs=images.epochs),
        **often,
    )


def _parts_of(results: Results) -> list[tuple[str, Results]]:
    """The parts of the training set of which something was run."""
    found = [(name, results.at(images=name)) for name in (_HUNDREDTH, _TENTH)]
    return [(name, own) for name, own in found if own.num_run]


def _figure4(results: Results) -> list[Block]:
    """Training losses at the rates, for each part of the training set."""
    return [block for name, own in _parts_of(results) for block in (f"### {name}", *_losses(name, own))]


def _losses(name: str, results: Results) -> list[Block]:
    """Training losses at the rates."""
    panels = [
        Panel(
            title=f"training loss, {variant}",
            x_label="samples",
            curves=curves_of([mean_curve(results.of(variant=variant, lr=lr), "train_loss") for lr in _RATES]),
            scale="log",
        )
        for variant in _VARIANTS
    ]
    caption = "Loss on the training set with momentum 0.9, at four learning rates."
    rows = []
    for lr in _RATES:
        found = {variant: results.of(variant=variant, lr=lr) for variant in _VARIANTS}
        cells = [
            f"{spread_of_all(map(last_loss, own), lambda x: f'{x:.3g}')} / {spread(map(best, own), percent)}"
            for own in found.values()
        ]
        rows.append([f"{lr:g}", _PAPER.get(lr, NONE), *cells, lines([o for own in found.values() for o in own])])
    head = ["rate", "paper, BA-Momentum", *(f"{variant}: loss / test, %" for variant in _VARIANTS), "log lines"]
    return [
        Plot(name=_slug(name), caption=caption, legend=[f"rate {lr:g}" for lr in _RATES], panels=panels),
        Table(caption="Final training loss, and the best test accuracy.", head=head, rows=rows),
    ]


def _slug(name: str) -> str:
    return name.partition(" ")[0].replace(",", "")


def _judge_well(results: Results) -> Verdict:
    """Whether BA-Momentum trains well at all rates but the largest."""
    losses = {(v, lr): mean_of(map(last_loss, results.of(variant=v, lr=lr))) for v in BA for lr in _GOOD}
    texts = ", ".join(f"{v} at {lr:g}: {loss:.3g}" for (v, lr), loss in losses.items())
    checks = [loss < _WELL for loss in losses.values()]
    return Verdict(answer_of(checks), f"final training losses, to be below {_WELL:.3g}: {texts}")


def _judge_failing(results: Results) -> Verdict:
    """Whether training fails at 0.05, with BA and without."""
    losses = {v: mean_of(map(last_loss, results.of(variant=v))) for v in _VARIANTS}
    texts = ", ".join(f"{v} {loss:.3g}" for v, loss in losses.items())
    checks = [loss > _BADLY for loss in losses.values()]
    return Verdict(answer_of(checks), f"final training losses at 0.05, to be above {_BADLY:.3g}: {texts}")


def _judge_faster(results: Results) -> Verdict:
    """Whether the loss in the end falls with the rate."""
    losses = {v: [mean_of(map(last_loss, results.of(variant=v, lr=lr))) for lr in _GOOD] for v in BA}
    texts = "; ".join(f"{v} {', '.join(f'{loss:.3g}' for loss in own)}" for v, own in losses.items())
    checks = [all(after < before for before, after in itertools.pairwise(own)) for own in losses.values()]
    return Verdict(answer_of(checks), f"at 0.005, 0.01, 0.02: {texts}")


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
        if size <= 32 * _GROWN:
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
    return [block for name, own in _parts_of(results) for block in (f"### {name}", *_sizes(name, own))]


def _sizes(name: str, results: Results) -> list[Block]:
    """Sizes of BA above, and when they grow beside when Mini-32 stops getting on."""
    rates = [lr for lr in _RATES if results.of(lr=lr)]
    panels = []
    for variant in BA:
        found = [results.of(variant=variant, lr=lr) for lr in _RATES]
        curves = curves_of([course_curve(own[0]) if own else None for own in found])
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
        f"which on BA's mean batch is over {32 * _GROWN:g} until the end, a dash unless all seeds "
        "came so far; and the largest batch."
    )
    return [
        Plot(
            name=_slug(name),
            caption="Mean batch sizes of BA-Momentum over stretches of the run.",
            legend=[f"rate {lr:g}" for lr in _RATES],
            panels=panels,
        ),
        Table(caption=caption, head=head, rows=rows),
    ]


def _booms(results: Results, variant: str) -> dict[float, float]:
    """The epoch of the boom at each rate, infinite where there was none."""
    found = {lr: mean_of(map(_boom_epoch, results.of(variant=variant, lr=lr))) for lr in _GOOD}
    return {lr: math.inf if math.isnan(epoch) else epoch for lr, epoch in found.items()}


def _too_short(results: Results) -> str:
    """Why the absence of a boom says nothing; empty where it does."""
    losses = [mean_of(map(last_loss, results.of(variant="Mini-32", lr=lr))) for lr in _GOOD]
    most = max(losses)
    return f"; the training loss of Mini-32 is still {most:.3g}, so that nothing can be said" if most > _FITTED else ""


def _judge_earlier(results: Results) -> Verdict:
    """Whether batches grow earlier at larger rates."""
    booms = {variant: _booms(results, variant) for variant in BA}
    texts = "; ".join(f"{v}: {', '.join(map(_epoch_text, own.values()))}" for v, own in booms.items())
    evidence = f"epochs of the boom at 0.005, 0.01, 0.02: {texts}"
    if (why := _too_short(results)) and not _any_boom(booms):
        return Verdict("open", f"{evidence}{why}")
    checks = [all(after < before for before, after in itertools.pairwise(own.values())) for own in booms.values()]
    return Verdict(answer_of(checks), evidence)


def _judge_together(results: Results) -> Verdict:
    """Whether batches grow when Mini-32's loss stops falling: at most a tenth of the run apart."""
    flat = {lr: mean_of(map(_plateau_epoch, results.of(variant="Mini-32", lr=lr))) for lr in _GOOD}
    booms = {variant: _booms(results, variant) for variant in BA}
    texts = "; ".join(
        f"{lr:g}: plateau {flat[lr]:.0f}, boom {' and '.join(_epoch_text(booms[v][lr]) for v in BA)}" for lr in _GOOD
    )
    evidence = f"epochs, code's stop and paper's: {texts}"
    if (why := _too_short(results)) and not _any_boom(booms):
        return Verdict("open", f"{evidence}{why}")
    near = 0.1 * _PARTS[_HUNDREDTH].epochs
    return Verdict(answer_of([abs(booms[v][lr] - flat[lr]) <= near for v in BA for lr in _GOOD]), evidence)


def _any_boom(booms: Mapping[str, Mapping[float, float]]) -> bool:
    """Whether batches grew at any rate."""
    return any(math.isfinite(epoch) for own in booms.values() for epoch in own.values())


def _epoch_text(epoch: float) -> str:
    return f"{epoch:.0f}" if math.isfinite(epoch) else "none"


_ABOUT = f"""
Batches grow, says the paper, when the training loss has become small, at iterations 60,000 to 80,000 with rate 0.01,
and it ends at losses of 1e-4 to 6e-6. That is far beyond what two cores can do on all images; so these runs have 600
images, 60 a class, 800 times, and come to such losses. Runs with 6,000 images, 80 times, came first and end far above
them; they are shown and not judged. The network is small: two convolutions in PyTorch's own initialisation; momentum
0.9, first batch 32, no weight decay, nothing held out, one seed. {STOPS}
"""

EXPERIMENTS: Sequence[Experiment] = (
    Experiment(
        name="ba-figure4",
        log="ba",
        title="BA-Momentum, Figure 4: robustness to the learning rate",
        source=f"{SOURCE}, Figure 4 and section 4.3",
        about=_ABOUT,
        trials=rate_trials,
        blocks=_figure4,
        claims=(
            Claim(
                text="BA-Momentum trains well at rates from 0.005 to 0.02.",
                criterion=f"all final training losses are below {_WELL:.3g}, a tenth of that of a guess",
                judge=_judge_well,
                place=_JUDGED,
            ),
            Claim(
                text="The larger of these rates ends with the lower loss.",
                criterion="with each stop, the final training loss falls from each rate to the next larger one",
                judge=_judge_faster,
                place=_JUDGED,
            ),
            Claim(
                text="At 0.05 training fails, with BA and with Mini-32.",
                criterion=f"all final training losses are above {_BADLY:.3g}, half of that of a guess",
                judge=_judge_failing,
                place={**_JUDGED, "lr": 0.05},
            ),
        ),
    ),
    Experiment(
        name="ba-figure5",
        log="ba",
        title="BA-Momentum, Figure 5: when batches begin to grow",
        source=f"{SOURCE}, Figure 5 and section 4.3",
        about="The runs of [Figure 4](ba-figure4.md). The paper sees a boom of the batch size at iterations 80,000 to "
        "110,000 with rate 0.005, 60,000 to 80,000 with 0.01 and earlier with 0.02, each when the training loss of "
        "Mini-32-Momentum comes to a plateau.",
        trials=rate_trials,
        blocks=_figure5,
        claims=(
            Claim(
                text="The boom of the batch size comes earlier at larger rates.",
                criterion="with each stop, it comes earlier at 0.01 than at 0.005 and earlier still at 0.02",
                judge=_judge_earlier,
                place=_JUDGED,
            ),
            Claim(
                text="The boom coincides with the plateau of Mini-32-Momentum.",
                criterion="with each stop, at each rate up to 0.02, they are at most a tenth of the run apart",
                judge=_judge_together,
                place=_JUDGED,
            ),
        ),
    ),
)
