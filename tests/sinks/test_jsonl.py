import json
import logging
import math

import pytest

from gradbatch._types import Record
from gradbatch.errors import InvalidInputError, MissingDataError, OutputError
from gradbatch.sinks.jsonl import JsonlSink, read_jsonl, truncate_jsonl
from sinks.records import record


def write(path, steps, **options):
    sink = JsonlSink(path, **options)
    for step in steps:
        sink.log(record(step))
    sink.close()


def test_a_line_is_in_the_file_before_log_returns(tmp_path):
    sink = JsonlSink(tmp_path / "new" / "steps.jsonl")
    sink.log(record(0, shadows={"cabs": 64}))
    text = (tmp_path / "new" / "steps.jsonl").read_text()
    sink.close()
    assert text.endswith("\n")
    assert Record.from_dict(json.loads(text)) == record(0, shadows={"cabs": 64})


def test_a_loss_that_is_not_finite_stays_json(tmp_path):
    sink = JsonlSink(tmp_path / "steps.jsonl")
    sink.log(record(0, loss=math.nan))
    sink.close()
    assert read_jsonl(tmp_path / "steps.jsonl")[0]["loss"] is None


def test_an_existing_log_is_refused_and_kept(tmp_path):
    path = tmp_path / "steps.jsonl"
    write(path, [0])
    with pytest.raises(OutputError, match="already exists"):
        JsonlSink(path)
    assert len(read_jsonl(path)) == 1


def test_appending_goes_on(tmp_path):
    path = tmp_path / "steps.jsonl"
    write(path, [0])
    write(path, [1], append=True)
    assert [line["step"] for line in read_jsonl(path)] == [0, 1]


def test_appending_drops_a_line_that_was_cut_short(tmp_path, caplog):
    path = tmp_path / "steps.jsonl"
    write(path, [0])
    with path.open("a") as file:
        file.write('{"step": 1, "lo')
    with caplog.at_level(logging.WARNING):
        write(path, [1], append=True)
    assert [line["step"] for line in read_jsonl(path)] == [0, 1]
    assert "cut short" in caplog.text


def test_an_unusable_folder_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        JsonlSink(tmp_path / "file" / "steps.jsonl")


def test_a_full_disk_is_a_sentence():
    try:
        sink = JsonlSink("/dev/full", append=True)
    except OutputError:
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OutputError, match="No space left"):
        sink.log(record(0))
    sink.close()


def test_a_truncated_last_line_is_left_out_with_a_warning(tmp_path, caplog):
    path = tmp_path / "steps.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n{"st')
    with caplog.at_level(logging.WARNING):
        assert read_jsonl(path) == [{"step": 0}, {"step": 1}]
    assert "line 3" in caplog.text


@pytest.mark.parametrize("broken", ['{"st', "[1, 2]", ""])
def test_a_broken_line_elsewhere_is_named(tmp_path, broken):
    path = tmp_path / "steps.jsonl"
    path.write_text(f'{{"step": 0}}\n{broken}\n{{"step": 2}}\n')
    with pytest.raises(InvalidInputError, match=r"steps\.jsonl, line 2"):
        read_jsonl(path)


def test_a_missing_log_and_a_folder_are_sentences(tmp_path):
    with pytest.raises(MissingDataError, match="there is no log"):
        read_jsonl(tmp_path / "no.jsonl")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        read_jsonl(tmp_path)


def test_truncating_keeps_the_bytes_before_the_step(tmp_path):
    path = tmp_path / "steps.jsonl"
    write(path, range(4))
    before = path.read_bytes().splitlines(keepends=True)
    truncate_jsonl(path, 2)
    assert path.read_bytes() == b"".join(before[:2])
    assert list(tmp_path.iterdir()) == [path]
    truncate_jsonl(tmp_path / "missing.jsonl", 2)
    assert not (tmp_path / "missing.jsonl").exists()
