"""The figure of test error by width: means and deviations of repeated runs; other folders are refused."""

import json

import numpy as np
import pytest
from helpers.figures import drawn_panels

from advtf.errors import UsageError
from advtf.figures import capacity


def write_finished(folder, width, schedule, clean, robust):
    folder.mkdir()
    config = {"config": {"width": width, "eps_sched": schedule}}
    (folder / "config.json").write_text(json.dumps(config))
    results = {"results": {"last": {"clean_error": clean, "pgd_error": robust}}}
    (folder / "evaluation.json").write_text(json.dumps(results))
    return folder


def test_capacity_draws_mean_and_deviation_by_width(tmp_path, monkeypatch):
    drawn = drawn_panels(monkeypatch, capacity)
    runs = [
        write_finished(tmp_path / "a", 16, "cosine", 2, 10),
        write_finished(tmp_path / "b", 2, "cosine", 5, 30),
        write_finished(tmp_path / "c", 2, "cosine", 7, 40),
        write_finished(tmp_path / "d", 2, "constant", 89, 89),
    ]
    capacity.capacity(runs, tmp_path / "capacity.png")
    clean, robust = drawn[0]
    constant, cosine = clean.containers
    assert constant[0].get_ydata().tolist() == [89]
    assert cosine[0].get_ydata().tolist() == [6, 2]
    assert robust.containers[1][0].get_ydata().tolist() == [35, 10]
    (bars,) = cosine[2]
    lengths = [np.ptp(segment[:, 1]) for segment in bars.get_segments()]
    assert lengths == pytest.approx([2 * np.sqrt(2), 0])
    assert [tick.get_text() for tick in robust.get_xticklabels()] == ["2", "16"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda path: capacity.capacity([], path / "a.png"), "at least one run"),
        (lambda path: capacity.capacity([path], path / "a.png"), "a finished training run is required"),
    ],
)
def test_figures_refuse_what_they_cannot_draw(tmp_path, draw, message):
    with pytest.raises(UsageError, match=message):
        draw(tmp_path)
    assert not list(tmp_path.iterdir())
