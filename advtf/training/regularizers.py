"""Adversarial training plus a penalty that smooths the input loss landscape (Li & Spratling 2023).

Every function returns an `Objective` whose loss of one example is L(x') + λ·penalty, where L is the
cross-entropy. With ``--adversary=none``, x' is x. λ is multiplied by ``batch.strength``, so that it can grow
during the training.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction

import tensorflow as tf

from advtf.attacks.attack import input_gradient, input_gradient_and_logits
from advtf.attacks.losses import cross_entropy, is_correct, kl_divergence
from advtf.attacks.pgd import noisy
from advtf.attacks.random import fold_in
from advtf.errors import UsageError, one_of, quantity, require_real
from advtf.storage.builders import recorded
from advtf.training.objectives import Batch, Objective, accuracies

# The least squared length in a cosine. The derivative takes its power −3/2, which is still a float32 number.
TINY = 1e-24


@recorded
def advlc(strength: float = 0.4, fraction: float = 0.1, distance: str = "top") -> Objective:
    """AdvLC: L(x') + λ Σ_j w_ij o_ij with o_ij = |f_j(x'_i) − f_j(x_i)| (eqs. 13–16, algorithm 1).

    w_ij is 1 for the N largest entries of the whole batch × class matrix and 0 for the others. N is
    ⌊fraction·M·C⌋ for M examples and C classes, as published, and at least 1; among equal entries the first,
    row by row, are taken. Gradients flow through both forward passes.

    Args:
        strength: λ; 0.55 for FGSM-N and 0.4 for PGD-10 in the paper.
        fraction: N as a fraction of the matrix, in (0, 1]; 0.1 in the paper.
        distance: "top", or one of table 3: "l1" (all weights are 1), "l2" (squares), "kl", "js", "nuclear".
    """
    require_real("strength", strength, 0.0)
    require_real("fraction", fraction, 1e-9, 1.0)
    one_of("distance", distance, DISTANCES)

    def losses(logits_fn, batch):
        robust, clean = logits_fn(batch.x_adv), logits_fn(batch.x)
        penalty = DISTANCES[distance](clean, robust, fraction)
        total = cross_entropy(batch.y, robust) + batch.strength * strength * penalty
        return total, accuracies(batch.y, clean, robust)

    return Objective(losses)


@recorded
def igr(strength: float = 10.0) -> Objective:
    """Input gradient regularisation: L(x') + β ‖∇ₓ L(x)‖₂² (eq. 10 is the case without an attack, x' = x).

    Args:
        strength: β; 12 for FGSM-N and 10 for PGD-10 in the paper. The paper prints 1200 and 1000, because it
            takes the gradient of the mean of 100 losses.
    """

    def penalty(logits_fn, batch):
        gradient, clean = input_gradient_and_logits(logits_fn, batch.x, batch.y)
        return _squares(gradient), clean

    return _penalised(strength, penalty)


@recorded
def cure(strength: float = 15.0) -> Objective:
    """CURE: L(x') + λ ‖∇ₓ L(x + h) − ∇ₓ L(x)‖₂², h = ε·sign ∇ₓ L(x) (Moosavi-Dezfooli et al. 2019).

    Args:
        strength: λ; 15 in the paper. The paper prints 1500, because it takes gradients of the mean of 100
            losses.
    """

    def penalty(logits_fn, batch):
        here, clean = input_gradient_and_logits(logits_fn, batch.x, batch.y)
        ahead = batch.x + batch.epsilon * tf.stop_gradient(tf.sign(here))
        return _squares(input_gradient(logits_fn, ahead, batch.y) - here), clean

    return _penalised(strength, penalty)


@recorded
def gradalign(strength: float = 6.0) -> Objective:
    """GradAlign: L(x') + λ (1 − cos(∇ₓ L(x), ∇ₓ L(x + η))), η ~ U(−ε, ε) (Andriushchenko & Flammarion 2020).

    Args:
        strength: λ; 7 for FGSM-N and 6 for PGD-10 in the paper.
    """
    view = noisy("linf")

    def penalty(logits_fn, batch):
        seed = fold_in(batch.seed, 2)
        here, clean = input_gradient_and_logits(logits_fn, batch.x, batch.y)
        there = input_gradient(logits_fn, view(batch.x, batch.epsilon, seed), batch.y)
        lengths = [tf.math.rsqrt(tf.maximum(_squares(gradient), TINY)) for gradient in (here, there)]
        return 1 - tf.reduce_sum(here * there, axis=_axes(here)) * lengths[0] * lengths[1], clean

    return _penalised(strength, penalty)


@recorded
def logitalign(strength: float = 50.0) -> Objective:
    """LogitAlign: L(x') + λ KL(f(x') ‖ f(x'')), x'' the adversarial example of x + η, η ~ U(−ε, ε).

    Args:
        strength: λ; 100 for FGSM-N and 50 for PGD-10 in the paper.
    """
    require_real("strength", strength, 0.0)

    def losses(logits_fn, batch):
        robust, beside = logits_fn(batch.x_adv), logits_fn(batch.second_view_adv)
        penalty = kl_divergence(tf.nn.softmax(robust), beside)
        total = cross_entropy(batch.y, robust) + batch.strength * strength * penalty
        return total, {"robust_accuracy": is_correct(batch.y, robust)}

    return Objective(losses, second_view=noisy("linf"))


@recorded
def consistency(strength: float = 50.0, temperature: float = 1.0) -> Objective:
    """Consistency: ½(L(x'₁) + L(x'₂)) + λ JS(f(x'₁)/τ, f(x'₂)/τ) of two augmentations (Tack et al. 2022).

    Args:
        strength: λ; 50 in the paper.
        temperature: τ; 1 in the paper.
    """
    require_real("strength", strength, 0.0)
    require_real("temperature", temperature, 1e-6)

    def losses(logits_fn, batch):
        first, second = logits_fn(batch.x_adv), logits_fn(batch.second_view_adv)
        mean_loss = 0.5 * (cross_entropy(batch.y, first) + cross_entropy(batch.y, second))
        penalty = js_divergence(first / temperature, second / temperature)
        total = mean_loss + batch.strength * strength * penalty
        return total, {"robust_accuracy": is_correct(batch.y, first)}

    return Objective(losses, views=2)


@recorded
def kdsa(teachers: Sequence[Callable], weights: tuple = (0.1, 0.6), temperature: float = 2.0) -> Objective:
    """KDSA: (1 − a − b) L(x') + T² (a KL(s ‖ f) + b KL(r ‖ f)) (Chen et al. 2021).

    It distils two teachers: the divergences are taken at x', between probabilities softened by the
    temperature T.

    Args:
        teachers: the standard teacher s and the robust teacher r, functions from images to logits.
        weights: a and b; 0.1 and 0.6 as published.
        temperature: T; 2 as published.
    """
    if len(teachers) != 2:
        raise UsageError(
            "teachers must be two, the standard and the robust one. "
            f"Received: {quantity(len(teachers), 'teacher')}."
        )
    for weight in weights:
        require_real("weights", weight, 0.0, 1.0)
    require_real("temperature", temperature, 1e-6)

    def losses(logits_fn, batch):
        robust = logits_fn(batch.x_adv)
        total = (1 - sum(weights)) * cross_entropy(batch.y, robust)
        for weight, teacher in zip(weights, teachers, strict=True):
            soft = tf.stop_gradient(tf.nn.softmax(teacher(batch.x_adv) / temperature))
            total += weight * temperature**2 * kl_divergence(soft, robust / temperature)
        return total, {"robust_accuracy": is_correct(batch.y, robust)}

    return Objective(losses)


def js_divergence(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Jensen–Shannon divergence of two softmax distributions from their logits (B, K): (B,) nats, ≤ log 2."""
    p, q = tf.nn.log_softmax(first), tf.nn.log_softmax(second)
    # This is log(eᵖ + e^q) without overflow; its softmax is the mean of the two distributions.
    middle = tf.maximum(p, q) + tf.math.softplus(-tf.abs(p - q))
    return 0.5 * (kl_divergence(tf.exp(p), middle) + kl_divergence(tf.exp(q), middle))


def _top(clean, robust, fraction):
    difference = tf.abs(robust - clean)
    # In integers: 0.7·10 is 7, which no rounding of floats may make 6.
    share, size = Fraction(fraction).limit_denominator(10**6), tf.size(difference)
    kept = tf.maximum(tf.cast(size, tf.int64) * share.numerator // share.denominator, 1)
    rows = tf.math.top_k(tf.reshape(difference, [-1]), tf.cast(kept, tf.int32)).indices
    weights = tf.scatter_nd(rows[:, None], tf.ones_like(rows, difference.dtype), [size])
    return tf.reduce_sum(tf.reshape(weights, tf.shape(difference)) * difference, axis=1)


def _l1(clean, robust, _):
    return tf.reduce_sum(tf.abs(robust - clean), axis=1)


def _l2(clean, robust, _):
    return tf.reduce_sum(tf.square(robust - clean), axis=1)


def _kl(clean, robust, _):
    return kl_divergence(tf.nn.softmax(clean), robust)


def _js(clean, robust, _):
    return js_divergence(clean, robust)


def _nuclear(clean, robust, _):
    # The norm is one number for the batch. It is divided equally, so that the mean over the examples is
    # norm/B.
    norm = tf.reduce_sum(tf.linalg.svd(robust - clean, compute_uv=False))
    return tf.fill(tf.shape(clean)[:1], norm / tf.cast(tf.shape(clean)[0], clean.dtype))


DISTANCES = {"top": _top, "l1": _l1, "l2": _l2, "kl": _kl, "js": _js, "nuclear": _nuclear}


def _penalised(strength: float, penalty: Callable) -> Objective:
    """Returns L(x') + λ·penalty; ``penalty(logits_fn, batch)`` returns it and the clean images' logits."""
    require_real("strength", strength, 0.0)

    def losses(logits_fn, batch: Batch):
        # Without an attack the forward pass of the penalty is the only one.
        robust = None if batch.x_adv is batch.x else logits_fn(batch.x_adv)
        penalties, clean = penalty(logits_fn, batch)
        robust = clean if robust is None else robust
        total = cross_entropy(batch.y, robust) + batch.strength * strength * penalties
        return total, accuracies(batch.y, clean, robust)

    return Objective(losses, second_order=True)


def _squares(gradient):
    return tf.reduce_sum(tf.square(gradient), axis=_axes(gradient))


def _axes(tensor):
    return list(range(1, tensor.shape.rank))
