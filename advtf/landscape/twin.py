"""The softplus twin of a ReLU network: the same weights, twice differentiable (Li & Spratling 2023, A.2)."""

import dataclasses

import keras
import tensorflow as tf

from advtf.classifiers.classifier import Classifier, as_classifier
from advtf.errors import UsageError

RELUS = (keras.activations.relu, keras.ops.relu, tf.nn.relu)


def softplus_twin(model: keras.Model) -> keras.Model:
    """Copies a model with log(1 + eˣ) in place of every ReLU (eq. A.6).

    Layers of their own, ``activation=`` arguments of other layers and ``keras.ops.relu`` in a functional
    model are replaced, inside nested models, too; leaky and clipped ReLUs stay.

    Args:
        model: functional or sequential, built. It is left as it is.

    Returns:
        A model with copies of all weights.

    Raises:
        UsageError: a model of another kind, or one without a ReLU.
    """
    if not getattr(model, "inputs", None):
        raise UsageError(
            "a softplus twin needs a functional or sequential model that is built. "
            f"Received: {model.name} ({type(model).__name__})."
        )
    replaced = []

    def copied(layer):
        twin = _twin_of(layer)
        if twin is not None:
            replaced.append(layer.name)
            return twin
        is_layer = isinstance(layer, keras.layers.Layer)  # other operations have no state
        return layer.__class__.from_config(layer.get_config()) if is_layer else layer

    twin = keras.models.clone_model(model, clone_function=copied, recursive=True)
    if not replaced:
        raise UsageError(f"a softplus twin needs a model with ReLUs. Received: {model.name}, without one.")
    twin.set_weights(model.get_weights())
    return twin


def twin_classifier(classifier: Classifier) -> Classifier:
    """Makes a classifier of the softplus twin, called "<name> (softplus)".

    Raises:
        UsageError: its layers are unknown, as a foreign SavedModel's are, or there is no ReLU.
    """
    if classifier.model is None:
        raise UsageError(
            f"softplus_twin needs a classifier whose layers are known. Received: {classifier.name}, a "
            "SavedModel that does not tell. Leave out softplus_twin."
        )
    twin = as_classifier(softplus_twin(classifier.model), movable=True)
    return dataclasses.replace(twin, name=f"{classifier.name} (softplus)", config=classifier.config)


def _twin_of(layer):
    """Returns the twin of a layer, or of an operation, that is or has a ReLU, else None."""
    if _is_relu(layer):
        dtype = getattr(layer, "dtype_policy", None)
        return keras.layers.Activation("softplus", name=layer.name, dtype=dtype)
    activation = getattr(layer, "activation", None)
    if not (any(activation is relu for relu in RELUS) or _is_relu(activation)):
        return None
    twin = layer.__class__.from_config(layer.get_config())
    twin.activation = keras.activations.softplus
    return twin


def _is_relu(operation):
    """Tells whether this is a ReLU, as a layer or as an operation, neither leaky nor clipped."""
    if type(operation).__name__ not in ("ReLU", "Relu"):
        return False
    settings = ("negative_slope", "max_value", "threshold")
    return not any(getattr(operation, name, None) for name in settings)
