"""The graphs of the input landscape's measures, each traced once for batches of any length."""

from collections.abc import Callable

import tensorflow as tf

from advtf.attacks.attack import Attack, LogitsFn, input_gradient_and_logits
from advtf.attacks.norms import get_norm
from advtf.attacks.random import example_seeds

ATTACKS, NOISE = 0, 1  # random streams of one seed
LABELS, KEYS = tf.TensorSpec((None,), tf.int32), tf.TensorSpec((None,), tf.int64)


def exact_cross_entropy(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Softmax cross-entropy (B,) in float64: in float32 the derivatives of a confident example vanish."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(y, tf.cast(logits, tf.float64))


def slope_graph(logits_fn: LogitsFn, images: tf.TensorSpec) -> Callable:
    """Builds (x, y) -> L float64 (B,) and ∇ₓ L float32 (B, H, W, C)."""

    @tf.function(input_signature=(images, LABELS), autograph=False)
    def slope(x, y):
        gradient, logits = input_gradient_and_logits(logits_fn, x, y, exact_cross_entropy)
        return exact_cross_entropy(y, logits), gradient

    return slope


def noise_graph(images: tf.TensorSpec, norm: str, epsilon: float, seed: int) -> Callable:
    """Builds (x, keys) -> x + η, which the definition does not clip to [0, 1]."""
    geometry = get_norm(norm)

    @tf.function(input_signature=(images, KEYS), autograph=False)
    def noisy(x, keys):
        seeds = example_seeds(tf.constant([seed, NOISE], tf.int64), keys)
        return x + geometry.random_point(tf.shape(x), tf.constant(epsilon, tf.float32), seeds)

    return noisy


def variance_graph(
    logits_fn: LogitsFn,
    images: tf.TensorSpec,
    attack: Attack,
    epsilon: float,
    seed: int,
    jit_compile: bool = False,
) -> Callable:
    """Builds (x, y, keys) -> L(x + δ) − L(x), float64 (B,); both losses in one graph round alike."""

    @tf.function(input_signature=(images, LABELS, KEYS), jit_compile=jit_compile, autograph=False)
    def variance(x, y, keys):
        seeds = example_seeds(tf.constant([seed, ATTACKS], tf.int64), keys)
        x_adv = attack(logits_fn, x, y, tf.constant(epsilon, tf.float32), seeds)
        return exact_cross_entropy(y, logits_fn(x_adv)) - exact_cross_entropy(y, logits_fn(x))

    return variance
