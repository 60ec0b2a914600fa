"""The figures of the experiments on the input landscape, from results that are known."""

import json

import numpy as np
import pytest
from helpers.figures import drawn_panels
from helpers.figures import lines as line_arrays

from advtf.errors import UsageError
from advtf.figures import input_experiments as figures


def lines(axes):
    return [tuple(data.tolist()) for data in line_arrays(axes)]


def estimate(mean, error=0.1):
    return {"mean": mean, "standard_error": error, "examples": 9}


def measures(level, **more):
    return more | {name: estimate(level) for name in ("loss", "ig", "hs", "fgsm", "pgd10")}


def write(path, records, **more):
    path.write_text(json.dumps({"settings": {}, "records": records} | more))
    return path


def test_degraded_training_shows_each_kind_by_value(tmp_path, monkeypatch):
    seen = drawn_panels(monkeypatch, figures)
    records = {"before": measures(0.7)}
    for kind, value in (("scaled", 1.0), ("scaled", 0.0), ("flipped", 0.5)):
        train = {"mean": None if value == 0 else 0.5 + value, "moments": []}
        records[f"{kind} {value}"] = measures(1 + value, kind=kind, value=value, train=train)
    path = write(tmp_path / "d.json", records)
    assert figures.degraded_training(path, tmp_path / "d.png").stat().st_size > 5000
    scaled, flipped, scaled_hs, _ = seen[0]
    assert lines(scaled)[0] == ([0.0, 1.0], [1.0, 2.0])
    assert ([1.0], [1.5]) in lines(scaled)  # training examples without any effect have no effectiveness
    assert lines(flipped)[0] == ([0.0, 0.5], [2.0, 1.5])  # nothing reversed: the whole perturbation
    assert lines(scaled_hs)[-1][1] == [0.7, 0.7]


def test_weight_noise_tells_the_correlation(tmp_path, monkeypatch):
    seen = drawn_panels(monkeypatch, figures)
    records = {str(n): measures(n + 1.0, scale=n / 5) for n in range(5)}
    records["4"]["fgsm"]["mean"] = None
    found = {"rho": -0.5, "low": -0.9, "high": 0.1, "points": 5, "confidence": 0.95}
    path = write(tmp_path / "w.json", records, correlations={"fgsm, hs": found})
    figures.weight_noise(path, tmp_path / "w.png")
    ig, hs = seen[0]
    assert [len(points.get_offsets()) for points in hs.collections] == [4, 5]
    assert hs.get_title() == "FGSM: Spearman's ρ = −0.50 [−0.90, 0.10]" and ig.get_title() == ""
    assert hs.get_xscale() == "log"


def test_pgd_convergence_shows_both_splits_by_steps(tmp_path, monkeypatch):
    seen = drawn_panels(monkeypatch, figures)
    records = {
        f"{split} {steps}": dict(split=split, steps=steps, av=estimate(steps / 10), accuracy=90.0 - steps)
        for split in ("test", "train") for steps in (10, 1)
    }  # fmt: skip
    figures.pgd_convergence(write(tmp_path / "p.json", records), tmp_path / "p.png")
    variance, accuracy = seen[0]
    assert lines(variance)[0] == ([1, 10], [0.1, 1.0])
    assert lines(accuracy)[:2] == [([1, 10], [89.0, 80.0])] * 2


def test_sampling_shows_the_mean_and_the_range_of_subsets(tmp_path, monkeypatch):
    seen = drawn_panels(monkeypatch, figures)
    arrays = {}
    for name in ("ig", "hs", "fgsm", "pgd10"):
        arrays |= {f"{name}_values": np.array([1.0, 3.0]), f"{name}_sizes": np.array([1, 2])}
        arrays[f"{name}_means"] = np.array([[1.0, 2.0], [3.0, 2.0]])
    np.savez(tmp_path / "s.npz", **arrays)
    figures.sampling_faithfulness(tmp_path / "s.npz", tmp_path / "s.png")
    hs = seen[0][1]
    assert lines(hs)[0][1] == [2.0, 2.0] and lines(hs)[1][1] == [1.8, 1.8]
    corners = hs.collections[0].get_paths()[0].vertices
    assert {tuple(corner) for corner in corners} == {(1.0, 1.0), (1.0, 3.0), (2.0, 2.0)}
    assert hs.get_title() == "curvature HS (nats),\nof 2 images"


@pytest.mark.parametrize(
    "draw", ["degraded_training", "weight_noise", "pgd_convergence", "sampling_faithfulness"]
)
@pytest.mark.parametrize("content", [None, "{", "{}", '{"records": {}}', '{"records": {"a": {}}}'])
def test_files_without_results_are_refused(tmp_path, draw, content):
    path = tmp_path / "results"
    if content:
        path.write_text(content)
    with pytest.raises(UsageError, match="results"):
        getattr(figures, draw)(path, tmp_path / "figure.png")
    assert not (tmp_path / "figure.png").exists()
