"""All contenders of the comparison in a few numbers, means over tasks."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from gradbatch.experiments.reproduce.cells import mean_of, mean_size, signed, two_digits
from gradbatch.experiments.reproduce.experiment import Table
from gradbatch.experiments.reproduce.results import Results
from gradbatch.experiments.studies.contest import CONTROLS, RULES, place_of
from gradbatch.experiments.studies.gains import Number, matched, of_learned, searched, spread_ratio, update_ratio
from gradbatch.experiments.studies.goals import is_developed_on
from gradbatch.experiments.studies.standings import Field, fields_of

__all__ = ["ranking", "whole_fields"]


def whole_fields(results: Results, optimizer: str = "sgd") -> list[Field]:
    """The tasks with an optimizer on which everything was run.

    Args:
        results: Of the comparison.
        optimizer: ``"sgd"`` or ``"adam"``.

    Returns:
        In the order of the tasks.
    """
    return [field for field in fields_of(results) if field.optimizer == optimizer and field.results.is_complete]


def ranking(results: Results) -> Table:
    """Rules and constant batches with SGD, those first that lose least at the same nominal rate.

    Args:
        results: Of the comparison.

    Returns:
        A table over the tasks on which everything was run; without rows where there is none.
    """
    fields = whole_fields(results)
    losses = {name: mean_of(of_learned(matched, field, name) for field in fields) for name in (*RULES, *CONTROLS)}
    names = sorted(losses, key=losses.__getitem__) if fields else []
    rows = [[f"*{name}*" if name in CONTROLS else name, *_numbers(fields, name).values()] for name in names]
    caption = (
        "With SGD: what is lost at the same nominal rate against the best constant batch there, and at the best rate "
        "against a search over sizes and rates, constant or with a cosine decay, in per cent of what the search has "
        "learned beyond guessing; below 0 it gains. Spread over the rates and updates, as shares of what the best "
        "constant batch has. Samples behind an update, of the run with the fewest and of that with the most. Means "
        f"over {len(fields)} tasks; † stands for those that `noise-floor` was not developed on, and a column without "
        "it for the others. All runs see as many samples, on a CPU: rules that make batches large (`norm-test`, "
        "`noise-scale`, `simigrad`, `goodput`, `adascale`) save updates, which is worth something on hardware that "
        "works on many samples at once, and is not in the scores. In italics: constant batches, which listen to "
        "nothing."
    )
    return Table(caption=caption, head=["", *_numbers(fields, "cabs")], rows=rows)


def _numbers(fields: Sequence[Field], name: str) -> dict[str, str]:
    """A contender in a few numbers, by their headings."""
    developed = [field for field in fields if is_developed_on(field)]
    untouched = [field for field in fields if not is_developed_on(field)]
    at_the_rate, to_a_search = partial(of_learned, matched), partial(of_learned, searched)
    numbers: Mapping[str, tuple[Number, Sequence[Field], Callable[[float], str]]] = {
        "same rate, %": (at_the_rate, developed, signed),
        "same rate †, %": (at_the_rate, untouched, signed),
        "search, %": (to_a_search, developed, signed),
        "search †, %": (to_a_search, untouched, signed),
        "spread": (spread_ratio, developed, two_digits),
        "spread †": (spread_ratio, untouched, two_digits),
        "updates": (update_ratio, developed, two_digits),
        "updates †": (update_ratio, untouched, two_digits),
    }
    means = {
        head: write(mean_of(number(field, name) for field in over)) for head, (number, over, write) in numbers.items()
    }
    return {**means, "samples an update": _sizes(fields, name)}


def _sizes(fields: Sequence[Field], name: str) -> str:
    """The range of mean batch sizes over runs."""
    sizes = [mean_size(one) for field in fields for one in field.results.of(**place_of(name))]
    return f"{min(sizes):.0f}–{max(sizes):.0f}" if sizes else ""
