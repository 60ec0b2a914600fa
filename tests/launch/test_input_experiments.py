"""Experiments on the input landscape: figures, records that continue, effectiveness of known attacks."""

import json
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
from helpers.attack import Linear
from helpers.slice import drawn_panels
from helpers.slice import lines as line_arrays

from advtf.errors import UsageError
from advtf.figures import input_experiments as figures

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"


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
    assert hs.get_title() == "FGSM: ρ = −0.50 [−0.90, 0.10]" and ig.get_title() == ""
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
    assert hs.get_title() == "HS (2)"


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


@pytest.fixture
def series(monkeypatch):
    monkeypatch.syspath_prepend(str(LAUNCH))
    import input_series

    return input_series


def test_records_continue_and_refuse_other_settings(tmp_path, series):
    path = tmp_path / "new" / "r.json"
    records = series.Records(path, {"eps": 0.1, "sizes": (1, 2)})
    assert records.measured("a", lambda: {"value": np.float64(1.5)}) == {"value": 1.5}
    again = series.Records(path, {"eps": 0.1, "sizes": (1, 2)})
    assert again.measured("a", lambda: pytest.fail("measured again")) == {"value": 1.5}
    before = path.read_text()
    with pytest.raises(UsageError, match=r"another eps\. Choose"):
        series.Records(path, {"eps": 0.2, "sizes": (1, 2)})
    assert path.read_text() == before
    path.write_text(before[:40])
    with pytest.raises(UsageError, match="whole result file"):
        series.Records(path, {"eps": 0.1, "sizes": (1, 2)})


def test_effectiveness_of_attacks_that_are_known(series):
    """On a linear model FGSM and PGD10 reach the optimum: effectiveness 1; no perturbation has 0."""
    from advtf.attacks.degraded import scaled
    from advtf.attacks.pgd import pgd

    model = Linear(shape=(3, 3, 1), classes=2)
    x, y = model.batch(7, low=0.3, high=0.7)
    settings = types.SimpleNamespace(norm="linf", eps=0.1, seed=0, batch_size=3)
    material = types.SimpleNamespace(x=x, y=y)
    landscape = series.Landscape(types.SimpleNamespace(logits_fn=model), material, settings, eigenvalues=2)
    found = landscape()
    assert found["fgsm"]["mean"] == pytest.approx(1, abs=1e-4)
    assert found["pgd10"]["mean"] == pytest.approx(1, abs=1e-4)
    assert found["ig"]["mean"] == pytest.approx(np.abs(model.gradient(x, y)).sum() / 7, rel=1e-4)
    nothing = landscape.variance(scaled(pgd(steps=1), 0.0))
    assert landscape.effectiveness(nothing) == pytest.approx(0, abs=1e-6)
    half = model.loss(x + 0.05 * np.sign(model.gradient(x, y)), y) - model.loss(x, y)
    whole = model.loss(x + 0.1 * np.sign(model.gradient(x, y)), y) - model.loss(x, y)
    halved = landscape.effectiveness(landscape.variance(scaled(pgd(steps=10), 0.5)))
    assert halved == pytest.approx(np.mean(half / whole), abs=1e-4)


@pytest.mark.slow
def test_every_experiment_runs_from_one_command_and_does_not_repeat_itself(tmp_path):
    def run(*command):
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("-m", "advtf.main", "--model=mlp", "--epochs=3", "--width=1", "--out_dir=runs/d")
    small = ("--model=saved_models/d/last", "--num_examples=20", "--eigenvalues=2")
    few = ("--hs_examples=10",)
    commands = {
        "degraded_training": (*small, *few, "--factors", "0.5", "1", "--flips", "0.5", "--steps=4"),
        "weight_noise": (*small, *few, "--variants=4"),
        "pgd_convergence": (*small[:2], "--steps", "1", "50"),
        "sampling_faithfulness": (*small, "--trials=50", "--sizes", "5", "20", "--batch_size=8"),
    }
    for name, arguments in commands.items():
        command = (str(LAUNCH / f"{name}.py"), *arguments, f"--out=out/{name}")
        first = run(*command)
        assert (tmp_path / "out" / name / f"{name}.png").exists()
        results = next((tmp_path / "out" / name).glob("*.json"))
        written = json.loads(results.read_text())["records"]
        assert run(*command) == first
        assert json.loads(results.read_text())["records"] == written
