"""The figure of spectral densities: one kernel for all files; other files are refused."""

import numpy as np
import pytest
from helpers.figures import legend_labels

from advtf.errors import UsageError
from advtf.figures import style
from advtf.figures.density import spectral_densities


def stored(path, *spectra, dimension=1000):
    """A file of models whose probes have these nodes at equal weights."""
    nodes = np.array(spectra, float)
    names = np.array([f"model {n}" for n in range(len(spectra))])
    dimensions = np.full(len(spectra), dimension)
    np.savez(
        path, models=names, dimensions=dimensions, nodes=nodes, weights=np.ones_like(nodes) / nodes.shape[2]
    )
    return path


def test_figure_compares_files_with_one_kernel(tmp_path, monkeypatch):
    figures, original = [], style.Figure
    monkeypatch.setattr(style, "Figure", lambda *a, **k: figures.append(original(*a, **k)) or figures[-1])
    one = stored(tmp_path / "a.npz", [[0, 10], [0, 12]])
    two = stored(tmp_path / "b.npz", [[0, 200], [0, 200]], [[-1, 1], [0, 1]])
    output = tmp_path / "figure.pdf"
    assert spectral_densities({"ε = 0": one, "ε = 0.4": two}, output) == output
    assert output.read_bytes().startswith(b"%PDF")
    (axes,) = figures[-1].axes
    labels = ["ε = 0", "ε = 0.4: model 0", "ε = 0.4: model 1"]
    assert legend_labels(figures[-1]) == [*labels, "height of one eigenvalue", "± 1 standard error"]
    *curves, mark = axes.lines
    width = 201 / 200
    peak = 1 / (width * (2 * np.pi) ** 0.5)
    # Half of each probe's weight is at 200; of the first model, a quarter of all weight at 10.
    x, y = curves[1].get_data()
    np.testing.assert_allclose(np.interp(200, x, y), peak / 2, rtol=1e-2)
    x, y = curves[0].get_data()
    np.testing.assert_allclose(np.interp(10, x, y), peak / 4 * (1 + np.exp(-2 / width**2)), rtol=2e-2)
    np.testing.assert_allclose(mark.get_ydata(), peak / 1000)
    assert axes.get_yscale() == "log" and axes.get_ylim()[0] == pytest.approx(peak / 1e4)
    # Probes that disagree have a band; those that agree have none.
    bands = [band.get_paths()[0].vertices for band in axes.collections]
    spreads = [
        np.ptp(band[np.abs(band[:, 0] - at) < 0.1, 1]) for band, at in zip(bands, (10, 200, 1), strict=True)
    ]
    assert spreads[0] > peak / 10


@pytest.mark.parametrize("content", [None, b"", b"PK no archive"])
def test_figure_of_another_file(tmp_path, content):
    path = tmp_path / "density.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"a density\.npz of the study density is required"):
        spectral_densities({"": path}, tmp_path / "figure.png")


def test_figure_of_another_study(tmp_path):
    np.savez(tmp_path / "other.npz", values=np.ones(3))
    with pytest.raises(UsageError, match=r"Received: .*other\.npz"):
        spectral_densities({"": tmp_path / "other.npz"}, tmp_path / "figure.png")
    with pytest.raises(UsageError, match="at least one"):
        spectral_densities({}, tmp_path / "figure.png")
