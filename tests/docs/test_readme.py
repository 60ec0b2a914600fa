"""The README's library example is run as printed, and the plan that it shows is the one that is printed."""

import re
from pathlib import Path

import pytest

from advtf.settings.commands import plan_table
from advtf.training.settings import TrainConfig, describe

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"


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


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "guides" / "start.md"], ids=lambda page: page.name)
def test_the_plan_shown_is_printed(page):
    plan = plan_table(describe(TrainConfig.of({}), {}))
    assert len(plan.splitlines()) == 8 and plan in page.read_text()
