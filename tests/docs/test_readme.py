"""The README's library example is run as printed, and the plan that it shows is the one that is printed."""

import re
from pathlib import Path

import pytest

from advtf.settings.commands import plan_table
from advtf.training.settings import TrainConfig, describe

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"


# Twenty epochs as printed; three show that it runs. Trained without attack, PGD's error is over 90 %.
@pytest.mark.parametrize(
    ("epochs", "most_errors"), [("3", (50, 90)), pytest.param("20", (10, 60), marks=pytest.mark.slow)]
)
def test_library_example(tmp_path, monkeypatch, capsys, epochs, most_errors):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    shortened, changes = re.subn(r"\b20\b", epochs, example)
    assert changes == 3
    exec(shortened, names)
    shown = re.search(r"clean error ([\d.]+) %, PGD error ([\d.]+) %", capsys.readouterr().out)
    clean, robust = map(float, shown.groups())
    assert clean < most_errors[0] and clean < robust < most_errors[1]
    assert names["robust"](names["data"].test.images[:2]).shape == (2, 10)
    assert (tmp_path / "runs" / "mine" / "snapshots" / "best.npz").exists()


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "guides" / "start.md"], ids=lambda page: page.name)
def test_the_plan_shown_is_printed(page):
    plan = plan_table(describe(TrainConfig.of({}), {}))
    assert len(plan.splitlines()) == 9 and plan in page.read_text()
