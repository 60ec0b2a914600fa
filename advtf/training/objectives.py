"""What a training step minimises: pure functions from a classifier and one batch to per-example losses.

``losses(logits_fn, batch) -> (losses, accuracies)``: `logits_fn` is the classifier in training mode, `batch`
a `Batch`. `losses` is (B,), its mean is minimised; `accuracies` maps "clean_accuracy" and "robust_accuracy"
to (B,) zeros and ones where the forward passes made anyway give them. `advtf.training.regularizers` holds the
objectives that add a penalty to adversarial training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import keras
import tensorflow as tf

from advtf.attacks.losses import cross_entropy, is_correct, kl_divergence, target_class
from advtf.errors import UsageError, require_real
from advtf.models.layers import BatchNormalization


class Batch(NamedTuple):
    """One training batch and what the attack made of it; nothing in it carries a gradient.

    Attributes:
        x: clean images, float32 (B, H, W, C) in [0, 1].
        x_adv: their adversarial examples; `x` itself for an objective or an adversary that attacks nothing.
        y: classes, int32 (B,).
        epsilon: radius ε of this step, a float32 scalar.
        strength: share of the objective's strength in force, a float32 scalar; 1 unless it is ramped.
        seed: int64 (2,), of this step.
        neighbor, neighbor_adv: a second view of the images and its adversarial examples, for objectives that
            ask for one; else None.
    """

    x: tf.Tensor
    x_adv: tf.Tensor
    y: tf.Tensor
    epsilon: tf.Tensor
    strength: tf.Tensor
    seed: tf.Tensor
    neighbor: tf.Tensor | None = None
    neighbor_adv: tf.Tensor | None = None


@dataclass(frozen=True)
class Objective:
    """A loss, and what has to be prepared for it.

    Attributes:
        losses: ``losses(logits_fn, batch) -> (losses, accuracies)``.
        attacks: whether adversarial examples are needed at all.
        aim: ``aim(logits_fn, x, y)`` -> what the attack's loss gets in place of `y`; None: `y` itself.
        neighbor: ``neighbor(x, epsilon, seed)`` -> second view of the images, attacked as well.
        views: 2 if the second view is another augmentation of the same images, made by the data pipeline.
        second_order: whether the losses hold input gradients, so that weights get second derivatives.
    """

    losses: Callable
    attacks: bool = True
    aim: Callable | None = None
    neighbor: Callable | None = None
    views: int = 1
    second_order: bool = False


def as_objective(objective: "Objective | Callable") -> Objective:
    """Returns an `Objective`, also of a plain function of ``(logits_fn, batch)``."""
    return objective if isinstance(objective, Objective) else Objective(objective)


def require_exact_derivatives(classifier: keras.Model) -> None:
    """Refuses layers of Keras whose second derivatives are wrong, for a `second_order` objective.

    They take the variance by `tf.nn.moments`, which holds the mean back from the gradient: right to first
    order only. Our BatchNorm, and Keras' with synchronized=True, do not.

    Raises:
        UsageError: such a layer is there.
    """
    inexact = keras.layers.LayerNormalization, keras.layers.GroupNormalization
    for layer in classifier._flatten_layers():
        own_moments = isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized
        if isinstance(layer, inexact) or (own_moments and not isinstance(layer, BatchNormalization)):
            raise UsageError(
                "an objective with input gradients needs exact second derivatives. Received: layer "
                f"{layer.name}, a {type(layer).__name__} of Keras. "
                "Use advtf.models.layers.BatchNormalization."
            )


def _adversarial(logits_fn, batch: Batch):
    logits = logits_fn(batch.x_adv)
    return cross_entropy(batch.y, logits), {"robust_accuracy": is_correct(batch.y, logits)}


def _standard(logits_fn, batch: Batch):
    logits = logits_fn(batch.x)
    return cross_entropy(batch.y, logits), {"clean_accuracy": is_correct(batch.y, logits)}


# Adversarial training, L_ε(θ) = mean g(x', θ) (Madry et al. 2018; Liu et al. 2020, eq. 1).
adversarial = Objective(_adversarial)
# Standard training, L_0(θ) = mean g(x, θ).
standard = Objective(_standard, attacks=False)


def adversarial_minus_standard(alpha: float = 0.5) -> Objective:
    """L(x + δ) − α L(x): adversarial training less a part of the clean optimisation (Li & Spratling, eq. 9).

    Args:
        alpha: α, from 0 (adversarial training) to 1.
    """
    require_real("alpha", alpha, 0.0)

    def losses(logits_fn, batch):
        robust, clean = logits_fn(batch.x_adv), logits_fn(batch.x)
        difference = cross_entropy(batch.y, robust) - batch.strength * alpha * cross_entropy(batch.y, clean)
        return difference, accuracies(batch.y, clean, robust)

    return Objective(losses)


def trades(beta: float = 6.0) -> Objective:
    """L(x) + β KL(f(x) ‖ f(x')), x' climbing that divergence (TRADES, Zhang et al. 2019, eq. 5).

    The attack's loss must be `advtf.attacks.losses.kl_divergence`: it is aimed at the clean probabilities.

    Args:
        beta: β = 1/λ of the paper; 6 is its usual value on CIFAR-10.
    """
    require_real("beta", beta, 0.0)

    def losses(logits_fn, batch):
        clean, robust = logits_fn(batch.x), logits_fn(batch.x_adv)
        divergence = kl_divergence(tf.nn.softmax(clean), robust)
        total = cross_entropy(batch.y, clean) + batch.strength * beta * divergence
        return total, accuracies(batch.y, clean, robust)

    return Objective(losses, aim=lambda logits_fn, x, y: tf.nn.softmax(logits_fn(x)))


def mart(beta: float = 5.0) -> Objective:
    """BCE(f(x'), y) + λ KL(f(x) ‖ f(x'))·(1 − p_y(x)) (MART, Wang et al. 2020, eq. 11).

    BCE = −log p_y(x') − log(1 − max_{k≠y} p_k(x')): misclassified examples count for more.

    Args:
        beta: λ of the paper, 5 on CIFAR-10.
    """
    require_real("beta", beta, 0.0)

    def losses(logits_fn, batch):
        clean, robust = logits_fn(batch.x), logits_fn(batch.x_adv)
        # log(1 − p_k) from the logits of the other classes: finite where p_k rounds to 1.
        others = target_class(batch.y, robust, 1)
        others = tf.one_hot(others, robust.shape[-1], -float("inf"), 0.0, dtype=robust.dtype)
        rest = tf.reduce_logsumexp(robust + others, axis=-1) - tf.reduce_logsumexp(robust, axis=-1)
        weight = 1 - tf.gather(tf.nn.softmax(clean), batch.y, batch_dims=1)
        divergence = kl_divergence(tf.nn.softmax(clean), robust)
        total = cross_entropy(batch.y, robust) - rest + batch.strength * beta * divergence * weight
        return total, accuracies(batch.y, clean, robust)

    return Objective(losses)


def accuracies(y: tf.Tensor, clean: tf.Tensor, robust: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns both accuracies, (B,) zeros and ones, from the logits of clean and attacked images."""
    return {"clean_accuracy": is_correct(y, clean), "robust_accuracy": is_correct(y, robust)}
