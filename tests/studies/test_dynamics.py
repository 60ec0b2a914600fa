"""The study of training dynamics: numbers by hand, and dead units drawn as they were counted."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers.analysis import study_context
from helpers.dynamics import write_run
from helpers.figures import drawn_panels, legend_labels, lines
from helpers.slice import OF_ATTACK

from advtf import models
from advtf.classifiers.classifier import as_classifier
from advtf.data import sets as data
from advtf.errors import UsageError
from advtf.figures import dynamics
from advtf.landscape.units import dead_units
from advtf.studies.dynamics import run as run_study


def context(folder, classifiers=(), runs=(), epsilon=0.2, count=30):
    digits = data.load("digits").train
    said = []
    made = study_context(
        folder.parent,
        "dynamics",
        classifiers,
        (digits.images[:count], digits.labels[:count]),
        say=said.append,
        run_dirs=",".join(runs),
        batch_size=8,
        eps=epsilon,
        **OF_ATTACK,
    )
    return made, said


def lenet(dead):
    model = models.build("lenet", (8, 8, 1), 10, width=1)
    if dead:
        layer = model.get_layer("dense")
        layer.set_weights([layer.get_weights()[0], np.full(64, -100, np.float32)])
    return as_classifier(model, movable=True)


def test_runs_are_summarised_by_window(tmp_path):
    runs = [write_run(tmp_path / "a", 0.2), write_run(tmp_path / "b", 8 / 255, scale=3, steps=[1, 2, 3, 4])]
    made, said = context(tmp_path / "dynamics", runs=runs)
    files = run_study(made)
    assert [file.name for file in files] == ["dynamics.json", "updates.png", "loss.png"]
    assert all(file.parent == made.folder and file.exists() for file in files)
    one, two = json.loads(files[0].read_text())["runs"]
    assert (one["label"], one["folder"], one["updates"], one["total"]) == ("ε = 0.2", runs[0], 4, 20)
    assert one["first"]["recorded"] == one["last"]["recorded"] == 4
    assert one["first"]["gradient_norm"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert one["last"]["robust_error"] == pytest.approx(100 - 2 * 18.5)
    assert one["first"]["distance"] == pytest.approx(2)
    assert two["last"] == {"recorded": 0, "gradient_norm": None, "robust_error": None, "distance": None}
    assert said[1].split() == ["ε", "=", "0.2", "first", "4", "0.5208", "95.00", "2"]
    assert two["label"] == "ε = 8/255"
    assert said[4].split()[3:] == ["last", "0", "–", "–", "–"]


def test_runs_of_one_radius_are_named_by_their_folders(tmp_path):
    runs = [write_run(tmp_path / name / "x", 0.1) for name in "ab"]
    made, _ = context(tmp_path / "dynamics", runs=runs)
    with pytest.raises(UsageError, match=r"different names\. Received: x, x"):
        run_study(made)
    runs = [write_run(tmp_path / name, 8 / 255) for name in ("one", "two")]
    made, _ = context(tmp_path / "again" / "dynamics", runs=runs)
    labels = [entry["label"] for entry in json.loads(run_study(made)[0].read_text())["runs"]]
    assert labels == ["one", "two"]


def test_dead_units_are_counted_clean_and_adversarial(tmp_path, monkeypatch):
    drawn = drawn_panels(monkeypatch, dynamics)
    classifiers = [lenet(dead=False), lenet(dead=True)]
    made, said = context(tmp_path / "dynamics", classifiers=classifiers)
    record, figure = run_study(made)
    alive, dead = json.loads(record.read_text())["units"]
    assert (alive["examples"], figure.name) == (30, "dead_units.png")
    expected = [layer.dead for layer in dead_units(classifiers[0].model, made.x)]
    assert [layer["clean"]["dead"] for layer in alive["layers"]] == expected
    assert [layer["units"] for layer in alive["layers"]] == [128, 64, 64]
    last = {"dead": 64, "dead_channels": 64, "dead_layer": True}
    assert dead["layers"][2]["clean"] == dead["layers"][2]["adversarial"] == last
    assert sum("dead layer" in line for line in said) == 1
    # Other perturbations of every image wake other units: the two counts are not one.
    counts = [(layer["clean"]["dead"], layer["adversarial"]["dead"]) for layer in alive["layers"]]
    assert any(clean != adversarial for clean, adversarial in counts)
    labels = ["lenet", "lenet (2)", "adversarial images", "clean images"]
    assert legend_labels(drawn[0][0].figure) == labels
    adversarial = lines(drawn[0][0])[0][1].tolist()
    assert adversarial == [100 * layer["adversarial"]["dead"] / layer["units"] for layer in alive["layers"]]
    assert [tick.get_text() for tick in drawn[0][0].get_xticklabels()] == [
        "conv1_act",
        "conv2_act",
        "dense_act",
    ]


def test_dead_units_without_attack_are_those_of_the_images(tmp_path):
    made, _ = context(tmp_path / "dynamics", classifiers=[lenet(dead=False)], epsilon=0.0, count=9)
    (model,) = json.loads(run_study(made)[0].read_text())["units"]
    assert all(layer["clean"] == layer["adversarial"] for layer in model["layers"])


def test_models_without_layers_are_refused_before_any_work(tmp_path):
    foreign = replace(lenet(dead=False), model=None)
    made, said = context(tmp_path / "dynamics", classifiers=[foreign])
    with pytest.raises(UsageError, match="need the layers of a model"):
        run_study(made)
    assert not said and not list(made.folder.iterdir())
