"""Auto-PGD: projected gradient ascent that sets its own step sizes (Croce & Hein 2020, algorithm 1).

"Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks", ICML 2020.
Where the authors' program is more precise than the paper (checkpoints in whole iterations, condition 1 with
<=, condition 2 not before the second checkpoint), this is what the program does. One thing is the paper's:
the first iterate's loss is compared with that of the start; the program compares it with 0.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from advtf.attacks.attack import Attack, as_attack, isolated, per_image
from advtf.attacks.losses import get_loss, is_correct, target_class, targeted_dlr
from advtf.attacks.norms import TINY, Norm, get_norm, l2_norms
from advtf.attacks.random import fold_in
from advtf.errors import UsageError, require_real, require_whole
from advtf.storage.builders import recorded

MOST_TARGETS = 9  # AutoAttack aims at the nine strongest wrong classes


@recorded
def apgd(
    norm: str = "linf",
    loss: str = "ce",
    steps: int = 100,
    restarts: int = 1,
    rho: float = 0.75,
    alpha: float = 0.75,
) -> Attack:
    """Builds APGD: momentum steps of 2ε at first, halved at checkpoints where the loss stopped growing.

    Args:
        norm: "linf" or "l2".
        loss: "ce", "dlr" or "margin"; see `advtf.attacks.losses`.
        steps: iterations N; each costs one forward and one backward pass, and so does the start.
        restarts: independent random starts; an example keeps the point that broke it first.
        rho: share of a window's iterations that must raise the loss, or the step is halved.
        alpha: weight of the gradient step against the previous move, in (0, 1].

    Returns:
        ``attack(logits_fn, x, y, epsilon, seed) -> x_adv``, as `advtf.attacks.pgd.pgd` describes. An example
        misclassified at any iterate is returned misclassified; any other where its loss was largest.

    Raises:
        UsageError: a setting out of range; when called, too few classes for the loss.
    """
    climbed = get_loss(loss)
    return _build(norm, steps, restarts, rho, alpha, lambda logits_fn, x, y: climbed)


@recorded
def apgd_targeted(
    norm: str = "linf",
    target_rank: int | tf.Tensor = 1,
    steps: int = 100,
    restarts: int = 1,
    rho: float = 0.75,
    alpha: float = 0.75,
) -> Attack:
    """Builds APGD-T for one target: APGD on the targeted DLR loss (Croce & Hein 2020, section 4).

    Args:
        target_rank: the target is the wrong class with the `target_rank`-th largest clean logit, 1 to 9.
            A scalar integer tensor lets one traced function serve all ranks; its range is not checked.
        norm, steps, restarts, rho, alpha: as for `apgd`.

    Returns:
        As `apgd`. Any misclassification counts, not only as the target.

    Raises:
        UsageError: a setting out of range; when called, fewer than 4 or than `target_rank` + 1 classes.
    """
    if not tf.is_tensor(target_rank):
        require_whole("target_rank", target_rank, 1, MOST_TARGETS)

    def choose_loss(logits_fn, x, y):
        target = target_class(y, logits_fn(x), target_rank)
        return lambda labels, logits: targeted_dlr(labels, target, logits)

    return _build(norm, steps, restarts, rho, alpha, choose_loss)


def _build(norm, steps, restarts, rho, alpha, choose_loss):
    geometry = get_norm(norm)
    require_whole("steps", steps, 1)
    require_whole("restarts", restarts, 1)
    require_real("rho", rho, 0, 1)
    require_real("alpha", alpha, 1e-6, 1)

    def perturb(logits_fn, x, y, epsilon, seed):
        y, seed = tf.ensure_shape(y, x.shape[:1]), tf.cast(seed, tf.int64)
        evaluate = _evaluation(logits_fn, choose_loss(logits_fn, x, y), y)

        def restart(i, x_adv, loss, broken):
            start = _start(geometry, x, epsilon, seed, i)
            end, end_loss, now_broken = climb(
                geometry, evaluate, x, start, broken, epsilon, steps=steps, rho=rho, alpha=alpha
            )
            better = ~broken & (now_broken | (end_loss > loss))
            return i + 1, select(better, end, x_adv), tf.where(better, end_loss, loss), now_broken

        unbroken = tf.zeros_like(y, tf.bool)
        initial = (tf.constant(0), x, tf.zeros_like(y, tf.float32) - float("inf"), unbroken)
        if restarts == 1:
            return restart(*initial)[1]
        return tf.while_loop(
            lambda i, _x, _loss, broken: (i < restarts) & unfinished(broken),
            restart,
            initial,
            maximum_iterations=restarts,
        )[1]

    return as_attack(perturb)


def _start(geometry, x, epsilon, seed, restart):
    # The first start is that of a single run, so that more restarts are never weaker.
    point = geometry.random_point(tf.shape(x), 1.0, tf.where(restart == 0, seed, fold_in(seed, restart)))
    return tf.clip_by_value(x + epsilon * point / (geometry.size(point) + TINY), 0.0, 1.0)


def _evaluation(logits_fn, loss, y):
    def evaluate(x):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            # An exported classifier does not tell its batch size, which the loop needs unchanged.
            logits = tf.ensure_shape(logits_fn(x), [*x.shape[:1], None])
            losses = loss(y, logits)
        gradient = tape.gradient(losses, x)
        if gradient is None:
            raise UsageError(
                "logits_fn must be differentiable with respect to its input. Received: no gradient. "
                "Use the square attack."
            )
        return losses, is_correct(y, logits) < 1, gradient

    return isolated(evaluate)


def climb(
    geometry: Norm,
    evaluate: Callable,
    x: tf.Tensor,
    start: tf.Tensor,
    broken: tf.Tensor,
    epsilon: tf.Tensor,
    *,
    steps: int,
    rho: float,
    alpha: float,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Runs APGD once from given points, and ends early when every example is broken.

    Args:
        geometry: the norm.
        evaluate: (B, H, W, C) -> loss (B,), misclassified (B,) bool, gradient (B, H, W, C).
        x: clean images (B, H, W, C).
        start: first iterate, in the ball and in [0, 1].
        broken: (B,) bool, examples whose outcome no longer matters.
        epsilon: scalar radius ε.
        steps, rho, alpha: as for `apgd`.

    Returns:
        For each example the first misclassified point, else the point of the largest loss, (B, H, W, C); the
        loss there (B,); and whether the example is broken, (B,) bool.
    """
    state = _begin(x, start, broken, epsilon)
    ends = sorted({*checkpoints(steps), steps})
    lengths = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]

    def advance(i, s):
        point = _propose(geometry, x, s, epsilon, tf.where(i <= 1, 1.0, alpha))
        return i + 1, _record(s, point, *evaluate(point))

    def window(j, i, s):
        end, longest = tf.gather(ends, j), max(lengths) + 1
        i, s = tf.while_loop(
            lambda i, s: (i <= end) & unfinished(s.broken), advance, (i, s), maximum_iterations=longest
        )
        return j + 1, i, _reconsider(s, tf.cast(tf.gather(lengths, j), tf.float32), rho)

    # Iteration 0 has no gradient yet and stays at the start. Evaluating the start inside the loop means that
    # the classifier is traced only once.
    _, _, end = tf.while_loop(
        lambda j, i, s: (j < len(ends)) & unfinished(s.broken),
        window,
        (tf.constant(0), tf.constant(0), state),
        maximum_iterations=len(ends),
    )
    return end.best_x, end.best_loss, end.broken


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


def _propose(geometry, x, s, epsilon, weight):
    # Algorithm 1: z = P(x_k + η·steepest(∇)), then x_{k+1} = P(x_k + α(z − x_k) + (1 − α)(x_k − x_{k−1})).
    # P projects on the ball and then on the image range.
    def inside(point):
        return tf.clip_by_value(x + geometry.project(point - x, epsilon), 0.0, 1.0)

    target = inside(s.x + geometry.steepest_step(s.gradient, s.step))
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
    # At a checkpoint: whoever halves the step also goes back to the best point found so far.
    halve = should_halve(s.increases, window, s.best_loss, s.checked, s.halved, rho)
    return s._replace(
        x=select(halve, s.best_x, s.x),
        gradient=select(halve, s.best_gradient, s.gradient),
        step=select(halve, 0.5 * s.step, s.step),
        increases=tf.zeros_like(s.increases),
        halved=halve,
        checked=s.best_loss,
    )


def checkpoints(steps: int) -> tuple[int, ...]:
    """Returns the iterations after which step sizes are reconsidered (Croce & Hein 2020, section 3).

    They are p_j·N of N = `steps` iterations: p_1 = 0.22 and p_{j+1} = p_j + max(p_j − p_{j−1} − 0.03, 0.06),
    with each window in whole iterations.
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


def unfinished(broken: tf.Tensor) -> tf.Tensor:
    """Returns a scalar bool: is there an example that is not broken?"""
    return tf.reduce_any(~broken)


def select(examples: tf.Tensor, chosen: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """Returns (B, ...): `chosen` for the examples, (B,) bool, that are True, `other` for the rest."""
    return tf.where(per_image(examples, chosen), chosen, other)
