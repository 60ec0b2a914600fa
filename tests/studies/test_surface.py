"""The study of surfaces: all kinds of directions, their files, a killed study, what cannot be reached."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from helpers.slice import ATTACK, EPSILON, SHAPE, context_of, make_classifier

from advtf.classifiers.classifier import as_classifier
from advtf.classifiers.parameters import filter_normalised, unit_direction
from advtf.errors import UsageError
from advtf.figures import surface as figures
from advtf.landscape.objective import AdversarialObjective
from advtf.studies import surface

FILES = ["surface.json", "surface.npz", "surface.png", "surface.html"]


def objective_of(context, classifier):
    return AdversarialObjective(classifier, context.x, context.y, ATTACK, EPSILON, seed=0, batch_size=32)


def scanned(folder, classifiers=None, **settings):
    said = []
    given = {"surface_points": 3, "surface_radius": 0.5} | settings
    context = context_of(folder, "surface", classifiers or [make_classifier()], said.append, **given)
    files = surface.run(context)
    assert [file.name for file in files] == FILES
    return context, json.loads(files[0].read_text()), said


def test_plane_of_eigenvectors(tmp_path):
    context, record, said = scanned(tmp_path)
    (classifier,) = context.classifiers
    before = classifier.parameters.value()
    arrays, saved = context.read_arrays("surface"), context.read_arrays("eigenvectors")
    assert arrays["adversarial_loss"].shape == (3, 3)
    objective = objective_of(context, classifier)
    measured, clean = objective(), objective.clean()
    origin = record["points"]["model0"]
    assert origin["coordinates"] == [0, 0]
    assert (origin["adversarial_loss"], origin["robust_error"]) == (measured.loss, measured.error)
    assert (origin["clean_loss"], origin["clean_error"]) == (clean.loss, clean.error)
    first, second = saved["vectors"].T.astype(np.float64)
    with classifier.parameters.at(before + 0.5 * first - 0.5 * second):
        assert arrays["adversarial_loss"][2, 0] == objective().loss
    assert record["labels"][1] == f"a₂ along eigenvector, λ = {saved['values'][1]:.4g}"
    lowest = record["points"]["lowest L_ε"]
    assert lowest["adversarial_loss"] == arrays["adversarial_loss"].min()
    assert record["range"]["clean_loss"] == [arrays["clean_loss"].min(), arrays["clean_loss"].max()]
    row = next(line for line in said if line.startswith("model0"))
    assert row.split()[1:] == [f"{origin[name]:.4f}" for name in surface.HEADS]
    assert (context.folder / "surface.html").stat().st_size > 1e6  # carries its library


@pytest.mark.parametrize("kind", [pytest.param("random", marks=pytest.mark.slow), "filter"])
def test_random_directions(tmp_path, kind):
    context, record, _ = scanned(tmp_path, surface=kind, surface_dims=1, seed=5)
    (classifier,) = context.classifiers
    vector = unit_direction(classifier.parameters, 5).astype(np.float64)
    if kind == "filter":
        vector = filter_normalised(classifier.parameters, vector).astype(np.float64)
    objective = AdversarialObjective(classifier, context.x, context.y, ATTACK, EPSILON, seed=5, batch_size=32)
    with classifier.parameters.at(classifier.parameters.value() + 0.5 * vector):
        wanted = objective().loss
    found = context.read_arrays("surface")["adversarial_loss"]
    np.testing.assert_allclose(found[2], wanted, rtol=1e-6)  # QR may round the vector differently
    assert len(record["labels"]) == 1


def test_two_random_directions_are_orthonormal():
    classifier = make_classifier()
    columns = surface._random_directions(5, classifier.parameters, 2)
    np.testing.assert_allclose(columns.T @ columns, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(columns[:, 0], unit_direction(classifier.parameters, 5), atol=1e-7)


def test_towards_two_models_the_ends_are_these_models(tmp_path):
    classifiers = [make_classifier(seed) for seed in range(3)]
    context, record, _ = scanned(tmp_path, classifiers, surface="towards", surface_radius=2.0)
    assert record["axes"] == [[-0.5, 0, 0.5, 1, 1.5]] * 2
    for classifier, place in zip(classifiers, ([0, 0], [1, 0], [0, 1]), strict=True):
        point, measured = record["points"][classifier.name], objective_of(context, classifier)()
        assert point["coordinates"] == place
        assert (point["adversarial_loss"], point["robust_error"]) == (measured.loss, measured.error)
    assert record["labels"] == ["t₁ towards model1", "t₂ towards model2"]


def normalised(seed):
    layers = [keras.layers.Flatten(), keras.layers.BatchNormalization(), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input(SHAPE), *layers], name=f"normalised{seed}")
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        variable.assign(rng.uniform(0.2, 1.0, variable.shape))
    return as_classifier(model, movable=True)


def test_running_statistics_move_towards_the_other_model(tmp_path):
    classifiers = [normalised(0), normalised(1)]
    before = [variable.numpy() for variable in classifiers[0].model.variables]
    settings = {"surface": "towards", "surface_dims": 1, "surface_radius": 1.0}
    context, record, _ = scanned(tmp_path, classifiers, **settings)
    assert record["points"]["normalised1"]["clean_loss"] == objective_of(context, classifiers[1]).clean().loss
    for old, variable in zip(before, classifiers[0].model.variables, strict=True):
        np.testing.assert_array_equal(old, variable)


def test_models_that_cannot_be_reached_are_refused(tmp_path):
    settings = {"surface": "towards", "surface_dims": 1}
    with pytest.raises(UsageError, match=r"one architecture.*model0 and model1"):
        scanned(tmp_path, [make_classifier(0), make_classifier(1, "mlp")], **settings)
    # As of a SavedModel without configuration: its running statistics are out of reach.
    fixed = [dataclasses.replace(normalised(seed), model=None) for seed in (0, 1)]
    with pytest.raises(UsageError, match=r"does not become normalised1"):
        scanned(tmp_path, fixed, **settings)


def test_killed_study_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    for draw in ("loss_surface", "interactive_surface"):
        monkeypatch.setattr(surface, draw, lambda _, output: output)
    whole, _, _ = scanned(tmp_path / "whole", surface="random")
    call, calls = AdversarialObjective.__call__, []

    def killed(self, seed=None):
        calls.append(seed)
        if len(calls) == 5:  # in the second row
            raise KeyboardInterrupt
        return call(self, seed)

    monkeypatch.setattr(AdversarialObjective, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        scanned(tmp_path / "killed", surface="random")
    again, _, _ = scanned(tmp_path / "killed", surface="random")
    assert len(calls) == 5 + 6
    one, two = whole.read_arrays("surface"), again.read_arrays("surface")
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)
    with pytest.raises(UsageError, match="another classifier, or of other images or settings"):
        scanned(tmp_path / "killed", surface="random", surface_radius=0.7)


def test_without_plotly_the_picture_is_written_and_the_page_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(figures.importlib.util, "find_spec", lambda name: None)
    said = []
    context = context_of(
        tmp_path, "surface", [make_classifier()], said.append, surface="random", surface_points=3
    )
    assert [file.name for file in surface.run(context)] == FILES[:-1]
    assert "pip install plotly" in said[-1]
    with pytest.raises(UsageError, match="pip install plotly"):
        figures.interactive_surface(tmp_path / "s.npz", tmp_path / "s.html")
