"""The format of benchmarks: medians of paired ratios by hand, to JSON and back, refusals."""

import json
import platform

import pytest

from advtf.errors import UsageError
from launch.common.benchmark import Comparison, Result, machine, read_results, versions_of

ROW = Comparison("step", "advtf", "peer", [(1, 2), (3, 4), (6, 5)], goal=0.7, facts={"tracing_seconds": 2.5})


def test_a_ratio_is_the_median_over_rounds_and_not_the_ratio_of_medians():
    assert ROW.ratios == (0.5, 0.75, 1.2)
    assert (ROW.ratio, ROW.medians) == (0.75, (3, 4))
    uneven = Comparison("step", "advtf", "peer", [(1, 4), (2, 1), (3, 3)])
    assert uneven.ratio == 1 != uneven.medians[0] / uneven.medians[1]


def test_a_goal_is_reached_by_a_ratio_at_most_as_large():
    goals = {0.7: False, 0.75: True, None: None}
    assert {goal: Comparison("a", "b", "c", ROW.pairs, goal=goal).reached for goal in goals} == goals


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"pairs": []}, "at least one round"), ({"pairs": [(1, 0)]}, "> 0"), ({"unit": "ms"}, "unit='ms'")],
)
def test_a_comparison_that_says_nothing_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        Comparison(**{"what": "a", "ours": "b", "against": "c", "pairs": [(1, 1)], **changed})


def test_a_result_returns_from_its_file(tmp_path):
    other = Comparison("pairs", "Lanczos", "power iteration", [(48, 331)], unit="products", work="20 pairs")
    found = Result(
        "step",
        "A step.",
        "python -m x",
        "2026-11-22",
        versions_of(["torch"]),
        machine(),
        {"rounds": 3},
        (ROW, other),
    )
    path = found.write(tmp_path / "new")
    assert read_results(tmp_path / "new") == {"step": found}
    stored = json.loads(path.read_text())["comparisons"][0]
    assert (stored["ratio"], stored["lowest"], stored["highest"]) == (0.75, 0.5, 1.2)
    path.write_text('{"comparisons": []}')
    with pytest.raises(UsageError, match="Measure it again"):
        Result.read(path)


def test_the_machine_is_described_without_its_name():
    described = machine()
    assert described["cores"] >= 1 and described["memory_gib"] > 0.1 and described["cpu"]
    assert platform.node() not in described.values()
