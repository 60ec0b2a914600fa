"""What a training step minimises: pure functions from a classifier and one batch to per-example losses.

The function is ``losses(logits_fn, batch) -> (losses, accuracies)``. `logits_fn` is the classifier in
training mode and `batch` a `Batch`. `losses` has shape (B,), and training minimises its mean. `accuracies`
maps "clean_accuracy" and "robust_accuracy" to zeros and ones of shape (B,), as far as the forward passes of
the loss give them; the trainer measures the rest. `advtf.training.regularizers` holds the objectives that add
a penalty to adversarial training.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import keras
import tensorflow as tf

from advtf.attacks.losses import cross_entropy, is_correct, kl_divergence, target_class
from advtf.errors import UsageError, require_real
from advtf.models.layers import BatchNormalization
from advtf.storage.builders import recorded, serialized


class Batch(NamedTuple):
    """One training batch and its adversarial examples; no gradient flows through any of its tensors.

    Attributes:
        x: clean images, float32 (B, H, W, C) in [0, 1].
        x_adv: their adversarial examples; `x` itself where the objective or the adversary attacks nothing.
        y: classes, int32 (B,).
        epsilon: radius ε of this step, a float32 scalar.
        strength: the share of the objective's strength in force, a float32 scalar; 1 unless it is ramped.
        seed: int64 (2,), the random seed of this step; under a strategy (5,), the seed of this device's rows,
            see `advtf.attacks.random.seed_of_rows`.
        second_view: the same images under other noise or another augmentation, (B, H, W, C), for an objective
            that compares the two; else None.
        second_view_adv: the adversarial examples of `second_view`; None without one.
    """

    x: tf.Tensor
    x_adv: tf.Tensor
    y: tf.Tensor
    epsilon: tf.Tensor
    strength: tf.Tensor
    seed: tf.Tensor
    second_view: tf.Tensor | None = None
    second_view_adv: tf.Tensor | None = None


@keras.saving.register_keras_serializable("advtf")
@dataclass(frozen=True)
class Objective:
    """A loss, and what the training step has to prepare for it.

    Attributes:
        losses: ``losses(logits_fn, batch) -> (losses, accuracies)``, see the top of this module.
        attacks: whether the loss needs adversarial examples at all.
        attack_target: ``attack_target(logits_fn, x, y)`` returns what the attack's loss compares the logits
            with in place of the classes, such as the clean probabilities; None for the classes `y`.
        second_view: ``second_view(x, epsilon, seed)`` returns a second view of the images, which is attacked
            as well, such as `x` with noise; None for no second view, or for one from the data pipeline.
        views: 2 if the data pipeline makes the second view, by augmenting the same images again.
        second_order: whether the losses contain input gradients, so that the gradient with respect to the
            weights is a second derivative.
    """

    losses: Callable
    attacks: bool = True
    attack_target: Callable | None = None
    second_view: Callable | None = None
    views: int = 1
    second_order: bool = False

    def get_config(self) -> dict:
        """Returns the fields in the form of Keras; every function must be registered with it.

        Raises:
            UsageError: a function is not registered, so that the objective cannot be saved.
        """
        return {field.name: serialized("objective", getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_config(cls, config: dict) -> "Objective":
        """Returns the objective of a configuration."""
        return cls(**{name: keras.saving.deserialize_keras_object(value) for name, value in config.items()})


def as_objective(objective: "Objective | Callable") -> Objective:
    """Returns the objective itself, or the `Objective` of a plain function of ``(logits_fn, batch)``."""
    return objective if isinstance(objective, Objective) else Objective(objective)


def require_exact_derivatives(classifier: keras.Model) -> None:
    """Refuses a classifier with layers whose second derivatives are wrong, for a `second_order` objective.

    These layers of Keras compute the variance with `tf.nn.moments`, which stops the gradient at the mean: the
    first derivative is right without the part that flows through the mean, the second is not. Our BatchNorm,
    and Keras' own with synchronized=True, let the gradient flow through the mean.

    Raises:
        UsageError: the classifier has such a layer.
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


@keras.saving.register_keras_serializable("advtf", "adversarial")
def _adversarial(logits_fn, batch: Batch):
    logits = logits_fn(batch.x_adv)
    return cross_entropy(batch.y, logits), {"robust_accuracy": is_correct(batch.y, logits)}


@keras.saving.register_keras_serializable("advtf", "standard")
def _standard(logits_fn, batch: Batch):
    logits = logits_fn(batch.x)
    return cross_entropy(batch.y, logits), {"clean_accuracy": is_correct(batch.y, logits)}


# Adversarial training minimises L_ε(θ) = mean g(x', θ) (Madry et al. 2018; Liu et al. 2020, eq. 1).
adversarial = Objective(_adversarial)
# Standard training minimises L_0(θ) = mean g(x, θ).
standard = Objective(_standard, attacks=False)


@recorded
def adversarial_minus_standard(alpha: float = 0.5) -> Objective:
    """L(x + δ) − α L(x): adversarial training minus a part of the clean loss (Li & Spratling 2023, eq. 9).

    Args:
        alpha: α, from 0 (adversarial training) to 1.
    """
    require_real("alpha", alpha, 0.0)

    def losses(logits_fn, batch):
        robust, clean = logits_fn(batch.x_adv), logits_fn(batch.x)
        difference = cross_entropy(batch.y, robust) - batch.strength * alpha * cross_entropy(batch.y, clean)
        return difference, accuracies(batch.y, clean, robust)

    return Objective(losses)


@recorded
def trades(beta: float = 6.0) -> Objective:
    """TRADES: L(x) + β KL(f(x) ‖ f(x')), where x' maximises that divergence (Zhang et al. 2019, eq. 5).

    The loss of the attack must be `advtf.attacks.losses.kl_divergence`, because the attack gets the clean
    probabilities in place of the classes.

    Args:
        beta: β = 1/λ of the paper; 6 is its usual value on CIFAR-10.
    """
    require_real("beta", beta, 0.0)

    def losses(logits_fn, batch):
        clean, robust = logits_fn(batch.x), logits_fn(batch.x_adv)
        divergence = kl_divergence(tf.nn.softmax(clean), robust)
        total = cross_entropy(batch.y, clean) + batch.strength * beta * divergence
        return total, accuracies(batch.y, clean, robust)

    return Objective(losses, attack_target=lambda logits_fn, x, y: tf.nn.softmax(logits_fn(x)))


@recorded
def mart(beta: float = 5.0) -> Objective:
    """MART: BCE(f(x'), y) + λ KL(f(x) ‖ f(x'))·(1 − p_y(x)) (Wang et al. 2020, eq. 11).

    BCE = −log p_y(x') − log(1 − max_{k≠y} p_k(x')), so that misclassified examples count for more.

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
