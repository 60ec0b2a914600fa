"""Figures of the ends of spectra: what was drawn is read back; other files are refused."""

import json

import pytest
from helpers.figures import drawn_figure, heading, legend_labels

from advtf.errors import UsageError
from advtf.figures.hessian import layer_spectra, spectra


def results(path, *models):
    path.write_text(json.dumps({"models": list(models)}))
    return path


def model(name, values, converged=None, normalised=None):
    return {
        "name": name,
        "values": values,
        "converged": converged or [True] * len(values),
        "normalised": normalised,
    }


def test_figure_compares_files(tmp_path, monkeypatch):
    flat = results(tmp_path / "a.json", model("a", [2.0, 1.0, -0.5], [True, True, False], [1.0, 0.5, -0.25]))
    two = results(tmp_path / "b.json", model("b", [20.0, 10.0, 5.0]), model("c", [3.0, 2.0, 1.0]))
    paths = {"ε = 0": flat, "ε = 0.4": two}
    figure = drawn_figure(monkeypatch, lambda: spectra(paths, tmp_path / "figure.png"))
    axes, normalised = figure.axes
    assert axes.get_yscale() == "log"
    curves, divided = (
        [tuple(line.get_ydata()) for line in panel.lines if line.get_linestyle() != "None"]
        for panel in (axes, normalised)
    )
    assert curves == [(2.0, 1.0, 0.5), (20.0, 10.0, 5.0), (3.0, 2.0, 1.0)]
    assert divided == [(1.0, 0.5, 0.25)]
    # What is divided by a loss in nats has no unit.
    assert "nats" in axes.get_ylabel() and "nats" not in normalised.get_ylabel()
    crosses = [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "x"]
    assert crosses[0] == [[3, 0.5]]
    labels = ["ε = 0", "ε = 0.4: b", "ε = 0.4: c"]
    assert legend_labels(figure) == [*labels, "negative", "not converged"]
    assert "eigenvalues of the Hessian" in heading(figure) and "Liu et al. 2020" in heading(figure)


def test_layer_figure_shows_what_exceeds_its_residual(tmp_path, monkeypatch):
    layers = [
        {"name": "conv", "values": [4.0, 0.5, -1.0], "residuals": [0.1, 0.6, 0.1]},
        {"name": "logits", "values": [2.0], "residuals": [0.1]},
    ]
    path = results(tmp_path / "a.json", model("a", [5.0]) | {"layers": layers})
    figure = drawn_figure(monkeypatch, lambda: layer_spectra(path, tmp_path / "figure.png"))
    (axes,) = figure.axes
    dots = {line.get_markerfacecolor(): [] for line in axes.lines if line.get_marker() == "o"}
    for line in axes.lines:
        if line.get_marker() == "o":
            dots[line.get_markerfacecolor()] += line.get_xydata().tolist()
    assert sorted(dots.pop("white")) == [[0, 1]]
    assert sorted(*dots.values()) == [[0, 4], [1, 2]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["conv", "logits"]
    assert axes.lines[-1].get_ydata().tolist() == [4, 2]


def test_figures_refuse_other_files(tmp_path):
    output = tmp_path / "figure.png"
    with pytest.raises(UsageError, match="at least one"):
        spectra({}, output)
    for text in ("", "{}", '{"models": [{"name": "a", "values": [], "converged": []}]}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(UsageError, match="of the study hessian is required"):
            spectra({"a": tmp_path / "bad.json"}, output)
    with pytest.raises(UsageError, match="per_layer"):
        layer_spectra(results(tmp_path / "a.json", model("a", [1.0])), output)
    assert not output.exists()
