"""Objectives against hand numbers and literal formulas in float64 NumPy."""

import numpy as np
import tensorflow as tf
from helpers.attack import softmax
from helpers.objectives import CLEAN, ROBUST, kl, losses_of, nll
from helpers.objectives import LABELS as CLASSES

from advtf.training import objectives
from advtf.training.objectives import Batch

LOGITS = np.array([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0], [1000.0, 0.0, -1000.0]])
LABELS = np.array([0, 1, 2])


def expected_cross_entropy(logits, labels):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]


def called_on(objective):
    clean, attacked = tf.constant(LOGITS, tf.float32), tf.constant(LOGITS[:, ::-1].copy(), tf.float32)
    calls = []
    batch = Batch(clean, attacked, tf.constant(LABELS), 0.1, 1.0, None)
    losses, accuracies = objective.losses(lambda x: calls.append(x) or x, batch)
    return losses, accuracies, calls, clean, attacked


def test_adversarial_objective_sees_the_attacked_batch_once():
    losses, accuracies, calls, _, attacked = called_on(objectives.adversarial)
    assert len(calls) == 1 and calls[0] is attacked
    np.testing.assert_allclose(losses, expected_cross_entropy(LOGITS[:, ::-1], LABELS), rtol=1e-6)
    assert set(accuracies) == {"robust_accuracy"}
    np.testing.assert_array_equal(accuracies["robust_accuracy"], [0, 0, 1])


def test_standard_objective_sees_the_clean_batch_once():
    losses, accuracies, calls, clean, _ = called_on(objectives.standard)
    assert len(calls) == 1 and calls[0] is clean
    np.testing.assert_allclose(losses, expected_cross_entropy(LOGITS, LABELS), rtol=1e-6)
    assert set(accuracies) == {"clean_accuracy"}
    np.testing.assert_array_equal(accuracies["clean_accuracy"], [1, 0, 0])


def test_other_losses_are_their_formulas():
    true = np.arange(6), CLASSES
    p = softmax(ROBUST)
    others = np.where(np.eye(4)[CLASSES] > 0, 0, p).max(axis=1)
    mart = nll(ROBUST) - np.log(1 - others) + 5 * kl(CLEAN, ROBUST) * (1 - softmax(CLEAN)[true])
    expected = {
        objectives.adversarial_minus_standard(0.3): nll(ROBUST) - 0.3 * nll(CLEAN),
        objectives.trades(6.0): nll(CLEAN) + 6 * kl(CLEAN, ROBUST),
        objectives.mart(5.0): mart,
    }
    for objective, values in expected.items():
        np.testing.assert_allclose(losses_of(objective), values, rtol=2e-5)
