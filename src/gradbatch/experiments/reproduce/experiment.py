"""What an experiment is: its trials, and the page that is drawn from what came out of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from gradbatch.experiments.figures import Panel
from gradbatch.experiments.reproduce.results import Results
from gradbatch.experiments.reproduce.trial import Trial

__all__ = ["Block", "Claim", "Device", "Experiment", "Plot", "Scale", "Table", "Verdict"]

Device = Literal["auto", "cpu", "cuda"]
"""Where trials run; ``"auto"`` takes a GPU where there is one."""

Scale = Literal["quick", "full"]
"""``"quick"`` shows in a minute or so that everything works; ``"full"`` is what pages report."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a page.

    Attributes:
        caption: What it shows, a sentence or two.
        head: Titles of the columns.
        rows: Cells as text.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure of a page.

    Attributes:
        name: Tells it from the page's other figures; empty where there is one.
        caption: What it shows, a sentence or two.
        legend: What the numbers of the curves stand for.
        panels: Side by side.
    """

    name: str = ""
    caption: str
    legend: Sequence[str]
    panels: Sequence[Panel]


Block = Table | Plot | str
"""A part of a page; text is Markdown."""


class Verdict(NamedTuple):
    """What became of a claim.

    Attributes:
        answer: Whether it holds; ``"undecided"`` where what was run says nothing of it, ``"open"`` where what it
            takes was not run.
        evidence: The numbers that say so, in a few words.
    """

    answer: Literal["holds", "in part", "does not hold", "undecided", "open"]
    evidence: str


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Something that a source says, or that we would like to say.

    Attributes:
        text: A sentence.
        criterion: When it counts as true: what follows "it holds if".
        judge: The verdict, from the numbers alone; called when all of the runs that the claim rests on are in.
        is_ours: Whether it is a question of ours, which no source claims.
        place: Where these stand in the tables, see `Results.at`; all of the experiment's by default.
    """

    text: str
    criterion: str
    judge: Callable[[Results], Verdict]
    is_ours: bool = False
    place: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def title(self) -> str:
        """The sentence, and whose it is where it is ours."""
        return f"{self.text} *(ours)*" if self.is_ours else self.text


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table, a figure or a question, and how to answer it.

    Attributes:
        name: What the command line calls it; also the name of its page.
        log: The log that its trials are in; experiments that share trials share it.
        title: Of the page.
        source: Whose experiment it is, and where it stands.
        about: What is run, and where it departs from the source; Markdown.
        trials: The runs, by scale.
        blocks: The page's tables and figures, from the outcomes alone.
        claims: What is to be judged, the main claim first.
        why: What we take the reasons to be, once all full runs are in; Markdown, and no more than our reading of them.
        summary: What the page above all shows of it; nothing by default.
        is_timed: Whether its numbers are times, so that its trials have the machine to themselves.
        paper: The short name of whose claims it puts to the test; empty where none but ours.
        device: Where its full runs are done; quick ones of an experiment for a GPU do without one where there is none.
    """

    name: str
    log: str
    title: str
    source: str
    about: str
    trials: Callable[[Scale], Sequence[Trial]]
    blocks: Callable[[Results], Sequence[Block]]
    claims: Sequence[Claim] = ()
    why: str = ""
    summary: Callable[[Results], Sequence[Block]] = lambda results: ()
    is_timed: bool = False
    paper: str = ""
    device: Device = "auto"

    def device_at(self, scale: Scale) -> Device:
        """Where the runs of a scale are done.

        Args:
            scale: Which.

        Returns:
            The device.
        """
        return "auto" if scale == "quick" and self.device == "cuda" else self.device
