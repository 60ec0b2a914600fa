"""Files and folders that appear whole or not at all, and JSON values of results."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from advtf.errors import UsageError
from advtf.storage import files


class Killed(Exception):
    """The process dies."""


def dies(*_):
    raise Killed


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_json_is_written_as_readable_text(tmp_path):
    files.write_json(tmp_path / "a.json", {"ε": 1})
    assert (tmp_path / "a.json").read_text() == '{\n  "ε": 1\n}\n' and names(tmp_path) == ["a.json"]
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(tmp_path / "a.json", {"ε": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"ε": 1}


def test_a_write_that_fails_half_way_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"old")

    def half(file):
        file.write(b"ne")
        raise Killed

    with pytest.raises(Killed):
        files.write_atomically(path, half)
    assert path.read_bytes() == b"old" and names(tmp_path) == ["a.npz"]
    files.write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new" and names(tmp_path) == ["a.npz"]


def test_until_the_rename_a_reader_sees_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    monkeypatch.setattr(files.os, "replace", dies)
    with pytest.raises(Killed):
        files.write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"old" and names(tmp_path) == ["a"]


def test_a_folder_replaces_the_old_one_only_when_it_is_whole(tmp_path):
    target = tmp_path / "export"
    with files.renamed_into_place(target) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "model").write_text("first")
        assert not target.exists()
    with pytest.raises(Killed), files.renamed_into_place(target) as folder:
        (folder / "half").write_text("second")
        raise Killed
    assert (target / "inner" / "model").read_text() == "first" and names(tmp_path) == ["export"]
    with files.renamed_into_place(target) as folder:
        (folder / "model").write_text("third")
    assert names(target) == ["model"] and names(tmp_path) == ["export"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UsageError, match="file must be a writable folder"),
        files.renamed_into_place(tmp_path / "file" / "export"),
    ):
        pass


def test_values_of_numpy_and_paths_become_json():
    values = {
        "a": np.float32(0.5),
        2: [np.arange(2), (True, None)],
        "nan": np.array([np.nan, 1.0]),
        "p": Path("x"),
    }
    plain = files.jsonable(values, "results")
    assert plain == {"a": 0.5, "2": [[0, 1], [True, None]], "nan": [None, 1.0], "p": "x"}
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_a_value_that_is_no_json_is_named_by_its_key():
    with pytest.raises(UsageError, match=r"JSON values\. Received: metadata\.inner of set\."):
        files.jsonable({"inner": {1}}, "metadata")


def test_provenance_tells_the_versions_and_the_command(monkeypatch):
    monkeypatch.setattr(files.sys, "argv", ["main.py", "--out_dir=a b", "--resume"])
    record = files.provenance()
    assert record["command"] == "'--out_dir=a b' --resume"
    assert record["versions"]["numpy"] == np.__version__
    assert record["versions"]["python"].startswith(f"{sys.version_info.major}.")
