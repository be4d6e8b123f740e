"""The public surface: sorted, complete, small, and documented down to each parameter."""

import inspect
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import gradbatch

PUBLIC = {name: getattr(gradbatch, name) for name in gradbatch.__all__}


def isort_style(names: list[str]) -> list[str]:
    """Constants, then classes, then the rest, each by the alphabet: what ruff's RUF022 makes of `__all__`."""
    return sorted(
        names,
        key=lambda name: (0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2, name),
    )


def undocumented(thing: Any) -> list[str]:
    """Parameters of a callable that its docstring does not name under Args or Attributes."""
    text = inspect.getdoc(thing) or ""
    sections = re.findall(r"^(?:Args|Attributes):\n((?:(?: +.*)?\n?)+?)(?=^\S|\Z)", text, flags=re.MULTILINE)
    named = {name for section in sections for name in re.findall(r"^    \*{0,2}(\w+):", section, flags=re.MULTILINE)}
    parameters = inspect.signature(thing).parameters
    return [name for name in parameters if name not in ("self", "cls") and name not in named]


def own_methods(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Public functions that a class defines itself."""
    for name, member in vars(kind).items():
        function = getattr(member, "__func__", member.fget if isinstance(member, property) else member)
        if not name.startswith("_") and inspect.isfunction(function):
            yield name, function


def test_all_is_sorted() -> None:
    assert gradbatch.__all__ == isort_style(gradbatch.__all__)
    assert len(set(gradbatch.__all__)) == len(gradbatch.__all__)


def test_the_sorting_is_that_of_ruff() -> None:
    assert isort_style(["load", "Ab", "BA", "Clip", "CABS", "ask"]) == [
        "BA",
        "CABS",
        "Ab",
        "Clip",
        "ask",
        "load",
    ]


def test_all_is_what_is_public() -> None:
    public = {
        name
        for name, value in vars(gradbatch).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert set(gradbatch.__all__) == public


def test_public_names_are_the_things_themselves() -> None:
    assert all(value.__name__ == name for name, value in PUBLIC.items())
    assert all(value.__module__.startswith("gradbatch.") for value in PUBLIC.values())


@pytest.mark.parametrize("name", gradbatch.__all__)
def test_documented(name: str) -> None:
    # Its own: an inherited docstring says nothing of it, and a dataclass without one gets its signature.
    value = PUBLIC[name]
    text = (vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__) or ""
    assert len(text) > 20
    assert not text.startswith(f"{name}(")
    assert text.partition("\n")[0].rstrip().endswith((".", ":"))


ERRORS = {name for name, value in PUBLIC.items() if inspect.isclass(value) and issubclass(value, Exception)}


@pytest.mark.parametrize("name", sorted(PUBLIC.keys() - ERRORS))
def test_every_parameter_is_documented(name: str) -> None:
    assert undocumented(PUBLIC[name]) == []


METHODS = {
    f"{name}.{method}": function
    for name, value in PUBLIC.items()
    if inspect.isclass(value)
    for method, function in own_methods(value)
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_documented(name: str) -> None:
    function = METHODS[name]
    text = inspect.getdoc(function)
    assert text
    # One line may be all there is to say; a longer text names every parameter.
    if "\n" in text:
        assert undocumented(function) == []


def test_what_is_undocumented_is_found() -> None:
    def function(first: int, second: int, *rest: int) -> None:
        """Do.

        Args:
            first: One,
                second: not this one.
            *rest: More.

        Returns:
            second: Nor this.
        """

    class Kind:
        """A kind.

        Attributes:
            first: One.
        """

        def __init__(self, first: int, second: int) -> None: ...

    assert undocumented(function) == ["second"]
    assert undocumented(Kind) == ["second"]
    assert undocumented(lambda alone: alone) == ["alone"]


def test_the_methods_are_looked_at() -> None:
    assert {
        "Controller.step",
        "Record.from_dict",
        "Record.to_dict",
        "Statistics.is_finite",
        "CABS.update",
    } <= set(METHODS)


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert gradbatch.__version__ == project["version"]
