"""Figures of slices: contours, lines and the interactive page; other files are refused."""

import numpy as np
import pytest
from helpers.figures import drawn_panels, lines

from advtf.errors import UsageError
from advtf.figures import surface as figures


def write(path, dimensions, towards=False, scale=1.0):
    axis = np.linspace(-1, 1, 5)
    grid = scale * (1 + axis**2) if dimensions == 1 else scale * (1 + axis[:, None] ** 2 + 9 * axis**2)
    names = dict.fromkeys(("adversarial_loss", "robust_error", "clean_loss", "clean_error"), grid)
    axes = {f"axis{k}": axis for k in range(dimensions)}
    labels = [f"a{k}, λ = {k}" for k in range(dimensions)]
    np.savez(path, **axes, **names, labels=labels, model="m", epsilon=0.1, towards=towards)
    return path


def test_contours_have_one_scale_and_the_right_way_round(tmp_path, monkeypatch):
    seen = drawn_panels(monkeypatch, figures)
    paths = {f"ε = {k}": write(tmp_path / f"{k}.npz", 2, towards=True, scale=1 + k) for k in range(3)}
    figures.loss_surface(paths, tmp_path / "s.png")
    panels = seen[0]
    filled = [axes.collections[0] for axes in panels[:3]]
    assert all(part.levels.tolist() == filled[0].levels.tolist() for part in filled)
    assert filled[0].levels[0] <= 1 and filled[0].levels[-1] >= 33 - 1e-9
    assert not panels[3].get_visible() and panels[1].get_title() == "ε = 1"
    # The loss grows nine times faster along the second axis, drawn upwards: low contours are wide.
    low = panels[0].collections[1].get_paths()[2].vertices
    assert np.ptp(low[:, 0]) > 1.5 * np.ptp(low[:, 1])
    places = [line.get_xydata()[0].tolist() for line in panels[0].get_lines()]
    assert places == [[0, 0], [1, 0], [0, 1]]


def test_lines_of_one_dimension(tmp_path, monkeypatch):
    seen = drawn_panels(monkeypatch, figures)
    figures.loss_surface({"": write(tmp_path / "s.npz", 1)}, tmp_path / "s.png")
    loss, error = seen[0]
    axis = np.linspace(-1, 1, 5)
    np.testing.assert_allclose(lines(loss)[0], [axis, 1 + axis**2])
    assert [line.get_linestyle() for line in loss.get_lines()] == ["-", "--", ":"]
    assert error.get_xlabel() == "a0, λ = 0" and loss.get_ylim()[0] == 0


@pytest.mark.parametrize("dimensions", [1, 2])
def test_page_holds_the_numbers_and_asks_for_nothing(tmp_path, dimensions):
    page = figures.interactive_surface(write(tmp_path / "s.npz", dimensions), tmp_path / "s.html")
    text = page.read_text()
    assert "<script src" not in text and "cdn.plot.ly" not in text.split("Plotly.newPlot")[-1]
    shown = text.split("Plotly.newPlot")[-1]
    assert ("surface" if dimensions == 2 else "scatter") in shown and "a0, \\u03bb = 0" in shown
    with pytest.raises(UsageError, match=r"end in \.html"):
        figures.interactive_surface(tmp_path / "s.npz", tmp_path / "s.png")


def test_figures_refuse_other_files(tmp_path):
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 torn")
    np.savez(tmp_path / "other.npz", a=1)
    for name in ("torn.npz", "other.npz", "none.npz"):
        with pytest.raises(UsageError, match=r"surface\.npz is required"):
            figures.loss_surface({"": tmp_path / name}, tmp_path / "s.png")
        with pytest.raises(UsageError, match=r"surface\.npz is required"):
            figures.interactive_surface(tmp_path / name, tmp_path / "s.html")
    mixed = {str(k): write(tmp_path / f"{k}.npz", k) for k in (1, 2)}
    for paths, message in ((mixed, "one and two"), ({}, "none")):
        with pytest.raises(UsageError, match=message):
            figures.loss_surface(paths, tmp_path / "s.png")
    assert not list(tmp_path.glob("s.*"))
