"""Where the contenders stand: scores over seeds, the best of a grid, and what is lost against it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, median, stdev
from typing import Any

from gradbatch.experiments.reproduce.cells import cost_to, final, mean_of
from gradbatch.experiments.reproduce.results import Outcome, Results
from gradbatch.experiments.studies.benches import BENCHES, Bench
from gradbatch.experiments.studies.contest import place_of

__all__ = ["Field", "Standing", "fields_of"]

_CONTENDER = ("kind", "size", "rule")
"""Coordinates of a contender."""

_SLOWED = 3
"""How many times as long as usual a run takes that did not have its core to itself."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A contender at one learning rate, over its seeds.

    Attributes:
        rate: The learning rate.
        size: The constant batch size; ``None`` for a rule.
        test: Mean of the score on the test set at the end of training.
        validation: The same on the validation set, by which choices are made.
        outcomes: Of the seeds.
    """

    rate: float
    size: int | None
    test: float
    validation: float
    outcomes: Sequence[Outcome]

    @property
    def updates(self) -> float:
        """Mean number of updates."""
        return mean(outcome.number("updates") for outcome in self.outcomes)

    @property
    def settled_size(self) -> int | None:
        """The batch size of all updates after the first twenty-fourth; ``None`` where there were several."""
        sizes = {size for outcome in self.outcomes for size in outcome.values["course"]["largest"][1:]}
        return sizes.pop() if len(sizes) == 1 else None


@dataclass(frozen=True, kw_only=True)
class Field:
    """The contenders on a task with an optimizer.

    Attributes:
        bench: The task.
        optimizer: ``"sgd"`` or ``"adam"``.
        results: All there are.
    """

    bench: Bench
    optimizer: str
    results: Results

    @property
    def num_seeds(self) -> int:
        """Runs of each contender at each rate."""
        return len(self.results.values_of("seed"))

    def with_seed(self, seed: int) -> "Field":
        """The same with the runs of one seed only."""
        return Field(bench=self.bench, optimizer=self.optimizer, results=self.results.at(seed=seed))

    @classmethod
    def of(cls, results: Results, task: str, optimizer: str) -> "Field":
        """The field of a task, by its name."""
        return cls(bench=BENCHES[task], optimizer=optimizer, results=results.at(task=task, optimizer=optimizer))

    @cached_property
    def rates(self) -> Sequence[float]:
        """The learning rates that were run."""
        return sorted({trial.place["lr"] for trial, _ in self.results.pairs()})

    @property
    def samples(self) -> int:
        """The budget of each run."""
        return max(trial.settings.samples or 0 for trial, _ in self.results.pairs())

    def has(self, **contender: Any) -> bool:
        """Whether a contender was run at all rates and with all seeds.

        Args:
            **contender: ``kind`` of the constant batches, or ``rule``.

        Returns:
            Whether it was.
        """
        return self.results.at(**contender).is_complete

    def at(self, rate: float, **contender: Any) -> Standing | None:
        """A contender at a rate; ``None`` where it was not run.

        Args:
            rate: The learning rate.
            **contender: ``kind`` and ``size``, or ``kind`` and ``rule``.

        Returns:
            The standing.
        """
        return self._standings.get((rate, *map(contender.get, _CONTENDER)))

    @cached_property
    def _standings(self) -> Mapping[tuple[Any, ...], Standing]:
        """All that was run, by rate and contender."""
        found: dict[tuple[Any, ...], list[Outcome]] = {}
        for trial, outcome in self.results.pairs():
            found.setdefault((trial.place["lr"], *map(trial.place.get, _CONTENDER)), []).append(outcome)
        return {
            (rate, kind, size, rule): Standing(
                rate=rate,
                size=size,
                test=mean(self.score(outcome) for outcome in outcomes),
                validation=mean(self.score(outcome, "validation_score") for outcome in outcomes),
                outcomes=outcomes,
            )
            for (rate, kind, size, rule), outcomes in found.items()
        }

    def best_constant(self, rate: float, kind: str = "none") -> Standing | None:
        """The constant batch size that the validation set chooses at a rate.

        Args:
            rate: The learning rate.
            kind: ``"none"`` or ``"cosine"``, the rate's schedule.

        Returns:
            Its standing; ``None`` where none was run.
        """
        found = [self.at(rate, kind=kind, size=size) for size in self.bench.sizes]
        return self.best([one for one in found if one is not None])

    def best_of_grid(self, *kinds: str) -> Standing | None:
        """The constant batch size and learning rate that the validation set chooses.

        Args:
            *kinds: ``"none"``, ``"cosine"`` or both, the rate's schedules.

        Returns:
            Their standing; ``None`` where none was run.
        """
        found = [self.best_constant(rate, kind) for kind in kinds for rate in self.rates]
        return self.best([one for one in found if one is not None])

    def edges(self, standing: Standing) -> list[str]:
        """Of a cell of the grid, what of it is the last that was tried, as ``["4 samples", "rate 0.1"]``."""
        found = [f"{standing.size} samples"] * (standing.size in (min(self.bench.sizes), max(self.bench.sizes)))
        return found + [f"rate {standing.rate:g}"] * (standing.rate in (min(self.rates), max(self.rates)))

    def over_rates(self, **contender: Any) -> list[Standing]:
        """A contender at every rate at which it was run."""
        found = [self.at(rate, **contender) for rate in self.rates]
        return [one for one in found if one is not None]

    def best(self, standings: Sequence[Standing]) -> Standing | None:
        """The one that the validation set chooses."""
        sign = 1 if self.bench.metric.is_higher_better else -1
        return max(standings, key=lambda one: sign * one.validation, default=None)

    def regrets(self, name: str, kind: str = "none") -> list[float]:
        """What a contender loses at each rate against the best constant batch there; below 0 where it gains.

        Args:
            name: Of `RULES` or `CONTROLS`.
            kind: ``"none"`` or ``"cosine"``, the schedule of the constant batch's rate.

        Returns:
            In the units of `Bench.loss_of`.
        """
        losses = []
        for standing in self.over_rates(**place_of(name)):
            constant = self.best_constant(standing.rate, kind)
            if constant is not None:
                losses.append(self.bench.loss_of(standing.test, constant.test))
        return losses

    def spread(self, standings: Sequence[Standing]) -> float:
        """The worst minus the best over rates, nan for fewer than two."""
        if len(standings) < 2:
            return math.nan
        scores = [one.test for one in standings]
        best, worst = (max, min) if self.bench.metric.is_higher_better else (min, max)
        return self.bench.loss_of(worst(scores), best(scores))

    def constant_over_rates(self) -> list[Standing]:
        """The constant batch with the best mean validation score over the rates, at every rate."""
        sign = 1 if self.bench.metric.is_higher_better else -1
        found = [self.over_rates(kind="none", size=size) for size in self.bench.sizes]
        known = [standings for standings in found if standings and len(standings) == len(self.rates)]
        return max(known, key=lambda contender: sign * mean(one.validation for one in contender), default=[])

    def to_target(self, outcome: Outcome, target: float, name: str) -> float:
        """A cost at the first evaluation with a validation score as good as the target, nan where none has it."""
        sign = 1 if self.bench.metric.is_higher_better else -1
        return cost_to(
            outcome.curve(name), [sign * score for score in outcome.curve("validation_score")], sign * target
        )

    def seconds(self, standing: Standing) -> float:
        """Mean seconds of training, over the runs that had their core to themselves; nan where none had."""
        return mean_of(one.number("seconds") for one in standing.outcomes if one.line not in self._slowed)

    def seconds_to_target(self, outcome: Outcome, target: float) -> float:
        """The same as `to_target`, in seconds; nan where the run did not have its core to itself."""
        return math.nan if outcome.line in self._slowed else self.to_target(outcome, target, "seconds")

    @cached_property
    def _slowed(self) -> frozenset[int]:
        """Log lines of runs that something else held up, by their seconds.

        Such a run took several times as long for an update, and as long for a sample, as its contender does in the
        median of its rates and seeds. A size that grew makes updates longer, but samples shorter.
        """
        found: dict[tuple[Any, ...], list[Outcome]] = {}
        for trial, outcome in self.results.pairs():
            found.setdefault(tuple(map(trial.place.get, _CONTENDER)), []).append(outcome)
        lines = set()
        for outcomes in found.values():
            paces = [[_pace(one, unit) for one in outcomes] for unit in ("updates", "samples")]
            limits = [_SLOWED * median(pace) for pace in paces]
            for one, *pace in zip(outcomes, *paces, strict=True):
                if all(value > limit for value, limit in zip(pace, limits, strict=True)):
                    lines.add(one.line)
        return frozenset(lines)

    @cached_property
    def learned(self) -> float:
        """How much better the best of the grid, constant rate or cosine, is than a model that knows nothing.

        It makes regrets on tasks with different metrics comparable: as shares of it they can be averaged.

        Returns:
            In the units of `Bench.loss_of`; nan where no constant batch was run.
        """
        best = self.best_of_grid("none", "cosine")
        return math.nan if best is None else self.bench.loss_of(self.bench.chance, best.test)

    def seed_deviation(self) -> float:
        """How much chance there is in a run: its score's standard deviation over seeds.

        It is the median over contenders at each rate, constant batches of all sizes among them; with three seeds that
        is about a sixth too small.

        Returns:
            In the units of `Bench.loss_of`; nan where nothing has two seeds.
        """
        deviations = []
        for one in self._standings.values():
            scores = [self.score(outcome) for outcome in one.outcomes]
            if len(scores) > 1:
                deviations.append(abs(self.bench.loss_of(one.test + stdev(scores), one.test)))
        return median(deviations) if deviations else math.nan

    def score(self, outcome: Outcome, name: str = "test_score") -> float:
        """The last score; that of a model that knows nothing where training diverged, or ended worse than that.

        Args:
            outcome: Of a run.
            name: ``"test_score"`` or ``"validation_score"``.

        Returns:
            In the units of the task's metric.
        """
        score, chance = final(outcome, name), self.bench.chance
        if outcome.is_diverged or not math.isfinite(score):
            return chance
        return max(score, chance) if self.bench.metric.is_higher_better else min(score, chance)


def _pace(outcome: Outcome, unit: str) -> float:
    """Seconds for an update, or for a sample."""
    return outcome.number("seconds") / max(1.0, outcome.number(unit))


def fields_of(results: Results) -> list[Field]:
    """Every task with every optimizer of which something was run.

    Args:
        results: Of the comparison.

    Returns:
        In the order of the tasks, SGD before Adam.
    """
    found = [Field.of(results, task, optimizer) for task, bench in BENCHES.items() for optimizer in bench.rates]
    return [field for field in found if field.rates]
