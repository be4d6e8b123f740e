"""Imports go down only: each module stands on a floor and imports from its own floor and those below."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import gradbatch

SOURCE = Path(gradbatch.__file__).parent

FLOORS = {
    "_types": 0,
    "errors": 0,
    "estimators": 1,
    "distributed": 1,
    "probe": 1,
    "rules": 2,
    "stream": 2,
    "_batches": 2,
    "_sources": 2,
    "schedules": 2,
    "asking": 3,
    "replay": 3,
    "measuring": 3,
    "updating": 3,
    "underway": 3,
    "_arguments": 3,
    "controller": 3,
    "checkpoint": 3,
    "sinks": 3,
    "integrations": 4,
    "experiments": 5,
    "cli": 6,
}
"""The floor of each file and folder. `gradbatch` itself only gathers the public names."""

PUBLIC_FLOOR = 4
"""`import gradbatch` runs the controller and all below it, so only what stands above may do that."""

FORBIDDEN = {
    "rules": (
        "torch.distributed",
        "gradbatch.distributed",
        "gradbatch.stream",
        "gradbatch.probe",
        "gradbatch.controller",
    ),
    "probe": ("gradbatch.rules",),
}
"""What a part never sees, whatever the floors allow."""

CORE_FLOOR = 3
CORE_PACKAGES = {"gradbatch", "torch", "numpy", *sys.stdlib_module_names}
NOT_CORE = {"gradbatch.sinks.console"}
"""Modules of a core floor with a third-party package of their own."""


class Import(NamedTuple):
    """One module that is imported, or reached as an attribute of one that is.

    Attributes:
        name: Its dotted name.
        line: Where.
        is_run: Whether it is imported at run time and not for type checkers alone.
    """

    name: str
    line: int
    is_run: bool


def module_name(path: Path) -> str:
    parts = ["gradbatch", *path.relative_to(SOURCE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


def imports(module: str, source: str, *, is_package: bool = False) -> Iterator[Import]:
    """Every import of a module, wherever in the file it stands."""
    tree = ast.parse(source)
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        for name in _names(node, module, is_package=is_package):
            yield Import(name, getattr(node, "lineno", 0), id(node) not in for_types)


def _names(node: ast.AST, module: str, *, is_package: bool) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        package = module.split(".") if is_package else module.split(".")[:-1]
        parents = package[: len(package) - node.level + 1] if node.level else []
        base = ".".join([*parents, *([node.module] if node.module else [])])
        # A name may be a module of its own (`from gradbatch import estimators`) or something in `base`.
        submodules = [f"{base}.{alias.name}" for alias in node.names]
        return [name if name in MODULES or not name.startswith("gradbatch") else base for name in submodules]
    if isinstance(node, ast.Attribute):
        name = ast.unparse(node)
        return [name] if name == "torch.distributed" else []
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
        return [node.args[0].value] if node.args and isinstance(node.args[0], ast.Constant) else []
    return []


def part_of(module: str) -> str:
    """The file or folder below `gradbatch` that a module belongs to."""
    return module.split(".")[1] if "." in module else ""


def floor_of(module: str) -> int | None:
    return FLOORS.get(part_of(module)) if "." in module else PUBLIC_FLOOR


def is_below(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def complaints(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """What is wrong with a module's imports, a sentence each."""
    floor = floor_of(module)
    if floor is None:
        return [f"{module} has no floor: give it one in FLOORS of test_architecture.py"]
    found = []
    for name, line, is_run in imports(module, source, is_package=is_package):
        where = f"{module}, line {line}, imports {name}"
        if any(is_below(name, never) for never in FORBIDDEN.get(part_of(module), ())):
            found.append(f"{where}, which {part_of(module)} never sees")
        if is_below(name, "gradbatch"):
            theirs = floor_of(name)
            if theirs is None:
                found.append(f"{where}, which has no floor")
            elif theirs > floor:
                found.append(f"{where} from floor {theirs}, above its own {floor}")
        elif is_run and floor <= CORE_FLOOR and module not in NOT_CORE and name.split(".")[0] not in CORE_PACKAGES:
            found.append(f"{where}: the core depends on torch and numpy alone")
    return found


@pytest.mark.parametrize("module", [name for name in MODULES if name != "gradbatch"])
def test_imports_go_down(module: str) -> None:
    path = MODULES[module]
    assert complaints(module, path.read_text(), is_package=path.name == "__init__.py") == []


def test_all_modules_are_walked() -> None:
    assert {
        "gradbatch",
        "gradbatch._types",
        "gradbatch.rules",
        "gradbatch.rules.cabs",
        "gradbatch.cli",
    } <= set(MODULES)


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("gradbatch._types", "from gradbatch.estimators import Ema", "from floor 1, above its own 0"),
        ("gradbatch.probe.hooks", "from gradbatch import stream", "from floor 2, above its own 1"),
        ("gradbatch.stream", "import gradbatch.controller as c", "from floor 3, above its own 2"),
        ("gradbatch.stream", "def f():\n    from .controller import Controller", "line 2.*from floor 3"),
        ("gradbatch.rules.cabs", "from ..checkpoint import load_checkpoint", "from floor 3, above its own 2"),
        ("gradbatch.controller", "import gradbatch", "from floor 4, above its own 3"),
        ("gradbatch.controller", "from gradbatch import CABS", "from floor 4, above its own 3"),
        (
            "gradbatch.controller",
            "import importlib\nimportlib.import_module('gradbatch.cli')",
            "from floor 6",
        ),
        ("gradbatch.sinks.jsonl", "from gradbatch.experiments import tasks", "from floor 5, above its own 3"),
        ("gradbatch.integrations.ray", "import gradbatch.experiments.loop", "from floor 5, above its own 4"),
        ("gradbatch.experiments.loop", "from gradbatch.cli import main", "from floor 6, above its own 5"),
        (
            "gradbatch.errors",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from gradbatch.rules import CABS",
            "from floor 2, above its own 0",
        ),
        ("gradbatch.rules.cabs", "import torch.distributed as dist", "rules never sees"),
        ("gradbatch.rules.cabs", "from torch import distributed", "rules never sees"),
        ("gradbatch.rules.cabs", "import torch\ntorch.distributed.get_rank()", "rules never sees"),
        ("gradbatch.rules.cabs", "from gradbatch.stream import SampleStream", "rules never sees"),
        ("gradbatch.rules.cabs", "from gradbatch.probe.probe import Probe", "rules never sees"),
        ("gradbatch.probe.probe", "from gradbatch.rules.cabs import CABS", "probe never sees"),
        ("gradbatch.stream", "import rich.progress", "torch and numpy alone"),
        ("gradbatch.probe.probe", "def f():\n    import scipy", "torch and numpy alone"),
        ("gradbatch.new", "", "gradbatch.new has no floor: give it one"),
        ("gradbatch.cli", "import gradbatch.new", "which has no floor"),
    ],
)
def test_the_walk_finds(module: str, source: str, wrong: str) -> None:
    found = complaints(module, source)
    assert any(re.search(wrong, sentence) for sentence in found), found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "gradbatch.rules.cabs",
            "import torch\nimport math\nfrom gradbatch._types import Rule\nfrom .fixed import Fixed",
        ),
        ("gradbatch.stream", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rich import x"),
        ("gradbatch.sinks.console", "import rich"),
        ("gradbatch.integrations.lightning", "import lightning\nimport gradbatch as gb"),
        ("gradbatch.experiments.tasks", "from gradbatch import CABS, probe\nimport sklearn"),
        ("gradbatch.controller", "import torch\ntorch.distributed.is_available()"),
    ],
)
def test_the_walk_lets_pass(module: str, source: str) -> None:
    assert complaints(module, source) == []
