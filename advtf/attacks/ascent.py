"""The rules by which APGD moves: checkpoints, halving decisions, one run (Croce & Hein 2020, algorithm 1).

Where the authors' program is more precise than the paper (checkpoints in whole iterations, condition 1 with
<=, condition 2 not before the second checkpoint), this is what the program does. One thing is the paper's:
the first iterate's loss is compared with that of the start; the program compares it with 0.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from advtf.attacks.norms import Ball, l2_norms

Evaluate = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]


def checkpoints(steps: int) -> tuple[int, ...]:
    """Iterations after which step sizes are reconsidered, p_j·N of Croce & Hein 2020, section 3.

    p_1 = 0.22 and p_{j+1} = p_j + max(p_j − p_{j−1} − 0.03, 0.06), each window in whole iterations.
    """
    window, shortest, shrink = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    found = [window]
    while found[-1] < steps:
        window = max(window - shrink, shortest)
        found.append(found[-1] + window)
    return tuple(position for position in found if position <= steps)


def should_halve(
    increases: tf.Tensor,
    window: tf.Tensor,
    best: tf.Tensor,
    best_before: tf.Tensor,
    halved_before: tf.Tensor,
    rho: float = 0.75,
) -> tf.Tensor:
    """Conditions 1 and 2 of Croce & Hein 2020, section 3: whose step is halved at a checkpoint?

    Args:
        increases: (B,) float32, iterations since the last checkpoint that raised the loss.
        window: scalar float32, all iterations since then.
        best, best_before: (B,) largest loss seen, now and at the last checkpoint.
        halved_before: (B,) bool, whether the last checkpoint halved; True before the first.
        rho: share of the window that must raise the loss.

    Returns:
        (B,) bool.
    """
    return (increases <= rho * window) | (~halved_before & (best <= best_before))


class _Climb(NamedTuple):
    """Where each example stands in one run: images (B, H, W, C), the step (B, 1, 1, 1), all else (B,)."""

    x: tf.Tensor
    previous: tf.Tensor
    gradient: tf.Tensor
    loss: tf.Tensor
    step: tf.Tensor
    increases: tf.Tensor
    halved: tf.Tensor
    checked: tf.Tensor  # best_loss at the last checkpoint
    best_x: tf.Tensor  # where the loss was largest; once misclassified, that point for good
    best_gradient: tf.Tensor
    best_loss: tf.Tensor
    broken: tf.Tensor


def _begin(x, start, broken, epsilon):
    zeros = tf.zeros_like(broken, tf.float32)
    no_gradient, lowest = tf.zeros_like(x), zeros - float("inf")
    return _Climb(
        x=start,
        previous=start,
        gradient=no_gradient,
        loss=-lowest,  # so that evaluating the start does not count as an increase
        step=2.0 * epsilon * tf.ones_like(l2_norms(x)),
        increases=zeros,
        halved=tf.ones_like(broken),
        checked=lowest,
        best_x=x,
        best_gradient=no_gradient,
        best_loss=lowest,
        broken=broken,
    )


def _propose(ball, x, s, epsilon, weight):
    def inside(point):
        return tf.clip_by_value(x + ball.project(point - x, epsilon), 0.0, 1.0)

    target = inside(s.x + ball.steepest_step(s.gradient, s.step))
    return inside(s.x + weight * (target - s.x) + (1.0 - weight) * (s.x - s.previous))


def _record(s, x, loss, fooled, gradient):
    better = ~s.broken & (fooled | (loss > s.best_loss))
    return s._replace(
        x=x,
        previous=s.x,
        gradient=gradient,
        loss=loss,
        increases=s.increases + tf.cast(loss > s.loss, tf.float32),
        best_x=select(better, x, s.best_x),
        best_gradient=select(better, gradient, s.best_gradient),
        best_loss=tf.where(better, loss, s.best_loss),
        broken=s.broken | fooled,
    )


def _reconsider(s, window, rho):
    halve = should_halve(s.increases, window, s.best_loss, s.checked, s.halved, rho)
    return s._replace(
        x=select(halve, s.best_x, s.x),
        gradient=select(halve, s.best_gradient, s.gradient),
        step=select(halve, 0.5 * s.step, s.step),
        increases=tf.zeros_like(s.increases),
        halved=halve,
        checked=s.best_loss,
    )


def climb(
    ball: Ball,
    evaluate: Evaluate,
    x: tf.Tensor,
    start: tf.Tensor,
    broken: tf.Tensor,
    epsilon: tf.Tensor,
    *,
    steps: int,
    rho: float,
    alpha: float,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """One run of APGD from given points; it ends early when every example is broken.

    Args:
        ball: the geometry of the norm.
        evaluate: (B, H, W, C) -> loss (B,), misclassified (B,) bool, gradient (B, H, W, C).
        x: clean images (B, H, W, C).
        start: first iterate, in the ball and in [0, 1].
        broken: (B,) bool, examples whose outcome no longer matters.
        epsilon, steps, rho, alpha: as for `advtf.attacks.apgd.apgd`.

    Returns:
        Per example the first misclassified point, else that of the largest loss; the loss there; broken.
    """
    state = _begin(x, start, broken, epsilon)
    ends = sorted({*checkpoints(steps), steps})
    lengths = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]

    def advance(i, s):
        point = _propose(ball, x, s, epsilon, tf.where(i <= 1, 1.0, alpha))
        return i + 1, _record(s, point, *evaluate(point))

    def window(j, i, s):
        end, longest = tf.gather(ends, j), max(lengths) + 1
        i, s = tf.while_loop(
            lambda i, s: (i <= end) & unfinished(s.broken), advance, (i, s), maximum_iterations=longest
        )
        return j + 1, i, _reconsider(s, tf.cast(tf.gather(lengths, j), tf.float32), rho)

    # Pass 0 has no gradient yet and stays at the start: evaluating it there traces the classifier only once.
    _, _, end = tf.while_loop(
        lambda j, i, s: (j < len(ends)) & unfinished(s.broken),
        window,
        (tf.constant(0), tf.constant(0), state),
        maximum_iterations=len(ends),
    )
    return end.best_x, end.best_loss, end.broken


def unfinished(broken: tf.Tensor) -> tf.Tensor:
    """Returns a scalar bool: is there an example that is not broken?"""
    return tf.reduce_any(~broken)


def select(examples: tf.Tensor, chosen: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """Returns (B, ...): `chosen` for the examples, (B,) bool, that are True, `other` for the rest."""
    return tf.where(tf.reshape(examples, [-1] + [1] * (chosen.shape.rank - 1)), chosen, other)
