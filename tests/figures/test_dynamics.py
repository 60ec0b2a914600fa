"""Figures of training dynamics: what was drawn is read back; other files are refused."""

import numpy as np
import pytest
from helpers.dynamics import write_run
from helpers.figures import drawn_panels, heading, legend_labels
from helpers.figures import lines as line_arrays
from matplotlib.image import imread

from advtf.errors import UsageError
from advtf.figures import dynamics


def lines(axes):
    return [data.tolist() for data in line_arrays(axes)]


def test_first_and_last_updates_are_drawn_apart(tmp_path, monkeypatch):
    drawn = drawn_panels(monkeypatch, dynamics)
    paths = {"ε = 0.1": tmp_path / "a" / "dynamics.npz", "ε = 0.2": tmp_path / "b" / "dynamics.npz"}
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", 0.2, scale=3)
    out = dynamics.training_dynamics(paths, tmp_path / "new" / "updates.png")
    assert imread(out).shape[1] > 100
    (panels,) = drawn
    assert lines(panels[4]) == [[[1, 2, 3, 4], [k * i**0.5 for i in (1, 2, 3, 4)]] for k in (1, 3)]
    assert lines(panels[5])[0] == [[17, 18, 19, 20], [i**0.5 for i in (17, 18, 19, 20)]]
    pale, mean = lines(panels[2])[:2]
    assert pale == mean == [[1, 2, 3, 4], [98, 96, 94, 92]]  # four updates are too few for a mean
    assert panels[0].get_yscale() == "log"
    for left, right in zip(panels[::2], panels[1::2], strict=True):
        assert left.get_ylim() == right.get_ylim()
    assert panels[4].get_xlabel() == "update (first 4)"


def test_moving_mean_is_the_mean_of_the_neighbours_there_are():
    values = np.array([1.0, 5, 3, 7, 4])
    expected = [np.mean(values[max(i - 2, 0) : i + 3]) for i in range(5)]
    np.testing.assert_allclose(dynamics._moving_mean(values, 2), expected)
    np.testing.assert_allclose(dynamics._moving_mean(values, 0), values)


def test_losses_by_epoch(tmp_path, monkeypatch):
    drawn = drawn_panels(monkeypatch, dynamics)
    write_run(tmp_path / "a", losses=(2.0, None, 1.0))
    path = {"ε = 0.1": tmp_path / "a" / "metrics.jsonl"}
    dynamics.loss_curves(path, tmp_path / "loss.pdf")
    epochs, losses = lines(drawn[0][0])[0]
    assert epochs == [1, 2, 3] and losses[::2] == [2, 1] and np.isnan(losses[1])
    figure = drawn[0][0].figure
    assert heading(figure).startswith("Adversarial training loss, by epoch")
    assert "Fig. 11" in heading(figure) and legend_labels(figure) == ["ε = 0.1"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda path: dynamics.training_dynamics({}, path / "a.png"), "at least one"),
        (lambda path: dynamics.training_dynamics({"a": path / "none"}, path / "a.png"), "Train with --dyn"),
        (lambda path: dynamics.loss_curves({"a": path / "none"}, path / "a.png"), "metrics file must be"),
        (lambda path: dynamics.dead_units(path / "none", path / "a.png"), "Run --study=dynamics"),
    ],
)
def test_figures_refuse_what_they_cannot_draw(tmp_path, draw, message):
    with pytest.raises(UsageError, match=message):
        draw(tmp_path)
    assert not list(tmp_path.iterdir())
