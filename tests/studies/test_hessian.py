"""The study against the dense Hessian of a linear classifier, its files, its resumption."""

import json

import numpy as np
import pytest
from helpers.analysis import FGSM, study_context
from helpers.linear import CLASSES, EPSILON, classifiers, dense, images

from advtf.errors import UsageError
from advtf.studies import hessian


def context_of(folder, models=None, say=None, **settings):
    given = {"eigenvalues": 5, "eps": EPSILON, "norm": "linf", "normalise_draws": 3, "batch_size": 8}
    x, y = images()
    return study_context(
        folder, "hessian", models or classifiers(), (x, y), say=say, **{**FGSM, **given, **settings}
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    lines = []
    context = context_of(tmp_path_factory.mktemp("run"), classifiers(2), lines.append, per_layer=True)
    return context, hessian.run(context), lines


def test_files(finished):
    context, files, _ = finished
    names = ["hessian.json", "hessian.npz", "hessian1.npz", "hessian.png", "hessian_layers.png"]
    assert files == [context.folder / name for name in names]
    assert all(file.stat().st_size for file in files)


def test_eigenpairs_are_those_of_the_dense_hessian(finished):
    context, files, _ = finished
    record = json.loads(files[0].read_text())
    assert (record["epsilon"], record["examples"]) == (EPSILON, 20)
    assert record["peak_memory_bytes"] > 50e6
    for classifier, model, path in zip(context.classifiers, record["models"], files[1:3], strict=True):
        matrix = dense(classifier)
        expected = np.linalg.eigvalsh(matrix)[::-1][:5]
        np.testing.assert_allclose(model["values"], expected, atol=1e-3 * expected[0])
        assert model["converged"] == [True] * 5 and model["parameters"] == len(matrix) == 111
        with np.load(path) as file:
            np.testing.assert_array_equal(file["values"], model["values"])
            vectors = file["vectors"].astype(float)
        residuals = np.linalg.norm(matrix @ vectors - vectors * model["values"], axis=0)
        np.testing.assert_allclose(residuals, model["residuals"], atol=1e-5 * expected[0])
        assert residuals.max() <= 1e-3 * expected[0]
        assert model["loss"] > 0 and model["gradient_norm"] > 0 and model["seconds"] > 0
        (layer,) = model["layers"]
        assert (layer["name"], layer["parameters"]) == ("logits", 111)
        np.testing.assert_allclose(layer["values"], expected, atol=1e-3 * expected[0])


def test_normalised_by_the_loss_at_random_weights(finished):
    _, files, lines = finished
    for model in json.loads(files[0].read_text())["models"]:
        scale = model["random_loss"]
        assert len(scale["losses"]) == 3 and scale["mean"] == pytest.approx(np.mean(scale["losses"]))
        # Small weights: nearly uniform predictions, and what ε = 0.1 adds to them.
        assert np.log(CLASSES) < scale["mean"] < 2 * np.log(CLASSES)
        np.testing.assert_allclose(np.array(model["normalised"]) * scale["mean"], model["values"])
    assert sum("largest eigenvalues" in line for line in lines) == 2


@pytest.mark.parametrize(
    ("settings", "pick"),
    [
        ({"eigen_method": "power"}, slice(0, 5)),
        ({"eigen_end": "both", "eigenvalues": 2}, [0, 1, -2, -1]),
        ({"eigen_end": "smallest", "eigenvalues": 1}, [-1]),
    ],
)
def test_other_methods_and_ends(tmp_path, settings, pick):
    context = context_of(tmp_path, normalise_draws=0, **settings)
    (model,) = json.loads(hessian.run(context)[0].read_text())["models"]
    expected = np.linalg.eigvalsh(dense(context.classifiers[0]))[::-1]
    np.testing.assert_allclose(model["values"], expected[pick], atol=2e-3 * expected[0])
    assert model["normalised"] is None and "random_loss" not in model and "layers" not in model


def test_an_interrupted_study_continues_with_the_same_numbers(tmp_path, monkeypatch, finished):
    context = context_of(tmp_path, classifiers(2), per_layer=True)
    solved, calls = hessian._solved, []

    def stop_at_third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return solved(*arguments)

    monkeypatch.setattr(hessian, "_solved", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        hessian.run(context)
    files = hessian.run(context)
    assert len(calls) == 5  # two of four were done, the third was begun twice
    expected, resumed = (json.loads(paths[0].read_text())["models"] for paths in (finished[1], files))
    for old, new in zip(expected, resumed, strict=True):
        assert old["values"] == new["values"] and old["random_loss"] == new["random_loss"]
    other = context_of(tmp_path, classifiers(2), per_layer=True, seed=1)
    with pytest.raises(UsageError, match="must hold results of this computation"):
        hessian.run(other)


def test_what_did_not_converge_is_said(tmp_path):
    lines = []
    context = context_of(tmp_path, say=lines.append, max_products=6, eigen_tol=1e-5, normalise_draws=0)
    (model,) = json.loads(hessian.run(context)[0].read_text())["models"]
    assert model["products"] == 6 and not all(model["converged"])
    assert any(line.startswith("Warning") and "max_products" in line for line in lines)
