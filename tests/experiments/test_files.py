import os
from pathlib import Path

import pytest

from gradbatch.errors import OutputError
from gradbatch.experiments.files import write_whole


def write(path, text="new"):
    write_whole(path, text, what="page", flag="-o")


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    (tmp_path / "page").write_text("old")
    write(tmp_path / "page")
    assert (tmp_path / "page").read_text() == "new"
    assert list(tmp_path.iterdir()) == [tmp_path / "page"]


@pytest.mark.parametrize("name", [".", "folder", "missing/page"])
def test_a_place_that_takes_no_file_is_a_sentence(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="the page .* cannot be written .*: name another place with -o"):
        write(Path(name))
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_what_is_no_file_is_written_to_and_stays(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        write(tmp_path / "pipe")
        assert os.read(reader, 10) == b"new"
    finally:
        os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
