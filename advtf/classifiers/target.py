"""Whatever can be attacked, as one kind of thing: a function to logits that knows its shapes."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from advtf.classifiers.ensemble import build_ensemble
from advtf.classifiers.export import SavedClassifier, load_classifier
from advtf.classifiers.probabilities import log_probabilities, require_outputs
from advtf.errors import UsageError


@dataclass(frozen=True, eq=False)
class Target:
    """A classifier under attack.

    Attributes:
        logits_fn: float32 (B, H, W, C) in [0, 1] -> float32 (B, K).
        num_classes: K.
        name: for tables and files.
        ends_in_softmax: the logits are logarithms of probabilities, which may have been rounded.
    """

    logits_fn: Callable[[tf.Tensor], tf.Tensor]
    num_classes: int
    name: str
    ends_in_softmax: bool = False


def as_target(classifier: object, x: np.ndarray, y: np.ndarray, outputs: str = "logits") -> Target:
    """Makes a target of a Keras model, a list of them (their ensemble), a SavedModel or a function.

    Args:
        classifier: maps images to logits; a Keras model is run in inference mode. A SavedModel is given by
            its path or loaded.
        x: images float32 (N, H, W, C) in [0, 1]; the first ones are tried.
        y: labels int32 (N,).
        outputs: "logits", or "probabilities" of a classifier that ends in a softmax.

    Raises:
        UsageError: not a classifier of these images, or its outputs are not what was said.
    """
    if isinstance(classifier, str | os.PathLike):
        classifier = load_classifier(classifier, outputs)
    function, name = _function(classifier)
    values = _tried(function, name, x[:16])
    if y.max() >= values.shape[1]:
        raise UsageError(
            f"labels must be in [0, {values.shape[1]}), the classes of {name}. Received: label {y.max()}. "
            "Give the data the classifier was trained on."
        )
    if isinstance(classifier, SavedClassifier) and classifier.ends_in_softmax:
        return Target(classifier, values.shape[1], name, True)
    require_outputs(outputs, values, name)
    ends_in_softmax = outputs == "probabilities"
    return Target(_logits_of(function, ends_in_softmax), values.shape[1], name, ends_in_softmax)


def _tried(function, name, x):
    try:
        values = np.asarray(function(tf.constant(x)))
    except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"classifier must accept images {x.shape[1:]}. Received: {reason}") from error
    if values.ndim != 2 or len(values) != len(x) or values.shape[1] < 2:
        raise UsageError(f"classifier must return (batch, classes). Received: {values.shape} from {name}.")
    return values


def _logits_of(function, ends_in_softmax):
    if ends_in_softmax:
        return lambda x: log_probabilities(function(x))
    return lambda x: tf.cast(function(x), tf.float32)


def _function(classifier):
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
