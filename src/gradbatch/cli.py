"""The command line: `gradbatch train`, `compare`, `replay`, `report`, `reproduce` and `list`.

Flags are made from the fields of `TrainSettings`, so a setting is declared, explained and checked in one
place. What the user can mend is one sentence on standard error and exit code 2; a defect of ours keeps its
traceback.
"""

import argparse
import os
import shlex
import sys
import types
from collections.abc import Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

from gradbatch.errors import GradbatchError, InvalidInputError

__all__ = ["main"]

_EXTRAS = {"matplotlib": "matplotlib", "rich": "rich", "sklearn": "scikit-learn"}
"""Modules of the ``cli`` extra and what their packages are called."""

_INTERRUPTED = 130
"""The exit code of a program that Ctrl-C ended, by the shell's convention."""

_HAD_ENOUGH = 141
"""The same of one whose output nobody reads any more."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Without the program's name; those of the process by default.

    Returns:
        The exit code: 0, 2 for what the user can mend, 130 after Ctrl-C, 141 where the reader of the output had enough,
        143 after SIGTERM.

    Raises:
        ModuleNotFoundError: If a module is missing that none of the extras brings.
    """
    try:
        values = vars(_parser().parse_args(arguments))
        code = values.pop("command")(values)
        print(end="", flush=True)  # while a reader that had enough, such as `head`, can still be noticed
        return code
    except KeyboardInterrupt:
        _complain("stopped")
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to write goes nowhere
        return _HAD_ENOUGH
    except GradbatchError as error:
        return _complain(str(error))
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        package = _EXTRAS[error.name]
        return _complain(f"this command needs {package}, which is missing: pip install 'gradbatch[cli]'")


def _train(values: dict[str, Any]) -> int:
    """Train, then say where the run is and how good it got."""
    from gradbatch.experiments.interrupts import StoppedError
    from gradbatch.experiments.loop import train
    from gradbatch.experiments.run import RunFolder, settings_of
    from gradbatch.experiments.settings import TrainSettings
    from gradbatch.experiments.summary import summarize

    is_resumed = values.get("resume") and "out" in values
    settings = settings_of(values["out"], values) if is_resumed else TrainSettings(**values)
    settings = settings.resolved()
    try:
        folder = train(settings)
    except (KeyboardInterrupt, StoppedError) as stop:
        how = f"go on with: gradbatch train --resume --out {shlex.quote(str(settings.folder))}"
        is_begun = RunFolder(settings.folder).is_begun
        _complain(f"stopped; {how}" if is_begun else "stopped before the first update; nothing was kept")
        return 128 + stop.signal if isinstance(stop, StoppedError) else _INTERRUPTED
    print(f"{folder}: {summarize(folder)}")
    return 0


def _compare(values: dict[str, Any]) -> int:
    """Compare, then show the table and say where the page is."""
    from gradbatch.experiments.compare import compare
    from gradbatch.experiments.comparison import Comparison, comparison_in
    from gradbatch.experiments.comparison_page import write_comparison
    from gradbatch.experiments.interrupts import StoppedError
    from gradbatch.experiments.settings import fresh_folder

    resume, jobs, out = values.pop("resume"), values.pop("jobs"), values.pop("out")
    if jobs is not None and jobs < 1:
        raise InvalidInputError(f"`jobs` must be at least 1, got {jobs}")
    if resume and out is None:
        raise InvalidInputError("--resume needs the folder of the comparison to go on with: name it with --out")
    if resume:
        comparison = comparison_in(out, values)
    else:
        own = {name: values.pop(name) for name in ("rules", "seeds", "target") if name in values}
        if "rules" not in own:
            raise InvalidInputError("--rules is missing: name what to compare, such as --rules fixed,cabs")
        folder = out or fresh_folder(f"compare-{values.get('task', 'digits')}")
        comparison = Comparison(folder=folder, settings=values, **own)
    try:
        results = compare(comparison, resume=resume, jobs=jobs)
    except (KeyboardInterrupt, StoppedError) as stop:
        how = f"go on with: gradbatch compare --resume --out {shlex.quote(str(comparison.folder))}"
        _complain(f"stopped; {how}" if comparison.is_begun else "stopped before the first run; nothing was kept")
        return 128 + stop.signal if isinstance(stop, StoppedError) else _INTERRUPTED
    print(f"\n{results.table()}")
    if results.runs:
        print(f"\nwrote {write_comparison(results)}")
    return 2 if results.failures else 0


def _replay(values: dict[str, Any]) -> int:
    """Print what another rule would have chosen."""
    from gradbatch.experiments.files import write_whole
    from gradbatch.experiments.replaying import replay_run

    replay = replay_run(values["run"], values["rule"], values["set"])
    print(replay.summary())
    if values["output"] is not None:
        write_whole(values["output"], replay.lines(), what="file", flag="-o")
        print(f"wrote {values['output']}")
    return 0


def _report(values: dict[str, Any]) -> int:
    """Write the page."""
    from gradbatch.experiments.report import write_report

    write_report(values["runs"], values["output"])
    print(f"wrote {values['output']}")
    return 0


def _reproduce(values: dict[str, Any]) -> int:
    """Run what the logs lack, print the pages' text, and draw the pages."""
    from gradbatch.experiments.interrupts import StoppedError
    from gradbatch.experiments.reproduce.pages import log_of
    from gradbatch.experiments.reproduction import chosen, draw, reproduce, text_of

    experiments, scale, results = chosen(values["experiments"]), values["scale"], values["results"] or Path("results")
    # Other logs are not drawn over the committed pages.
    beside = Path("docs") / "results" if values["results"] is None else results / "pages"
    pages = values["pages"] or beside
    if values["jobs"] is not None and values["jobs"] < 1:
        raise InvalidInputError(f"`jobs` must be at least 1, got {values['jobs']}")
    failures: dict[str, str] = {}
    try:
        if not values["draw"]:
            failures = reproduce(
                experiments, scale, results=results, jobs=values["jobs"], data_dir=values.get("data_dir")
            )
    except (KeyboardInterrupt, StoppedError) as stop:
        _complain("stopped; the same command goes on where it was")
        return 128 + stop.signal if isinstance(stop, StoppedError) else _INTERRUPTED
    has_log = any(
        log_of(experiment, scale_of_log, results).path.exists()
        for experiment in experiments
        for scale_of_log in _SCALES
    )
    if has_log:
        for experiment in () if values["draw"] else experiments:
            print(text_of(experiment, scale, results))
        print(f"wrote {', '.join(map(str, draw(experiments, results=results, pages=pages)))}")
    elif values["draw"]:
        raise InvalidInputError(f"there is no log of these experiments in {results}: name its folder with --results")
    for why in dict.fromkeys(failures.values()):
        names = [name for name, reason in failures.items() if reason == why]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        _complain(f"{', '.join(names[:3])}{more} failed: {why}")
    return 2 if failures else 0


def _list(values: dict[str, Any]) -> int:
    """Print the tasks, the rules with their defaults, and the experiments."""
    from gradbatch.experiments.rule_settings import rule_parameters
    from gradbatch.experiments.studies.catalogue import EXPERIMENTS
    from gradbatch.experiments.tasks import TASKS
    from gradbatch.rules import RULES

    print("tasks")
    for task in TASKS.values():
        print(f"  {task.name:20}{task.summary}")
        defaults = f"lr {task.lr:g}, momentum {task.momentum:g}, {task.epochs} epochs"
        print(f"  {'':20}models {', '.join(task.models)}; by default {task.models[0]}, {defaults}")
    print("\nrules, with what --set can change and its default")
    for name, rule in RULES.items():
        summary = (rule.__doc__ or "").partition("\n")[0]
        print(f"  {name:20}{summary}")
        for key, default in rule_parameters(rule).items():
            # As a shell takes it after --set.
            text = shlex.quote(default) if isinstance(default, str) else default
            print(f"  {'':20}{key}={text}")
    print("\nexperiments, for gradbatch reproduce")
    for experiment in EXPERIMENTS.values():
        print(f"  {experiment.name:22}{experiment.title}")
    return 0


class _Parser(argparse.ArgumentParser):
    """An argparse parser whose complaints are one sentence, like all others here."""

    # `typing.override` needs Python 3.12.
    def error(self, message: str) -> NoReturn:  # pyrefly: ignore[missing-override-decorator]
        """Hand the complaint to `main`."""
        raise InvalidInputError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    from gradbatch.experiments.run import version

    parser = _Parser(prog="gradbatch", description="Train with batch sizes chosen from the gradients themselves.")
    parser.add_argument("--version", action="version", version=f"gradbatch {version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    train = commands.add_parser("train", help="train a model on a task", description=_TRAIN)
    train.set_defaults(command=_train)
    _add_settings(train)
    _add_compare(commands.add_parser("compare", help="rules against each other on one task", description=_COMPARE))
    _add_replay(commands.add_parser("replay", help="what another rule would have chosen", description=_REPLAY))
    report = commands.add_parser("report", help="draw runs into one page", description=_REPORT)
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    report.add_argument("-o", "--output", type=Path, default=Path("report.html"), metavar="FILE", help=_OUTPUT)
    report.set_defaults(command=_report)
    _add_reproduce(commands.add_parser("reproduce", help="a table or figure of a paper", description=_REPRODUCE))
    lister = commands.add_parser("list", help="show the tasks, the rules and the experiments", description=_LIST)
    lister.set_defaults(command=_list)
    return parser


def _add_compare(parser: argparse.ArgumentParser) -> None:
    """The flags of a comparison, and those of its runs that all of them share."""
    parser.set_defaults(command=_compare)
    parser.add_argument("--rules", default=argparse.SUPPRESS, metavar="A,B,C", help=_RULES)
    parser.add_argument("--seeds", type=int, default=argparse.SUPPRESS, metavar="N", help=_SEEDS)
    parser.add_argument("--target", type=float, default=argparse.SUPPRESS, metavar="SCORE", help=_TARGET)
    parser.add_argument("--jobs", type=int, metavar="N", help=_JOBS)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder (default: a fresh runs/compare-TASK-N)")
    parser.add_argument("--resume", action="store_true", help="go on with the comparison in --out")
    # Updates are left out as a budget: with other batch sizes they are other amounts of samples.
    _add_settings(parser, without=("rule", "set", "steps", "out", "resume"))


def _add_replay(parser: argparse.ArgumentParser) -> None:
    """The flags of a replay."""
    parser.set_defaults(command=_replay)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--rule", required=True, metavar="NAME", help="the rule to ask, see `gradbatch list`")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=_REPLAY_SET)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="a file for one line of JSON an update")


def _add_reproduce(parser: argparse.ArgumentParser) -> None:
    """The flags of a reproduction."""
    parser.set_defaults(command=_reproduce)
    parser.add_argument(
        "experiments", nargs="+", metavar="EXPERIMENT", help="see `gradbatch list`; all for all of them"
    )
    parser.add_argument("--scale", choices=_SCALES, default="quick", help=_SCALE)
    parser.add_argument("--jobs", type=int, metavar="N", help=_JOBS)
    parser.add_argument("--draw", action="store_true", help="run nothing: draw the pages from the logs that are there")
    parser.add_argument("--results", type=Path, metavar="DIR", help=_RESULTS)
    parser.add_argument("--pages", type=Path, metavar="DIR", help=_PAGES)
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="folder of the data sets (default: $GRADBATCH_DATA)"
    )


def _add_settings(parser: argparse.ArgumentParser, *, without: Sequence[str] = ()) -> None:
    """A flag for each setting; one not given leaves a resumed run its own."""
    from gradbatch.experiments.settings import TrainSettings

    hints = get_type_hints(TrainSettings)
    budget = parser.add_mutually_exclusive_group()
    for item in fields(TrainSettings):
        if item.name in without:
            continue
        group = budget if item.name in ("epochs", "samples", "steps") else parser
        flag = item.name if item.name == "task" else f"--{item.name.replace('_', '-')}"
        group.add_argument(flag, default=argparse.SUPPRESS, **_argument(item, hints[item.name]))


def _argument(item: Field[Any], annotation: Any) -> dict[str, Any]:
    """What argparse needs to know of a setting."""
    text = item.metadata["help"].replace("%", "%%")
    if annotation is bool:
        return {"action": "store_true", "help": text}
    described = {"metavar": item.metadata["metavar"], "help": text}
    if item.name == "task":
        return {**described, "nargs": "?"}
    if item.name in ("set", "shadow"):
        return {**described, "nargs": "+", "action": "extend"}
    options = get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    kind = options[0] if options[0] in (int, float, Path) else str
    return {**described, "type": kind}


def _complain(sentence: str) -> int:
    """One line on standard error."""
    print(f"gradbatch: {' '.join(sentence.split())}", file=sys.stderr)
    return 2


_TRAIN = "Train a model on a task. Every update is logged, every epoch evaluated and kept as a checkpoint."
_COMPARE = (
    "Train every rule on the same task, seeds and samples, several at once, and set them against each other in a "
    "table and a page. Each run is an ordinary run folder."
)
_RULES = (
    "rules with commas between them, each with settings of its own behind colons: "
    "fixed:batch_size=64,cabs,ba:m0=64:stop=code. A key that the rule has is the rule's (see `gradbatch list`); "
    "otherwise it is a setting of its runs, such as batch_size or lr"
)
_SEEDS = "runs of each rule, with seeds from --seed on (default: 1)"
_TARGET = "score on the test set to reach, such as 0.97 (default: the best of the worst run)"
_JOBS = "runs at a time, with a torch thread each (default: one a core; on a GPU, one)"
_REPLAY = (
    "Ask a rule along the log of a run: what it would have chosen at each update, given the run's own batches. "
    "The log has what the run measured; `gradbatch train --shadow NAME` measures what the rule NAME needs."
)
_REPLAY_SET = "hyper-parameters of the rule; the rule that drove the run begins with those that it had there"
_REPRODUCE = (
    "Run the experiments of the papers and set ours beside theirs. What the logs have already is not run again, so "
    "that an interrupted experiment goes on where it stopped."
)
_SCALES = "quick", "full"
_SCALE = "quick shows in a minute or so that everything works; full takes hours (default: quick)"
_RESULTS = "folder of the logs, one line a run (default: results)"
_PAGES = "folder of the pages (default: docs/results, and with --results a folder pages in that)"
_REPORT = "Draw one or several runs into one page that needs no other file."
_OUTPUT = "the page to write (default: report.html)"
_LIST = "Show the tasks, the rules with the hyper-parameters that --set changes, and the experiments."

if __name__ == "__main__":
    sys.exit(main())
