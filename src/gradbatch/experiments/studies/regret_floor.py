"""What the smallest batch does to a rule, on the task where the smallest constant batches are best."""

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import mean
from typing import Any

from gradbatch.experiments.reproduce.cells import answer_of, lines, mean_size, signed
from gradbatch.experiments.reproduce.experiment import Block, Claim, Experiment, Scale, Table, Verdict
from gradbatch.experiments.reproduce.results import Outcome, Results
from gradbatch.experiments.reproduce.trial import Trial
from gradbatch.experiments.studies.benches import BENCHES
from gradbatch.experiments.studies.contest import BUDGETED, CONTROLS, OURS, place_of, setup_of, trial_on
from gradbatch.experiments.studies.standings import Field

__all__ = ["EXPERIMENTS"]

_TASK = {"quick": "digits", "full": "shakespeare"}
_FLOOR = 4
_RULES = (OURS, BUDGETED, "cabs")
_CONSTANTS = ("constant 4", "constant 16")


def _lowered(rule: str) -> str:
    """The name of a rule that may go as low as the best constant batch."""
    return f"{rule}, at least {_FLOOR}"


def _trials(scale: Scale) -> list[Trial]:
    """The rules with and without the lower minimum, and two constant batches."""
    bench = BENCHES[_TASK[scale]]
    rates = bench.rates["sgd"][1:3] if scale == "quick" else bench.rates["sgd"]
    run = partial(trial_on, bench, "sgd", seed=0, **({"samples": 3000} if scale == "quick" else {}))
    trials = []
    for rate in rates:
        for name in _CONSTANTS:
            trials.append(run(rate=rate, place=place_of(name), **setup_of(name, bench)))
        for rule in _RULES:
            settings = setup_of(rule, bench)
            low = settings | {"set": (*settings["set"], f"min_batch_size={_FLOOR}")}
            for name, chosen in ((rule, settings), (_lowered(rule), low)):
                trials.append(run(rate=rate, place=place_of(name), **chosen))
    return trials


def _field(results: Results) -> Field:
    """The contenders."""
    return Field.of(results, results.values_of("task")[0], "sgd")


def _blocks(results: Results) -> list[Block]:
    """Scores by rate."""
    field = _field(results)
    rows = []
    for name in (*_CONSTANTS, *(name for rule in _RULES for name in (rule, _lowered(rule)))):
        standings = {one.rate: one for one in field.over_rates(**place_of(name))}
        used: list[Outcome] = [outcome for one in standings.values() for outcome in one.outcomes]
        scores = [field.bench.metric.write(standings[rate].test) if rate in standings else "" for rate in field.rates]
        sizes = f"{mean(map(mean_size, used)):.1f}" if used else ""
        rows.append([name, *scores, sizes, lines(used)])
    caption = (
        f"{field.bench.name}, SGD with momentum 0.9, {field.samples:,} samples: {field.bench.metric.name} on the test "
        "set at the end of training, by learning rate; mean samples behind an update."
    )
    head = ["", *(f"{rate:g}" for rate in field.rates), "samples an update", "log lines"]
    return [Table(caption=caption, head=head, rows=rows)]


def _judge(rule: str, results: Results) -> Verdict:
    """Whether a rule with the lower minimum does as well as the constant batch of that size."""
    field = _field(results)
    losses: Mapping[str, float] = {name: mean(_losses(field, name)) for name in (rule, _lowered(rule))}
    texts = ", ".join(f"{name} {signed(loss)}" for name, loss in losses.items())
    return Verdict(answer_of([losses[_lowered(rule)] <= 0]), f"mean over the rates, in {field.bench.unit}: {texts}")


def _losses(field: Field, name: str) -> list[float]:
    """What a contender loses at each rate against the constant batch of the lower minimum."""
    pairs = [(one, field.at(one.rate, **_constant())) for one in field.over_rates(**place_of(name))]
    return [field.bench.loss_of(one.test, constant.test) for one, constant in pairs if constant is not None]


def _constant() -> Mapping[str, Any]:
    return CONTROLS[f"constant {_FLOOR}"]


_ABOUT = """
On shakespeare every rule of the [comparison](regret.md) that may not go below 16 or 32 samples loses to constant
batches of 4. Is that the rule, or its minimum? Here `noise-floor` and `cabs` run once more with a minimum of 4. The
other rows are those of the comparison. One seed.
"""

_WHY = """
It is mostly the minimum: of the 10.9 % that `noise-floor` loses, constant batches of 16 lose 6.1, and what is left is
one run, at the largest rate. With 4 in place of 16, `noise-floor` and `cabs` stay at 4 as they stayed at 16, and lose
on average half a per cent or less to constant batches of that size. `noise-floor` with the budget known is then better
than these at every rate, and than their [cosine decay](regret-shakespeare.md) at all rates but the largest: what it
adds is mostly its end. 28,000 samples are so few that every update counts; the default of 16 saves updates, which this
task cannot spare. The default [was not changed](../decisions.md) for one task; on the others such a minimum was not
measured.
"""

EXPERIMENTS: Sequence[Experiment] = (
    Experiment(
        name="regret-floor",
        log="regret",
        title="Which rule, and what do I gain: a smaller smallest batch",
        source="our own question",
        about=_ABOUT,
        trials=_trials,
        blocks=_blocks,
        why=_WHY,
        claims=tuple(
            Claim(
                text=f"With a minimum of {_FLOOR} samples `{rule}` is as good as constant batches of {_FLOOR}.",
                criterion=f"it loses nothing to constant batches of {_FLOOR} at the same rate, on average over the "
                "rates",
                judge=partial(_judge, rule),
                is_ours=True,
            )
            for rule in _RULES
        ),
    ),
)
