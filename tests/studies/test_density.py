"""The study against the dense Hessian of a linear classifier, its files, its resumption."""

import json

import keras
import numpy as np
import pytest
from helpers.analysis import FGSM, study_context
from helpers.linear import CLASSES, EPSILON, SHAPE, classifiers, dense, images

from advtf.classifiers.classifier import as_classifier
from advtf.errors import UsageError
from advtf.landscape.hessian import HessianOperator
from advtf.landscape.statistics import Estimate
from advtf.studies import density


def context_of(folder, models=None, say=None, **settings):
    given = {"density_probes": 6, "density_steps": 12, "eps": EPSILON, "norm": "linf", "batch_size": 8}
    x, y = images()
    return study_context(
        folder, "density", models or classifiers(), (x, y), say=say, **{**FGSM, **given, **settings}
    )


def arrays_of(path):
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    lines = []
    context = context_of(tmp_path_factory.mktemp("run"), classifiers(2), lines.append)
    return context, density.run(context), lines


def test_files_and_table(finished):
    context, files, lines = finished
    assert files == [context.folder / f"density.{suffix}" for suffix in ("json", "npz", "png")]
    assert all(file.stat().st_size for file in files)
    assert lines[0] == "Spectrum of the Hessian, ε 0.1, 20 images, 6 probes of 12 products"
    models = json.loads(files[0].read_text())["models"]
    for line, classifier, model in zip(lines[2:], context.classifiers, models, strict=True):
        trace = Estimate(model["trace"], model["trace_standard_error"], 6)
        assert line.endswith(f"  {classifier.name}") and f" {trace} " in line


def test_moments_and_ends_are_those_of_the_dense_hessian(finished):
    context, files, _ = finished
    record = json.loads(files[0].read_text())
    assert record["epsilon"] == EPSILON and record["settings"]["density_probes"] == 6
    probes = [2.0 * np.random.default_rng([0, i]).integers(0, 2, 111, dtype=np.int8) - 1 for i in range(6)]
    for classifier, model in zip(context.classifiers, record["models"], strict=True):
        matrix = dense(classifier)
        for name, power in (("trace", matrix), ("square_trace", matrix @ matrix)):
            values = [v @ power @ v for v in probes]
            np.testing.assert_allclose(model[name], np.mean(values), rtol=1e-4)
            error = np.std(values, ddof=1) / 6**0.5
            np.testing.assert_allclose(model[f"{name}_standard_error"], error, rtol=1e-3)
        exact = np.linalg.eigvalsh(matrix)
        np.testing.assert_allclose(model["largest_node"], exact[-1], rtol=1e-5)
        np.testing.assert_allclose(model["smallest_node"], 0, atol=1e-3 * exact[-1])
        assert (model["parameters"], model["products"]) == (111, 72)


def test_arrays(finished):
    context, files, _ = finished
    arrays = arrays_of(files[1])
    grid, width = arrays["grid"], arrays["kernel_width"]
    assert arrays["nodes"].shape == arrays["weights"].shape == (2, 6, 12)
    np.testing.assert_allclose(arrays["weights"].sum(axis=2), 1, rtol=1e-6)
    for number, classifier in enumerate(context.classifiers):
        curve, error = arrays["density"][number], arrays["density_standard_error"][number]
        np.testing.assert_allclose(np.trapezoid(curve, grid), 1, rtol=1e-5)
        exact = np.linalg.eigvalsh(dense(classifier))
        kernels = np.exp(-(((grid[:, None] - exact) / width) ** 2) / 2) / (width * (2 * np.pi) ** 0.5)
        # Fewer steps than eigenvalues: shares of the spectrum above a point agree, not its fine structure.
        for edge in (0.05, 0.3):
            above = grid > edge * exact[-1]
            share = np.trapezoid(kernels.mean(axis=1)[above], grid[above])
            spread = np.trapezoid(error[above], grid[above])
            assert abs(np.trapezoid(curve[above], grid[above]) - share) < 4 * spread


class Interrupted(Exception):
    """Stands for a kill."""


@pytest.mark.slow
def test_a_killed_study_continues_with_the_probes_it_has(tmp_path, monkeypatch, finished):
    product, calls = HessianOperator.__call__, []

    def fail_in_the_ninth_probe(self, vector):
        calls.append(0)
        if len(calls) > 8 * 12 + 5:
            raise Interrupted
        return product(self, vector)

    monkeypatch.setattr(HessianOperator, "__call__", fail_in_the_ninth_probe)
    with pytest.raises(Interrupted):
        density.run(context_of(tmp_path, classifiers(2)))
    calls.clear()
    monkeypatch.setattr(HessianOperator, "__call__", lambda self, v: calls.append(0) or product(self, v))
    files = density.run(context_of(tmp_path, classifiers(2)))
    assert len(calls) == 4 * 12
    for name, array in arrays_of(finished[1][1]).items():
        np.testing.assert_array_equal(arrays_of(files[1])[name], array)
    calls.clear()
    density.run(context_of(tmp_path, classifiers(2)))
    assert not calls
    with pytest.raises(UsageError, match="another classifier"):
        density.run(context_of(tmp_path, classifiers(1)))


def test_one_probe_has_no_standard_error(tmp_path):
    record, arrays, _ = density.run(context_of(tmp_path, density_probes=1))
    (model,) = json.loads(record.read_text())["models"]
    assert model["trace_standard_error"] is None and model["trace"] > 0
    assert np.isnan(arrays_of(arrays)["density_standard_error"]).all()


def test_models_of_unequal_size_share_one_file(tmp_path):
    layers = [keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(CLASSES, use_bias=False)]
    small = as_classifier(keras.Sequential(layers), movable=True)
    context = context_of(tmp_path, [*classifiers(), small], density_steps=80, density_probes=2)
    arrays = arrays_of(density.run(context)[1])
    assert arrays["dimensions"].tolist() == [111, 108]
    np.testing.assert_allclose(arrays["weights"].sum(axis=2), 1, rtol=1e-6)


def test_not_finite_products_are_told(tmp_path):
    (classifier,) = classifiers()
    classifier.parameters.assign(np.full(111, np.nan, np.float32))
    with pytest.raises(FloatingPointError, match="product 1 of the operator"):
        density.run(context_of(tmp_path, [classifier]))
