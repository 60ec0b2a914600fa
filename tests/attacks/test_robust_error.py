"""Clean and robust error counted by hand, over ragged batches."""

import numpy as np
import pytest
import tensorflow as tf

from advtf.attacks.pgd import pgd
from advtf.attacks.robust_error import RobustError, RobustErrorMeter, robust_error
from advtf.errors import UsageError


def threshold(x):
    """Class 1 where the pixel is above one half."""
    pixel = tf.reshape(x, [-1, 1])
    return tf.concat([0.5 - pixel, pixel - 0.5], axis=1)


def upwards(logits_fn, x, y, epsilon, seed):
    return tf.clip_by_value(x + epsilon, 0.0, 1.0)


def batches_of(pixels, labels, size):
    images = np.array(pixels, np.float32).reshape(-1, 1, 1, 1)
    labels = np.array(labels)
    return [(images[i : i + size], labels[i : i + size]) for i in range(0, len(labels), size)]


PIXELS = [0.1, 0.45, 0.9, 0.45, 0.1, 0.9, 0.2]
LABELS = [0, 0, 1, 1, 1, 0, 0]
# With ε = 0.1 upwards: right, fooled, right, mended by the attack, wrong, wrong, right.
CLEAN = [True, True, True, False, False, False, True]
ROBUST = [True, False, True, False, False, False, True]


@pytest.mark.parametrize("size", [1, 3, 7])
def test_counts_by_hand_in_any_batching(size):
    result = robust_error(threshold, batches_of(PIXELS, LABELS, size), upwards, 0.1)
    np.testing.assert_array_equal(result.clean_correct, CLEAN)
    np.testing.assert_array_equal(result.robust_correct, ROBUST)
    assert result.clean_correct.dtype == result.robust_correct.dtype == bool
    assert result.examples == 7
    assert result.clean_error == pytest.approx(300 / 7)
    assert result.robust_error == pytest.approx(400 / 7)


def test_epsilon_reaches_the_attack():
    data = batches_of(PIXELS, LABELS, 4)
    assert robust_error(threshold, data, upwards, 0.0).robust_error == pytest.approx(300 / 7)
    assert robust_error(threshold, data, upwards, 0.35).robust_error == pytest.approx(500 / 7)


def test_pgd_under_xla_equals_the_closed_form():
    pixels = np.linspace(0, 1, 41)
    labels = (pixels > 0.5).astype(np.int64)
    data = tf.data.Dataset.from_tensor_slices((pixels.reshape(-1, 1, 1, 1).astype(np.float32), labels))
    attack = pgd(steps=3, relative_step=0.5, random_start="none")
    for compiled in (False, True):
        result = robust_error(threshold, data.batch(16), attack, 0.11, jit_compile=compiled)
        assert result.clean_error == 0
        np.testing.assert_array_equal(result.robust_correct, np.abs(pixels - 0.5) > 0.11)


def test_each_batch_has_its_own_seed_and_each_pass_the_same():
    recorded = []

    def spy(logits_fn, x, y, epsilon, seed):
        with tf.control_dependencies([tf.numpy_function(lambda s: recorded.append(tuple(s)), [seed], [])]):
            return tf.identity(x)

    data = batches_of(PIXELS, LABELS, 3)
    robust_error(threshold, data, spy, 0.1, seed=5)
    robust_error(threshold, data, spy, 0.1, seed=5)
    assert recorded[:3] == recorded[3:6]
    assert len(set(recorded)) == 3
    robust_error(threshold, data, spy, 0.1, seed=6)
    assert not set(recorded[6:]) & set(recorded[:6])


def test_one_trace_for_all_batches_and_for_all_weights():
    traces = []
    centre = tf.Variable(0.5)

    def movable(x):
        pixel = tf.reshape(x, [-1, 1])
        return tf.concat([centre - pixel, pixel - centre], axis=1)

    def attack(logits_fn, x, y, epsilon, seed):
        traces.append(x.shape)
        return upwards(logits_fn, x, y, epsilon, seed)

    meter = RobustErrorMeter(movable, attack, 0.1)
    ragged = batches_of(PIXELS, LABELS, 5)
    np.testing.assert_array_equal(meter(ragged).robust_correct, ROBUST)
    centre.assign(0.05)  # now every image is in class 1
    np.testing.assert_array_equal(meter(ragged).robust_correct, np.array(LABELS) == 1)
    assert len(traces) == 1


def test_no_examples_is_an_error():
    with pytest.raises(UsageError, match="at least one batch"):
        robust_error(threshold, [], upwards, 0.1)


def test_percentages():
    result = RobustError(np.array([True, True, True, False]), np.array([True, False, False, False]))
    assert (result.examples, result.clean_error, result.robust_error) == (4, 25.0, 75.0)


def test_epsilon_may_be_a_fraction_and_must_be_a_radius():
    seen = []

    def attack(logits_fn, x, y, epsilon, seed):
        tf.py_function(lambda value: seen.append(float(value)), [epsilon], [])
        return x

    robust_error(threshold, batches_of(PIXELS, LABELS, 4), attack, "8/255")
    assert seen[0] == pytest.approx(8 / 255)
    with pytest.raises(UsageError, match="epsilon must be"):
        robust_error(threshold, batches_of(PIXELS, LABELS, 4), attack, "8/x")
