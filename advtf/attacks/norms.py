"""Norms: everything that a gradient attack has to know about one, as four pure functions.

All tensors are (B, ...) batches of perturbations of the clean images; `radius`, `length` and `epsilon` are
scalars or broadcast against them. Nothing here clips to the image range: that is the attack's job.
"""

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from advtf.attacks.random import split, uniform
from advtf.errors import one_of

TINY = 1e-12  # keeps a zero gradient from becoming NaN; far below float32's relative precision


@dataclass(frozen=True)
class Norm:
    """A norm ‖δ‖_p, and how one moves in its ball {δ : ‖δ‖_p <= ε}.

    Attributes:
        name: "linf" or "l2".
        size: (B, ...) -> the norm of each example, shaped (B, 1, ..., 1).
        random_point: (shape, radius, seed) -> uniform sample of the ball of that radius. A seed of (B, 2)
            holds one for each example, whose point then does not depend on the rest of the batch.
        steepest_step: (gradient, length) -> perturbation of norm `length` with the largest inner product
            with the gradient.
        project: (delta, epsilon) -> nearest point of the ball.
    """

    name: str
    size: Callable
    random_point: Callable
    steepest_step: Callable
    project: Callable


def l2_norms(batch: tf.Tensor) -> tf.Tensor:
    """Returns the l2 norm of each example of (B, ...), shaped (B, 1, ..., 1)."""
    axes = list(range(1, batch.shape.rank))
    return tf.sqrt(tf.reduce_sum(tf.square(batch), axis=axes, keepdims=True))


def linf_norms(batch: tf.Tensor) -> tf.Tensor:
    """Returns the largest absolute entry of each example of (B, ...), shaped (B, 1, ..., 1)."""
    return tf.reduce_max(tf.abs(batch), axis=list(range(1, batch.shape.rank)), keepdims=True)


def _linf_random_point(shape, radius, seed):
    return radius * (2.0 * uniform(shape, seed) - 1.0)


def _linf_steepest_step(gradient, length):
    return length * tf.sign(gradient)


def _linf_project(delta, epsilon):
    return tf.clip_by_value(delta, -epsilon, epsilon)


def _l2_random_point(shape, radius, seed):
    # A Gaussian direction with radius·u^(1/d) for its length is uniform in the d-dimensional ball.
    direction_seed, length_seed = split(seed)
    direction = tf.math.erfinv(2.0 * uniform(shape, direction_seed) - 1.0)
    per_example = tf.concat([shape[:1], tf.ones_like(shape[1:])], axis=0)
    dimension = tf.cast(tf.reduce_prod(shape[1:]), tf.float32)
    length = uniform(per_example, length_seed) ** (1.0 / dimension)
    return radius * length * direction / (l2_norms(direction) + TINY)


def _l2_steepest_step(gradient, length):
    # Divided by its largest entry first: a confident classifier's gradients square to 0 in float32.
    scaled = tf.math.divide_no_nan(gradient, linf_norms(gradient))
    return length * scaled / (l2_norms(scaled) + TINY)


def _l2_project(delta, epsilon):
    return delta * tf.minimum(1.0, epsilon / (l2_norms(delta) + TINY))


NORMS = {
    "linf": Norm("linf", linf_norms, _linf_random_point, _linf_steepest_step, _linf_project),
    "l2": Norm("l2", l2_norms, _l2_random_point, _l2_steepest_step, _l2_project),
}


def get_norm(name: str) -> Norm:
    """Returns the norm called "linf" or "l2".

    Raises:
        UsageError: another name.
    """
    return NORMS[one_of("norm", name, NORMS)]
