"""What the rules are compared on: seven tasks, each with a model, a budget of samples and a range of learning rates."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradbatch.experiments.metrics import Metric
from gradbatch.experiments.tasks import TASKS

__all__ = ["BENCHES", "OPTIMIZERS", "Bench"]

OPTIMIZERS: Mapping[str, str] = {"sgd": "SGD", "adam": "Adam"}
"""The optimizers of the comparison, and their names in sentences."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A task with everything fixed but the rule, the batch size and the learning rate.

    Attributes:
        name: In the tables.
        settings: Of all its runs.
        samples: The budget.
        train_samples: In an epoch, without those held out.
        test_samples: That scores are measured on; ``None`` for parts of one text, which are not independent.
        rates: Learning rates of a 30-fold range, by optimizer.
        chance: The score of a model that knows nothing, which stands for a run that diverged.
        num_seeds: Runs of each contender.
        sizes: Constant batch sizes.
        num_evaluations: How often a run is evaluated, at equal distances in samples.
        is_dear: Whether a run takes minutes on a core; with Adam there are then fewer rules.
    """

    name: str
    settings: Mapping[str, Any]
    samples: int
    train_samples: int
    test_samples: int | None
    rates: Mapping[str, Sequence[float]]
    chance: float = 0.1
    num_seeds: int = 3
    sizes: Sequence[int] = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
    num_evaluations: int = 12
    is_dear: bool = False

    @property
    def metric(self) -> Metric:
        """What its models are judged by."""
        return TASKS[self.settings["task"]].metric

    def loss_of(self, score: float, best: float) -> float:
        """How much worse a score is than another.

        Args:
            score: One score.
            best: The other.

        Returns:
            In points, for shares; in per cent of the other for losses. Below 0 where it is better.
        """
        if self.metric.is_higher_better:
            return 100 * (best - score)
        return 100 * (score - best) / best

    def resolution(self, score: float) -> float:
        """How large a difference between two models must be to be more than the chance of the test set.

        Args:
            score: Of the better one.

        Returns:
            In the units of `loss_of`: two standard errors of a difference of two shares, and as much for a macro-F1,
            which is none but varies about as much; 1 % for losses.
        """
        if self.test_samples is None:
            return 1.0
        return 100 * 2 * math.sqrt(2 * score * (1 - score) / self.test_samples)

    @property
    def unit(self) -> str:
        """What `loss_of` is in."""
        return "points" if self.metric.is_higher_better else "% of the loss"


def _rates(lowest: float) -> tuple[float, ...]:
    """Four rates, about a factor of three apart."""
    return tuple(float(f"{lowest * factor:.1g}") for factor in (1, 10 / 3, 10, 100 / 3))


_ADAM = _rates(1e-4)
_WIDE_APART = (4, 16, 64, 256, 1024)
_MANY = {"validation": 1 / 12}

BENCHES: Mapping[str, Bench] = {
    bench.name: bench
    for bench in (
        Bench(
            name="digits",
            settings={"task": "digits", "model": "mlp", "validation": 0.2},
            samples=24_000,
            train_samples=1_150,
            test_samples=360,
            rates={"sgd": _rates(3e-3), "adam": _rates(3e-4)},
            sizes=(4, 8, 16, 32, 64, 128, 256, 512),
        ),
        Bench(
            name="mnist-1%",
            settings={"task": "mnist", "model": "mlp", "per_class": 60, **_MANY},
            samples=36_000,
            train_samples=600,
            test_samples=10_000,
            rates={"sgd": _rates(1e-3), "adam": _ADAM},
            sizes=(4, 8, 16, 32, 64, 128, 256, 512),
        ),
        Bench(
            name="mnist",
            settings={"task": "mnist", "model": "mlp", **_MANY},
            samples=300_000,
            train_samples=55_000,
            test_samples=10_000,
            rates={"sgd": _rates(1e-3), "adam": _ADAM},
            num_seeds=1,
            is_dear=True,
        ),
        Bench(
            name="fashion-cnn",
            settings={"task": "fashion-mnist", "model": "small-cnn", **_MANY},
            samples=180_000,
            train_samples=55_000,
            test_samples=10_000,
            rates={"sgd": _rates(1e-3), "adam": _ADAM},
            num_seeds=1,
            is_dear=True,
            sizes=_WIDE_APART,
        ),
        Bench(
            name="cifar-cnn",
            settings={"task": "cifar10", "model": "small-cnn", "validation": 0.1},
            samples=150_000,
            train_samples=45_000,
            test_samples=10_000,
            rates={"sgd": _rates(1e-3), "adam": _ADAM},
            num_seeds=1,
            is_dear=True,
            sizes=_WIDE_APART,
        ),
        Bench(
            name="semeval",
            settings={"task": "semeval", "model": "small-bilstm", "validation": 0.1},
            samples=21_600,
            train_samples=7_200,
            test_samples=2_717,
            rates={"sgd": _rates(1e-2), "adam": _ADAM},
            chance=0.0,
            num_seeds=1,
            is_dear=True,
            sizes=_WIDE_APART,
        ),
        Bench(
            name="shakespeare",
            settings={"task": "shakespeare", "model": "small-transformer", "validation": 0.05},
            samples=28_000,
            train_samples=14_901,
            test_samples=None,
            rates={"sgd": _rates(1e-2), "adam": _ADAM},
            chance=6.022,
            num_evaluations=6,
            num_seeds=1,
            is_dear=True,
            sizes=_WIDE_APART,
        ),
    )
}
"""The tasks of the comparison, the cheapest first."""
