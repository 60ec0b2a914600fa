"""Weight gradients of every objective against central differences in float64, BatchNorm in training mode."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from advtf.attacks import losses
from advtf.attacks.losses import cross_entropy
from advtf.errors import UsageError
from advtf.models.layers import Layers
from advtf.training import objectives, regularizers
from advtf.training.objectives import Batch
from advtf.training.trainer import AdversarialTrainer
from advtf.training.weight_perturbation import gradients_at_worst_weights

SHAPE, CLASSES, EXAMPLES = (5, 5, 2), 4, 9
STEP, DIRECTIONS = 1e-5, 3


class KeepsFloat64:
    """TensorFlow for `advtf.attacks.losses`, which computes in float32, without its casts from float64."""

    def __getattr__(self, name):
        return getattr(tf, name)

    @staticmethod
    def cast(x, dtype):
        return x if x.dtype == tf.float64 else tf.cast(x, dtype)

    @staticmethod
    def where(condition, value, otherwise):
        return tf.where(condition, tf.cast(value, otherwise.dtype), otherwise)


@pytest.fixture(autouse=True)
def float64(monkeypatch):
    """Networks, images and losses in float64."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    monkeypatch.setattr(losses, "tf", KeepsFloat64())
    yield
    keras.config.set_dtype_policy(before)


def network(normalised=True, normalisation=None):
    """Convolution, BatchNorm twice, pooling and a dense layer, all smooth; weights away from special ones."""
    layers = Layers("softplus", seed=3)
    image = layers.image(SHAPE)
    x = layers.conv(image, 3, 3, "conv1")
    x = (normalisation or functools.partial(layers.batch_norm, name="bn1"))(x) if normalised else x
    x = layers.conv(layers.activate(x, "act1"), 3, 3, "conv2", stride=2, bias=True)
    x = layers.norm_activate(x, "norm2") if normalised else layers.activate(x, "act2")
    model = keras.Model(image, layers.logits(layers.flatten(x), CLASSES))
    rng = np.random.default_rng(4)
    for variable in model.trainable_variables:
        variable.assign(variable + 0.4 * rng.standard_normal(variable.shape))
    return model


def held_batch():
    """A batch whose adversarial examples are some images nearby: they stay the same when weights move."""
    rng = np.random.default_rng(5)
    clean, beside = rng.uniform(0.2, 0.8, (2, EXAMPLES, *SHAPE))
    near, near_beside = (
        tf.constant(x + 0.1 * rng.choice([-1.0, 1.0], x.shape), tf.float64) for x in (clean, beside)
    )
    y = tf.constant(rng.integers(0, CLASSES, EXAMPLES), tf.int32)
    seed, views = tf.constant([6, 7], tf.int64), (tf.constant(beside, tf.float64), near_beside)
    return Batch(tf.constant(clean, tf.float64), near, y, 0.1, 0.7, seed, *views)


def teacher(scale, x):
    return scale * tf.reshape(x, [EXAMPLES, -1])[:, :CLASSES]


OBJECTIVES = {
    "standard": objectives.standard,
    "at": objectives.adversarial,
    "at_minus_st": objectives.adversarial_minus_standard(0.6),
    "trades": objectives.trades(3.0),
    "mart": objectives.mart(2.0),
    **{f"advlc {name}": regularizers.advlc(2.0, 0.3, name) for name in regularizers.DISTANCES},
    "igr": regularizers.igr(5.0),
    "igr unattacked": regularizers.igr(5.0),
    "cure": regularizers.cure(5.0),
    "gradalign": regularizers.gradalign(2.0),
    "logitalign": regularizers.logitalign(2.0),
    "consistency": regularizers.consistency(2.0, 0.5),
    "kdsa": regularizers.kdsa([functools.partial(teacher, 2.0), functools.partial(teacher, -1.0)]),
}


class LossOfWeights:
    """The mean loss of a batch and its gradient, as functions of the weights."""

    def __init__(self, model, objective, batch):
        self.model, self.weights = model, model.trainable_variables
        logits_fn = functools.partial(model, training=True)

        @tf.function(autograph=False)
        def both():
            with tf.GradientTape() as tape:
                mean = tf.reduce_mean(objective.losses(logits_fn, batch)[0])
            return mean, tape.gradient(mean, self.weights)

        self.both = both

    def slope(self, direction, step=STEP):
        """Central difference of fourth order along a direction."""
        start, values = [weight.numpy() for weight in self.weights], []
        for multiple in (-2, -1, 1, 2):
            for weight, value, move in zip(self.weights, start, direction, strict=True):
                weight.assign(value + multiple * step * move)
            values.append(float(self.both()[0]))
        for weight, value in zip(self.weights, start, strict=True):
            weight.assign(value)
        return np.dot([1, -8, 8, -1], values) / (12 * step)

    def errors(self):
        """Differences of both slopes in random directions, relative to the gradient's length."""
        gradient = [part.numpy() for part in self.both()[1]]
        length = np.sqrt(sum(np.sum(part**2) for part in gradient))
        rng, found = np.random.default_rng(8), []
        for _ in range(DIRECTIONS):
            direction = [rng.standard_normal(part.shape) for part in gradient]
            unit = np.sqrt(sum(np.sum(part**2) for part in direction))
            direction = [part / unit for part in direction]
            expected = self.slope(direction)
            slope = sum(np.sum(a * b) for a, b in zip(gradient, direction, strict=True))
            found.append(abs(slope - expected) / length)
        return found


def worst_error(name, model):
    batch = held_batch()
    batch = batch._replace(x_adv=batch.x) if name == "igr unattacked" else batch
    return max(LossOfWeights(model, OBJECTIVES[name], batch).errors())


# Those of the other distances of AdvLC take as long and have little in them.
SLOW = [f"advlc {name}" for name in regularizers.DISTANCES if name != "top"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in OBJECTIVES]
)
def test_gradient_through_batch_norm_in_training_mode(name):
    assert worst_error(name, network()) < 1e-7


@pytest.mark.parametrize("name", ["igr", "cure", "gradalign"])
def test_double_backpropagation_without_batch_norm(name):
    assert worst_error(name, network(normalised=False)) < 1e-7


def test_the_differences_would_see_the_batch_norm_of_keras():
    keras_norm = keras.layers.BatchNormalization(epsilon=1e-5, name="bn1")
    assert worst_error("igr", network(normalisation=keras_norm)) > 1e-4


@pytest.mark.parametrize("layer", ["BatchNormalization", "LayerNormalization", "GroupNormalization"])
def test_layers_with_wrong_second_derivatives_are_refused(layer):
    settings = {"groups": 3} if layer == "GroupNormalization" else {}
    model = network(normalisation=getattr(keras.layers, layer)(**settings))
    AdversarialTrainer(model, None, 0.1, objective=regularizers.advlc())
    with pytest.raises(UsageError, match=f"a {layer} of Keras"):
        AdversarialTrainer(model, None, 0.1, objective=regularizers.igr())
    AdversarialTrainer(network(), None, 0.1, objective=regularizers.igr())


def test_penalties_need_one_pass_where_nothing_is_attacked():
    batch, seen, model = held_batch(), [], network()

    def logits_fn(x):
        seen.append(x)
        return model(x, training=True)

    apart = regularizers.igr(5.0).losses(logits_fn, batch._replace(x_adv=tf.identity(batch.x)))[0]
    assert len(seen) == 2
    found, accuracies = regularizers.igr(5.0).losses(logits_fn, batch._replace(x_adv=batch.x))
    assert len(seen) == 3
    np.testing.assert_allclose(found, apart, rtol=1e-12)
    np.testing.assert_array_equal(accuracies["clean_accuracy"], accuracies["robust_accuracy"])


def test_gradalign_of_a_very_confident_classifier_has_a_finite_gradient():
    x = tf.constant([[[[0.3]]], [[[0.4]]]], tf.float32)
    kernel = tf.Variable([[30.0, -30.0]])
    batch = Batch(x, x, tf.constant([0, 0]), 0.1, 1.0, tf.constant([1, 2], tf.int64))
    for shift in range(2, 42, 2):  # gradients from 1e-7 down to 0
        with tf.GradientTape() as tape:
            values = regularizers.gradalign().losses(
                lambda x, by=shift: tf.reshape(x, [-1, 1]) @ kernel + [by, -by], batch
            )[0]
            total = tf.reduce_sum(values)
        assert np.isfinite(total) and np.all(np.isfinite(tape.gradient(total, kernel)))


def values_of(variables):
    return [variable.numpy() for variable in variables]


def assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def worst(value, gradient, gamma):
    """w + γ ‖w‖ ∇w/‖∇w‖ of a kernel; biases and BatchNorm's vectors stay."""
    if value.ndim < 2:
        return value
    return value + gamma * np.linalg.norm(value) / np.linalg.norm(gradient) * gradient


@pytest.mark.parametrize("name", ["at", "igr"])
def test_awp_gradient_is_that_of_the_perturbed_weights(name):
    model, gamma = network(), 0.05
    loss = LossOfWeights(model, OBJECTIVES[name], held_batch())
    weights, others = loss.weights, model.non_trainable_variables
    before, running = values_of(weights), values_of(others)
    mean, gradients = loss.both()
    assign(others, running)
    found, mean_at_worst = gradients_at_worst_weights(model, gamma, lambda: loss.both()[::-1])
    for value, weight in zip(before, weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
    moved = values_of(others)
    assign(others, running)
    pairs = zip(before, values_of(gradients), strict=True)
    assign(weights, [worst(value, gradient, gamma) for value, gradient in pairs])
    expected_mean, expected = loss.both()
    assert float(mean_at_worst) == pytest.approx(float(expected_mean), rel=1e-12) and mean_at_worst > mean
    for part, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(part, wanted, rtol=1e-9, atol=1e-12)
    for value, once in zip(moved, values_of(others), strict=True):
        np.testing.assert_allclose(value, once, rtol=1e-12)  # running statistics moved once, not twice
    assert max(loss.errors()) < 1e-7  # and it is the slope there


def test_losses_keep_float64_in_these_tests():
    assert cross_entropy(tf.constant([0]), tf.zeros([1, 2], tf.float64)).dtype == tf.float64
