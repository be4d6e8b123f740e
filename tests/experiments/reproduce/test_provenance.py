import subprocess

from gradbatch.experiments.reproduce import provenance as module
from gradbatch.experiments.reproduce.provenance import commit_of_source, provenance


def git(folder, *words):
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=folder, check=True)


def test_a_plus_marks_a_tree_with_changes(tmp_path, monkeypatch):
    source = tmp_path / "own"
    source.mkdir()
    (source / "__init__.py").write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "one")
    monkeypatch.setattr(module.gradbatch, "__file__", str(source / "__init__.py"))
    clean = commit_of_source()
    assert len(clean) == 10
    (tmp_path / "elsewhere").write_text("changed")
    assert commit_of_source() == clean
    (source / "__init__.py").write_text("changed")
    assert commit_of_source() == f"{clean}+"


def test_outside_of_a_tree_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(module.gradbatch, "__file__", str(tmp_path / "__init__.py"))
    assert commit_of_source() == ""


def test_a_result_says_what_it_was_made_with():
    found = provenance(commit="abc", jobs=2, device="cpu")
    assert (found["commit"], found["jobs"], found["device"]) == ("abc", 2, "cpu")
    assert found["torch"]
    assert found["processor"]
