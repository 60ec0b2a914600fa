"""A classifier under study: its logits and the weights that can be moved, whatever it was loaded from."""

import os
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from advtf import models
from advtf.classifiers.export import TOLERANCE, SavedClassifier, load_classifier
from advtf.classifiers.parameters import Parameters
from advtf.classifiers.probabilities import are_probabilities
from advtf.errors import UsageError

PROBES = 8  # random images a classifier is tried on


@dataclass(frozen=True, eq=False)
class Subject:
    """A classifier whose weights can be moved.

    Attributes:
        logits_fn: float32 (B, H, W, C) in [0, 1] -> (B, K), in inference mode, of the present `parameters`.
        parameters: the trainable variables.
        input_shape: (H, W, C); H and W are None where a SavedModel leaves them free.
        num_classes: K.
        name: for tables and files.
        model: the live Keras model; None for foreign SavedModels and saved ensembles.
        config: the settings of its training, as the export recorded them; empty if unknown.
    """

    logits_fn: Callable[[tf.Tensor], tf.Tensor]
    parameters: Parameters
    input_shape: tuple
    num_classes: int
    name: str
    model: keras.Model | None
    config: Mapping


def as_subject(classifier: keras.Model | str | os.PathLike | SavedClassifier) -> Subject:
    """Makes a subject of a built Keras model, a SavedModel's folder, or a loaded classifier.

    An export of this package that tells its configuration is rebuilt as a live model with the exported
    weights; any other SavedModel is moved through its own variables.

    Raises:
        UsageError: not a classifier, one that ends in a softmax, one without trainable variables, or an
            export that is not what its manifest says.
    """
    if isinstance(classifier, keras.Model):
        shape, classes = _signature(classifier)
        _require_logits(classifier, shape)
        return _live(classifier, shape, classes, classifier.name, {})
    if isinstance(classifier, str | os.PathLike):
        classifier = load_classifier(classifier)
    if not isinstance(classifier, SavedClassifier):
        raise UsageError(
            "classifier must be a Keras model, the folder of a SavedModel or a loaded classifier. "
            f"Received: {type(classifier).__name__}."
        )
    name = "/".join(classifier.path.absolute().parts[-2:])
    config = classifier.manifest.get("config") or {}
    if classifier.manifest["kind"] == "classifier" and "model" in config:
        model = _rebuilt(classifier, config)
        return _live(model, classifier.input_shape, classifier.num_classes, name, config)
    parameters = Parameters(_require_trainable(_own_variables(classifier), name))
    return Subject(classifier, parameters, classifier.input_shape, classifier.num_classes, name, None, config)


def _live(model, shape, classes, name, config):
    parameters = Parameters(_require_trainable(model.trainable_variables, name))
    return Subject(lambda x: model(x, training=False), parameters, shape, classes, name, model, config)


def _own_variables(saved):
    # In the order of the layers if the SavedModel lists them, else as its graph comes across them.
    listed = getattr(saved._loaded, "trainable_variables", None)
    return list(listed or saved._signature.trainable_variables)


def _require_trainable(variables, name):
    if not variables:
        raise UsageError(f"classifier must have trainable variables. Received: none in {name}.")
    return variables


def _signature(model):
    """(H, W, C) and K of a built Keras model, functional or not."""
    inputs = getattr(model, "inputs", None)
    shape = inputs[0].shape if inputs else (model.get_build_config() or {}).get("input_shape")
    if not shape or len(shape) != 4:
        raise UsageError(
            "classifier must be built on images (batch, height, width, channels); call it once first. "
            f"Received: {model.name} with input_shape={shape}."
        )
    output = model.compute_output_spec(keras.KerasTensor((None, *shape[1:])), training=False)
    if not isinstance(output, keras.KerasTensor) or len(output.shape) != 2:
        received = getattr(output, "shape", type(output).__name__)
        raise UsageError(f"classifier must return logits (batch, classes). Received: {received}.")
    return tuple(shape[1:]), output.shape[-1]


def _require_logits(model, shape):
    if are_probabilities(np.asarray(model(_probe(shape), training=False))):
        raise UsageError(
            f"classifier must return logits. Received: probabilities from {model.name}; remove the softmax."
        )


def _probe(shape):
    sides = [32 if side is None else side for side in shape]
    return np.random.default_rng(0).random((PROBES, *sides), np.float32)


def _rebuilt(saved: SavedClassifier, config: Mapping) -> keras.Model:
    size = {name: config.get(name) for name in ("width", "depth")}
    activation = {"activation": config["activation"]} if "activation" in config else {}
    with _float32():
        model = models.build(config["model"], saved.input_shape, saved.num_classes, **size, **activation)
    values = {variable.name.removesuffix(":0"): variable for variable in saved._signature.variables}
    expected = {variable.path: tuple(variable.shape) for variable in model.weights}
    found = {name: tuple(variable.shape) for name, variable in values.items()}
    if expected != found:
        wrong = sorted(name for name, _ in expected.items() ^ found.items())[0]
        raise UsageError(
            f"{saved.path} must hold the variables of the {config['model']} its manifest names. "
            f"Received: a difference at {wrong}; export the classifier again."
        )
    for variable in model.weights:
        variable.assign(values[variable.path].numpy())
    _compare(model, saved)
    return model


@contextmanager
def _float32():
    """Builds in the precision of the SavedModel whatever policy Keras is set to."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _compare(model, saved):
    images = _probe(saved.input_shape)
    live, wanted = np.asarray(model(images, training=False)), np.asarray(saved(images))
    error = np.abs(live - wanted).max()
    if not error <= TOLERANCE * max(1.0, np.abs(wanted).max()):
        raise UsageError(
            f"{saved.path} must compute what its manifest describes, {saved.manifest['config']['model']}. "
            f"Received: logits that differ by {error:.3g}; export the classifier again."
        )
