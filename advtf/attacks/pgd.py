"""Projected gradient ascent on the input (Madry et al. 2018; settings of Liu et al. 2020, appendix C.1)."""

from collections.abc import Callable
from numbers import Real

import tensorflow as tf

from advtf.attacks.attack import Attack, as_attack, input_gradient, isolated, per_image
from advtf.attacks.losses import cross_entropy, is_correct
from advtf.attacks.norms import Norm, get_norm
from advtf.attacks.random import fold_in
from advtf.errors import UsageError, one_of, require_whole
from advtf.settings.threat import NEGLIGIBLE_EPSILON, RANDOM_STARTS
from advtf.storage.builders import recorded


@recorded
def pgd(
    norm: str = "linf",
    steps: int = 10,
    relative_step: float = 0.25,
    random_start: str = "uniform",
    restarts: int = 1,
    loss: Callable = cross_entropy,
) -> Attack:
    """Builds PGD: x ← clip(Π_ε(x + step·steepest(∇ₓ g)), 0, 1), `steps` times.

    Args:
        norm: "linf" or "l2".
        steps: number of gradient steps K; 1 with ``relative_step=1, random_start="none"`` is FGSM.
        relative_step: step length as a fraction of ε, so the step follows a scheduled ε.
        random_start: "uniform" in the ε-ball, "step": uniform in the ball of one step, or "none".
        restarts: independent starts; each example keeps its worst one (misclassified, then largest loss).
        loss: what is climbed, ``loss(y, logits) -> (B,)``.

    Returns:
        ``attack(logits_fn, x, y, epsilon, seed) -> x_adv``: `x` float32 (B, H, W, C) in [0, 1], `y` int (B,),
        `epsilon` a scalar, `seed` two integers, or (B, 2), two for each example, which then starts the same
        in any batch; `x_adv` has the shape of `x`, stays in the ε-ball and in [0, 1], and carries no
        gradient. For ε below 1e-6 it is `x`.

    Raises:
        UsageError: a setting out of range.
    """
    geometry = get_norm(norm)
    one_of("random_start", random_start, RANDOM_STARTS)
    require_whole("steps", steps)
    require_whole("restarts", restarts)
    if not isinstance(relative_step, Real) or not 0 < relative_step < float("inf"):
        raise UsageError(
            f"relative_step must be a positive fraction of ε. Received: relative_step={relative_step}."
        )
    if restarts > 1 and random_start == "none":
        raise UsageError(
            f"restarts need a random start. Received: restarts={restarts}, random_start=none. "
            "Use random_start=uniform, or restarts=1."
        )
    start_fraction = {"uniform": 1.0, "step": min(relative_step, 1.0), "none": 0.0}[random_start]

    def climb(logits_fn, x, y, epsilon, seed):
        start = x
        if start_fraction > 0:
            start = x + geometry.random_point(tf.shape(x), start_fraction * epsilon, seed)
        return _ascend(
            geometry, logits_fn, x, y, tf.clip_by_value(start, 0.0, 1.0), epsilon, steps, relative_step, loss
        )

    def perturb(logits_fn, x, y, epsilon, seed):
        if restarts == 1:
            return climb(logits_fn, x, y, epsilon, seed)
        return _worst_of(lambda s: climb(logits_fn, x, y, epsilon, s), logits_fn, x, y, seed, restarts, loss)

    return as_attack(perturb)


@recorded
def pgd_from_gradient(
    norm: str = "linf", steps: int = 10, relative_step: float = 0.25, loss: Callable = cross_entropy
) -> Callable:
    """Builds PGD without a random start whose first gradient is given, as another pass has computed it.

    Args:
        norm, steps, relative_step, loss: as for `pgd`.

    Returns:
        ``continue_attack(logits_fn, x, y, epsilon, gradient) -> x_adv``: what `pgd` returns with
        ``random_start="none"`` where `gradient`, of the shape of `x`, is that of the loss at `x`. With one
        step of ε from a noised image it is the second half of `fgsm_n`.
    """
    geometry = get_norm(norm)

    def continue_attack(logits_fn, x, y, epsilon, gradient):
        first = _moved(geometry, x, x, gradient, epsilon, relative_step)
        if steps > 1:
            first = _ascend(geometry, logits_fn, x, y, first, epsilon, steps - 1, relative_step, loss)
        return tf.stop_gradient(tf.where(epsilon < NEGLIGIBLE_EPSILON, x, first))

    return continue_attack


@recorded
def fgsm(norm: str = "linf", random_start: str = "none", loss: Callable = cross_entropy) -> Attack:
    """Builds the fast gradient sign method: PGD with one step of ε (Goodfellow et al. 2015).

    Args:
        norm: "linf" or "l2".
        random_start: as for `pgd`; "uniform" makes it FGSM-R (Wong et al. 2020).
        loss: what is climbed, ``loss(y, logits) -> (B,)``.

    Returns:
        The attack, as `pgd` describes it.

    Raises:
        UsageError: a setting out of range.
    """
    return pgd(norm, steps=1, relative_step=1.0, random_start=random_start, loss=loss)


@recorded
def noisy(norm: str = "linf") -> Callable:
    """Builds the noised clean image of `fgsm_n`: x plus uniform noise of the ε-ball, clipped to [0, 1].

    Args:
        norm: "linf" or "l2".

    Returns:
        ``view(x, epsilon, seed) -> (B, H, W, C)``. With the seed of `fgsm_n` it is the point from which that
        attack steps.

    Raises:
        UsageError: another norm.
    """
    geometry = get_norm(norm)

    def view(x, epsilon, seed):
        noise = tf.cast(geometry.random_point(tf.shape(x), epsilon, seed), x.dtype)
        return tf.clip_by_value(x + noise, 0.0, 1.0)

    return view


@recorded
def fgsm_n(norm: str = "linf", loss: Callable = cross_entropy) -> Attack:
    """Builds FGSM centred on noise (de Jorge et al. 2022): one step of ε from x̃ = x + U(−ε, ε).

    Args:
        norm: "linf" or "l2".
        loss: what is climbed, ``loss(y, logits) -> (B,)``.

    Returns:
        The attack. It does not project: its result lies in [0, 1], within ε of
        x̃ = ``noisy(norm)(x, epsilon, seed)`` and so within 2ε of `x`.

    Raises:
        UsageError: another norm.
    """
    geometry, view = get_norm(norm), noisy(norm)

    def perturb(logits_fn, x, y, epsilon, seed):
        start = view(x, epsilon, seed)
        step = geometry.steepest_step(input_gradient(logits_fn, start, y, loss), epsilon)
        return tf.clip_by_value(start + step, 0.0, 1.0)

    return as_attack(perturb)


def _ascend(geometry: Norm, logits_fn, x, y, start, epsilon, steps, relative_step, loss):
    gradient = isolated(lambda x_adv: input_gradient(logits_fn, x_adv, y, loss))

    def step(i, x_adv):
        return i + 1, _moved(geometry, x, x_adv, gradient(x_adv), epsilon, relative_step)

    # int32 loop counters live on the host under GPU placement; the loop bound is static for XLA.
    _, x_adv = tf.while_loop(lambda i, _: i < steps, step, (0, start), maximum_iterations=steps)
    return x_adv


def _moved(geometry, x, x_adv, gradient, epsilon, relative_step):
    move = geometry.steepest_step(gradient, relative_step * epsilon)
    delta = geometry.project(x_adv + move - x, epsilon)
    return tf.clip_by_value(x + delta, 0.0, 1.0)


def _worst_of(climb, logits_fn, x, y, seed, restarts, loss):
    def restart(i, worst_x, worst_fooled, worst_loss):
        # The first start is that of a single run, so that more restarts are never weaker.
        x_adv = climb(tf.where(i == 0, seed, fold_in(seed, i)))
        logits = logits_fn(x_adv)
        fooled, losses = is_correct(y, logits) < 1, loss(y, logits)
        better = (fooled & ~worst_fooled) | ((fooled == worst_fooled) & (losses > worst_loss))
        kept = tf.where(better, fooled, worst_fooled), tf.where(better, losses, worst_loss)
        return i + 1, tf.where(per_image(better, x), x_adv, worst_x), *kept

    seed, batch = tf.cast(seed, tf.int64), tf.shape(y)
    initial = (0, x, tf.fill(batch, False), tf.fill(batch, -float("inf")))
    return tf.while_loop(lambda i, *_: i < restarts, restart, initial, maximum_iterations=restarts)[1]
