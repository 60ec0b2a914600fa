"""Adversarial weight perturbation (AWP, Wu et al. 2020): gradients taken at the worst weights."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from advtf.errors import UsageError, require_real


def require_gamma(gamma: float) -> float:
    """Returns γ as a float, which must be at least 0, and 0 under a strategy with several replicas."""
    require_real("awp", gamma, 0.0)
    if gamma and tf.distribute.get_strategy().num_replicas_in_sync > 1:
        raise UsageError(f"awp works on one device only. Received: awp={gamma} under a strategy.")
    return float(gamma)


def perturbation(weights: Sequence, gradients: Sequence[tf.Tensor], gamma: float) -> list[tf.Tensor]:
    """Returns v = γ ‖w‖₂ ∇w/‖∇w‖₂ layer by layer (eq. 9), and zeros for biases and BatchNorm's vectors.

    Args:
        weights, gradients: the weights of one classifier and the loss gradients with respect to them, in the
            same order.
        gamma: γ, the length of v relative to that of the weights.
    """

    def worst(weight, gradient):
        if weight.shape.rank < 2:
            return tf.zeros_like(gradient)
        length = gamma * tf.norm(weight) * tf.math.reciprocal_no_nan(tf.norm(gradient))
        return length * gradient

    return [worst(tf.convert_to_tensor(w), g) for w, g in zip(weights, gradients, strict=True)]


def gradients_at_worst_weights(classifier, gamma: float, step: Callable[[], tuple]) -> tuple:
    """Runs ``step() -> (gradients, *rest)`` at w and then at w + v, and returns what the second run returned.

    The first run only finds v. What it changed in variables that are not trained (BatchNorm's running
    statistics, random states) is undone, and at the end the weights have their old bits again.

    Args:
        classifier: the Keras model whose variables are moved.
        gamma: γ of `perturbation`.
        step: one forward and one backward pass; returns the gradients of `classifier.trainable_variables`
            first.
    """
    weights, others = classifier.trainable_variables, classifier.non_trainable_variables
    kept = [tf.identity(variable) for variable in (*weights, *others)]
    gradients = step()[0]
    for variable, value in zip(others, kept[len(weights) :], strict=True):
        variable.assign(value)
    for weight, move in zip(weights, perturbation(weights, gradients, gamma), strict=True):
        weight.assign_add(move)
    result = step()
    for weight, value in zip(weights, kept[: len(weights)], strict=True):
        weight.assign(value)
    return result
