"""What a comparison compares: rules, each with its settings, from one line of text."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from gradbatch.errors import InvalidInputError
from gradbatch.experiments.choices import choose
from gradbatch.experiments.rule_settings import build_rule, read_value, rule_parameters
from gradbatch.experiments.settings import TrainSettings
from gradbatch.rules import RULES

__all__ = ["Contender", "read_contenders"]

_OWN = (
    *("batch_size", "lr", "model", "estimator", "micro_batch_size", "even_ends", "optimizer"),
    *("momentum", "nesterov", "weight_decay", "lr_schedule", "clip_grad_norm"),
)
"""Settings of a run that may differ between the rules of a comparison."""

_NEXT_SETTING = re.compile(r":(?=\s*[A-Za-z][\w-]*\s*=)")
"""A colon with a key behind it. Other colons belong to a value, as in ``table=0:32 25:64``."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A rule with its settings.

    Attributes:
        label: The rule and its settings, as they are typed.
        rule: Its name.
        assignments: Its hyper-parameters, as ``"key=value"`` texts.
        changes: Settings of its runs, by field of `TrainSettings`.
    """

    label: str
    rule: str
    assignments: tuple[str, ...]
    changes: Mapping[str, Any]

    @property
    def folder_name(self) -> str:
        """The label, in letters that any file system takes."""
        return re.sub(r"[^\w.=+-]+", "-", self.label)


def read_contenders(text: str) -> tuple[Contender, ...]:
    """The rules of a comparison.

    Rules are separated by commas, and each may have settings behind colons: ``cabs,fixed:batch_size=64:lr=0.1``.
    A key that the rule has is the rule's; any other is a setting of its runs.

    Args:
        text: As it was typed.

    Returns:
        One or several, no two alike.

    Raises:
        InvalidInputError: If the text cannot be read, or names something twice.

    Example:
        >>> cabs, fixed = read_contenders("cabs:decay=0.9,fixed:batch_size=64")
        >>> cabs.assignments, fixed.changes
        (('decay=0.9',), {'batch_size': 64})
    """
    contenders = tuple(_read_contender(part.strip()) for part in text.split(","))
    names: set[str] = set()
    for contender in contenders:
        if contender.folder_name in names:
            raise InvalidInputError(f'--rules names "{contender.label}" more than once: leave all but one out')
        names.add(contender.folder_name)
    return contenders


def _read_contender(label: str) -> Contender:
    """A rule and what is set with it."""
    if not label:
        raise InvalidInputError("--rules has an empty name: write rules with commas between them, such as fixed,cabs")
    name, *settings = (part.strip() for part in _NEXT_SETTING.split(label))
    if ":" in name:
        extra = name.partition(":")[2]
        raise InvalidInputError(
            f'"{extra}" in --rules does not set anything: write rule:key=value, as in cabs:decay=0.9'
        )
    parameters = rule_parameters(choose("rule", name, RULES))
    own = {key: key for key in _OWN}
    assignments: list[str] = []
    changes: dict[str, Any] = {}
    label = name
    for setting in settings:
        key, _, value = (part.strip() for part in setting.partition("="))
        key = key.replace("-", "_")
        label += f":{key}={value}"
        if key in parameters:
            assignments.append(f"{key}={value}")
            continue
        _refuse_shared(key)
        choose("setting", key, own | parameters, scope=f' of "{name}"')
        if key in changes:
            raise InvalidInputError(f'"{label}" gives `{key}` more than once: leave all but one out')
        changes[key] = read_value(key, value, get_type_hints(TrainSettings)[key])
    build_rule(name, assignments)
    return Contender(label=label, rule=name, assignments=tuple(assignments), changes=changes)


def _refuse_shared(key: str) -> None:
    """Refuse a setting that all runs of a comparison share."""
    if key in {item.name for item in fields(TrainSettings)} - set(_OWN):
        raise InvalidInputError(
            f"`{key}` is the same for all runs of a comparison: leave it out of --rules, or set it for all"
        )
