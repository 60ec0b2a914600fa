"""Whatever can be attacked, as one kind of thing: a function to logits that knows its shapes."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from advtf.ensemble import build_ensemble
from advtf.errors import UsageError
from advtf.export import SavedClassifier, load_classifier

LEAST_PROBABILITY = 1e-12  # below it a probability has no logarithm worth climbing


@dataclass(frozen=True, eq=False)
class Target:
    """A classifier under attack.

    Attributes:
        logits_fn: float32 (B, H, W, C) in [0, 1] -> float32 (B, K).
        num_classes: K.
        name: for tables and files.
    """

    logits_fn: Callable[[tf.Tensor], tf.Tensor]
    num_classes: int
    name: str


def as_target(classifier: object, x: np.ndarray, y: np.ndarray, outputs: str = "logits") -> Target:
    """Makes a target of a Keras model, a list of them (their ensemble), a SavedModel's path or a function.

    Args:
        classifier: maps images to logits; a Keras model is run in inference mode.
        x: images float32 (N, H, W, C) in [0, 1]; the first ones are tried.
        y: labels int32 (N,).
        outputs: "logits", or "probabilities" of a classifier that ends in a softmax.

    Raises:
        UsageError: not a classifier of these images, or its outputs are not what was said.
    """
    function, name = _function(classifier, outputs)
    probe = tf.constant(x[:16])
    try:
        values = np.asarray(function(probe))
    except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"classifier must accept images {x.shape[1:]}. Received: {reason}") from error
    if values.ndim != 2 or len(values) != len(probe) or values.shape[1] < 2:
        raise UsageError(f"classifier must return (batch, classes). Received: {values.shape} from {name}.")
    if y.max() >= values.shape[1]:
        raise UsageError(
            f"labels must be in [0, {values.shape[1]}), the classes of {name}. Received: label {y.max()}. "
            "Give the data the classifier was trained on."
        )
    probabilities = values.min() >= 0 and np.allclose(values.sum(axis=1), 1, atol=1e-4)
    if probabilities != (outputs == "probabilities"):
        received = "probabilities" if probabilities else "other values"
        remedy = (
            "Remove the softmax, or say outputs=probabilities." if probabilities else "Use outputs=logits."
        )
        raise UsageError(f"classifier must return {outputs}. Received: {received} from {name}. {remedy}")
    return Target(_log(function) if probabilities else _float32(function), values.shape[1], name)


def _function(classifier, outputs):
    if isinstance(classifier, str | os.PathLike):
        path = Path(classifier)
        return _saved(path, outputs), "/".join(path.absolute().parts[-2:])
    if isinstance(classifier, SavedClassifier):
        return classifier, "/".join(classifier.path.absolute().parts[-2:])
    if isinstance(classifier, Sequence):
        classifier = build_ensemble(classifier)
    if isinstance(classifier, keras.Model):
        return lambda x: classifier(x, training=False), classifier.name
    if not callable(classifier):
        raise UsageError(
            "classifier must be a Keras model, a list of them, the path of a SavedModel or a function. "
            f"Received: {type(classifier).__name__}."
        )
    return classifier, getattr(classifier, "__name__", type(classifier).__name__)


def _saved(path, outputs):
    try:
        return load_classifier(path)
    except UsageError as error:
        if outputs != "probabilities" or "softmax" not in str(error):
            raise
    # The one thing load_classifier refused is what was asked for.
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]
    (key,) = signature.structured_input_signature[1]

    def probabilities(x):
        (output,) = signature(**{key: x}).values()
        return output

    probabilities.loaded = loaded  # its variables die with it
    return probabilities


def _float32(function):
    return lambda x: tf.cast(function(x), tf.float32)


def _log(function):
    return lambda x: tf.math.log(tf.maximum(tf.cast(function(x), tf.float32), LEAST_PROBABILITY))
