"""Adversarial weight perturbation by hand; its gradient in float64 is tested in test_objective_gradients."""

import numpy as np
import tensorflow as tf
from helpers.trainer import batch, compiled, dense_net, still

from advtf.attacks.losses import cross_entropy
from advtf.training.weight_perturbation import perturbation


def test_awp_moves_kernels_by_gamma_of_their_length():
    weights = [tf.constant([[3.0, 4.0]]), tf.constant([1.0, 2.0])]
    moves = perturbation(weights, [tf.constant([[0.0, 2.0]]), tf.ones(2)], 0.1)
    np.testing.assert_allclose(moves[0], [[0, 0.5]], rtol=1e-6)
    np.testing.assert_array_equal(moves[1], [0, 0])


def test_awp_steps_from_the_old_weights_with_the_gradient_at_the_worst_ones():
    x, y = batch()
    trainer = compiled(awp=0.05)
    before = [np.array(weight) for weight in trainer.classifier.trainable_variables]
    x_adv = trainer.attack(trainer._logits_in_inference, x, y, 0.1, tf.constant([0, 0], tf.int64))

    def gradients(values):
        model = dense_net()
        model.set_weights(values)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(cross_entropy(y, model(x_adv, training=True)))
        return tape.gradient(loss, model.trainable_variables)

    moves = perturbation(before, gradients(before), 0.05)
    worst = gradients([old + move.numpy() for old, move in zip(before, moves, strict=True)])
    trainer.fit(still(x, y, len(x)), verbose=0)
    for old, gradient, new in zip(before, worst, trainer.classifier.trainable_variables, strict=True):
        np.testing.assert_allclose(np.array(new), old - 0.1 * (gradient + 0.01 * old), atol=2e-6)
