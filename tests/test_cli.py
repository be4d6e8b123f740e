import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
        "--model mlp --estimator layers --clip-grad-norm 5"
    )
    assert main(flags.split()) == 0
    settings = json.loads(Path("run/run.json").read_text())["settings"]
    assert settings == {
        "task": "digits",
        "model": "mlp",
        "rule": "cabs",
        "set": ["decay=0.9", "max_batch_size=64", "scale=2"],
        "estimator": "layers",
        "epochs": None,
        "samples": 100,
        "steps": None,
        "batch_size": 20,
        "micro_batch_size": 10,
        "lr": 0.3,
        "optimizer": "sgd",
        "momentum": 0.5,
        "nesterov": True,
        "weight_decay": 0.001,
        "lr_schedule": "step",
        "clip_grad_norm": 5.0,
        "validation": 0.2,
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
        ("compare", "invalid choice: 'compare'"),
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


@pytest.mark.parametrize("command", [[], ["train"], ["report"], ["list"]])
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
