"""What the experiments on the input landscape share: records that continue, and effectiveness."""

import json
import types

import numpy as np
import pytest
from helpers.attack import Linear
from helpers.command import run

from advtf.errors import UsageError
from launch.common.input_landscape import Landscape, Records


def test_records_continue_and_refuse_other_settings(tmp_path):
    path = tmp_path / "new" / "r.json"
    records = Records(path, {"eps": 0.1, "sizes": (1, 2)})
    assert records.measured("a", lambda: {"value": np.float64(1.5)}) == {"value": 1.5}
    again = Records(path, {"eps": 0.1, "sizes": (1, 2)})
    assert again.measured("a", lambda: pytest.fail("measured again")) == {"value": 1.5}
    before = path.read_text()
    with pytest.raises(UsageError, match=r"another eps\. Choose"):
        Records(path, {"eps": 0.2, "sizes": (1, 2)})
    assert path.read_text() == before
    path.write_text(before[:40])
    with pytest.raises(UsageError, match="whole result file"):
        Records(path, {"eps": 0.1, "sizes": (1, 2)})


@pytest.mark.slow
def test_effectiveness_of_attacks_that_are_known():
    """On a linear model FGSM and PGD10 reach the optimum: effectiveness 1; no perturbation has 0."""
    from advtf.attacks.degraded import scaled
    from advtf.attacks.pgd import pgd

    model = Linear(shape=(3, 3, 1), classes=2)
    x, y = model.batch(7, low=0.3, high=0.7)
    settings = types.SimpleNamespace(norm="linf", eps=0.1, seed=0, batch_size=3)
    images = types.SimpleNamespace(x=x, y=y)
    landscape = Landscape(types.SimpleNamespace(logits_fn=model), images, settings, eigenvalues=2)
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
    def succeeds(module, *arguments):
        code, out, error = run(module, tmp_path, *arguments)
        assert code == 0, out + error
        return out

    succeeds("advtf.main", "--model=mlp", "--epochs=3", "--width=1", "--out_dir=runs/d")
    small = ("--model=saved_models/d/last", "--num_examples=20", "--eigenvalues=2")
    few = ("--hs_examples=10",)
    experiments = {
        "degraded_training": (*small, *few, "--factors", "0.5", "1", "--flips", "0.5", "--steps=4"),
        "weight_noise": (*small, *few, "--variants=4"),
        "pgd_convergence": (*small[:2], "--steps", "1", "50"),
        "sampling_faithfulness": (*small, "--trials=50", "--sizes", "5", "20", "--batch_size=8"),
    }
    for name, arguments in experiments.items():
        command = (f"launch.experiments.{name}", *arguments, f"--out=out/{name}")
        first = succeeds(*command)
        assert (tmp_path / "out" / name / f"{name}.png").exists()
        results = next((tmp_path / "out" / name).glob("*.json"))
        written = json.loads(results.read_text())["records"]
        assert succeeds(*command) == first
        assert json.loads(results.read_text())["records"] == written
