"""The table of differences from the published code: its defaults are those of the code, its flags exist."""

import dataclasses
import re
from pathlib import Path

import pytest

from advtf.evaluation.attacks import pgd100_step
from advtf.evaluation.settings import AttackSettings
from advtf.landscape.inputs import NEGLIGIBLE_VARIANCE
from advtf.settings.fields import parse_value
from advtf.studies.settings import AnalyzeSettings
from advtf.training.methods import OBJECTIVES, Strength
from advtf.training.run import STATISTICS_IMAGES
from advtf.training.settings import TrainConfig

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "differences.md"
CLASSES = (TrainConfig, AttackSettings, AnalyzeSettings)
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| What")
]


def fields(name):
    """The declarations of a setting, one in each class that has it."""
    return [each for cls in CLASSES for each in dataclasses.fields(cls) if each.name == name]


def test_the_table_has_five_columns():
    assert len(ROWS) > 15 and {len(row) for row in ROWS} == {5}


DEFAULTS = [found for row in ROWS for found in re.findall(r"`(\w+)=([^`]+)`", row[2])]


@pytest.mark.parametrize(("name", "shown"), DEFAULTS)
def test_a_default_of_the_table_is_that_of_the_code(name, shown):
    # What presets complete is that of CIFAR-10.
    defaults = [TrainConfig.of({"dataset": "cifar10"}), AttackSettings(), AnalyzeSettings()]
    values = [getattr(each, name) for each in defaults if hasattr(each, name)]
    assert parse_value(fields(name)[0], shown) in values


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_flags_of_the_table_are_accepted(row):
    for name, value in re.findall(r"--(\w+)(?:=([^`\s]+))?", row[4]):
        assert fields(name), name
        if value:
            parse_value(fields(name)[0], value)


def test_the_numbers_of_the_table_are_those_of_the_code():
    published = {"igr": (1200, 1000), "cure": (1500, 1500)}
    assert all(OBJECTIVES[name].strength == Strength(a / 100, b / 100) for name, (a, b) in published.items())
    assert OBJECTIVES["at_minus_st"].strength == Strength(0.5, 0.5) and STATISTICS_IMAGES == 5000
    assert pgd100_step("l2", 2.0) == 1 / 40 and NEGLIGIBLE_VARIANCE == 1e-5 and 1000 / 128 == 7.8125
