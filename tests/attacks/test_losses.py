"""The losses attacks climb, against hand values and float64 NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from advtf.attacks.losses import cross_entropy, dlr, is_correct, margin, target_class, targeted_dlr

LOGITS = np.array([[3, 1, 0, 2, -1], [1, 4, 2, 2, 0], [0, 5, 5, 1, 1], [2, 2, 2, 2, 1]], np.float32)
SEPARATED = np.array([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0], [1000.0, 0.0, -1000.0]])
CLASSES = np.array([0, 1, 2])


def test_margin_and_dlr_by_hand():
    y = tf.constant([0, 2, 1, 3])
    np.testing.assert_allclose(margin(y, LOGITS), [-1, 2, 0, 0])
    np.testing.assert_allclose(dlr(y, LOGITS), [-1 / 2, 1, 0, 0], rtol=1e-6)


def test_targeted_dlr_by_hand():
    y, target = tf.constant([0, 1, 2, 4]), tf.constant([3, 0, 0, 0])
    expected = [(2 - 3) / (3 - 0.5), (1 - 4) / (4 - 1.5), (0 - 5) / (5 - 1), (2 - 1) / 1e-12]
    np.testing.assert_allclose(targeted_dlr(y, target, LOGITS)[:3], expected[:3], rtol=1e-6)
    flat = targeted_dlr(y, target, LOGITS)[3]  # z_π1 = z_π3 = z_π4: huge, but a number
    assert np.isfinite(flat) and flat > 0


def numpy_dlr(y, logits):
    result = []
    for label, row in zip(y, logits.astype(np.float64), strict=True):
        ordered = np.sort(row)
        wrong = np.delete(row, label).max()
        result.append((wrong - row[label]) / (ordered[-1] - ordered[-3]))
    return np.array(result)


def test_dlr_equals_float64_and_ignores_shift_and_scale():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, 7)).astype(np.float32)
    y = rng.integers(0, 7, 200)
    expected = numpy_dlr(y, logits)
    np.testing.assert_allclose(dlr(y, logits), expected, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(dlr(y, 3e4 * logits + 17.0), expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(dlr(y, 1e-3 * logits - 1e-2), expected, rtol=1e-3, atol=1e-3)
    wrong = logits.argmax(axis=1) != y
    assert (dlr(y, logits).numpy() > 0).tolist() == wrong.tolist() and wrong.any() and not wrong.all()


def test_target_classes_are_ranked_without_the_true_one():
    y = tf.constant([0, 2, 4, 1], tf.int64)
    logits = tf.constant([[9, 1, 2, 3, 0], [9, 1, 8, 3, 0], [0, 1, 2, 3, 9], [0, 9, 8, 7, 6]], tf.float32)
    assert [target_class(y, logits, rank).numpy().tolist() for rank in (1, 2, 4)] == [
        [3, 0, 3, 2],
        [2, 3, 2, 3],
        [4, 4, 0, 0],
    ]
    assert target_class(y, logits, tf.constant(2)).numpy().tolist() == [2, 3, 2, 3]


def expected_cross_entropy(logits, labels):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]


@pytest.mark.parametrize("label_type", [tf.int32, tf.int64])
@pytest.mark.parametrize("logit_type", [tf.float32, tf.bfloat16])
def test_cross_entropy_is_per_example_float32(label_type, logit_type):
    losses = cross_entropy(tf.constant(CLASSES, label_type), tf.constant(SEPARATED, logit_type))
    assert losses.dtype == tf.float32
    # Every entry of SEPARATED is a bfloat16 number, so both types give the same losses.
    np.testing.assert_allclose(losses, expected_cross_entropy(SEPARATED, CLASSES), rtol=1e-6)


@pytest.mark.parametrize("label_type", [tf.int32, tf.int64])
def test_is_correct(label_type):
    correct = is_correct(tf.constant([0, 2, 1], label_type), tf.constant(SEPARATED, tf.float32))
    assert correct.dtype == tf.float32
    np.testing.assert_array_equal(correct, [1, 1, 0])
