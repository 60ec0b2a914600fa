"""One forward pass for two: the attack's first one is the objective's pass over the clean images."""

from collections.abc import Callable

import tensorflow as tf

from advtf.attacks.losses import cross_entropy


def attacked_on_tape(
    tape: tf.GradientTape,
    logits_fn: Callable,
    onwards: Callable,
    x: tf.Tensor,
    y: tf.Tensor,
    epsilon: tf.Tensor,
) -> tuple[tf.Tensor, Callable]:
    """Attacks images with the classifier in training mode, as in algorithm 1 of Li & Spratling 2023.

    Args:
        tape: persistent, and recording: it differentiates the pass first by the images, later by the weights.
        logits_fn: the classifier in training mode.
        onwards: the attack from its first gradient, see `advtf.attacks.pgd.pgd_onwards`.
        x: where the attack starts and what the objective takes for clean images, (B, H, W, C).
        y: classes, int32 (B,).
        epsilon: radius ε.

    Returns:
        The adversarial examples, and `logits_fn`, which for `x` itself returns the logits of the pass made.
    """
    tape.watch(x)
    clean = logits_fn(x)
    total = tf.reduce_sum(cross_entropy(y, clean))
    with tape.stop_recording():
        x_adv = onwards(logits_fn, x, y, epsilon, tape.gradient(total, x))
    return x_adv, lambda images: clean if images is x else logits_fn(images)
