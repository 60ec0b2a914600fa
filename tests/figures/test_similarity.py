"""The figure of similarity: means of runs, where the paper's figure ends; other files are refused."""

import numpy as np
import pytest
from helpers.figures import drawn_panels, lines

from advtf.errors import UsageError
from advtf.figures import similarity as figures


def test_figure_shows_means_and_ends_where_the_paper_ends(tmp_path, monkeypatch):
    seen = drawn_panels(monkeypatch, figures)
    cosine = np.full((1, 2, 2, 2, 3), 0.9)
    cosine[0, 0, :, 1] = [[1.0, 0.5, 0.2], [1.0, 0.7, 0.4]]
    error = np.zeros((1, 2, 2, 2, 2, 3))
    error[0, 0, :, 1] = [[10, 20, 50], [10, 30, 70]]  # of + and −
    data = dict(offsets=[0, 1, 2], models=["a"], splits=["train", "test"], similarity=cosine, error=error)
    data |= dict(directions=["eigenvector", "random"], between_starts=[[[0.6, 0.8], [0.1, 0.1]]])
    np.savez(tmp_path / "s.npz", **data)
    output = figures.perturbation_similarity({"": tmp_path / "s.npz"}, tmp_path / "new" / "s.png")
    assert output.exists()
    top, train, _ = seen[0]
    random = [line for line in lines(top) if line.shape == (2, 3) and line[1, 1] < 0.9]
    np.testing.assert_allclose(random[0], [[0, 1, 2], [1, 0.6, 0.3]])
    dotted = next(line for line in top.get_lines() if line.get_linestyle() == ":")
    np.testing.assert_allclose(dotted.get_ydata(), 0.7)
    marks = [line for line in top.get_lines() if line.get_marker() == "o"][1:]
    assert [mark.get_xdata().tolist() for mark in marks] == [[0, 1], [2]]
    assert marks[1].get_markerfacecolor() == "white"  # 60 % error: above 30 %
    np.testing.assert_allclose(lines(train)[1][1], [10, 25, 60])
    assert [line.get_linestyle() for line in train.get_lines()] == ["--", "-"]
    assert top.get_ylabel() == "cosine of the\nperturbations,\ntraining images"


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 torn"])
def test_figure_refuses_other_files(tmp_path, content):
    if content is not None:
        (tmp_path / "s.npz").write_bytes(content)
    with pytest.raises(UsageError, match=r"similarity\.npz is required"):
        figures.perturbation_similarity({"": tmp_path / "s.npz"}, tmp_path / "s.png")
    with pytest.raises(UsageError, match="none"):
        figures.perturbation_similarity({}, tmp_path / "s.png")
    assert not (tmp_path / "s.png").exists()
