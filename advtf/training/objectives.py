"""Training objectives: pure functions from one batch and its adversarial examples to per-example losses.

``objective(logits_fn, x, x_adv, y) -> (losses, accuracies)``: `logits_fn` is the classifier in training mode,
`x` and `x_adv` are float32 (B, H, W, C) in [0, 1], `y` is int (B,). `losses` is (B,); `accuracies` maps
"clean_accuracy" and "robust_accuracy" to (B,) zeros and ones where the forward passes made anyway give them.
"""

import tensorflow as tf

from advtf.attacks.losses import cross_entropy, is_correct


def adversarial(logits_fn, x: tf.Tensor, x_adv: tf.Tensor, y: tf.Tensor):
    """Adversarial training, L_ε(θ) = mean g(x', θ) (Madry et al. 2018; Liu et al. 2020, eq. 1)."""
    del x
    logits = logits_fn(x_adv)
    return cross_entropy(y, logits), {"robust_accuracy": is_correct(y, logits)}


def standard(logits_fn, x: tf.Tensor, x_adv: tf.Tensor, y: tf.Tensor):
    """Standard training, L_0(θ) = mean g(x, θ)."""
    del x_adv
    logits = logits_fn(x)
    return cross_entropy(y, logits), {"clean_accuracy": is_correct(y, logits)}
