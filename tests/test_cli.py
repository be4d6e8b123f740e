import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gradbatch.checkpoint import load_checkpoint
from gradbatch.cli import main
from gradbatch.experiments.run import read_run
from gradbatch.rules import RULES


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GRADBATCH_DATA", raising=False)


def test_training_by_default_makes_fresh_folders_and_says_how_good_it_got(capsys):
    for _ in range(2):
        assert main(["train", "--epochs", "1", "--lr", "0.5"]) == 0
    assert {path.name for path in Path("runs").iterdir()} == {"digits-fixed-1", "digits-fixed-2"}
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("runs/digits-fixed-2: test accuracy ")
    assert "1 epochs, 45 steps, 1,437 samples" in last


def test_every_flag_of_the_contract_reaches_the_run():
    flags = (
        "train digits --rule cabs --set decay=0.9 max_batch_size=64 --set scale=2 --samples 100 "
        "--batch-size 20 --lr 0.3 --optimizer sgd --momentum 0.5 --nesterov --weight-decay 0.001 "
        "--lr-schedule step --validation 0.2 "
        "--device cpu --num-workers 0 --micro-batch-size 10 --seed 7 --data-dir data --out run "
        "--model mlp --estimator layers --clip-grad-norm 5 --shadow fixed norm-test "
        "--per-class 20 --evaluate-every 50 --evaluate-training --even-ends"
    )
    assert main(flags.split()) == 0
    settings = json.loads(Path("run/run.json").read_text())["settings"]
    assert settings == {
        "task": "digits",
        "model": "mlp",
        "rule": "cabs",
        "set": ["decay=0.9", "max_batch_size=64", "scale=2"],
        "shadow": ["fixed", "norm-test"],
        "estimator": "layers",
        "epochs": None,
        "samples": 100,
        "steps": None,
        "batch_size": 20,
        "micro_batch_size": 10,
        "even_ends": True,
        "lr": 0.3,
        "optimizer": "sgd",
        "momentum": 0.5,
        "nesterov": True,
        "weight_decay": 0.001,
        "lr_schedule": "step",
        "clip_grad_norm": 5.0,
        "validation": 0.2,
        "per_class": 20,
        "augment": False,
        "evaluate_every": 50,
        "evaluate_training": True,
        "device": "cpu",
        "num_workers": 0,
        "seed": 7,
        "data_dir": "data",
        "out": "run",
    }


def test_resuming_takes_the_settings_from_the_folder():
    assert main(["train", "--rule", "cabs", "--epochs", "1", "--seed", "3", "--out", "run"]) == 0
    assert main(["train", "--resume", "--out", "run", "--epochs", "2"]) == 0
    run = read_run(Path("run"))
    assert run.manifest["settings"]["seed"] == 3
    assert run.steps[-1]["epoch"] == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("", "the following arguments are required: COMMAND"),
        ("comprae", "invalid choice: 'comprae'"),
        (
            "train digts",
            'there is no task "digts", did you mean "digits"? Known: digits, mnist, fashion-mnist',
        ),
        ("train --rule cab", 'there is no rule "cab", did you mean "cabs"? Known: '),
        (
            "train --rule cabs --set deca=1",
            'no hyper-parameter "deca" of the rule "cabs", did you mean "decay"? Known: decay',
        ),
        ("train --epochs many", "argument --epochs: invalid int value: 'many'"),
        ("train --epochs 1 --steps 2", "argument --steps: not allowed with argument --epochs"),
        ("train mnist", "name a folder with --data-dir or GRADBATCH_DATA"),
        ("train mnist --data-dir .", "put the four original files of the data set"),
        ("train --resume --out nothing", "is not the folder of a run"),
        ("train --out file/run", "cannot be made"),
        ("train --micro-batch-size 0", "`micro_batch_size` must be at least 1"),
        ("train --rule cabs --set decay=0.9 --set decay=0.8", "--set gives `decay` more than once"),
        ("train --seed 99999999999999999999", "`seed` must be from 0 to 9223372036854775807"),
        ("train --batch-size 5000", "`batch_size`"),
        ("report", "the following arguments are required: RUN"),
        ("report nothing", "is not the folder of a run"),
        ("train --shadow cab", 'there is no rule "cab", did you mean "cabs"'),
        ("train --shadow ba", "ba draws samples within a step and cannot be a shadow"),
        ("train --shadow cabs cabs", "--shadow names cabs more than once"),
        ("compare", "--rules is missing: name what to compare, such as --rules fixed,cabs"),
        ("compare --rules fixd", 'there is no rule "fixd", did you mean "fixed"'),
        ("compare --rules fixed --jobs 0", "`jobs` must be at least 1"),
        ("compare --rules fixed --steps 10", "unrecognized arguments: --steps"),
        ("compare --rules fixed --epochs 1 --samples 2", "not allowed with argument"),
        ("compare mnist --rules fixed", "name a folder with --data-dir or GRADBATCH_DATA"),
        ("compare --rules fixed --out file/c", "cannot be made"),
        ("compare --resume", "--resume needs the folder of the comparison to go on with: name it with --out"),
        ("compare --resume --out nothing", "there is no comparison in nothing to go on with"),
        ("replay nothing --rule cabs", "is not the folder of a run"),
        ("replay run", "the following arguments are required: --rule"),
        ("replay run --rule cab", 'there is no rule "cab", did you mean "cabs"'),
    ],
)
def test_what_the_user_can_mend_is_one_sentence(arguments, sentence, capsys):
    Path("file").touch()
    assert main(arguments.split()) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.err.startswith("gradbatch: ")
    assert captured.err.count("\n") == 1
    assert not Path("runs").exists()  # a run that could not begin leaves no folder behind


def test_the_list_shows_every_rule_with_its_defaults(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in (*RULES, "digits", "mnist", "fashion-mnist"))
    assert "max_batch_size=2048" in text


@pytest.mark.parametrize("command", [[], ["train"], ["compare"], ["replay"], ["report"], ["list"]])
def test_help_is_complete(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "usage: gradbatch" in text
    if command == ["train"]:
        assert "lr_schedule" not in text
        assert "x0.1 at 50 %" in " ".join(text.split())


def test_the_report_is_written_where_asked(capsys):
    assert main(["train", "--epochs", "1", "--out", "run"]) == 0
    assert main(["report", "run", "-o", "page.html"]) == 0
    assert Path("page.html").stat().st_size > 10_000
    assert "wrote page.html" in capsys.readouterr().out


def run_python(*arguments):
    """A process of its own that finds the same packages as this one."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=environment,
    )


@pytest.mark.parametrize(("module", "command"), [("matplotlib", "report"), ("sklearn", "train")])
def test_a_missing_extra_is_a_sentence(module, command):
    blocked = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Missing())
from gradbatch.cli import main
sys.exit(main([{command!r}, "run"] if {command!r} == "report" else [{command!r}]))
"""
    process = run_python("-c", blocked)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    package = {"matplotlib": "matplotlib", "sklearn": "scikit-learn"}[module]
    assert errors == f"gradbatch: this command needs {package}, which is missing: pip install 'gradbatch[cli]'\n"


def test_a_defect_keeps_its_traceback(monkeypatch):
    def broken(settings):
        raise ModuleNotFoundError("No module named 'ours'", name="ours")

    monkeypatch.setattr("gradbatch.experiments.loop.train", broken)
    with pytest.raises(ModuleNotFoundError, match="ours"):
        main(["train"])


def test_a_refused_command_can_be_corrected():
    assert main(["train", "--batch-size", "5000", "--out", "run"]) == 2
    assert main(["train", "--batch-size", "50", "--steps", "1", "--out", "run"]) == 0


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("gradbatch ")


def test_the_list_can_be_pasted(capsys):
    assert main(["list"]) == 0
    assert "table='0:32 25:64 50:128 75:256'" in capsys.readouterr().out


def test_ctrl_c_while_data_loads_promises_nothing(capsys, monkeypatch):
    def load(settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("gradbatch.experiments.loop.load_dataset", load)
    assert main(["train", "--out", "run"]) == 130
    assert capsys.readouterr().err == "gradbatch: stopped before the first update; nothing was kept\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_leaves_a_run_that_goes_on(number, code):
    process = run_python(*["-m", "gradbatch.cli", "train", "--epochs", "100000", "--out", "run"])
    deadline = time.monotonic() + 60
    while not Path("run/checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert errors == "gradbatch: stopped; go on with: gradbatch train --resume --out run\n"
    num_steps = len(read_run(Path("run")).steps)
    assert num_steps > 40
    assert main(["train", "--resume", "--out", "run", "--steps", str(num_steps + 5)]) == 0
    assert [line["step"] for line in read_run(Path("run")).steps] == list(range(num_steps + 5))


def steps_of(folder):
    """What a run logged, without its times."""
    return [{key: value for key, value in line.items() if key != "seconds"} for line in read_run(folder).steps]


@pytest.mark.xdist_group("processes")
def test_rules_are_compared_in_processes_and_one_that_fails_stops_no_other(capsys):
    flags = "compare digits --rules fixed:batch_size=64,ba:optimizer=adam,cabs --samples 800 --seed 5 --jobs 2"
    assert main(flags.split()) == 2
    captured = capsys.readouterr()
    table = captured.out.partition("\nrule ")[2].splitlines()
    assert table[2].split() == ["ba:optimizer=adam", "failed"]
    assert "ba:optimizer=adam failed: BA predicts the step of SGD" in captured.out
    folder = Path("runs/compare-digits-1")
    assert f"wrote {folder / 'comparison.html'}" in captured.out
    assert (folder / "comparison.html").stat().st_size > 10_000
    best = min(read_run(folder / name).evaluations[-1]["test_accuracy"] for name in ("fixed-batch_size=64", "cabs"))
    assert f"Samples to {100 * best:.4g} %" in captured.out
    assert main(["train", "--rule", "cabs", "--samples", "800", "--seed", "5", "--out", "alone"]) == 0
    assert steps_of(folder / "cabs") == steps_of(Path("alone"))


@pytest.mark.xdist_group("processes")
def test_an_interrupted_comparison_goes_on(capsys):
    command = "compare --rules cabs,schedule --samples 12000 --jobs 1 --out c"
    process = run_python("-m", "gradbatch.cli", *command.split())
    log = Path("c/cabs/steps.jsonl")
    deadline = time.monotonic() + 60
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)  # to it alone: it ends its children
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "gradbatch: stopped; go on with: gradbatch compare --resume --out c\n"
    num_steps = len(read_run(Path("c/cabs")).steps)
    assert read_run(Path("c/cabs")).steps[-1]["samples_seen"] < 12_000
    assert not Path("c/schedule").exists()
    assert main(command.split()) == 2
    assert "c already holds a comparison: go on with it (--resume)" in capsys.readouterr().err
    assert main(["compare", "--resume", "--out", "c"]) == 0
    assert read_run(Path("c/schedule")).steps[-1]["samples_seen"] == 12_000
    assert main(["train", "--rule", "cabs", "--samples", "12000", "--out", "alone"]) == 0
    assert steps_of(Path("c/cabs")) == steps_of(Path("alone"))
    assert len(steps_of(Path("alone"))) > num_steps


def test_ctrl_c_before_a_comparison_begins_promises_nothing(capsys, monkeypatch):
    def interrupted(settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("gradbatch.experiments.compare.load_dataset", interrupted)
    assert main(["compare", "--rules", "fixed", "--out", "c"]) == 130
    assert capsys.readouterr().err == "gradbatch: stopped before the first run; nothing was kept\n"
    assert not Path("c").exists()


@pytest.mark.xdist_group("processes")
def test_runs_of_a_comparison_that_is_killed_save_and_end():
    process = run_python(*["-m", "gradbatch.cli", "compare", "--rules", "fixed", "--epochs", "100000", "--out", "c"])
    checkpoint = Path("c/fixed/checkpoint.pt")
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=60)  # ends when nobody writes there any more, its children neither
    assert load_checkpoint(checkpoint)["step"] == len(read_run(Path("c/fixed")).steps)


def test_a_replay_is_printed_and_written(capsys):
    assert main(["train", "--rule", "fixed", "--shadow", "cabs", "--samples", "500", "--out", "run"]) == 0
    capsys.readouterr()
    assert main(["replay", "run", "--rule", "cabs", "--set", "min_batch_size=20", "-o", "answers.jsonl"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("cabs (min_batch_size=20) on the log of run, driven by fixed\n")
    assert text.endswith("wrote answers.jsonl\n")
    lines = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    assert [line["batch_size"] for line in lines] == [
        max(20, line["shadows.CABS"]) for line in read_run(Path("run")).steps
    ]
    assert main(["replay", "run", "--rule", "cabs", "-o", "nowhere/answers.jsonl"]) == 2
    assert "nowhere/answers.jsonl cannot be written" in capsys.readouterr().err


def test_a_replay_of_what_was_not_measured_is_a_sentence(capsys):
    assert main(["train", "--rule", "fixed", "--samples", "500", "--out", "run"]) == 0
    capsys.readouterr()
    assert main(["replay", "run", "--rule", "cabs"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("gradbatch: the log of run lacks grad_sqnorm, sample_sqnorm, which cabs needs")
    assert captured.err.count("\n") == 1


def test_a_reader_that_had_enough_leaves_no_traceback() -> None:
    command = [sys.executable, "-m", "gradbatch.cli", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.close()
        assert program.stderr.read() == b""
        assert program.wait(timeout=60) == 141
