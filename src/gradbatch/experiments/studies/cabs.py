"""CABS' experiments on MNIST and CIFAR-10: against constant batches over learning rates, and the course of sizes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from gradbatch.experiments.reproduce.cells import CHANCE, answer_of, end, mean_size, percent, whole
from gradbatch.experiments.reproduce.experiment import Claim, Experiment, Scale, Verdict
from gradbatch.experiments.reproduce.results import Results
from gradbatch.experiments.reproduce.trial import Trial, trial
from gradbatch.experiments.studies.cabs_page import (
    RATE,
    blocks,
    constants_of,
    level_of,
    phases_of,
    samples_to,
    spread_of,
)

__all__ = ["EXPERIMENTS"]

_FIRST = 16
"""The first batch and the smallest, in samples."""

_CABS: Mapping[str, str] = {"CABS, exact": "exact", "CABS, position": "position"}
"""The rule's variants and their second moments."""

_SMITH = "doubled, 16 to 128"
"""A planned growth, at the authors' rate only: it is not what the claims are about."""

_VARIANTS = ("constant 16", "constant 64", "constant 256", *_CABS)
_RATES = (0.03, 0.1, 0.3)


@dataclass(frozen=True, kw_only=True)
class _Study:
    """CABS against constant batches on one task.

    Attributes:
        model: The authors' network, which also names the experiment.
        task: What it is trained on.
        title: Of the page.
        samples: Budget of the runs of the grid.
        every: Samples between evaluations.
        margin: How far the target is below the best constant batch's accuracy.
        course: What sets the long runs apart.
        about: What is run.
        why: What we take the reasons to be for what came out.
    """

    model: str
    task: str
    title: str
    samples: int
    every: int
    margin: float
    course: Mapping[str, Any]
    about: str
    why: str = ""

    def settings(self, variant: str, lr: float) -> dict[str, Any]:
        """What a run sets, but for its budget."""
        common = {
            "task": self.task,
            "model": self.model,
            "momentum": 0.0,
            "lr": lr,
            "validation": 1 / 12,
            "even_ends": True,
        }
        if variant in _CABS:
            return common | {"rule": "cabs", "set": (f"moment={_CABS[variant]}",), "batch_size": _FIRST}
        if variant == _SMITH:
            table = " ".join(f"{part * self.samples // 4}:{_FIRST << part}" for part in range(4))
            return common | {"rule": "schedule", "set": (f"table={table}", "unit=samples"), "batch_size": _FIRST}
        return common | {"batch_size": int(variant.removeprefix("constant "))}

    def trials(self, scale: Scale) -> list[Trial]:
        """The grid and the long runs, those at the authors' rate first."""
        if scale == "quick":  # two runs, one of which is in both parts: what takes time is evaluating
            few = {"samples": 640, "validation": 0.0}
            return [*self._grid((f"constant {_FIRST}", "CABS, exact"), RATE, few), *self._long(few)[:1]]
        budget = {"samples": self.samples, "evaluate_every": self.every}
        others = [one for lr in _RATES if lr != RATE for one in self._grid(_VARIANTS, lr, budget)]
        # Without held-out images: an evaluation takes as long as an epoch of so few.
        long = self._long({**self.course, "validation": 0.0})
        return [*self._grid((*_VARIANTS, _SMITH), RATE, budget), *long, *others]

    def _grid(self, variants: Sequence[str], lr: float, extra: Mapping[str, Any]) -> list[Trial]:
        """Variants at a rate."""
        return [trial(place={"variant": name, "lr": lr}, **{**self.settings(name, lr), **extra}) for name in variants]

    def _long(self, extra: Mapping[str, Any]) -> list[Trial]:
        """The rule at the authors' rate, for the course of its sizes."""
        return [trial(place={"course": name}, **{**self.settings(name, RATE), **extra}) for name in _CABS]


def _judge_speed(margin: float) -> Claim:
    """Whether CABS needs a tenth fewer samples than every constant batch."""

    def judge(results: Results) -> Verdict:
        level = level_of(results, margin)
        names = [*constants_of(results), *_CABS]
        needed = {name: samples_to(results.of(variant=name, lr=RATE)[0], level) for name in names}
        fastest = min(needed[name] for name in constants_of(results))
        texts = ", ".join(f"{name} {whole(value)}" for name, value in needed.items())
        flags = [needed[name] < 0.9 * fastest for name in _CABS]
        return Verdict(answer_of(flags), f"samples to {percent(level)} % at rate {RATE:g}: {texts}")

    return Claim(
        text="At the authors' learning rate CABS needs fewer samples than the best constant batch.",
        criterion="with each second moment, it needs less than 0.9 times the samples of the fastest constant batch, to "
        f"{100 * margin:g} points below the best accuracy of any constant batch",
        judge=judge,
    )


def _judge_sensitivity(results: Results) -> Verdict:
    """Whether CABS' accuracy differs less between learning rates than that of every constant batch that learned."""
    constants = constants_of(results)
    rates = results.values_of("lr")
    spreads = {name: spread_of(results, name) for name in (*constants, *_CABS)}
    most_accurate = max(constants, key=lambda name: max(map(end, results.of(variant=name))))
    texts = ", ".join(f"{name} {percent(value)}" for name, value in spreads.items())
    # What stays at chance at every rate is steady, but has not trained.
    learned = {name for name in spreads if mean(map(end, results.of(variant=name))) > 3 * CHANCE}
    if learned.isdisjoint(constants):
        return Verdict("undecided", f"no constant batch came to {percent(3 * CHANCE)} % on average over the rates")
    steadiest = min(spreads[name] for name in constants if name in learned)
    flags = [name in learned and spreads[name] < steadiest for name in _CABS]
    span = f"{min(rates):g} to {max(rates):g}"
    evidence = f"points between rates from {span}: {texts}; the most accurate constant batch is {most_accurate}"
    return Verdict(answer_of(flags), evidence)


def _judge_course(results: Results) -> Verdict:
    """Whether the size stays at its minimum, then grows more than tenfold, then at least halves."""
    courses = {name: phases_of(outcome) for name in _CABS for outcome in results.of(course=name)}
    texts = "; ".join(
        f"{name}: {course.first:.0f} over the first quarter of the updates, {course.largest:.0f} at most, "
        f"down to {course.after:.0f} after it"
        for name, course in courses.items()
    )
    has_shape = [course.first < 1.25 * _FIRST and course.after < course.largest / 2 for course in courses.values()]
    growths = [course.largest / _FIRST for course in courses.values()]
    if all(has_shape) and min(growths) > 10:
        return Verdict("holds", texts)
    is_smaller = any(shape and growth > 2 for shape, growth in zip(has_shape, growths, strict=True))
    return Verdict("in part" if is_smaller else "does not hold", texts)


def _judge_moments(results: Results) -> Verdict:
    """Whether the two second moments ask for sizes that differ by a quarter."""
    sizes = {name: mean_size(outcome) for name in _CABS for outcome in results.of(course=name)}
    texts = ", ".join(f"{name} {size:.1f}" for name, size in sizes.items())
    is_apart = abs(math.log(sizes["CABS, exact"] / sizes["CABS, position"])) > math.log(1.25)
    return Verdict("holds" if is_apart else "does not hold", f"samples behind an update of the long runs: {texts}")


def _experiment(study: _Study) -> Experiment:
    """The experiment of a study."""
    return Experiment(
        name=study.model,
        paper="CABS",
        log="cabs",
        title=study.title,
        source="Balles, Romero and Hennig 2017, *Coupling Adaptive Batch Sizes with Learning Rates* "
        "([arXiv:1612.05086](https://arxiv.org/abs/1612.05086)), and the authors' code",
        about=f"{study.about.strip()}\n\n{_ABOUT.strip()}",
        trials=study.trials,
        blocks=lambda results: blocks(results, study.margin),
        why=study.why,
        claims=(
            _judge_speed(study.margin),
            Claim(
                text="CABS' final accuracy depends less on the learning rate than that of any constant batch.",
                criterion=f"with each second moment, it comes to more than {300 * CHANCE:g} % on average over the "
                "rates, and differs less between them than that of every constant batch that came so far",
                judge=_judge_sensitivity,
            ),
            Claim(
                text="CABS' batch stays at its minimum for long, then grows more than tenfold, then shrinks again.",
                criterion="with each second moment, in means over twenty-fourths of the updates: the size is below 20 "
                "in the first quarter, the largest is above 160, ten times the minimum, and a later one is below half "
                "of the largest (in part: with one of them it has this shape, with a largest above 32)",
                judge=_judge_course,
                is_ours=True,
            ),
            Claim(
                text="The exact second moment asks for other sizes than the authors' approximation.",
                criterion="the mean sizes of the long runs are more than 1.25 times apart",
                judge=_judge_moments,
                is_ours=True,
            ),
        ),
    )


_ABOUT = """
Batches begin with 16 samples and stay between 16 and 2,048; plain SGD without momentum, weight decay, augmentation or a
learning-rate schedule, as in the authors' code. “Exact” takes the second moment of the gradients of single samples,
“position” that of the authors' code, which leaves out the products between the positions of a convolution. Opposite
stand constant batches at rates 0.03, 0.1 and 0.3, and at 0.1 Smith's: 16, doubled after each quarter of the budget. The
authors run 8,000 updates at rate 0.1. Updates of different sizes do not compare, so here all runs of the grid have the
same number of samples. Their queue never gives a short batch; here what is left of an epoch is halved where it is less
than two batches (`--even-ends`). The grid holds out a twelfth of the training images, the long runs none. The paper's
own tables were not at hand. One seed.
"""

EXPERIMENTS: Sequence[Experiment] = tuple(
    _experiment(study)
    for study in (
        _Study(
            model="cabs-mnist",
            task="mnist",
            title="CABS on MNIST, with the authors' network",
            samples=55_000,
            every=6_875,
            margin=0.005,
            course={"per_class": 200, "samples": 60_000},
            about="Two convolutions of 5x5 and two dense layers, for 55,000 samples, an epoch. The long runs are to "
            "show the course of the sizes until the training set is fitted, and so take a small one, 200 images of "
            "each class, for 60,000 samples, 30 epochs.",
            why="At the authors' rate an epoch on MNIST is too short for noise to be in the way: the smallest batch "
            "makes the most updates, and CABS, which leaves it when the loss is small, pays for larger ones too "
            "early. At the larger rate noise does limit the smallest batch, and CABS is better than every constant "
            "batch, if by a tenth of a point. Over the rates it is about as steady as batches of 16, a little more so "
            "with one moment and a little less with the other: at low rates it is held at its minimum, which is that "
            "batch. In the long runs it grows six- to sevenfold, not tenfold; with the exact moment it is at its "
            "largest when they end.",
        ),
        _Study(
            model="cabs-cifar10",
            task="cifar10-crop",
            title="CABS on CIFAR-10, with the authors' network",
            samples=91_666,
            every=11_458,
            margin=0.02,
            course={"per_class": 500, "samples": 100_000},
            about="Two convolutions of 5x5 and three dense layers on the middle 24x24 pixels, for 91,666 samples, two "
            "epochs. The long runs are to show the course of the sizes until the training set is fitted, and so take a "
            "small one, 500 images of each class, for 100,000 samples, 20 epochs.",
            why="At the authors' rate batches of 16 stop gaining within the first epoch, those of 256 make too few "
            "updates, and those of 64, ahead between, lose ten points in one evaluation. CABS begins with 16 and "
            "leaves it in the first epoch, as the variance grows and the loss falls. Smith's planned growth needs "
            "fewer samples still and ends higher, and a lower rate does as much: at 0.03 batches of 16 come to the "
            "target after about 60,900 samples and end at 65 %, so that of the two moments only one would be a tenth "
            "faster had the constant batch its own rate. There CABS hardly leaves its minimum, and is that batch. At "
            "0.3, where batches of 64 and more train, the variance is a third of that at 0.1 and the loss stays near "
            "2: the rule asks for 12 to 15 samples, and fails with its smallest batch. In the long runs the size "
            "grows eleven- and ninefold and shrinks again, much alike with both moments. The one with the exact "
            "moment loses its fit in the last epoch (from 54 to 32 %), and had lost it for one at its largest sizes; "
            "why, one run does not tell.",
        ),
    )
)
