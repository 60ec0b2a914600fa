"""Eigenvalues of input Hessians against dense algebra: finite differences and closed forms."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.attack import Linear, softmax
from helpers.spectrum import exact_magnitudes, relative_error

from advtf import models
from advtf.attacks.random import image_keys
from advtf.data.sets import load
from advtf.errors import UsageError
from advtf.landscape.input_hessian import (
    InputHessian,
    exact_cross_entropy,
    input_spectra,
    require_second_derivatives,
)


@pytest.fixture
def float64():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


def digits(n):
    test = load("digits").test
    return test.images[:n], test.labels[:n]


def network(name="lenet", activation="softplus", scale=3.0):
    """A small network on digits with curvature; float64 under that policy."""
    model = models.build(name, (8, 8, 1), 10, width=1, activation=activation)
    model.set_weights([scale * weight for weight in model.get_weights()])
    return lambda x: model(x, training=False)


def spectra_of(logits_fn, x, y, k=20, dtype="float32", **settings):
    hessian = InputHessian(logits_fn, x.shape[1:], dtype=dtype)
    return input_spectra(hessian, x, y, k, keys=image_keys(x), **settings)


def central_hessian(logits_fn, image, label, step=1e-5):
    """∇²ₓ L of one image by central differences of its gradient, in float64."""
    shifts = step * np.eye(image.size).reshape(-1, *image.shape)
    points = tf.constant(np.concatenate([image + shifts, image - shifts]), tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(points)
        log_p = tf.nn.log_softmax(logits_fn(points))
        total = -tf.reduce_sum(log_p[:, label])
    slopes = tape.gradient(total, points).numpy().reshape(2, image.size, image.size)
    return (slopes[0] - slopes[1]) / (2 * step)


@pytest.mark.parametrize("name", ["lenet", "mlp"])
def test_dense_second_derivatives(float64, name):
    logits_fn, (x, y) = network(name), digits(5)
    found = spectra_of(logits_fn, x, y, dtype="float64", tolerance=1e-7, batch_size=3)
    for image, label, values in zip(x, y, found.eigenvalues, strict=True):
        dense = central_hessian(logits_fn, image.astype(float), label)
        assert relative_error(values, exact_magnitudes(dense, 20)) < 1e-6
    assert found.converged.all() and (found.eigenvalues < 0).any()


def test_products_are_those_of_the_dense_hessian(float64):
    logits_fn, (x, y) = network(), digits(3)
    vectors = np.random.default_rng(0).standard_normal((3, 64))
    images = tf.constant(x, tf.float64), tf.constant(y, tf.int32)
    products = InputHessian(logits_fn, (8, 8, 1), dtype="float64")(*images, vectors)
    for image, label, vector, product in zip(x, y, vectors, products, strict=True):
        expected = central_hessian(logits_fn, image.astype(float), label) @ vector
        np.testing.assert_allclose(product, expected, atol=1e-6 * np.abs(expected).max())


def closed_form(linear, x):
    """W (diag p − ppᵀ) Wᵀ for each image; the label does not enter."""
    p, kernel = softmax(linear.logits(x)), linear.kernel.astype(float)
    curvature = np.einsum("ni,ij->nij", p, np.eye(p.shape[1])) - np.einsum("ni,nj->nij", p, p)
    return kernel @ curvature @ kernel.T


@pytest.mark.parametrize("scale", [1.0, 8.0])  # 8: probabilities down to 1e-16
def test_linear_softmax_in_closed_form(scale):
    linear = Linear((4, 4, 1), classes=5)
    linear.kernel *= np.float32(scale)
    x, y = linear.batch(12)
    found = spectra_of(linear, x, y, 16)
    for values, dense in zip(found.eigenvalues, closed_form(linear, x), strict=True):
        assert relative_error(values, exact_magnitudes(dense, 16)) < 2e-4
    assert found.converged.all() and found.products.max() <= 8  # rank 4


def test_piecewise_linear_networks_have_a_rank_below_the_number_of_classes():
    x, y = digits(6)
    found = spectra_of(network("mlp", "relu"), x, y, 20)
    values = np.abs(found.eigenvalues)
    assert found.converged.all() and found.products.max() <= 13
    assert (values[:, 9:] <= 1e-4 * values[:, :1]).all() and (values[:, 0] > 0).all()
    assert (found.eigenvalues[:, :3] > 0).all()  # Jᵀ(diag p − ppᵀ)J


def test_neither_batches_nor_order_matter():
    logits_fn, (x, y) = network(), digits(7)
    whole = spectra_of(logits_fn, x, y, 8)
    order = np.random.default_rng(0).permutation(7)
    ragged = spectra_of(logits_fn, x[order], y[order], 8, batch_size=3)
    scale = np.abs(whole.eigenvalues).max(axis=1, keepdims=True)
    error = np.abs(ragged.eigenvalues - whole.eigenvalues[order]) / scale[order]
    assert error.max() < 1e-4 and whole.converged.all()
    again = spectra_of(logits_fn, x, y, 8)
    assert np.array_equal(whole.eigenvalues, again.eigenvalues)


def test_one_trace_and_a_bounded_basis(monkeypatch):
    traces, reported = [], []
    linear = Linear((3, 3, 1), classes=4)

    def logits_fn(x):
        traces.append(x.shape)
        return linear(x)

    x, y = linear.batch(10)
    hessian, settings = InputHessian(logits_fn, (3, 3, 1)), {"keys": image_keys(x)}
    whole = input_spectra(hessian, x, y, 4, **settings)
    monkeypatch.setattr("advtf.landscape.input_hessian.BASIS_BYTES", 3 * 10 * 9 * 4)  # room for 3 images
    parts = input_spectra(hessian, x, y, 4, report=reported.append, **settings)
    assert len(traces) == 1 and reported == [3, 3, 3, 1]
    np.testing.assert_allclose(
        parts.eigenvalues, whole.eigenvalues, atol=1e-5 * np.abs(whole.eigenvalues).max()
    )


def test_exact_cross_entropy_of_a_confident_example():
    logits = tf.constant([[30.0, 0.0, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = exact_cross_entropy(tf.constant([0]), logits)
    np.testing.assert_allclose(loss.numpy(), np.log1p(2 * np.exp(-30.0)), atol=1e-15)
    np.testing.assert_allclose(tape.gradient(loss, logits).numpy().sum(), 0, atol=1e-15)


def test_classifiers_without_second_derivatives_are_refused():
    linear = Linear((3, 3, 1), classes=4)
    x, y = linear.batch(2)
    with pytest.raises(UsageError, match=r"needs second derivatives.*hs_examples=0"):
        spectra_of(lambda x: linear(tf.nn.local_response_normalization(x)), x, y, 2)
    image = keras.Input((4, 4, 2))
    hidden = keras.layers.LayerNormalization(name="norm")(image)
    model = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(hidden)))
    with pytest.raises(UsageError, match="norm, a LayerNormalization"):
        require_second_derivatives(model)
    require_second_derivatives(models.build("wide_resnet", (8, 8, 1), 3, width=1, depth=10))
    require_second_derivatives(None)
