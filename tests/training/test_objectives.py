"""Objectives and per-example losses against hand numbers."""

import numpy as np
import pytest
import tensorflow as tf

from advtf.attacks.losses import cross_entropy, is_correct
from advtf.training.objectives import Batch, adversarial, standard

LOGITS = np.array([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0], [1000.0, 0.0, -1000.0]])
LABELS = np.array([0, 1, 2])


def expected_cross_entropy(logits, labels):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]


@pytest.mark.parametrize("label_type", [tf.int32, tf.int64])
@pytest.mark.parametrize("logit_type", [tf.float32, tf.bfloat16])
def test_cross_entropy_is_per_example_float32(label_type, logit_type):
    losses = cross_entropy(tf.constant(LABELS, label_type), tf.constant(LOGITS, logit_type))
    assert losses.dtype == tf.float32
    # Every entry of LOGITS is a bfloat16 number, so both types give the same losses.
    np.testing.assert_allclose(losses, expected_cross_entropy(LOGITS, LABELS), rtol=1e-6)


@pytest.mark.parametrize("label_type", [tf.int32, tf.int64])
def test_is_correct(label_type):
    correct = is_correct(tf.constant([0, 2, 1], label_type), tf.constant(LOGITS, tf.float32))
    assert correct.dtype == tf.float32
    np.testing.assert_array_equal(correct, [1, 1, 0])


def called_on(objective):
    clean, attacked = tf.constant(LOGITS, tf.float32), tf.constant(LOGITS[:, ::-1].copy(), tf.float32)
    calls = []
    batch = Batch(clean, attacked, tf.constant(LABELS), 0.1, 1.0, None)
    losses, accuracies = objective.losses(lambda x: calls.append(x) or x, batch)
    return losses, accuracies, calls, clean, attacked


def test_adversarial_objective_sees_the_attacked_batch_once():
    losses, accuracies, calls, _, attacked = called_on(adversarial)
    assert len(calls) == 1 and calls[0] is attacked
    np.testing.assert_allclose(losses, expected_cross_entropy(LOGITS[:, ::-1], LABELS), rtol=1e-6)
    assert set(accuracies) == {"robust_accuracy"}
    np.testing.assert_array_equal(accuracies["robust_accuracy"], [0, 0, 1])


def test_standard_objective_sees_the_clean_batch_once():
    losses, accuracies, calls, clean, _ = called_on(standard)
    assert len(calls) == 1 and calls[0] is clean
    np.testing.assert_allclose(losses, expected_cross_entropy(LOGITS, LABELS), rtol=1e-6)
    assert set(accuracies) == {"clean_accuracy"}
    np.testing.assert_array_equal(accuracies["clean_accuracy"], [1, 0, 0])
