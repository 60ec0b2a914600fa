"""The mean of probabilities against float64 NumPy, at ordinary and extreme logits."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from advtf.classifiers.ensemble import build_ensemble, log_mean_probabilities
from advtf.errors import UsageError


def log_mean(logits):
    """Oracle: log of the mean softmax, float64, by another route (probabilities, then the log)."""
    z = np.asarray(logits, np.float64)
    p = np.exp(z - z.max(-1, keepdims=True))
    return np.log(np.mean(p / p.sum(-1, keepdims=True), axis=0))


def network(seed, shape=(6, 6, 1), classes=4, name="same_name"):
    image = keras.Input(shape, name="image")
    start = keras.initializers.RandomNormal(stddev=0.4, seed=seed)
    h = keras.layers.Conv2D(3, 3, activation="softplus", kernel_initializer=start)(image)
    h = keras.layers.Flatten()(keras.layers.BatchNormalization()(h))
    logits = keras.layers.Dense(classes, kernel_initializer=start, dtype="float32")(h)
    return keras.Model(image, logits, name=name)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((5, 6, 6, 1), np.float32)


def test_log_mean_probabilities_match_float64():
    logits = np.random.default_rng(1).normal(size=(3, 7, 4), scale=3).astype(np.float32)
    result = log_mean_probabilities(list(logits))
    assert result.dtype == tf.float32
    np.testing.assert_allclose(result, log_mean(logits), atol=2e-6)


def test_one_member_is_its_own_log_softmax_and_copies_change_nothing():
    logits = np.random.default_rng(2).normal(size=(4, 5)).astype(np.float32)
    np.testing.assert_allclose(log_mean_probabilities([logits]), tf.nn.log_softmax(logits), atol=1e-6)
    np.testing.assert_allclose(log_mean_probabilities([logits] * 3), tf.nn.log_softmax(logits), atol=1e-6)


def test_extreme_logits_stay_finite_with_a_gradient_towards_the_better_member():
    # Class 0: member one gives it exp(-1e4), member two exp(-200); both underflow as float32 probabilities.
    first, second = tf.Variable([[0.0, 1e4]]), tf.Variable([[0.0, 200.0]])
    with tf.GradientTape() as tape:
        value = log_mean_probabilities([first, second])[0, 0]
    np.testing.assert_allclose(value, -200 - np.log(2), rtol=1e-6)
    gradients = tape.gradient(value, [first, second])
    np.testing.assert_allclose(gradients, [[[0, 0]], [[1, -1]]], atol=1e-6)


def test_cross_entropy_is_minus_log_of_the_mean_probability_with_its_gradient():
    rng = np.random.default_rng(3)
    z, y = rng.normal(size=(2, 6, 3)), rng.integers(0, 3, 6)
    members = [tf.Variable(member, dtype=tf.float32) for member in z]
    with tf.GradientTape() as tape:
        output = log_mean_probabilities(members)
        loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(y, output))
    np.testing.assert_allclose(loss, -log_mean(z)[np.arange(6), y].sum(), rtol=1e-6)
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)  # d(-log mean_m p_my)/dz_mk by hand
    share = p[:, np.arange(6), y] / p[:, np.arange(6), y].sum(0)
    expected = share[..., None] * (p - np.eye(3)[y])
    np.testing.assert_allclose(np.stack(tape.gradient(loss, members)), expected, atol=1e-6)


def test_ensemble_of_same_named_members_averages_their_inference_mode(images):
    members = [network(seed) for seed in range(3)]
    members[0].layers[2].moving_mean.assign([0.5, -0.5, 0.1])
    ensemble = build_ensemble(members)
    expected = log_mean([member(images, training=False) for member in members])
    np.testing.assert_allclose(ensemble(images), expected, atol=2e-6)
    before = [v.numpy() for v in ensemble.non_trainable_variables]
    np.testing.assert_allclose(ensemble(images, training=True), expected, atol=2e-6)
    np.testing.assert_array_equal(before[0], ensemble.non_trainable_variables[0])
    assert ensemble.input_shape == (None, 6, 6, 1) and ensemble.output_shape == (None, 4)
    assert len(ensemble.trainable_variables) == 3 * len(members[0].trainable_variables)


def test_members_are_shared_and_subclassed_ones_are_accepted(images):
    class Subclassed(keras.Model):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def call(self, x, training=False):
            return self.inner(x, training=training)

    inner = network(0)
    member = Subclassed(inner)
    with pytest.raises(UsageError, match="must be built"):
        build_ensemble([member])
    member(images)
    ensemble = build_ensemble([member, inner])
    inner.layers[-1].bias.assign([3.0, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(ensemble(images), tf.nn.log_softmax(inner(images)), atol=2e-6)


def test_ensemble_is_float32_under_a_half_precision_policy(images):
    members = [network(seed) for seed in range(2)]
    expected = build_ensemble(members)(images)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        ensemble = build_ensemble(members)
    finally:
        keras.config.set_dtype_policy("float32")
    result = ensemble(images)
    assert result.dtype == tf.float32
    np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (lambda: [], "at least one member"),
        (lambda: [network(0), network(1, classes=5)], r"share one image shape.*4, .*5"),
        (lambda: [network(0), network(1, shape=(8, 8, 1))], "share one image shape"),
        (lambda: network(0), "must be a list of Keras models"),
        (lambda: None, "must be a list of Keras models. Received: NoneType"),
        (lambda: [network(0), "snapshot"], "Keras models. Received: member=str"),
    ],
)
def test_unusable_members_are_refused_in_one_line(members, message):
    with pytest.raises(UsageError, match=message) as caught:
        build_ensemble(members())
    assert "\n" not in str(caught.value)


def test_no_logits_are_refused():
    with pytest.raises(UsageError, match="at least one member"):
        log_mean_probabilities([])
