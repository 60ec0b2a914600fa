"""The README's library example is run as printed."""

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def test_library_example(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(example, names)
    shown = re.search(r"clean error ([\d.]+) %, PGD error ([\d.]+) %", capsys.readouterr().out)
    clean, robust = map(float, shown.groups())
    assert clean < 10 and robust < 60  # trained without attack, PGD's error is over 90
    assert names["robust"](names["data"].test.images[:2]).shape == (2, 10)
    assert (tmp_path / "snapshots" / "best.npz").exists()
