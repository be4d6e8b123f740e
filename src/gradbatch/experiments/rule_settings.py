"""Rules by name, with hyper-parameters from text."""

import ast
from collections.abc import Iterable
from dataclasses import Field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from gradbatch._types import Rule
from gradbatch.errors import InvalidInputError
from gradbatch.experiments.choices import choose
from gradbatch.rules import RULES

__all__ = ["build_rule", "read_value", "rule_parameters"]

_NONE: dict[str, None] = {"none": None}
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def build_rule(name: str, assignments: Iterable[str]) -> Rule[Any]:
    """The rule of that name with some hyper-parameters changed.

    Args:
        name: As in `gradbatch.rules.RULES`.
        assignments: ``"key=value"`` texts; a value is read as the type that the rule's field declares.

    Returns:
        The rule.

    Raises:
        InvalidInputError: If the rule or a key is not known, or a value cannot be used.

    Example:
        >>> build_rule("cabs", ["decay=0.9"]).decay
        0.9
    """
    rule = choose("rule", name, RULES)
    types = get_type_hints(rule)
    parameters = rule_parameters(rule)
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise InvalidInputError(
                f'"{assignment}" does not set a hyper-parameter: write key=value, '
                f"with a key of {name}: {', '.join(parameters) or 'it has none'}"
            )
        key = key.strip()
        choose("hyper-parameter", key, parameters, scope=f' of the rule "{name}"')
        if key in values:
            raise InvalidInputError(f"--set gives `{key}` more than once: leave all but one out")
        values[key] = read_value(key, text.strip(), types[key])
    return rule(**values)


def rule_parameters(rule: type[Rule[Any]]) -> dict[str, Any]:
    """The hyper-parameters of a rule and their defaults.

    Args:
        rule: The class.

    Returns:
        Defaults by name, in the order of declaration.
    """
    declared: tuple[Field[Any], ...] = fields(rule)  # pyrefly: ignore
    return {item.name: item.default for item in declared if item.init}


def read_value(key: str, text: str, annotation: Any) -> Any:
    """A value of the declared type.

    Args:
        key: Whose, for the message.
        text: As it was typed.
        annotation: The type, as `typing.get_type_hints` gives it.

    Returns:
        The value.

    Raises:
        InvalidInputError: If the text is none of that type.
    """
    options = get_args(annotation) if get_origin(annotation) not in (None, Literal, tuple, list) else (annotation,)
    for option in options:
        try:
            return _read_as(text, option)
        except (ValueError, KeyError, SyntaxError):
            continue
    wanted = " or ".join(_describe(option) for option in options)
    raise InvalidInputError(f'`{key}` must be {wanted}, got "{text}"')


def _read_as(text: str, kind: Any) -> Any:
    """A value of one type; ValueError or KeyError if the text is none."""
    if get_origin(kind) is Literal:
        return {str(choice): choice for choice in get_args(kind)}[text]
    if kind is type(None):
        return _NONE[text.lower()]
    if kind is bool:
        return _BOOLEANS[text.lower()]
    if kind in (int, float, str):
        return kind(text)
    return ast.literal_eval(text)


def _describe(kind: Any) -> str:
    """A type in words."""
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}
    return words.get(kind, str(kind))
