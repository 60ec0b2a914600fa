"""Classifiers that end in a softmax: how to tell them, and their logarithm, which serves as logits."""

import numpy as np
import tensorflow as tf

from advtf.errors import UsageError, one_of

OUTPUTS = ("logits", "probabilities")
LEAST_PROBABILITY = 1e-12  # below it a probability has no logarithm worth climbing


def are_probabilities(values: np.ndarray) -> bool:
    """Whether rows (B, K) are probabilities: nowhere negative, and of sum 1 up to rounding."""
    return bool(values.min() >= 0 and np.allclose(values.sum(axis=1), 1, atol=1e-4))


def require_outputs(outputs: str, values: np.ndarray, name: str) -> None:
    """Checks that a classifier returns what its user says it does.

    Args:
        outputs: "logits" or "probabilities".
        values: (B, K), what it returned for some images.
        name: of the classifier, for the message.

    Raises:
        UsageError: `values` are something else, or `outputs` is.
    """
    one_of("outputs", outputs, OUTPUTS)
    if outputs == "logits" and are_probabilities(values):
        raise UsageError(
            f"{name} must return logits. Received: probabilities; remove the softmax, or say "
            "outputs=probabilities."
        )
    if outputs == "probabilities" and not are_probabilities(values):
        raise UsageError(f"{name} must return probabilities. Received: other values; use outputs=logits.")


def log_probabilities(probabilities: tf.Tensor) -> tf.Tensor:
    """Logarithm of probabilities (B, K) as float32; of those below 1e-12, that of 1e-12.

    It is what logits are up to a constant per row, so every loss of logits may be climbed on it. But where
    the softmax has rounded to 0 or 1 its gradient is gone: a classifier's own logits are always better.
    """
    return tf.math.log(tf.maximum(tf.cast(probabilities, tf.float32), LEAST_PROBABILITY))
