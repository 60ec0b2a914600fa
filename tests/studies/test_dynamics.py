"""The study of training dynamics and its figures: numbers by hand, and what was drawn read back."""

import json
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from helpers.analysis import study_context
from helpers.slice import OF_ATTACK
from matplotlib.image import imread

from advtf import models
from advtf.classifiers.classifier import as_classifier
from advtf.data import sets as data
from advtf.errors import UsageError
from advtf.figures import capacity, dynamics
from advtf.landscape.units import dead_units
from advtf.studies.dynamics import run as run_study

UPDATES, TOTAL = 4, 20


@pytest.fixture
def drawn(monkeypatch):
    """The panels of every sheet a test draws."""
    seen = []
    for module in (dynamics, capacity):

        @contextmanager
        def recording(*args, original=module.sheet, **kwargs):
            with original(*args, **kwargs) as panels:
                seen.append(panels)
                yield panels

        monkeypatch.setattr(module, "sheet", recording)
    return seen


def write_run(folder, eps=0.1, scale=1.0, steps=None, losses=(2.0, 1.5, 1.0), **config):
    """A training run as far as the study reads it; every value of its log is known."""
    folder.mkdir(parents=True)
    steps = np.array(steps or [1, 2, 3, 4, 17, 18, 19, 20])
    columns = dict(
        gradient_norm=scale / steps, robust_error=100 - 2.0 * steps, distance=scale * np.sqrt(steps)
    )
    np.savez(
        folder / "dynamics.npz", step=steps, epsilon=0 * steps + eps, updates=UPDATES, total=TOTAL, **columns
    )
    records = [{"epoch": epoch + 1, "loss": loss} for epoch, loss in enumerate(losses)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    written = {"versions": {"advtf": "0"}, "config": {"eps": eps, **config}}
    (folder / "config.json").write_text(json.dumps(written))
    return str(folder)


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


def lines(axes):
    return [np.array(line.get_xydata()).T.tolist() for line in axes.get_lines() if len(line.get_xydata())]


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


def test_dead_units_are_counted_clean_and_adversarial(tmp_path, drawn):
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
    assert [text.get_text() for text in drawn[0][0].figure.legends[0].get_texts()] == ["lenet", "lenet (2)"]
    adversarial = lines(drawn[0][0])[0][1]
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


def test_first_and_last_updates_are_drawn_apart(tmp_path, drawn):
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


def test_losses_by_epoch(tmp_path, drawn):
    write_run(tmp_path / "a", losses=(2.0, None, 1.0))
    path = {"ε = 0.1": tmp_path / "a" / "metrics.jsonl"}
    dynamics.loss_curves(path, tmp_path / "loss.pdf")
    epochs, losses = lines(drawn[0][0])[0]
    assert epochs == [1, 2, 3] and losses[::2] == [2, 1] and np.isnan(losses[1])
    (legend,) = drawn[0][0].figure.legends
    assert "Fig. 11" in legend.get_title().get_text()
    assert [text.get_text() for text in legend.get_texts()] == ["ε = 0.1"]


def write_finished(folder, width, schedule, clean, robust):
    folder.mkdir()
    config = {"config": {"width": width, "eps_sched": schedule}}
    (folder / "config.json").write_text(json.dumps(config))
    results = {"results": {"last": {"clean_error": clean, "pgd_error": robust}}}
    (folder / "evaluation.json").write_text(json.dumps(results))
    return folder


def test_capacity_draws_mean_and_deviation_by_width(tmp_path, drawn):
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
        (lambda path: dynamics.training_dynamics({}, path / "a.png"), "at least one"),
        (lambda path: dynamics.training_dynamics({"a": path / "none"}, path / "a.png"), "Train with --dyn"),
        (lambda path: dynamics.loss_curves({"a": path / "none"}, path / "a.png"), "metrics file must be"),
        (lambda path: dynamics.dead_units(path / "none", path / "a.png"), "Run --study=dynamics"),
        (lambda path: capacity.capacity([], path / "a.png"), "at least one run"),
        (lambda path: capacity.capacity([path], path / "a.png"), "a finished training run is required"),
    ],
)
def test_figures_refuse_what_they_cannot_draw(tmp_path, draw, message):
    with pytest.raises(UsageError, match=message):
        draw(tmp_path)
    assert not list(tmp_path.iterdir())


def test_models_without_layers_are_refused_before_any_work(tmp_path):
    foreign = replace(lenet(dead=False), model=None)
    made, said = context(tmp_path / "dynamics", classifiers=[foreign])
    with pytest.raises(UsageError, match="need the layers of a model"):
        run_study(made)
    assert not said and not list(made.folder.iterdir())
