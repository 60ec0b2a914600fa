"""Files of one JSON object per line: cutting back, torn lines, interrupted writes."""

import json

import pytest

from advtf.errors import UsageError
from advtf.storage import jsonl


def test_truncate_keeps_lines_to_the_bit(tmp_path):
    path = tmp_path / "m"
    lines = [json.dumps({"epoch": e, "loss": 1 / 3**e, "robust_accuracy": None}) + "\n" for e in (1, 2, 3)]
    path.write_text("".join(lines))
    jsonl.truncate(path, 5)
    assert path.read_text() == "".join(lines)
    jsonl.truncate(path, 2)
    assert path.read_text() == "".join(lines[:2])
    path.write_text("".join(lines[:2] + lines[1:]))  # a repeated epoch: the count binds
    jsonl.truncate(path, 2)
    assert path.read_text() == "".join(lines[:2])
    jsonl.truncate(path, 0)
    assert path.read_text() == ""
    jsonl.truncate(tmp_path / "absent", 2)
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("torn", ['{"epoch": 2, "lo', "\x00\x00\x00", '{"epoch": 2}\n{', "3"])
def test_torn_last_line_is_skipped_and_mended(tmp_path, torn):
    path = tmp_path / "m"
    path.write_text('{"epoch": 1}\n' + torn)
    whole = jsonl.read(path)
    assert whole == [{"epoch": e + 1} for e in range(1 + torn.count("\n"))]
    jsonl.mend(path)
    jsonl.append(path, {"epoch": 9})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [*whole, {"epoch": 9}]


def test_mend_keeps_a_whole_last_line_without_newline(tmp_path):
    path = tmp_path / "m"
    path.write_text('{"epoch": 1}\n{"epoch": 2}')
    jsonl.mend(path)
    assert path.read_text() == '{"epoch": 1}\n{"epoch": 2}\n'


def test_foreign_and_missing_metrics_are_refused(tmp_path):
    path = tmp_path / "m"
    path.write_text('{"epoch": 1}\nhello\n{"epoch": 2}\n')
    with pytest.raises(UsageError, match=r"line 2: 'hello'"):
        jsonl.read(path)
    with pytest.raises(UsageError, match="absent"):
        jsonl.read(tmp_path / "absent")


def test_interrupted_rewrite_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m"
    path.write_text('{"epoch": 1}\n{"epoch": 2}\n')

    def fail(*_):
        raise OSError("disk")

    monkeypatch.setattr(jsonl.os, "replace", fail)
    with pytest.raises(OSError, match="disk"):
        jsonl.truncate(path, 1)
    assert path.read_text() == '{"epoch": 1}\n{"epoch": 2}\n'
