"""README holds what it says: its Python runs, and its targets, commands and flags are there."""

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from gradbatch import cli

ROOT = Path(__file__).parent.parent
_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>.*)\n(?P<body>(?:.*\n)*?) *(?P=fence)[ \t]*$",
    re.MULTILINE,
)


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        language: The first word after the fence.
        text: What stands in it.
        line: Where its text begins.
    """

    language: str
    text: str
    line: int


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = []
    for match in _FENCE.finditer(text if text.endswith("\n") else f"{text}\n"):
        language = (match["info"].split() or [""])[0].lower()
        body = re.sub(rf"^{match['indent']}", "", match["body"], flags=re.MULTILINE)
        found.append(Block(language, body, text.count("\n", 0, match.start("body")) + 1))
    return found


def python_blocks(text: str) -> list[Block]:
    """The Python of a page; a page without any is a mistake here."""
    found = [block for block in blocks(text) if block.language in ("python", "py", "python3")]
    assert found, "the page has no ```python block: nothing of it would be run"
    return found


def command_lines(text: str) -> list[list[str]]:
    """What a page tells to type, in words: lines after a ``$`` in blocks, and inline code."""
    typed = []
    for block in blocks(text):
        lines = block.text.replace("\\\n", " ").splitlines()
        if block.language in ("console", "shell-session"):
            typed += [line.lstrip()[2:] for line in lines if line.lstrip().startswith("$ ")]
        elif block.language in ("sh", "bash", "shell"):
            typed += lines
    typed += re.findall(r"(?<!`)`([^`\n]+)`(?!`)", _FENCE.sub("", text))
    return [words for line in typed for words in _commands(line)]


def _commands(line: str) -> Iterator[list[str]]:
    """The commands of a line, without folders and settings before them, and without comments."""
    try:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&")
        lexer.whitespace_split = True
        words = list(lexer)
    except ValueError:  # a lone quotation mark: inline code, and no command
        return
    command: list[str] = []
    for word in [*words, ";"]:
        if not set(word) <= set(";|&"):
            if command or not re.fullmatch(r"\w+=.*", word):
                command.append(word)
        elif command:
            yield [command[0].rpartition("/")[2], *command[1:]]
            command = []


def make_targets(commands: list[list[str]]) -> set[str]:
    """The targets that are made in some commands."""
    return {
        word
        for command in commands
        if command[0] == "make"
        for word in command[1:]
        if re.fullmatch(r"[A-Za-z][\w.-]*", word)
    }


def defined_targets(makefile: str) -> set[str]:
    """The targets that a Makefile defines."""
    rules = re.findall(r"^([A-Za-z][\w. -]*?)\s*::?(?!=)", makefile, flags=re.MULTILINE)
    return {target for names in rules for target in names.split()}


def help_of(*commands: str) -> str:
    """What `gradbatch … --help` prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as ended:
        cli.main([*commands, "--help"])
    assert ended.value.code in (0, None)
    return out.getvalue()


def sub_commands(text: str) -> set[str]:
    """The sub-commands in the overview of `gradbatch --help`."""
    return set(re.findall(r"^ {2,4}([a-z][\w-]*)(?= {2,}|$)", text, flags=re.MULTILINE))


def flags_in(text: str) -> set[str]:
    """The flags that a help text names."""
    return set(re.findall(r"(?<![\w-])(--?[a-zA-Z][\w-]*)", text))


def unknown(commands: list[list[str]]) -> list[str]:
    """What a page says of `gradbatch` that the program does not know."""
    known = {name: flags_in(help_of(name)) for name in sub_commands(help_of())}
    everywhere = set().union(*known.values(), flags_in(help_of()))
    wrong = []
    for words in commands:
        given = {word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)}
        if words[0] == "gradbatch" and len(words) > 1:
            name = words[1]
            if name not in known and not name.startswith("-"):
                wrong.append(f"gradbatch {name}")
                continue
            wrong += [f"gradbatch {name} {flag}" for flag in sorted(given - known.get(name, everywhere))]
        elif words[0].startswith("--"):  # a flag alone, named in the text
            wrong += sorted(given - everywhere)
    return wrong


def run_blocks(page: str, name: str) -> dict[str, Any]:
    """Run the Python of a page in order, in one namespace; errors point into the page."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in python_blocks(page):
        torch.manual_seed(0)
        exec(compile("\n" * (block.line - 1) + block.text, name, "exec"), namespace)
    return namespace


@pytest.fixture
def readme() -> str:
    path = ROOT / "README.md"
    assert path.is_file(), f"{path.name} is not there"
    return path.read_text()


def test_the_python_of_readme_runs(
    readme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    record = run_blocks(readme, "README.md")["record"]
    assert record.epoch == 10
    assert record.reason in capsys.readouterr().out


def test_the_make_targets_of_readme_exist(readme: str) -> None:
    targets = make_targets(command_lines(readme))
    makefile = ROOT / "Makefile"
    assert targets <= (defined_targets(makefile.read_text()) if makefile.is_file() else set())


def test_the_commands_of_readme_exist(readme: str) -> None:
    commands = command_lines(readme)
    assert any(words[0] == "gradbatch" for words in commands), "README names no `gradbatch` command: none is checked"
    assert unknown(commands) == []


PAGE = """
# Title

```python
import math
answer = 6 * 7
```

Then `make check` and `--seed 3`; see `gradbatch list`, `gradbatch[cli]` and `can't`.

1. A list

   ~~~python
   assert answer == 42
   ~~~

```console
$ make test lint
$ SEED=1 gradbatch train digits --rule cabs --set decay=0.9 \\
    --epochs 2  # a comment with --nonsense
digits: done, see gradbatch nonsense
$ gradbatch trian digits && gradbatch report runs/1 --autput page.html
$ pip install --upgrade 'gradbatch[cli]'
```

```toml
make = "gradbatch nothing"
```
"""


def test_blocks() -> None:
    assert [(block.language, block.line) for block in blocks(PAGE)] == [
        ("python", 5),
        ("python", 14),
        ("console", 18),
        ("toml", 27),
    ]
    assert [block.text for block in python_blocks(PAGE)] == [
        "import math\nanswer = 6 * 7\n",
        "assert answer == 42\n",
    ]


@pytest.mark.parametrize("page", ["", "No code.", "```console\n$ python\n```\n", "`python`", "```python\nunclosed"])
def test_a_page_without_python_fails(page: str) -> None:
    with pytest.raises(AssertionError, match="no ```python block"):
        run_blocks(page, "page")


def test_blocks_share_a_namespace_and_errors_point_into_the_page() -> None:
    assert run_blocks(PAGE, "page")["answer"] == 42
    with pytest.raises(AssertionError) as caught:
        run_blocks(PAGE.replace("6 * 7", "6 * 8"), "page")
    assert caught.traceback[-1].lineno + 1 == 14


def test_commands() -> None:
    commands = command_lines(PAGE)
    assert commands[:4] == [
        ["make", "test", "lint"],
        ["gradbatch", "train", "digits", "--rule", "cabs", "--set", "decay=0.9", "--epochs", "2"],
        ["gradbatch", "trian", "digits"],
        ["gradbatch", "report", "runs/1", "--autput", "page.html"],
    ]
    assert ["make", "check"] in commands
    assert ["--seed", "3"] in commands
    assert ["gradbatch", "list"] in commands
    assert make_targets(commands) == {"test", "lint", "check"}


def test_what_the_program_does_not_know_is_found() -> None:
    assert unknown(command_lines(PAGE)) == ["gradbatch trian", "gradbatch report --autput"]
    assert unknown([["--sead", "3"], ["gradbatch", "list", "--epochs"]]) == [
        "--sead",
        "gradbatch list --epochs",
    ]


def test_makefile_targets() -> None:
    makefile = ".PHONY: test lint\nPYTHON := python\ntest: lint\n\tpytest: no\nfmt lint:\nbuild-all ::\n# gone: x\n"
    assert defined_targets(makefile) == {"test", "fmt", "lint", "build-all"}


def test_sub_commands_are_read_from_the_help() -> None:
    assert {"train", "report", "list"} <= sub_commands(help_of())
    assert {"--rule", "--out", "-h"} <= flags_in(help_of("train"))
