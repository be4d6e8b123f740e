"""BA's appendix B: whether the decrease of the loss over batches is normal, and spread as predicted."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import NormalDist
from typing import Any

import numpy as np

from gradbatch.experiments.curves import Points
from gradbatch.experiments.figures import Panel
from gradbatch.experiments.reproduce.cells import answer_of, lines
from gradbatch.experiments.reproduce.drawing import curves_of
from gradbatch.experiments.reproduce.experiment import Block, Claim, Experiment, Plot, Scale, Table, Verdict
from gradbatch.experiments.reproduce.results import Outcome, Results
from gradbatch.experiments.reproduce.trial import Trial, trial
from gradbatch.experiments.studies.ba_decrease import PROBABILITIES, measure_decreases
from gradbatch.experiments.studies.ba_variants import SOURCE

__all__ = ["EXPERIMENTS"]

_FIRST_PLACE = "authors' network, 10 updates"
_PLACES: Mapping[str, Mapping[str, Any]] = {
    _FIRST_PLACE: {"model": "cnn", "lr": 0.02, "steps": 10, "per_class": 100},
    "small network, 10 updates": {"model": "small-cnn", "lr": 0.2, "steps": 10, "per_class": 200},
    "small network, 1,000 updates": {"model": "small-cnn", "lr": 0.2, "steps": 1000, "per_class": 200},
}
"""Where the decrease is measured."""

_PAPER_RATIO = 3.48411e-11 / 4.58062e-12
"""The paper's measured spread over its predicted one."""


def _decrease_trials(scale: Scale) -> list[Trial]:
    """One measurement at each place."""
    places, num_draws, num_measured = list(_PLACES), 500, 12
    changes: dict[str, Any] = {}
    if scale == "quick":
        places, num_draws, num_measured, changes = [list(_PLACES)[1]], 60, 5, {"per_class": 30}
    work = partial(measure_decreases, num_draws=num_draws, num_measured=num_measured)
    common: dict[str, Any] = {"task": "fashion-mnist", "momentum": 0.0, "batch_size": 100}
    return [trial(work, place={"at": place}, **{**common, **_PLACES[place], **changes}) for place in places]


def _decreases(results: Results) -> list[Block]:
    """What was measured, what was predicted, and how normal it is."""
    found = {at: runs[0] for at in _PLACES if (runs := results.of(at=at))}
    quantiles: list[Points | None] = [
        Points(np.array(PROBABILITIES), np.array(found[at].values["quantiles"])) if at in found else None
        for at in _PLACES
    ]
    normal = Points(np.array(PROBABILITIES), np.array([NormalDist().inv_cdf(p) for p in PROBABILITIES]))
    panel = Panel(
        title="standardised decrease at each share of the batches",
        x_label="share of batches",
        curves=curves_of([*quantiles, normal]),
    )
    plot = Plot(
        caption="Quantiles of the decreases over batches, and of the normal distribution.",
        legend=[*_PLACES, "normal"],
        panels=[panel],
    )
    return [_spread_table(found), _parts_table(found), plot, _shape_table(found)]


def _spread_table(found: Mapping[str, Outcome]) -> Table:
    """Means and spreads, measured and predicted."""
    rows = []
    for at, outcome in found.items():
        n = outcome.number
        ratios = _ratios(outcome)
        rows.append(
            [
                at,
                f"{n('mean'):.3g} ± {n('spread'):.3g}",
                f"{n('same_mean'):.3g} ± {n('same_spread'):.3g} / "
                f"{n('measured_mean'):.3g} ± {n('measured_spread'):.3g}",
                f"{n('predicted_mean'):.3g} ± {n('predicted_spread'):.3g}",
                f"{n('one_mean'):.3g} ± {n('one_spread'):.3g}",
                *(f"{value:.2f}" for value in ratios.values()),
                lines([outcome]),
            ]
        )
    paper = ["paper", "7.94e-10 ± 3.48e-11", "", "", "8.58e-10 ± 4.58e-12", *[f"{_PAPER_RATIO:.1f}"] * 4, ""]
    head = ["", "decrease", "first-order / real", "predicted", "by one batch", *_RATIOS, "log lines"]
    caption = (
        "Mean ± standard deviation over batches: the first-order decrease of the objective; the same and the real one "
        "on the batches for which it was evaluated; and what BA predicts, a mean over batches and from the first one, "
        "with the exact covariance. Then the measured spread over the predicted one: exact, diagonal, and either with "
        "the authors' second division by √m. The paper has one such ratio and does not say of which kind."
    )
    return Table(caption=caption, head=head, rows=[*rows, paper])


_RATIOS = ("ratio, exact", "ratio, diagonal", "exact, √m twice", "diagonal, √m twice")


def _ratios(outcome: Outcome) -> dict[str, float]:
    """The measured spread over each kind of prediction."""
    n = outcome.number
    exact, diagonal = n("spread") / n("predicted_spread"), n("spread") / n("diagonal_spread")
    root = math.sqrt(n("batch_size"))
    return dict(zip(_RATIOS, (exact, diagonal, exact * root, diagonal * root), strict=True))


def _parts_table(found: Mapping[str, Outcome]) -> Table:
    """Where the bias of the predictions comes from."""
    rows = []
    for at, outcome in found.items():
        n = outcome.number
        true = n("projection_variance")
        rows.append(
            [
                at,
                f"{n('spread') / n('true_spread'):.3f}",
                f"{n('predicted_mean') / n('true_mean'):.2f}",
                f"{n('predicted_variance') / true:.2f}",
                f"{n('trace_of_square') / true:.2f}",
                f"{(n('predicted_variance') - true - n('trace_of_square')) / true:+.2f}",
                f"{n('own_spread') / n('spread'):.2f}",
            ]
        )
    caption = (
        "With the gradient f and the covariance Σ of the whole data set: the measured spread over the formula's, "
        "η√(fᵀΣf/m); the mean of what batches put for fᵀf and for fᵀΣf, as multiples of these; in the latter tr(Σ²)/m "
        "and what is left (1 + both is the multiple: skewness, and chance); and the spread over batches of ηḡᵀḡ, a "
        "batch's own idea of its decrease, as a multiple of the decrease's."
    )
    head = ["", "formula", "μ of batches", "σ² of batches", "of it tr(Σ²)/m", "and the rest", "spread of ηḡᵀḡ"]
    return Table(caption=caption, head=head, rows=rows)


def _shape_table(found: Mapping[str, Outcome]) -> Table:
    """How normal the decreases are."""
    rows = [
        [
            at,
            f"{outcome.number('skewness'):+.2f}",
            f"{outcome.number('kurtosis'):+.2f}",
            f"{_jarque_bera(outcome):.1f} / {_CHI2:.1f}",
            f"{outcome.number('distance'):.3f} / {outcome.number('critical'):.3f}",
        ]
        for at, outcome in found.items()
    ]
    caption = (
        "Skewness and excess kurtosis, 0 for normal numbers, and Jarque and Bera's sum of both; and Kolmogorov's "
        "distance to the normal distribution; either beside what normal numbers exceed in 5 % of all cases."
    )
    return Table(
        caption=caption, head=["", "skewness", "kurtosis", "moments / critical", "distance / critical"], rows=rows
    )


def _jarque_bera(outcome: Outcome) -> float:
    """The statistic n (skewness² + kurtosis² / 4) / 6, about χ² with two degrees of freedom for normal numbers."""
    n = outcome.number
    return n("num_draws") / 6 * (n("skewness") ** 2 + n("kurtosis") ** 2 / 4)


_CHI2 = 5.99
"""What χ² with two degrees of freedom exceeds in 5 % of all cases."""


def _judge_normal(results: Results) -> Verdict:
    """Whether the first-order decreases pass for normal."""
    found = {item.place["at"]: outcome for item, outcome in results.pairs()}
    checks = [
        outcome.number("distance") < outcome.number("critical") and _jarque_bera(outcome) < _CHI2
        for outcome in found.values()
    ]
    texts = "; ".join(
        f"{at}: distance {outcome.number('distance'):.3f} of {outcome.number('critical'):.3f}, moments "
        f"{_jarque_bera(outcome):.1f} of {_CHI2:.1f}"
        for at, outcome in found.items()
    )
    return Verdict(answer_of(checks), texts)


def _judge_spread(name: str, text: str, *, low: float, high: float, **place: Any) -> Claim:
    """Whether a kind of prediction is off by a factor between two bounds, everywhere or at one place."""

    def judge(results: Results) -> Verdict:
        ratios = {item.place["at"]: _ratios(outcome)[name] for item, outcome in results.pairs()}
        texts = ", ".join(f"{at} {value:.2f}" for at, value in ratios.items())
        checks = [low <= value <= high for value in ratios.values()]
        return Verdict(answer_of(checks), f"measured over predicted ({name.removeprefix('ratio, ')}): {texts}")

    where = "" if place else "at each place, "
    criterion = f"{where}the measured spread is {low:.3g} to {high:.3g} times the predicted one, a mean over batches"
    return Claim(text=text, criterion=criterion, judge=judge, place=place, is_ours=bool(place))


def _judge_mean(results: Results) -> Verdict:
    """Whether a batch's own squared norm is the mean decrease, to a tenth."""
    ratios = {
        item.place["at"]: outcome.number("predicted_mean") / outcome.number("mean") for item, outcome in results.pairs()
    }
    texts = ", ".join(f"{at} {value:.2f}" for at, value in ratios.items())
    return Verdict(answer_of([0.9 < value < 1.1 for value in ratios.values()]), f"predicted over measured: {texts}")


_ABOUT = """
The paper draws 500 batches of 100 after 10 updates, without updating further, and calls what the model predicts
close to what it measures; of the standard deviations that it prints, the measured one is 7.6 times the predicted one.
Here the same is done with plain SGD on class-balanced subsets of Fashion-MNIST (1,000 images with the authors' network,
2,000 with a small one), which are the whole data set of the objective; batches are drawn with replacement, so that the
formulas are exact. What is compared: the decrease of the objective with a batch's step, ηf·ḡ to first order,
over many batches, against N(ημ, η²σ²/m) with μ and σ from a single batch. The docstring of
`gradbatch.experiments.studies.ba_decrease` has the mathematics. The rate scales everything; the paper's is not known.
"""

EXPERIMENTS: Sequence[Experiment] = (
    Experiment(
        name="ba-appendix-b",
        log="ba-appendix",
        paper="BA",
        title="BA, appendix B: is the decrease normal, and spread as predicted?",
        source=f"{SOURCE}, appendix B",
        about=_ABOUT,
        trials=_decrease_trials,
        blocks=_decreases,
        why="A batch's own squared gradient contains its noise, tr Σ/m on average, and so promises too large a mean "
        "where the noise is of the size of the signal. The same happens to the spread: after 10 updates "
        "most of the variance that a batch predicts is tr(Σ²)/m, its own noise seen through the covariance, as the "
        "second table takes apart (after 1,000, skewness has the larger part); with the expected values in the "
        "formula it is right. The paper's 7.6 has the other sign: it takes a covariance without its products, a "
        "second division by √m, or both, and which of them the paper has is not known.",
        claims=(
            Claim(
                text="Over batches, the first-order decrease of the objective is normally distributed.",
                criterion="at each place, neither the distance to the normal distribution (Lilliefors) nor skewness "
                "and kurtosis (Jarque and Bera) speak against it at 5 % (six tests: normal numbers would fail one in a "
                "quarter of all cases)",
                judge=_judge_normal,
            ),
            Claim(
                text="A batch predicts the mean decrease well.",
                criterion="at each place, the mean over batches of what they predict is 0.9 to 1.1 times the "
                "measured mean",
                judge=_judge_mean,
            ),
            _judge_spread(_RATIOS[0], "With the exact covariance the predicted spread is right.", low=0.8, high=1.25),
            *(
                _judge_spread(
                    name,
                    f"With the authors' network, {what} predicts a spread as much too small as the paper's, 7.6 times.",
                    low=_PAPER_RATIO / 1.5,
                    high=_PAPER_RATIO * 1.5,
                    at=_FIRST_PLACE,
                )
                for name, what in ((_RATIOS[1], "the diagonal covariance"), (_RATIOS[2], "a second division by √m"))
            ),
        ),
    ),
)
