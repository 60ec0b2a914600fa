"""Attacks made weaker on purpose: smaller perturbations, or some signs turned (Li & Spratling 2023)."""

import tensorflow as tf

from advtf.attacks.attack import Attack
from advtf.attacks.random import fold_in, uniform
from advtf.errors import require_real
from advtf.storage.builders import recorded

FLIPS = 1_000_003  # folded into the seed: restarts fold in 1, 2, ...


@recorded
def scaled(attack: Attack, factor: float) -> Attack:
    """Multiplies an attack's perturbation: x + `factor`·δ, which stays in the ball and in [0, 1].

    Args:
        attack: ``attack(logits_fn, x, y, epsilon, seed) -> x + δ``.
        factor: from 0 (no perturbation) to 1 (the attack itself).

    Returns:
        An attack.

    Raises:
        UsageError: `factor` outside [0, 1].
    """
    require_real("factor", factor, 0.0, 1.0)

    def weaken(x, delta, seed):
        return x + factor * delta

    return _degraded(attack, weaken)


@recorded
def flipped(attack: Attack, fraction: float) -> Attack:
    """Reverses the sign of a random part of the entries of an attack's perturbation δ, anew for each image.

    Which entries are reversed depends on the seed only: with a seed for each example it does not depend on
    the rest of the batch. An entry that would leave [0, 1] is clipped, which keeps it in the ball.

    Args:
        attack: ``attack(logits_fn, x, y, epsilon, seed) -> x + δ``.
        fraction: of the D entries of each δ; round(`fraction`·D) are reversed. From 0 to 1.

    Returns:
        An attack.

    Raises:
        UsageError: `fraction` outside [0, 1].
    """
    require_real("fraction", fraction, 0.0, 1.0)

    def weaken(x, delta, seed):
        return x + tf.where(_chosen(tf.shape(x), fraction, seed), -delta, delta)

    return _degraded(attack, weaken)


def _degraded(attack, weaken):
    def degraded(logits_fn, x, y, epsilon, seed):
        x, seed = tf.convert_to_tensor(x, tf.float32), tf.cast(seed, tf.int64)
        delta = attack(logits_fn, x, y, epsilon, seed) - x
        return tf.stop_gradient(tf.clip_by_value(weaken(x, delta, seed), 0.0, 1.0))

    return degraded


def _chosen(shape, fraction, seed):
    """Marks round(fraction·D) of the D entries of each example: those that draw the smallest numbers."""
    size = tf.reduce_prod(shape[1:])
    drawn = uniform(tf.stack([shape[0], size]), fold_in(seed, FLIPS))
    # Sorting twice gives ranks, so that the count is exact even where two draws tie.
    rank = tf.argsort(tf.argsort(drawn, axis=1, stable=True), axis=1)
    count = tf.cast(tf.round(fraction * tf.cast(size, tf.float32)), tf.int32)
    return tf.reshape(rank < count, shape)
