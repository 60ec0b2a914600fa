"""Auto-PGD: projected gradient ascent that sets its own step sizes (Croce & Hein 2020, algorithm 1).

"Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks", ICML 2020.
"""

import tensorflow as tf

from advtf.attacks.ascent import climb, select, unfinished
from advtf.attacks.losses import get_loss, is_correct, target_class, targeted_dlr
from advtf.attacks.norms import TINY, get_ball, l2_norms
from advtf.attacks.passes import isolated
from advtf.attacks.pgd import Attack, as_attack
from advtf.attacks.random import fold_in
from advtf.errors import UsageError, require_real, require_whole

MOST_TARGETS = 9  # AutoAttack aims at the nine strongest wrong classes


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
    ball = get_ball(norm)
    require_whole("steps", steps, 1)
    require_whole("restarts", restarts, 1)
    require_real("rho", rho, 0, 1)
    require_real("alpha", alpha, 1e-6, 1)

    def perturb(logits_fn, x, y, epsilon, seed):
        y, seed = tf.ensure_shape(y, x.shape[:1]), tf.cast(seed, tf.int64)
        evaluate = _evaluation(logits_fn, choose_loss(logits_fn, x, y), y)

        def restart(i, x_adv, loss, broken):
            start = _start(ball, x, epsilon, seed, i)
            end, end_loss, now_broken = climb(
                ball, evaluate, x, start, broken, epsilon, steps=steps, rho=rho, alpha=alpha
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


def _start(ball, x, epsilon, seed, restart):
    # The first start is that of a single run, so that more restarts are never weaker.
    point = ball.random_point(tf.shape(x), 1.0, tf.where(restart == 0, seed, fold_in(seed, restart)))
    axes = list(range(1, x.shape.rank))
    length = l2_norms(point) if ball.norm == "l2" else tf.reduce_max(tf.abs(point), axis=axes, keepdims=True)
    return tf.clip_by_value(x + epsilon * point / (length + TINY), 0.0, 1.0)


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
