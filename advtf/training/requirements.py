"""What the trainer requires of a classifier, a radius and a batch; each breach is one line of error."""

import keras
import tensorflow as tf

from advtf.errors import UsageError


def unpack(data):
    """Returns images float32 (B, H, W, C), a second view of them or None, labels int32 (B,), sample weights.

    Raises:
        UsageError: images that are not floating point, labels that are not one integer per image.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    x, neighbor = x if isinstance(x, tuple | list) else (x, None)
    x, y = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
    if not x.dtype.is_floating:
        raise UsageError(
            f"images must be floating point in [0, 1]. Received: dtype {x.dtype.name}. Divide by 255."
        )
    if y.shape.rank not in (None, 1) and y.shape[1:].num_elements() != 1:
        raise UsageError(
            f"labels must be integers (batch,). Received: y of shape {tuple(y.shape)}. "
            "Use argmax(axis=1) of one-hot labels."
        )
    weight = 1.0 if sample_weight is None else tf.cast(tf.reshape(sample_weight, [-1]), tf.float32)
    neighbor = None if neighbor is None else tf.cast(neighbor, tf.float32)
    return tf.cast(x, tf.float32), neighbor, tf.cast(tf.reshape(y, [-1]), tf.int32), weight


def require_radius(name: str, value: float) -> float:
    """Returns a finite radius of at least 0."""
    value = float(value)
    if not 0 <= value < float("inf"):
        raise UsageError(f"{name} must be a finite radius >= 0. Received: {name}={value}.")
    return value


def require_logits(classifier: keras.Model) -> None:
    """Refuses what is not a built Keras model from images to logits."""
    if not isinstance(classifier, keras.Model):
        raise UsageError(
            f"classifier must be a keras.Model from images to logits. Received: {type(classifier).__name__}."
        )
    if not classifier.built:
        raise UsageError(
            "classifier must have its weights. Received: a model that is not built. "
            "Begin it with keras.Input, or call it on one batch."
        )
    shape = getattr(classifier, "output_shape", None)
    if shape is not None and (not isinstance(shape, tuple) or len(shape) != 2):
        raise UsageError(f"classifier must return (batch, classes) logits. Received: output shape {shape}.")
    last = _last_layer(classifier)
    activation = getattr(last, "activation", None)
    if activation is keras.activations.softmax or isinstance(last, keras.layers.Softmax):
        raise UsageError(
            "classifier must return logits: cross-entropy on probabilities hides gradients from attacks. "
            "Received: a model ending in softmax. Build it without the last activation."
        )


def _last_layer(layer):
    while isinstance(layer, keras.Model) and layer.layers:
        layer = layer.layers[-1]
    return layer
