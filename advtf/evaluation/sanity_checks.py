"""Signs that an evaluation flatters the classifier; each warning is one line that says what it means.

After Carlini et al. 2019, "On evaluating adversarial robustness", and the checks of Croce & Hein 2020.
"""

import math
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from advtf.attacks.attack import LogitsFn, input_gradient
from advtf.attacks.losses import is_correct
from advtf.attacks.pgd import pgd
from advtf.errors import quantity
from advtf.evaluation.attacks import ATTACKS

GRADIENT_IMAGES, LARGE_BALL_IMAGES = 200, 100
ZERO_SHARE = 0.01
LARGE_BALL_ERROR = 0.95
SAME_OUTPUT = 1e-4  # relative to the largest output; a GPU may add in any order, which changes the rounding


def warnings_before(logits_fn: LogitsFn, x: np.ndarray, y: np.ndarray, norm: str) -> list[str]:
    """Looks for masked gradients, random outputs, and errors that stay low in a huge ball.

    Args:
        logits_fn: float32 (B, H, W, C) -> (B, K).
        x, y: examples that are classified correctly; the first 200 are used.
        norm: of the huge ball, which holds every image.

    Returns:
        The warnings, often none.
    """
    if not len(x):
        return []
    images, labels = tf.constant(x[:GRADIENT_IMAGES]), tf.constant(y[:GRADIENT_IMAGES])
    few = images[:LARGE_BALL_IMAGES], labels[:LARGE_BALL_IMAGES]
    found = [random_outputs(logits_fn, images)]
    if is_differentiable(logits_fn, images):
        found += [zero_gradients(logits_fn, images, labels), large_ball(logits_fn, *few, norm)]
    return [warning for warning in found if warning]


def is_differentiable(logits_fn: LogitsFn, x: tf.Tensor) -> bool:
    """Tells whether the logits have a gradient with respect to the images, even if it is zero.

    Args:
        logits_fn: float32 (B, H, W, C) -> (B, K).
        x: images (B, H, W, C).
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        logits = logits_fn(x)
    return tape.gradient(logits, x) is not None


def zero_gradients(logits_fn: LogitsFn, x: tf.Tensor, y: tf.Tensor) -> str | None:
    """Warns when the input gradient of the cross-entropy is zero for more than 1 % of the examples.

    Args:
        logits_fn: float32 (B, H, W, C) -> (B, K).
        x, y: images (B, H, W, C) and integer labels (B,).

    Returns:
        The warning, or None.
    """
    gradient = tf.function(lambda x, y: input_gradient(logits_fn, x, y), autograph=False)(x, y)
    share = float(np.mean(~np.any(np.asarray(gradient).reshape(len(x), -1), axis=1)))
    if share <= ZERO_SHARE:
        return None
    return (
        f"{share:.1%} of {len(x)} input gradients are zero: gradient-based attacks are blind there, so their "
        "errors are too low. Trust apgd_dlr, apgd_t and square more than the cross-entropy attacks."
    )


def random_outputs(logits_fn: LogitsFn, x: tf.Tensor) -> str | None:
    """Warns when two passes over the same images differ.

    Args:
        logits_fn: float32 (B, H, W, C) -> (B, K).
        x: images (B, H, W, C).

    Returns:
        The warning, or None.
    """
    run = tf.function(logits_fn, autograph=False)
    first, second = np.asarray(run(x)), np.asarray(run(x))
    difference = float(np.abs(first - second).max())
    if difference <= SAME_OUTPUT * max(1.0, float(np.abs(first).max())):
        return None
    return (
        f"Two passes over the same images differ by {difference:.2g}: the classifier is randomised, and one "
        "pass per step underestimates its error. Average several passes inside the classifier."
    )


def large_ball(logits_fn: LogitsFn, x: tf.Tensor, y: tf.Tensor, norm: str) -> str | None:
    """Warns when PGD-20 fails in a ball that holds every image, where there is always something to find.

    Args:
        logits_fn: float32 (B, H, W, C) -> (B, K).
        x, y: images (B, H, W, C) and integer labels (B,).
        norm: "linf" or "l2"; the radius is the diameter of the image range, 1 or √(HWC).

    Returns:
        The warning, or None.
    """
    radius = 1.0 if norm == "linf" else math.sqrt(math.prod(x.shape[1:]))

    @tf.function(autograph=False)
    def fooled(x, y, seed):
        x_adv = pgd(norm, steps=20, relative_step=0.1)(logits_fn, x, y, radius, seed)
        return is_correct(y, logits_fn(x_adv)) < 1

    error = float(np.mean(fooled(x, y, tf.constant([0, 0], tf.int64))))
    if error >= LARGE_BALL_ERROR:
        return None
    return (
        f"PGD-20 reaches only {error:.0%} error on {quantity(len(x), 'image')} at ε = {radius:.3g}, where "
        "it should be nearly 100%: gradients mislead it, so a low error at a smaller ε is no evidence of "
        "robustness."
    )


def black_box_stronger(broken: Mapping[str, np.ndarray]) -> str | None:
    """Warns when a black-box attack breaks examples that no white-box attack on them broke.

    Args:
        broken: name in `ATTACKS` -> (N,) bool, the examples it broke.

    Returns:
        The warning, or None.
    """
    black_box = [name for name in broken if ATTACKS[name].black_box]
    white_box = [name for name in broken if not ATTACKS[name].black_box]
    if not black_box or not white_box:
        return None
    by_black, by_white = (np.any([broken[n] for n in names], axis=0) for names in (black_box, white_box))
    count = int(np.sum(by_black & ~by_white))
    if not count:
        return None
    return (
        f"{' and '.join(black_box)} broke {quantity(count, 'example')} that {', '.join(white_box)} did not: "
        "gradients are masked, or the white-box attacks stopped too early. Raise --steps and --restarts."
    )
