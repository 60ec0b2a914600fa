"""Projections onto the part of a hyperplane inside the image range, FAB's inner problem (Croce & Hein 2020).

Solved by Newton's method, which needs no sorting: it ends after a few passes over the pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from advtf.attacks.norms import l2_norms


def project_linf(x: tf.Tensor, normal: tf.Tensor, change: tf.Tensor) -> tf.Tensor:
    """Solves min ‖δ‖_∞ subject to ⟨normal, δ⟩ = change and x + δ in [0, 1], exactly up to rounding.

    δ_i = ±min(λ, room_i): each pixel moves uphill by the level λ, or as far as the image range lets it. Where
    no δ reaches `change`, every pixel with a non-zero normal goes to the end of its range (as in AutoAttack).

    Args:
        x: float32 (B, ...) in [0, 1].
        normal: the shape of `x`; its zeros leave δ zero.
        change: (B,), of either sign.

    Returns:
        δ, the shape of `x`.
    """
    return _project(x, normal, change, tf.ones_like)


def project_l2(x: tf.Tensor, normal: tf.Tensor, change: tf.Tensor) -> tf.Tensor:
    """Solves min ‖δ‖₂ subject to ⟨normal, δ⟩ = change and x + δ in [0, 1], exactly up to rounding.

    δ_i = ±min(λ·|normal_i|, room_i); arguments and result as in `project_linf`.
    """
    return _project(x, normal, change, tf.identity)


def _project(x, normal, change, speeds):
    flat, normals = (tf.reshape(batch, [tf.shape(x)[0], -1]) for batch in (x, normal))
    change = change[:, tf.newaxis]
    # Divided by its largest entry first: a confident classifier's gradients square to 0 in float32.
    largest = tf.reduce_max(tf.abs(normals), axis=1, keepdims=True)
    weights = tf.math.divide_no_nan(tf.abs(normals), largest)
    speed = speeds(weights)
    uphill = tf.sign(normals) * tf.sign(change)
    room = tf.where(weights > 0, tf.where(uphill > 0, 1.0 - flat, flat), 0.0)
    ceiling = tf.math.divide_no_nan(room, speed)
    level = _water_level(weights, speed, room, ceiling, tf.math.divide_no_nan(tf.abs(change), largest))
    return tf.reshape(uphill * tf.where(ceiling <= level, room, level * speed), tf.shape(x))


def _water_level(weights, speed, room, ceiling, needed):
    # Newton's method for Σ weights·min(λ·speed, room) = needed. The sum is concave and piecewise linear in λ,
    # so from λ = 0 the iterates only rise, never pass the root, and end at it once the full pixels are known.
    def rise(level, _):
        full = ceiling <= level
        slope = tf.reduce_sum(tf.where(full, 0.0, weights * speed), axis=1, keepdims=True)
        held = tf.reduce_sum(tf.where(full, weights * room, 0.0), axis=1, keepdims=True)
        root = tf.where(slope > 0, tf.math.divide_no_nan(needed - held, slope), float("inf"))
        return tf.maximum(level, root), tf.reduce_any(root > level)

    initial = (tf.zeros_like(needed), tf.constant(True))
    return tf.while_loop(lambda _, rising: rising, rise, initial)[0]


def _linf_norms(batch):
    return tf.reduce_max(tf.abs(batch), axis=list(range(1, batch.shape.rank)), keepdims=True)


def _l1_norms(batch, axes):
    return tf.reduce_sum(tf.abs(batch), axis=axes)


def _euclidean(batch, axes):
    return tf.sqrt(tf.reduce_sum(tf.square(batch), axis=axes))


@dataclass(frozen=True)
class Geometry:
    """What FAB has to know about a norm.

    Attributes:
        size: (B, ...) -> the norm of each example, shaped (B, 1, ..., 1).
        dual: (batch, axes) -> the dual norm over those axes.
        project: `project_linf` or `project_l2`.
    """

    size: Callable
    dual: Callable
    project: Callable


GEOMETRIES = {
    "linf": Geometry(_linf_norms, _l1_norms, project_linf),
    "l2": Geometry(l2_norms, _euclidean, project_l2),
}
