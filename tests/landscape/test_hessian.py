"""Hessian products against closed forms, central differences and torch, for every layer type we have."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.attack import losses, softmax

from advtf import models
from advtf.classifiers.classifier import as_classifier
from advtf.classifiers.export import export_classifier
from advtf.errors import UsageError
from advtf.landscape.hessian import HessianOperator
from advtf.landscape.lanczos import lanczos
from advtf.landscape.linear_part import LinearPart
from advtf.landscape.power import power_iteration
from advtf.models.layers import Layers

SHAPE, CLASSES = (6, 6, 1), 3


@pytest.fixture
def float64():
    """Models are built in float64 for one test."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


def data(n=7, shape=SHAPE, classes=CLASSES):
    rng = np.random.default_rng(0)
    return rng.random((n, *shape), np.float32), rng.integers(0, classes, n)


def every_layer(activation="softplus"):
    """All layer types of advtf.models in one network; its running statistics are not the initial ones.

    Padding, convolutions with and without stride and bias, BatchNorm, activation, a sum of two branches,
    max-pooling, flattening with a hidden dense layer, and global averaging.
    """
    layers = Layers(activation=activation)
    image = layers.image(SHAPE)
    x = layers.conv(image, 2, 3, "conv1", bias=True)
    x = layers.norm_activate(x, "norm1")
    shortcut = layers.conv(x, 3, 1, "shortcut", stride=2)
    x = layers.conv(x, 3, 3, "conv2", stride=2)
    x = layers.add(layers.batch_norm(x, "conv2_bn"), shortcut, "sum")
    averaged = layers.global_average(x)
    x = layers.flatten(layers.max_pool(x, "max"))
    x = layers.add(layers.activate(layers.dense(x, 3, "hidden"), "hidden_act"), averaged, "both")
    model = keras.Model(image, layers.logits(x, CLASSES))
    rng = np.random.default_rng(1)
    for variable in model.non_trainable_variables:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    for variable in model.trainable_variables:
        variable.assign(variable + 0.3 * rng.standard_normal(variable.shape))
    return model


def central_difference(classifier, direction, step, function):
    """Central difference of a function of the weights along a direction."""
    theta, values = classifier.parameters.value(), []
    for sign in (1, -1):
        with classifier.parameters.at(theta + sign * step * direction):
            values.append(function())
    return (values[0] - values[1]) / (2 * step)


def dense(operator):
    return np.stack([operator(column) for column in np.eye(operator.dimension)], axis=1)


def distance(actual, expected):
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def test_dense_hessian_of_every_layer_type(float64):
    classifier, (x, y) = as_classifier(every_layer(), movable=True), data(4)
    operator = HessianOperator(classifier, x, y, batch_size=3)  # batches of 3 and 1
    hessian, directions = dense(operator), np.eye(operator.dimension)
    expected = [central_difference(classifier, d, 1e-6, operator.gradient) for d in directions]
    assert distance(hessian, np.stack(expected, axis=1)) < 1e-7
    assert np.abs(hessian - hessian.T).max() < 1e-13 * np.abs(hessian).max()
    slopes = [central_difference(classifier, d, 1e-6, operator.loss) for d in directions[::8]]
    assert distance(operator.gradient()[::8], slopes) < 1e-8
    assert operator.products == operator.dimension
    blocks = classifier.parameters.blocks()
    for name in ("norm1_bn", "logits"):
        part = HessianOperator(classifier, x, y, block=blocks[name])
        wanted = hessian[blocks[name], blocks[name]]
        np.testing.assert_allclose(dense(part), wanted, atol=1e-12 * np.abs(hessian).max())


def directional_error(classifier, x, y):
    operator = HessianOperator(classifier, x, y, batch_size=4)
    direction = np.random.default_rng(2).standard_normal(operator.dimension)
    expected = central_difference(classifier, direction, 1e-7, operator.gradient)
    return distance(operator(direction), expected)


QUICK = ("relu", "gelu")  # softplus is in the other tests


@pytest.mark.parametrize(
    "activation",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK))
        for name in sorted(set(models.ACTIVATIONS) - {"softplus"})
    ],
)
def test_every_activation(float64, activation):
    assert directional_error(as_classifier(every_layer(activation), movable=True), *data()) < 1e-6


SMALL = {"lenet": {"width": 1}, "mlp": {"width": 1}, "linear": {}}
LARGE = {"vgg": {"width": 1}, "resnet18": {"width": 1}, "preact_resnet18": {"width": 1}}
# Of so many layers with four channels some put out zeros only, at the kink of the ReLUs behind them.
LARGE |= {"resnet50": {"width": 1, "activation": "softplus"}}
LARGE |= {"wide_resnet": {"width": 1, "depth": 10}}


@pytest.mark.parametrize("name", SMALL)
def test_small_models(float64, name):
    shape = (8, 8, 2)
    classifier = as_classifier(models.build(name, shape, CLASSES, **SMALL[name]), movable=True)
    assert directional_error(classifier, *data(shape=shape)) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_large_models(float64, name):
    shape = (8, 8, 2)
    classifier = as_classifier(models.build(name, shape, CLASSES, **LARGE[name]), movable=True)
    assert directional_error(classifier, *data(shape=shape)) < 1e-5
    assert set(models.MODELS) == set(SMALL) | set(LARGE)


def test_linear_softmax_in_closed_form(float64):
    """H = 1/N Σ_i (x_i x_iᵀ) ⊗ (diag(p_i) − p_i p_iᵀ), x with a one appended."""
    model = models.build("linear", SHAPE, CLASSES)
    x, y = data()
    flat = np.concatenate([x.reshape(len(x), -1).astype(float), np.ones((len(x), 1))], axis=1)
    weights = np.concatenate([w.numpy().reshape(-1, CLASSES) for w in model.trainable_variables])
    p = softmax(flat @ weights)
    curvature = np.einsum("ni,ij->nij", p, np.eye(CLASSES)) - np.einsum("ni,nj->nij", p, p)
    expected = np.einsum("na,nb,nij->aibj", flat, flat, curvature) / len(x)
    operator = HessianOperator(as_classifier(model, movable=True), x, y, batch_size=5)
    size = operator.dimension
    np.testing.assert_allclose(dense(operator), expected.reshape(size, size), atol=1e-14)
    gradient = flat.T @ (p - np.eye(CLASSES)[y]) / len(x)
    np.testing.assert_allclose(operator.gradient(), gradient.ravel(), atol=1e-14)
    assert operator.loss() == pytest.approx(losses(flat @ weights, y).mean(), rel=1e-14)


def test_mean_over_examples_in_any_batching(float64):
    classifier, (x, y) = as_classifier(every_layer(), movable=True), data(5)
    vector = np.random.default_rng(3).standard_normal(classifier.parameters.size)
    whole, ragged = HessianOperator(classifier, x, y), HessianOperator(classifier, x, y, batch_size=2)
    parts = HessianOperator(classifier, x[:2], y[:2]), HessianOperator(classifier, x[2:], y[2:])
    assert distance(ragged(vector), whole(vector)) < 1e-13
    assert distance(ragged.gradient(), whole.gradient()) < 1e-13
    assert distance((2 * parts[0](vector) + 3 * parts[1](vector)) / 5, whole(vector)) < 1e-13
    assert (2 * parts[0].loss() + 3 * parts[1].loss()) / 5 == pytest.approx(ragged.loss(), rel=1e-14)


def test_other_losses_and_weights_without_influence(float64):
    """A loss linear in the logits of a linear model has no curvature; the bias of class 0 alone has some."""
    operator = HessianOperator(
        as_classifier(models.build("linear", SHAPE, CLASSES), movable=True),
        *data(),
        loss=lambda y, logits: logits[:, 0] ** 3,
    )
    hessian = dense(operator)
    without = np.ones(operator.dimension, bool)
    without[0::CLASSES] = False  # weights of the other classes
    assert not hessian[without].any() and hessian[-CLASSES, -CLASSES] != 0
    flat = HessianOperator(
        as_classifier(models.build("linear", SHAPE, CLASSES), movable=True),
        *data(),
        loss=lambda y, logits: logits[:, 0],
    )
    assert not dense(flat).any() and flat.gradient().any()


@pytest.mark.slow
def test_torch_double_backward():
    torch = pytest.importorskip("torch")
    shape, (x, y) = (8, 8, 1), data(shape=(8, 8, 1))
    classifier = as_classifier(models.build("lenet", shape, CLASSES, width=2), movable=True)
    operator = HessianOperator(classifier, x, y, batch_size=4)
    vector = np.random.default_rng(4).standard_normal(operator.dimension).astype(np.float32)
    kernels = [torch.tensor(v.numpy(), requires_grad=True) for v in classifier.parameters.variables]
    parts = [torch.tensor(part.numpy()) for part in classifier.parameters.split(vector)]

    def stage(h, kernel, bias):
        h = torch.nn.functional.conv2d(h, kernel.permute(3, 2, 0, 1), bias, padding=2)
        return torch.nn.functional.max_pool2d(torch.relu(h), 2)

    h = stage(stage(torch.tensor(x).permute(0, 3, 1, 2), *kernels[:2]), *kernels[2:4])
    h = torch.relu(h.permute(0, 2, 3, 1).flatten(1) @ kernels[4] + kernels[5])
    loss = torch.nn.functional.cross_entropy(h @ kernels[6] + kernels[7], torch.tensor(y))
    gradients = torch.autograd.grad(loss, kernels, create_graph=True)
    products = torch.autograd.grad(gradients, kernels, grad_outputs=parts)
    expected = np.concatenate([product.numpy().ravel() for product in products])
    assert operator.loss() == pytest.approx(loss.item(), rel=1e-6)
    assert distance(operator(vector), expected) < 1e-5


@pytest.mark.slow
def test_eigenvalues_are_those_of_the_dense_hessian_of_torch(float64):
    torch = pytest.importorskip("torch")
    shape, (x, y) = (4, 4, 1), data(9, shape=(4, 4, 1))
    model = models.build("lenet", shape, CLASSES, width=1, activation="softplus")
    classifier = as_classifier(model, movable=True)
    classifier.parameters.assign(2 * classifier.parameters.value())
    x = np.clip(x + 0.1 * np.sign(np.random.default_rng(9).normal(size=x.shape)), 0, 1).astype(np.float32)
    F, theta = torch.nn.functional, torch.tensor(classifier.parameters.value())
    shapes = [tuple(variable.shape) for variable in classifier.parameters.variables]

    def loss(theta):
        parts = theta.split([int(np.prod(shape)) for shape in shapes])
        v = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        h = torch.tensor(x.astype(np.float64)).permute(0, 3, 1, 2)
        for kernel, bias in (v[:2], v[2:4]):
            h = F.softplus(F.conv2d(h, kernel.permute(3, 2, 0, 1), bias, padding=2))
            h = F.max_pool2d(h, 2)
        h = F.softplus(h.permute(0, 2, 3, 1).flatten(1) @ v[4] + v[5])
        return F.cross_entropy(h @ v[6] + v[7], torch.tensor(y))

    expected = np.linalg.eigvalsh(torch.autograd.functional.hessian(loss, theta).numpy())[::-1]
    operator = HessianOperator(classifier, x, y, batch_size=4)
    assert operator.dimension == len(expected) and operator.loss() == pytest.approx(loss(theta).item(), 1e-13)
    shared, scale = {"tolerance": 1e-11, "dtype": np.float64}, expected[0]
    largest = lanczos(operator, operator.dimension, 20, **shared).values
    smallest = lanczos(operator, operator.dimension, 3, which="smallest", **shared).values
    powered = power_iteration(operator, operator.dimension, 3, max_iterations=2000, **shared).values
    np.testing.assert_allclose(largest, expected[:20], rtol=0, atol=1e-10 * scale)
    np.testing.assert_allclose(smallest, expected[-3:], rtol=0, atol=1e-10 * scale)
    strongest = np.sort(expected[np.argsort(-np.abs(expected))[:3]])[::-1]
    np.testing.assert_allclose(powered, strongest, rtol=0, atol=1e-7 * scale)


@pytest.mark.slow
def test_foreign_saved_model_has_the_hessian_of_the_live_model(tmp_path):
    model, (x, y) = every_layer(), data()
    foreign = as_classifier(export_classifier(model, tmp_path / "m", sample=x), movable=True)
    assert foreign.model is None
    live = HessianOperator(as_classifier(model, movable=True), x, y, batch_size=4)
    saved = HessianOperator(foreign, x, y, batch_size=4)
    vector = np.random.default_rng(5).standard_normal(live.dimension).astype(np.float32)
    assert distance(saved(vector), live(vector)) < 1e-5
    assert distance(saved.gradient(), live.gradient()) < 1e-5
    with foreign.parameters.at(0.5 * foreign.parameters.value()):
        before = distance(saved(vector), live(vector))
        with as_classifier(model, movable=True).parameters.at(foreign.parameters.value()):
            assert distance(saved(vector), live(vector)) < 1e-5 < before


def test_running_statistics_are_used_and_kept(float64):
    model, (x, y) = every_layer(), data()
    before = [variable.numpy() for variable in model.non_trainable_variables]
    operator = HessianOperator(as_classifier(model, movable=True), x, y)
    operator(np.ones(operator.dimension)), operator.gradient()
    logits = model(x, training=False).numpy()
    assert operator.loss() == pytest.approx(losses(logits, y).mean(), rel=1e-12)
    after = [variable.numpy() for variable in model.non_trainable_variables]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_same_bits_every_time_and_one_trace():
    traces = []
    classifier, (x, y) = as_classifier(every_layer(), movable=True), data()

    def loss(y, logits):
        traces.append(logits.shape)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)

    operator = HessianOperator(classifier, x, y, loss=loss, batch_size=4)
    vectors = np.random.default_rng(6).standard_normal((3, operator.dimension))
    products = [operator(vector) for vector in vectors]
    assert len(traces) == 1 and products[0].dtype == np.float32
    assert np.array_equal(products[1], operator(vectors[1])) and operator.products == 4


def test_products_are_of_the_weights_of_the_moment():
    """Weights and running statistics may change between products; what was kept of the old is not used."""
    model, (x, y) = every_layer(), data()
    classifier = as_classifier(model, movable=True)
    vector = np.random.default_rng(7).standard_normal(classifier.parameters.size)
    operator = HessianOperator(classifier, x, y, batch_size=4)
    before = operator(vector)
    statistics = model.get_layer("conv2_bn").moving_variance
    for variable in (classifier.parameters.variables[0], statistics):
        variable.assign(1.5 * variable)
        fresh = HessianOperator(classifier, x, y, batch_size=4)(vector)
        assert np.array_equal(operator(vector), fresh) and distance(fresh, before) > 1e-3
        before = fresh


def test_the_room_for_what_is_kept_bounds_it_and_changes_no_bit(monkeypatch):
    classifier, (x, y) = as_classifier(every_layer(), movable=True), data(9)
    vector = np.random.default_rng(8).standard_normal(classifier.parameters.size)
    computed, at = [], LinearPart.at

    def counted(self, *point):
        computed.append(at(self, *point))
        return computed[-1]

    monkeypatch.setattr(LinearPart, "at", counted)
    expected = HessianOperator(classifier, x, y, batch_size=3)(vector)
    of_a_batch = sum(tensor.numpy().nbytes for tensor in computed[0])
    for batches in (0, 2, 3):
        operator = HessianOperator(classifier, x, y, batch_size=3, kept_bytes=batches * of_a_batch)
        computed.clear()
        assert all(np.array_equal(operator(vector), expected) for _ in range(2))
        assert len(computed) == 6 - batches


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kept_bytes": -1}, "kept_bytes"),
        ({"y": np.zeros(3, int)}, "at least one"),
        ({"batch_size": 0}, "batch_size"),
        ({"block": slice(0, 5)}, "whole variables"),
        ({"block": slice(4, 4)}, "whole variables"),
    ],
)
def test_bad_arguments_are_refused_at_construction(change, message):
    x, y = data()
    classifier = as_classifier(models.build("linear", SHAPE, CLASSES), movable=True)
    with pytest.raises(UsageError, match=message):
        HessianOperator(classifier, **({"x": x, "y": y} | change))
    with pytest.raises(UsageError, match=r"shape \(111,\). Received: \(3,\)"):
        HessianOperator(classifier, x, y)(np.zeros(3))
