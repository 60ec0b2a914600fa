"""Per-example losses an attack climbs: ``loss(y, logits) -> (B,)``, larger is more adversarial."""

import tensorflow as tf


def cross_entropy(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Softmax cross-entropy, g(x, θ) of Liu et al. 2020.

    Args:
        y: (B,) integer classes.
        logits: (B, K); the log-probabilities of an ensemble are logits too: −log of the mean probability.

    Returns:
        (B,) float32 nats.
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(y, tf.cast(logits, tf.float32))


def is_correct(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns (B,) float32: 1 where the largest logit is the true class, else 0."""
    return tf.cast(tf.equal(tf.cast(y, tf.int64), tf.argmax(logits, axis=-1)), tf.float32)
