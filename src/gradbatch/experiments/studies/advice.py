"""The answer to the user's question in a few sentences and numbers."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from gradbatch.experiments.reproduce.cells import mean_of, signed, two_digits
from gradbatch.experiments.reproduce.experiment import Block, Table
from gradbatch.experiments.reproduce.results import Results
from gradbatch.experiments.studies.benches import BENCHES
from gradbatch.experiments.studies.contest import DEVELOPED_ON, RULES
from gradbatch.experiments.studies.gains import (
    Number,
    against,
    matched,
    of_learned,
    spread_ratio,
    update_ratio,
)
from gradbatch.experiments.studies.standings import Field, fields_of

__all__ = ["advice"]

_SHOWN = 6
"""Rules in the table; the comparison's page has all."""


def advice(results: Results) -> list[Block]:
    """What the page above all says: an answer, and the rules in a few numbers.

    Args:
        results: Of the comparison.

    Returns:
        A heading, sentences and a table, over the tasks with SGD on which everything was run; nothing without such a
        task.
    """
    fields = [field for field in fields_of(results) if field.optimizer == "sgd" and field.results.is_complete]
    if not fields:
        return []
    losses = {rule: mean_of(of_learned(matched, field, rule) for field in fields) for rule in RULES}
    best = sorted(RULES, key=losses.__getitem__)[:_SHOWN]
    rows = [[f"`{rule}`", *_numbers(fields, rule).values()] for rule in best]
    names = ", ".join(field.bench.name for field in fields)
    caption = (
        f"The {_SHOWN} of {len(RULES)} rules, all with their defaults and SGD, that lose least at the same nominal "
        "rate (`noise-floor` may change it, up to eightfold): what is lost there against the best constant batch, and "
        "at the rule's best rate against a search over sizes and rates, constant or with a cosine decay; in per cent "
        "of what the search has learned beyond guessing, below 0 the rule gains. Spread (over a 30-fold range of "
        "rates) and updates are shares of what the best constant batch has. Means over tasks, with a † over those "
        f"that `noise-floor` was not developed on, without over {', '.join(DEVELOPED_ON)}, updates over all. "
        f"{len(fields)} of {len(BENCHES)} tasks are in: {names}. `NoiseFloor(budget=...)` is told when training ends, "
        "as a cosine decay is and a constant rate is not. More, also with Adam, and whether the goals that we set are "
        "met: [the comparison](regret.md)."
    )
    table = Table(caption=caption, head=["rule", *_numbers(fields, best[0])], rows=rows)
    return ["## What to use", _words(fields, best[0]), _by_task(fields, best[0]), table]


def _numbers(fields: Sequence[Field], rule: str) -> dict[str, str]:
    """A rule in a few numbers, means over tasks, by their headings."""
    developed, untouched = _parted(fields)
    at_the_rate, to_a_search = partial(of_learned, matched), partial(of_learned, _searched)
    numbers: Mapping[str, tuple[Number, Sequence[Field], Callable[[float], str]]] = {
        "same rate, %": (at_the_rate, developed, signed),
        "same rate †, %": (at_the_rate, untouched, signed),
        "search, %": (to_a_search, developed, signed),
        "search †, %": (to_a_search, untouched, signed),
        "spread": (spread_ratio, developed, two_digits),
        "spread †": (spread_ratio, untouched, two_digits),
        "updates": (update_ratio, fields, two_digits),
    }
    return {
        head: write(mean_of(number(field, rule) for field in over)) for head, (number, over, write) in numbers.items()
    }


def _parted(fields: Sequence[Field]) -> tuple[list[Field], list[Field]]:
    """Tasks that our rule was developed on, and the others."""
    developed = [field for field in fields if field.bench.name in DEVELOPED_ON]
    return developed, [field for field in fields if field.bench.name not in DEVELOPED_ON]


def _words(fields: Sequence[Field], best: str) -> str:
    """The answer in sentences."""
    num_runs = [2 * len(field.rates) * len(field.bench.sizes) for field in fields]
    code = " In code: `NoiseFloor()`, or `NoiseFloor(budget=samples)` where the end is known."
    return (
        f"**If you can afford a search** over sizes and rates ({_from_to(num_runs)} runs here): against what it finds, "
        f"the best rule of each task, in hindsight, is {_compared(fields, _searched)}.\n\n"
        f"**Without a search**, at the rate that you have: against the best constant batch there, the best rule of "
        f"each task, in hindsight, is {_compared(fields, matched)}. Where it is worse, adapting does not pay. "
        f"Over all tasks `{best}` loses least." + (code if best.startswith("noise-floor") else "")
    )


def _by_task(fields: Sequence[Field], rule: str) -> Table:
    """What a rule loses on each task, in the task's own unit."""
    is_ours = rule.startswith("noise-floor")
    untouched = _parted(fields)[1] if is_ours else []
    rows = [
        ["lost at the same rate", *(signed(matched(field, rule)) for field in fields)],
        ["lost to a search", *(signed(_searched(field, rule)) for field in fields)],
        ["spread, share of a constant batch's", *(two_digits(spread_ratio(field, rule)) for field in fields)],
    ]
    head = [f"`{rule}`", *(f"{field.bench.name}{' †' if field in untouched else ''}" for field in fields)]
    caption = "Points of accuracy or macro-F1, or per cent of the loss; below 0 the rule gains."
    tested = " Its equations were chosen with the other tasks in sight; those with a † test it." if is_ours else ""
    return Table(caption=f"{caption}{tested}", head=head, rows=rows)


def _searched(field: Field, rule: str) -> float:
    """Regret at the rule's best rate against the best that a search finds, constant rate or cosine."""
    return against(field, rule, "none", "cosine")


_LEVEL = "level, as far as the test set can tell,"


def _compared(fields: Sequence[Field], regret: Number) -> str:
    """Where the best rule of each task is better or worse, and where not, beyond the chance of the test set."""
    parts: dict[str, list[str]] = {"better": [], _LEVEL: [], "worse": []}
    for field in fields:
        loss = min(regret(field, rule) for rule in RULES)
        found = field.best_of_grid("none", "cosine")
        assert found is not None
        least = field.bench.resolution(found.test)
        parts["worse" if loss > least else "better" if loss < -least else _LEVEL].append(field.bench.name)
    return "; ".join(f"{answer} on {_and(tasks)}" for answer, tasks in parts.items() if tasks)


def _from_to(numbers: Sequence[int]) -> str:
    """The range of numbers."""
    least, most = min(numbers), max(numbers)
    return str(least) if least == most else f"{least} to {most}"


def _and(words: Sequence[str]) -> str:
    """Words in a row."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
