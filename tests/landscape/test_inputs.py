"""Measures of the input landscape against closed forms of linear classifiers, and their invariances."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from helpers.attack import Linear, digits_network, softmax

from advtf.attacks.pgd import fgsm, fgsm_n, pgd
from advtf.attacks.random import example_seeds, image_keys, uniform
from advtf.classifiers.classifier import as_classifier
from advtf.classifiers.export import export_classifier
from advtf.errors import UsageError
from advtf.landscape.inputs import NOISE, InputMeasures, InputMeter, input_measures
from advtf.models import build

EPSILON = 0.1
INSIDE = {"low": 2 * EPSILON, "high": 1 - 2 * EPSILON}  # neither attack nor noise meets the box


def measured(logits_fn, x, y, epsilon=EPSILON, attack=None, **settings):
    given = {"attack": attack or fgsm(), "reference": pgd(steps=10), "eigenvalues": 4, **settings}
    return input_measures(logits_fn, x, y, epsilon, **given)


def flat_cosines(first, second):
    first, second = (part.reshape(len(part), -1) for part in (first, second))
    return (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)


def test_linear_softmax_in_closed_form():
    linear = Linear((3, 3, 1), classes=4)
    x, y = linear.batch(30, **INSIDE)
    found = measured(linear, x, y)
    gradient = linear.gradient(x, y)
    np.testing.assert_allclose(found.loss, linear.loss(x, y), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.ig, np.abs(gradient).sum(axis=(1, 2, 3)), rtol=1e-5)
    moved = linear.loss(x + EPSILON * np.sign(gradient), y)
    np.testing.assert_allclose(found.av, moved - linear.loss(x, y), atol=2e-6)
    p, kernel = softmax(linear.logits(x)), linear.kernel.astype(float)
    for values, probabilities in zip(found.eigenvalues, p, strict=True):
        dense = kernel @ (np.diag(probabilities) - np.outer(probabilities, probabilities)) @ kernel.T
        expected = np.sort(np.abs(np.linalg.eigvalsh(dense)))[::-1][:4]
        np.testing.assert_allclose(values, expected, atol=1e-4 * expected[0])
    np.testing.assert_allclose(found.hs, np.abs(found.eigenvalues).sum(axis=1), rtol=1e-12)
    assert all(getattr(found, field.name).shape[0] == 30 for field in dataclasses.fields(found))


def test_gradient_alignment_with_the_noise_of_each_image():
    linear = Linear((3, 3, 1), classes=4)
    linear.kernel *= 3
    x, y = linear.batch(20)
    found = measured(linear, x, y, seed=5, hs_examples=0)
    seeds = example_seeds(tf.constant([5, NOISE], tf.int64), tf.constant(image_keys(x)))
    noise = EPSILON * (2 * uniform(tf.constant(x.shape), seeds).numpy() - 1)
    assert np.abs(noise).max() <= EPSILON and abs(noise.mean()) < 0.1 * EPSILON
    expected = flat_cosines(linear.gradient(x, y), linear.gradient(x + noise, y))
    np.testing.assert_allclose(found.ga, expected, atol=1e-6)
    assert found.ga.min() < 0.99


def test_two_classes_are_aligned_and_fgsm_is_as_good_as_any_attack():
    """The gradient of a linear classifier of two classes always points along w₁ − w₀."""
    linear = Linear((3, 3, 1), classes=2)
    x, y = linear.batch(20)
    found = measured(linear, x, y)
    np.testing.assert_allclose(found.ga, 1, rtol=1e-6)
    np.testing.assert_allclose(found.effectiveness, 1, rtol=1e-4)


@pytest.mark.slow
def test_an_attack_relative_to_itself_has_effectiveness_one():
    logits_fn, x, y = digits_network()
    x, y = x[:24], y[:24]
    found = measured(logits_fn, x, y, attack=pgd(steps=10), hs_examples=0)
    ratio = found.summary()["effectiveness"]
    assert (ratio["mean"], ratio["standard_error"]) == (1.0, 0.0)
    assert ratio["examples"] + ratio["left_out"] == len(x)
    weaker = measured(logits_fn, x, y, hs_examples=0)
    assert 0 < weaker.summary()["effectiveness"]["mean"] < 1
    assert (weaker.av_reference == found.av_reference).all()


def test_without_a_radius_nothing_varies():
    linear = Linear((3, 3, 1), classes=4)
    found = measured(linear, *linear.batch(5), epsilon=0.0)
    assert not found.av.any() and not found.av_reference.any()
    np.testing.assert_allclose(found.ga, 1, rtol=1e-12)
    assert found.summary()["effectiveness"] == {
        "mean": None, "standard_error": None, "examples": 0, "left_out": 5,
    }  # fmt: skip


def test_flat_and_stationary_points_give_numbers():
    """A constant classifier; and logits (Σ (x − ½)²) · (1, −1) at x = ½, where the gradient is exactly 0."""
    x, y = np.full((3, 2, 2, 1), 0.5, np.float32), np.array([0, 1, 0])
    flat = measured(lambda x: tf.reshape(0.0 * x, [-1, 4]), x, y)
    assert not flat.ig.any() and not flat.hs.any() and not flat.residuals.any()
    assert (flat.ga == 1).all() and flat.converged.all() and (flat.products == 1).all()

    def bowl(x):
        height = tf.reduce_sum((x - 0.5) ** 2, axis=(1, 2, 3))
        return tf.stack([height, -height], axis=1)

    bottom = measured(bowl, x, y)
    assert not bottom.ig.any() and (bottom.ga == 0).all()
    # ∇²L = L'(0)·∇² height, four times 2·|−1|: a repeated eigenvalue, found four times.
    np.testing.assert_allclose(bottom.eigenvalues, [[-2] * 4, [2] * 4, [-2] * 4], rtol=1e-5)


def test_confident_examples_have_a_slope():
    linear = Linear((3, 3, 1), classes=3)
    linear.kernel *= 20
    x, _ = linear.batch(200)
    y = linear.logits(x).argmax(axis=1)
    found = measured(linear, x, y, hs_examples=0)
    expected = np.abs(linear.gradient(x, y)).sum(axis=(1, 2, 3))
    sure = linear.loss(x, y) < 1e-9
    assert sure.sum() > 10
    np.testing.assert_allclose(found.ig[sure], expected[sure], rtol=1e-3)


def some_measures(**changes):
    n, k = 5, 2
    arrays = {
        "loss": np.arange(n) / 2,
        "ig": np.arange(1.0, n + 1),
        "av": np.array([0.5, 1.0, 0.3, 0.2, 0.0]),
        "av_reference": np.array([1.0, 1.0, -0.5, 1e-6, 0.0]),
        "ga": np.linspace(0, 1, n),
        "hs": np.array([2.0, 4.0]),
        "eigenvalues": np.ones((2, k)),
        "residuals": np.array([1e-4, 1e-2]),
        "converged": np.array([True, False]),
        "products": np.array([10, 20]),
    }
    return InputMeasures(**(arrays | changes))


def test_summary_is_means_over_examples_with_standard_errors():
    summary = some_measures().summary()
    assert summary["ig"] == {"mean": 3.0, "standard_error": pytest.approx(0.5**0.5), "examples": 5}
    hs = {"mean": 3.0, "standard_error": pytest.approx(1.0), "examples": 2, "converged": 1}
    assert summary["hs"] == hs | {"largest_residual": 1e-2, "products": 15.0}
    ratio = {"mean": 0.75, "standard_error": pytest.approx(0.25), "examples": 2, "left_out": 3}
    assert summary["effectiveness"] == ratio
    assert summary["ga"]["mean"] == pytest.approx(0.5) and summary["loss"]["mean"] == pytest.approx(1.0)


@pytest.mark.parametrize("attack", [pgd(steps=3), fgsm_n()])
@pytest.mark.slow
def test_neither_batches_nor_order_matter(attack):
    logits_fn, x, y = digits_network()
    x, y = x[:10], y[:10]
    order = np.random.default_rng(0).permutation(10)
    whole = measured(logits_fn, x, y, attack=attack, hs_examples=4)
    parts = measured(logits_fn, x[order], y[order], attack=attack, batch_size=4, hs_examples=10)
    for name in ("loss", "ig", "av", "av_reference", "ga"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name)[order], rtol=1e-3, atol=1e-4)
    assert whole.hs.shape == (4,)
    np.testing.assert_allclose(parts.hs[np.argsort(order)][:4], whole.hs, rtol=1e-3)


def test_seeds_draw_other_numbers():
    linear = Linear((3, 3, 1), classes=4)
    batch = linear.batch(8, **INSIDE)
    first, other = (
        InputMeter(linear, (3, 3, 1), EPSILON, attack=fgsm_n(), reference=fgsm(), seed=seed, hs_examples=0)
        for seed in (0, 1)
    )
    first, again, other = first(*batch), first(*batch), other(*batch)
    assert np.array_equal(first.av, again.av) and np.array_equal(first.ga, again.ga)
    assert (first.av != other.av).all() and (first.ga != other.ga).any()


def test_one_trace_of_each_graph_for_all_batches_and_calls():
    linear, traces, reported = Linear((3, 3, 1), classes=4), [], []

    def logits_fn(x):
        traces.append(x.shape)
        return linear(x)

    meter = InputMeter(
        logits_fn, (3, 3, 1), EPSILON, attack=fgsm(), batch_size=4, eigenvalues=3, hs_examples=5
    )
    x, y = linear.batch(10)
    meter(x, y)
    once = len(traces)
    meter(x[:7], y[:7], reported.append)
    assert len(traces) == once and sum(reported) == 7 + 5


@pytest.mark.slow
def test_a_foreign_saved_model_measures_as_the_live_one(tmp_path):
    model = build("mlp", (8, 8, 1), 5, width=1, activation="softplus")
    rng = np.random.default_rng(0)
    x, y = rng.random((6, 8, 8, 1), np.float32), rng.integers(0, 5, 6)
    foreign = as_classifier(export_classifier(model, tmp_path / "m", sample=x), movable=True)
    assert foreign.model is None
    live, saved = (
        measured(classifier.logits_fn, x, y) for classifier in (as_classifier(model, movable=True), foreign)
    )
    for field in ("loss", "ig", "av", "ga", "hs"):
        np.testing.assert_allclose(getattr(saved, field), getattr(live, field), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": -1.0}, "epsilon"),
        ({"batch_size": 0}, "batch_size"),
        ({"eigenvalues": 0}, "eigenvalues"),
        ({"hs_examples": -1}, "hs_examples"),
        ({"max_products": 2}, "max_products"),
        ({"norm": "l1", "reference": pgd()}, "norm"),
        ({"y": np.zeros(3, int)}, "at least one"),
    ],
)
def test_bad_arguments(change, message):
    linear = Linear((3, 3, 1), classes=4)
    x, y = linear.batch(4)
    with pytest.raises(UsageError, match=message):
        measured(linear, **({"x": x, "y": y} | change))
