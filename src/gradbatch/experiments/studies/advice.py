"""The answer to the user's question in a few sentences and numbers."""

import math
from collections.abc import Callable, Mapping, Sequence

from gradbatch.experiments.reproduce.cells import NONE, signed, two_digits, whole
from gradbatch.experiments.reproduce.experiment import Block, Table
from gradbatch.experiments.reproduce.results import Results
from gradbatch.experiments.studies.benches import BENCHES, OPTIMIZERS
from gradbatch.experiments.studies.contest import BUDGETED, OURS, RULES
from gradbatch.experiments.studies.costs import CONSTANT, COSINE, Cost, costs
from gradbatch.experiments.studies.gains import (
    Number,
    cosine_searched,
    decayed,
    is_told,
    matched,
    searched,
    spread_ratio,
    time_ratio,
    unsearched,
    untuned,
    update_ratio,
)
from gradbatch.experiments.studies.goals import ENOUGH, ENOUGH_UNTOUCHED, GOALS, JUDGED, Goal, is_developed_on
from gradbatch.experiments.studies.ranking import whole_fields
from gradbatch.experiments.studies.standings import Field

__all__ = ["advice", "by_task"]

_RIVAL = "constant 4, cosine"
"""The simplest thing that one could do in place of a rule."""

_SHOWN = {OURS: "NoiseFloor()", BUDGETED: "NoiseFloor(budget=…)", "cabs": "CABS()"}
"""Rules as one writes them."""

_Row = tuple[str, Number, Callable[[float], str], str]
"""A question, the number that answers it, how that is written, and of whom it is."""

_ANSWERS: Sequence[_Row] = (
    ("to batches of 16, at the same rate", unsearched, signed, BUDGETED),
    ("to the best constant batch, at the same rate", matched, signed, BUDGETED),
    ("to the best cosine decay, at the same rate", decayed, signed, BUDGETED),
    ("to a search, at the best of four rates", searched, signed, BUDGETED),
    ("to a search, at a rate that nobody searched for", untuned, signed, BUDGETED),
    ("*to a search, batches of 4 with a cosine decay, at the best of four rates*", searched, signed, _RIVAL),
    ("spread over the rates, times a constant batch's", spread_ratio, two_digits, BUDGETED),
    ("seconds, times those of the best constant batch", time_ratio, two_digits, BUDGETED),
)
"""What the answer shows."""

_ROWS: Sequence[tuple[str, Number, Callable[[float], str], Sequence[str]]] = (
    ("lost at the same rate to the best constant batch", matched, signed, (OURS, BUDGETED, "cabs", "constant 16")),
    ("lost at the same rate to the best cosine decay", decayed, signed, (BUDGETED, "constant 16, cosine")),
    ("lost at its best rate to the best cosine decay", cosine_searched, signed, (OURS, BUDGETED)),
    ("lost at its best rate to a search", searched, signed, (OURS, BUDGETED, _RIVAL)),
    ("spread, share of a constant batch's", spread_ratio, two_digits, (OURS, BUDGETED)),
    ("updates, share of the best constant batch's", update_ratio, two_digits, (OURS, BUDGETED)),
)
"""What the table by task shows: of whom which number."""


def advice(results: Results) -> list[Block]:
    """What the page above all says: an answer and the goals.

    Args:
        results: Of the comparison.

    Returns:
        A heading, sentences and two tables, over the tasks with SGD on which everything was run; nothing without such a
        task.
    """
    fields = whole_fields(results)
    if not fields:
        return []
    return ["## What to use", _words(results), _answers(results, fields), _goals(results)]


def by_task(results: Results) -> list[Block]:
    """The numbers behind the answer, task by task.

    Args:
        results: Of the comparison.

    Returns:
        Tables over the tasks on which everything was run, with each optimizer; nothing without one.
    """
    return [
        table(fields)
        for optimizer in OPTIMIZERS
        if (fields := whole_fields(results, optimizer))
        for table in (_numbers, _costs)
    ]


def _words(results: Results) -> str:
    """The answer in sentences."""
    return (
        "`NoiseFloor` is our own rule. Where noise keeps the loss from falling, it averages more samples. Elsewhere "
        "its batches are of 16 samples, and it raises the learning rate that you chose, up to eightfold "
        "([derivation](../noise-floor.md)); `NoiseFloor(budget=samples)` also knows when training ends, as a cosine "
        f"decay does. {_recommended(results)}\n\n"
        "What `NoiseFloor(budget=…)` loses, in points of the score or per cent of shakespeare's loss; below 0 it "
        "gains, and in bold is what is more than chance. The last two rows are ratios, better below 1:"
    )


def _answers(results: Results, fields: Sequence[Field]) -> Table:
    """The answer in numbers, with both optimizers."""
    whole = {title: {f.bench.name: f for f in whole_fields(results, name)} for name, title in OPTIMIZERS.items()}
    rows = []
    for row in _ANSWERS:
        question = row[0]
        for title, found in whole.items():
            if found:
                rows.append([question, title, *_cells(row, [found.get(field.bench.name) for field in fields])])
                question = ""
    num_cells = [2 * len(field.rates) * len(field.bench.sizes) for field in fields]
    searches = [field for found in whole.values() for field in found.values()]
    caption = (
        f"{len(fields)} of {len(BENCHES)} tasks are in, with {_seeds(fields)}; † those that `NoiseFloor` was not "
        "developed on. Chance is that of the seeds or, where there is one, of the test set, 1 % for shakespeare ([is "
        "that enough?](regret-seeds.md)). “At the same rate”, “that nobody searched for” and ratios: means over four "
        f"rates, 30-fold apart. A search is {_from_to(num_cells)} runs, of sizes, rates, and constant rates or a "
        f"cosine decay; in {_at_edge(searches)} of {len(searches)} the best has the first or last size or rate, so "
        "that a larger one may find better. In italics: no rule at all, that 4 is the size being known only after the "
        "search. All see the same number of samples, which favours small batches, on a CPU. All rules, and costs in "
        "samples, updates and seconds: [the comparison](regret.md)."
    )
    return Table(caption=caption, head=["lost", "", *map(_name, fields), "tasks better / worse"], rows=rows)


def _cells(row: _Row, fields: Sequence[Field | None]) -> list[str]:
    """An answer on every task, and on how many it is better or worse by more than chance."""
    _, number, write, name = row
    cells = [NONE if field is None else _cell(field, number, write, name) for field in fields]
    told = [number(field, name) for field in fields if field and is_told(number, field, name)]
    counts = f"{sum(loss < 0 for loss in told)} / {sum(loss > 0 for loss in told)}"
    return [*cells, counts if write is signed else ""]


def _recommended(results: Results) -> str:
    """What a rule earned, with each optimizer with which all tasks are in."""
    fields = {optimizer: whole_fields(results, optimizer) for optimizer in OPTIMIZERS}
    whole = {optimizer: found for optimizer, found in fields.items() if len(found) == len(BENCHES)}
    texts = [_earned(optimizer, found) for optimizer, found in whole.items()]
    everywhere = [field for found in whole.values() for field in found]
    beats = [f for f in everywhere if is_told(searched, f, BUDGETED) and searched(f, BUDGETED) < 0]
    if everywhere and not beats:
        texts.append(
            f"At the best of its rates {_shown(BUDGETED)} nowhere beats a search by more than chance: what it gains, "
            "it gains at other rates."
        )
    return " ".join(texts)


def _earned(optimizer: str, fields: Sequence[Field]) -> str:
    """Which rules reach all goals, or all but for the tasks that they were not developed on."""
    answers = {_shown(name): {goal.reached(fields, name).answer for goal in GOALS} for name in RULES}
    title, near = OPTIMIZERS[optimizer], {"holds", "in part"}
    if best := [name for name, found in answers.items() if found == {"holds"}]:
        return f"With {title} all of the goals below are reached by {_and(best)}, which we recommend there."
    if second := [name for name, found in answers.items() if found <= near]:
        return (
            f"With {title}, {_and(second)} reaches each of the goals on {ENOUGH} tasks or more, but not each on "
            f"{ENOUGH_UNTOUCHED} of those that it was not developed on (†): no default yet, but what we would try "
            "first where the rate was not searched for."
        )
    return f"With {title} no rule reaches all of the goals below, so that we recommend none as a default."


def _at_edge(fields: Sequence[Field]) -> int:
    """Tasks on which the best cell is the last in some direction."""
    found = [(field, field.best_of_grid("none", "cosine")) for field in fields]
    return sum(bool(field.edges(best)) for field, best in found if best is not None)


def _seeds(fields: Sequence[Field]) -> str:
    """How many runs are behind each number."""
    counts: dict[int, list[str]] = {}
    for field in fields:
        counts.setdefault(field.num_seeds, []).append(field.bench.name)
    texts = [f"{count} seed{'s' if count > 1 else ''} ({', '.join(tasks)})" for count, tasks in counts.items()]
    return _and(texts)


def _goals(results: Results) -> Table:
    """On how many tasks the rules reach the goals."""
    fields = {optimizer: whole_fields(results, optimizer) for optimizer in OPTIMIZERS}
    columns = [(rule, optimizer) for rule, optimizer in JUDGED if fields[optimizer]]
    rows = [[goal.title, *(_reached(goal, fields[optimizer], rule) for rule, optimizer in columns)] for goal in GOALS]
    head = [f"{_shown(rule)}, {OPTIMIZERS[optimizer]}" for rule, optimizer in columns]
    caption = (
        f"Our goals, and on how many tasks they are reached; each was to be on {ENOUGH} of {len(BENCHES)}, "
        f"{ENOUGH_UNTOUCHED} of them with a †. The number alone decides, also where it is within chance: +0.01 misses "
        "the first goal. The second is about the best cosine decay, where the search above may choose a constant rate."
    )
    return Table(caption=caption, head=["goal", *head], rows=rows)


def _reached(goal: Goal, fields: Sequence[Field], rule: str) -> str:
    """On how many tasks a goal is reached."""
    reached = goal.reached(fields, rule)
    untouched, of_untouched = reached.untouched
    among = f" ({untouched} of {of_untouched} †)" if of_untouched else " (no † is in)"
    return f"{len(reached.met)} of {len(fields)}{among}"


def _numbers(fields: Sequence[Field]) -> Table:
    """A few contenders on each task, in the task's own unit."""
    rows = [
        [question if index == 0 else "", f"`{name}`", *(_cell(field, number, write, name) for field in fields)]
        for question, number, write, names in _ROWS
        for index, name in enumerate(names)
    ]
    caption = (
        "Lost: points of accuracy or macro-F1, per cent of the loss on shakespeare; below 0 it gains, and in bold the "
        "sign can be told. † tasks that `noise-floor` was not developed on. `constant 16` is no rule at all, a batch "
        "of 16 throughout; `constant 4, cosine` is four runs of batches of 4 in place of a search."
    )
    return Table(caption=caption, head=["", OPTIMIZERS[fields[0].optimizer], *map(_name, fields)], rows=rows)


def _cell(field: Field, number: Number, write: Callable[[float], str], name: str) -> str:
    """One number on one task."""
    text = write(number(field, name))
    return f"**{text}**" if write is signed and is_told(number, field, name) else text


def _costs(fields: Sequence[Field]) -> Table:
    """What it costs to come near the best constant batch."""
    found = {field.bench.name: costs(field) for field in fields}
    rows = [
        [f"`{name}`" if name.startswith(OURS) else name, *(_cost(by_name, name) for by_name in found.values())]
        for name in (CONSTANT, COSINE, OURS, BUDGETED)
    ]
    caption = (
        "Samples / updates / seconds to half a point, or 1 %, below the validation score of the best constant batch "
        "and rate, each at its own best rate. “k of n”: not all of its runs came there at an evaluation (the score of "
        "the best constant batch is a mean over seeds, some of which may lie lower). “–”: something held the runs up. "
        "Seconds are rough: runs shared the machine."
    )
    return Table(caption=caption, head=[f"cost, {OPTIMIZERS[fields[0].optimizer]}", *map(_name, fields)], rows=rows)


def _cost(found: Mapping[str, Cost], name: str) -> str:
    """Samples, updates and seconds of one contender on one task."""
    if name not in found:
        return NONE
    cost = found[name]
    if math.isnan(cost.samples):
        return f"{cost.num_reached} of {len(cost.standing.outcomes)}"
    seconds = NONE if math.isnan(cost.seconds) else f"{cost.seconds:.3g} s"
    return f"{whole(cost.samples)} / {whole(cost.updates)} / {seconds}"


def _shown(rule: str) -> str:
    """A rule as one writes it, or its name."""
    return f"`{_SHOWN.get(rule, rule)}`"


def _name(field: Field) -> str:
    """A task, marked where our rule was not developed on it."""
    return field.bench.name if is_developed_on(field) else f"{field.bench.name} †"


def _from_to(numbers: Sequence[int]) -> str:
    """The range of numbers."""
    least, most = min(numbers), max(numbers)
    return str(least) if least == most else f"{least} to {most}"


def _and(words: Sequence[str]) -> str:
    """Words in a row."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
