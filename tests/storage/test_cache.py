"""Results of finished work: they are found again, and those of other work are refused."""

import hashlib
import json

import numpy as np
import pytest

from advtf.errors import UsageError
from advtf.storage.cache import IDENTITY, ResultCache, clear, fingerprint


def test_results_come_back_with_their_bits(tmp_path):
    arrays = {"x": np.array([0.1, np.nan], np.float32), "count": np.array(3)}
    ResultCache(tmp_path / "state", "a").put("pgd-0", arrays)
    found = ResultCache(tmp_path / "state", "a").get("pgd-0")
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in arrays.items()
    }


def test_what_is_missing_or_damaged_counts_as_none(tmp_path):
    cache = ResultCache(tmp_path, "a")
    cache.put("whole", {"x": np.zeros(100)})
    assert cache.get("missing") is None
    (tmp_path / "whole.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:40])
    assert cache.get("whole") is None


def test_dropping_forgets_the_names_with_a_prefix(tmp_path):
    cache = ResultCache(tmp_path, "a")
    for name in ("pgd-0", "pgd-1", "fab-0"):
        cache.put(name, {"x": np.zeros(1)})
    cache.drop("pgd")
    assert [cache.get(name) is None for name in ("pgd-0", "pgd-1", "fab-0")] == [True, True, False]


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = ResultCache(None, "a")
    cache.put("x", {"x": np.zeros(1)})
    cache.drop("x")
    assert cache.get("x") is None and list(tmp_path.iterdir()) == []


def test_results_of_something_else_are_refused_and_stay(tmp_path):
    ResultCache(tmp_path / "state", fingerprint({"eps": 0.1}, np.zeros(3)))
    ResultCache(tmp_path / "state", fingerprint({"eps": 0.1}, np.zeros(3)))
    for other in (fingerprint({"eps": 0.2}, np.zeros(3)), fingerprint({"eps": 0.1}, np.ones(3))):
        with pytest.raises(UsageError, match="results of this computation"):
            ResultCache(tmp_path / "state", other)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.npz").write_text("mine")
    with pytest.raises(UsageError, match="holds other files"):
        ResultCache(tmp_path / "photos", "x")
    clear(tmp_path / "photos")
    clear(tmp_path / "state")
    assert (tmp_path / "photos" / "a.npz").exists() and not (tmp_path / "state").exists()


def test_clearing_removes_the_results_and_a_folder_that_holds_nothing_else(tmp_path):
    for name in ("mine", "state"):
        ResultCache(tmp_path / name, fingerprint(1)).put("a", {"a": np.ones(2)})
        (tmp_path / name / ".b.npz.partial").write_bytes(b"killed")
    (tmp_path / "mine" / "notes.txt").write_text("years of work")
    np.savez(tmp_path / "mine" / "photos.npz", a=np.ones(2))
    for name in ("mine", "state", "absent", None):
        clear(name and tmp_path / name)
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == [
        "mine",
        "mine/notes.txt",
        "mine/photos.npz",
    ]


def test_a_fingerprint_knows_types_shapes_and_where_parts_end():
    zeros = [np.zeros(shape, dtype) for dtype in ("f4", "i4", "f8") for shape in ((2, 3), (3, 2), 6)]
    parts = [*((array,) for array in zeros), ("ab", "c"), ("a", "bc"), (12, 3), (1, 23), ([1, 23],)]
    made = [fingerprint(*part) for part in parts]
    assert len(set(made)) == len(parts)
    assert fingerprint(np.zeros((4, 6), "f4")[::2, ::2]) == made[0]


def test_results_of_the_first_version_are_made_again(tmp_path):
    array = np.arange(3)
    cache = ResultCache(tmp_path, fingerprint(array))
    cache.put("pgd-0", {"x": array})
    first_version = hashlib.sha256(array.tobytes()).hexdigest()
    (tmp_path / IDENTITY).write_text(json.dumps({"identity": first_version}))
    assert ResultCache(tmp_path, fingerprint(array)).get("pgd-0") is None
    ResultCache(tmp_path, fingerprint(array)).put("pgd-0", {"x": array})
    assert ResultCache(tmp_path, fingerprint(array)).get("pgd-0")["x"].tolist() == [0, 1, 2]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="must be a writable folder"):
        ResultCache(tmp_path / "file" / "state", "a")
