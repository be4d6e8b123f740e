"""DBA's experiments on MNIST: Table 1 and the figures."""

import math
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from gradbatch.experiments.figures import Panel
from gradbatch.experiments.reproduce.cells import NONE, at_validation_best, best, lines, percent, spread
from gradbatch.experiments.reproduce.drawing import curves_of, mean_curve
from gradbatch.experiments.reproduce.experiment import Block, Claim, Experiment, Plot, Scale, Table, Verdict
from gradbatch.experiments.reproduce.results import Outcome, Results
from gradbatch.experiments.reproduce.trial import Trial, trial

__all__ = ["EXPERIMENTS", "PAPER", "SOURCE", "row_settings"]

SOURCE = (
    "Simionescu, Stoica and Herscovici 2022, *Dynamic Batch Adaptation* ([arXiv:2208.00815]"
    "(https://arxiv.org/abs/2208.00815))"
)

_COMMON: Mapping[str, Any] = {
    "task": "mnist",
    "model": "mlp",
    "lr": 0.01,
    "weight_decay": 5e-4,
    "lr_schedule": "plateau",
    "validation": 1 / 12,
}
_OPTIMIZERS: Mapping[str, Mapping[str, Any]] = {
    "SGD": {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
    "Adam": {"optimizer": "adam"},
}
_DATA: Mapping[str, int | None] = {"100 %": None, "10 %": 600, "1 %": 60, "10 a class": 10}
"""Parts of MNIST, and how many images of each class they have."""

PAPER: Mapping[str, Mapping[str, str]] = {
    "SGD 64": {"100 %": "98.16", "10 %": "95.15", "1 %": "87.63"},
    "SGD 128": {"100 %": "98.15", "10 %": "94.99", "1 %": "87.57"},
    "SGD 256": {"100 %": "98.07", "10 %": "94.83", "1 %": "87.38"},
    "Adam 64": {"100 %": "97.79", "10 %": "95.26", "1 %": "88.35"},
    "Adam 128": {"100 %": "97.77", "10 %": "95.48", "1 %": "88.25"},
    "Adam 256": {"100 %": "97.87", "10 %": "95.47", "1 %": "88.31"},
    "DBA+SGD norm": {"100 %": "98.12", "10 %": "95.55", "1 %": "96.77", "10 a class": "97.44 (best)"},
    "DBA+SGD variance": {"100 %": "98.14", "10 %": "97.42", "1 %": "97.83"},
    "DBA+Adam norm": {"100 %": "95.04", "10 %": "93.73", "1 %": "90.85"},
    "DBA+Adam variance": {"100 %": "94.95", "10 %": "93.86", "1 %": "92.20"},
}
"""The paper's Table 1, means of the best test accuracy in per cent; the last column is from its text."""


def row_settings(variant: str, data: str) -> dict[str, Any]:
    """What a row of Table 1 sets, on a part of MNIST.

    Args:
        variant: A row of `PAPER`.
        data: A column of it, or ``"10 a class"``.

    Returns:
        Fields of `TrainSettings`, without budget and seed.
    """
    is_tiny = data == "10 a class"
    method, _, last = variant.partition(" ")
    settings = {**_COMMON, **_OPTIMIZERS[method.removeprefix("DBA+")], "per_class": _DATA[data]}
    if not method.startswith("DBA"):
        sizes = {"64": 25, "128": 50, "256": 100} if is_tiny else {}
        return settings | {"batch_size": sizes.get(last, int(last))}
    rule = [f"metric={last}", *(["stride=10", "min_batch_size=20"] if is_tiny else [])]
    return settings | {"rule": "dba", "set": tuple(rule), "batch_size": 100 if is_tiny else 128}


_BUDGETS: Mapping[Scale, Mapping[str, tuple[int, int]]] = {
    "quick": {"1 %": (6, 1)},
    "full": {"1 %": (150, 5), "10 a class": (150, 5), "10 %": (150, 5), "100 %": (40, 3)},
}
"""For each part of MNIST the epochs and seeds."""


def _table_trials(scale: Scale) -> list[Trial]:
    """Every row on every part of MNIST, seed by seed."""
    return [
        trial(place={"variant": variant, "data": data}, seed=seed, epochs=epochs, **row_settings(variant, data))
        for data, (epochs, seeds) in _BUDGETS[scale].items()
        for seed in range(seeds)
        for variant in PAPER
    ]


def _table(results: Results) -> list[Block]:
    """Table 1, ours beside the paper's."""
    parts = [data for data in _DATA if data in results.values_of("data")]
    head = ["", *(f"{data}: paper | ours, best | ours, chosen".replace("|", "/") for data in parts), "log lines"]
    rows = []
    for variant, paper in PAPER.items():
        cells = []
        for data in parts:
            found = results.of(variant=variant, data=data)
            ours = spread(map(best, found), percent), spread(map(at_validation_best, found), percent)
            cells.append(f"{paper.get(data, NONE)} / **{ours[0]}** / {ours[1]}")
        rows.append([variant, *cells, lines(results.of(variant=variant))])
    caption = (
        "Test accuracy in per cent: the paper's mean of the best over training, ours (mean ± standard deviation over "
        "seeds), and ours at the epoch that 5,000 held-out training images would choose."
    )
    return [Table(caption=caption, head=head, rows=rows)]


def _mean_best(results: Results, variant: str, data: str) -> float:
    """The mean of the best test accuracy, nan where nothing was run."""
    found = [best(outcome) for outcome in results.of(variant=variant, data=data)]
    return mean(found) if found else math.nan


def _judge_gain(data: str, claimed: float) -> Claim:
    """Whether DBA+SGD beats the best baseline on a part of MNIST by about what the paper says."""

    def judge(results: Results) -> Verdict:
        dba = {name: _mean_best(results, name, data) for name in PAPER if name.startswith("DBA+SGD")}
        others = {name: _mean_best(results, name, data) for name in PAPER if not name.startswith("DBA")}
        if not all(map(math.isfinite, [*dba.values(), *others.values()])):
            return Verdict("open", "not run")
        gain = 100 * (max(dba.values()) - max(others.values()))
        answer = "holds" if gain > claimed / 2 else "in part" if gain > 0.3 else "does not hold"
        best_dba, best_other = max(dba, key=dba.__getitem__), max(others, key=others.__getitem__)
        return Verdict(
            answer,
            f"{best_dba} {percent(dba[best_dba])} %, {best_other} {percent(others[best_other])} %: "
            f"{gain:+.2f} points, where the paper has {claimed:+.1f}",
        )

    return Claim(
        text=f"With {data} of MNIST, DBA with SGD is far more accurate than SGD and Adam.",
        criterion=f"the better metric gains more than {claimed / 2:.3g} points, half of the paper's gain, over the "
        "best of "
        "SGD and Adam (in part: more than 0.3)",
        judge=judge,
    )


def _judge_full(results: Results) -> Verdict:
    """Whether DBA+SGD, which begins with batches of 128, is not worse than SGD with as many by 0.3 points."""
    dba = max(_mean_best(results, f"DBA+SGD {metric}", "100 %") for metric in ("norm", "variance"))
    sgd = {size: _mean_best(results, f"SGD {size}", "100 %") for size in (64, 128, 256)}
    if not math.isfinite(dba + sum(sgd.values())):
        return Verdict("open", "not run")
    texts = ", ".join(f"SGD {size} {percent(value)} %" for size, value in sgd.items())
    evidence = f"DBA+SGD {percent(dba)} %, {texts} (40 epochs of the paper's 150 favour small batches)"
    return Verdict("holds" if dba > sgd[128] - 0.003 else "does not hold", evidence)


def _judge_adam(results: Results) -> Verdict:
    """Whether DBA makes Adam worse on the whole of MNIST: in part below half of the paper's 2.8 points."""
    dba = max(_mean_best(results, f"DBA+Adam {metric}", "100 %") for metric in ("norm", "variance"))
    adam = max(_mean_best(results, f"Adam {size}", "100 %") for size in (64, 128, 256))
    if not math.isfinite(dba + adam):
        return Verdict("open", "not run")
    loss = 100 * (adam - dba)
    evidence = f"DBA+Adam {percent(dba)} %, Adam {percent(adam)} %: {-loss:+.2f} points, where the paper has -2.8"
    return Verdict("holds" if loss > 1.4 else "in part" if loss > 0.3 else "does not hold", evidence)


_ON_ALL = ("SGD 128", "Adam 128", "DBA+SGD norm", "DBA+SGD variance", "DBA+Adam norm", "DBA+Adam variance")


def _largest_part(results: Results) -> str:
    """The largest part of MNIST that was run."""
    return next((data for data in _DATA if results.of(data=data)), next(iter(_DATA)))


def _figure2(results: Results) -> list[Block]:
    """Accuracy and loss along training."""
    data = _largest_part(results)
    rows = [(results.of(variant=variant, data=data)) for variant in _ON_ALL]
    panels = [
        Panel(
            title=f"test accuracy, {data}",
            x_label="samples",
            curves=curves_of([mean_curve(found, "test_score") for found in rows]),
            percent=True,
        ),
        Panel(
            title=f"training loss, {data}",
            x_label="samples",
            curves=curves_of([mean_curve(found, "batch_loss") for found in rows]),
            scale="log",
        ),
    ]
    caption = "Means over seeds. The training loss is the mean over the batches of an epoch."
    return [Plot(caption=caption, legend=_ON_ALL, panels=panels), _speed_table(results, data)]


def _speed_table(results: Results, data: str) -> Table:
    """Epochs to a level that the baselines reach."""
    level = _level(results, data)
    rows = []
    for variant in _ON_ALL:
        found = results.of(variant=variant, data=data)
        epochs = [_epochs_to(outcome, level) for outcome in found]
        used = (outcome.said("utilisation") for outcome in found)
        reached = spread(epochs, lambda value: f"{value:.1f}") if all(map(math.isfinite, epochs)) else NONE
        rows.append([variant, reached, spread(used, percent), lines(found)])
    return Table(
        caption=f"Epochs until the test accuracy is {percent(level)} %, half a point below the best of SGD 128 (a dash "
        "where not all seeds reach it); and the share of the passing samples that updates used.",
        head=["", "epochs", "samples used, %", "log lines"],
        rows=rows,
    )


def _level(results: Results, data: str) -> float:
    """Half a point below what SGD with batches of 128 reaches."""
    return _mean_best(results, "SGD 128", data) - 0.005


def _epochs_to(outcome: Outcome, level: float) -> float:
    """Epochs at the first evaluation that reached a test accuracy, nan where none did."""
    pairs = zip(outcome.curve("samples_seen"), outcome.curve("test_score"), strict=True)
    samples = next((samples for samples, score in pairs if score >= level), math.nan)
    return samples / outcome.number("train_samples")


def _judge_speed(results: Results) -> Verdict:
    """Whether DBA+SGD gets to the baselines' level in fewer epochs than SGD."""
    data = _largest_part(results)
    level = _level(results, data)
    found = {
        variant: [_epochs_to(outcome, level) for outcome in results.of(variant=variant, data=data)]
        for variant in ("SGD 128", "DBA+SGD norm", "DBA+SGD variance")
    }
    if not all(found.values()):
        return Verdict("open", "not run")
    means = {variant: mean(math.inf if math.isnan(x) else x for x in epochs) for variant, epochs in found.items()}
    texts = ", ".join(f"{variant} {x:.1f}" for variant, x in means.items())
    fastest = min(means["DBA+SGD norm"], means["DBA+SGD variance"])
    evidence = f"epochs to {percent(level)} % with {data} of MNIST: {texts}"
    return Verdict("holds" if fastest < 0.8 * means["SGD 128"] else "does not hold", evidence)


def _figure3(results: Results) -> list[Block]:
    """How much of the data updates used."""
    rows = []
    for data in results.values_of("data"):
        for variant in PAPER:
            found = results.of(variant=variant, data=data)
            if variant.startswith("DBA") and found:
                epochs = [outcome.number("samples") / outcome.number("train_samples") for outcome in found]
                used = [outcome.said("utilisation") for outcome in found]
                real = [a * b for a, b in zip(epochs, used, strict=True)]
                rows.append(
                    [
                        data,
                        variant,
                        spread(epochs, lambda x: f"{x:.0f}"),
                        spread(real, lambda x: f"{x:.1f}"),
                        spread(used, percent),
                        lines(found),
                    ]
                )
    caption = (
        "Epochs, epochs of samples that updates used (real epochs), and their share, a mean over layers and updates. "
        "The paper: 150 epochs are about 83 real ones, a share of 56 %."
    )
    return [Table(caption=caption, head=["data", "", "epochs", "real epochs", "used, %", "log lines"], rows=rows)]


def _judge_use(results: Results) -> Verdict:
    """Whether about 56 % of the samples are used."""
    found = [
        outcome.said("utilisation")
        for metric in ("norm", "variance")
        for outcome in results.of(variant=f"DBA+SGD {metric}", data=_largest_part(results))
    ]
    if not found:
        return Verdict("open", "not run")
    return Verdict(
        "holds" if abs(mean(found) - 0.56) < 0.03 else "in part" if abs(mean(found) - 0.56) < 0.1 else "does not hold",
        f"DBA+SGD used {percent(mean(found))} % with {_largest_part(results)} of MNIST",
    )


_ABOUT = """
An MLP 784-64-10 on class-balanced random subsets of MNIST; rate 0.01, weight decay 5e-4, SGD with Nesterov momentum
0.9 or Adam; the rate is halved after 25 epochs without a better training loss. DBA begins with 128 samples and
strides of 16 (100 and 10 with ten images a class). Open in the paper and chosen here: ReLU, pixels from 0 to 1, 150
epochs. The paper reports the best test accuracy of a run; beside it stands the accuracy at the epoch that validation
images choose: 5,000 training images, held out before the subset is drawn. Departures: 40 epochs and three seeds with
all data.
"""

EXPERIMENTS: Sequence[Experiment] = (
    Experiment(
        name="dba-table1",
        log="dba",
        title="DBA, Table 1: MNIST with less and less data",
        source=f"{SOURCE}, Table 1",
        about=_ABOUT,
        trials=_table_trials,
        blocks=_table,
        claims=(
            _judge_gain("1 %", 9.5),
            Claim(
                text="With all of MNIST, DBA with SGD is as accurate as SGD.",
                criterion="the better metric loses less than 0.3 points to SGD with batches of 128, as DBA begins with",
                judge=_judge_full,
            ),
            _judge_gain("10 %", 1.9),
            _judge_gain("10 a class", 18.9),
            Claim(
                text="With all of MNIST, DBA makes Adam less accurate.",
                criterion="the better metric loses more than half of the paper's 2.8 points to the best Adam (in part: "
                "more than 0.3)",
                judge=_judge_adam,
            ),
        ),
    ),
    Experiment(
        name="dba-figure2",
        log="dba",
        title="DBA, Figure 2: how fast training converges",
        source=f"{SOURCE}, Figure 2",
        about="The runs of Table 1, along training. The paper's figure was not at hand; this shows what its text says "
        "of it.",
        trials=_table_trials,
        blocks=_figure2,
        claims=(
            Claim(
                text="DBA with SGD converges in fewer epochs than SGD.",
                criterion="with one of the metrics it takes less than 0.8 times the epochs of SGD with batches of "
                "128, to "
                "half a point below the best that this reaches",
                judge=_judge_speed,
            ),
        ),
    ),
    Experiment(
        name="dba-figure3",
        log="dba",
        title="DBA, Figure 3: how much of the data is used",
        source=f"{SOURCE}, Figure 3",
        about="The runs of Table 1. The paper's figure was not at hand; this shows what its text says of it.",
        trials=_table_trials,
        blocks=_figure3,
        claims=(
            Claim(
                text="DBA with SGD uses about 56 % of the samples that pass.",
                criterion="with the largest part of MNIST that was run, the mean over metrics and seeds is within 3 "
                "points "
                "of 56 % (in part: 10 points)",
                judge=_judge_use,
            ),
        ),
    ),
)
