"""Files that appear whole or not at all."""

import os

from advtf.storage import files


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(files.os, "fsync", lambda fd: (events.append("fsync"), fsync(fd)))
    monkeypatch.setattr(files.os, "replace", lambda a, b: (events.append("replace"), replace(a, b)))
    files.write_json(tmp_path / "a.json", {"ε": 1})
    assert "fsync" in events[: events.index("replace")]
    assert (tmp_path / "a.json").read_text() == '{\n  "ε": 1\n}\n'
