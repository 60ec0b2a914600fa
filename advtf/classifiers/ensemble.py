"""One classifier out of several: the mean of their softmax probabilities, as log-probabilities."""

import math
from collections.abc import Iterable, Sequence

import keras
import tensorflow as tf

from advtf.errors import UsageError


def log_mean_probabilities(logits: Sequence[tf.Tensor]) -> tf.Tensor:
    """Computes the logarithm of the mean of the members' softmax probabilities.

    log p_k = logsumexp_m(log_softmax(z_m)_k) − log M. Never leaves log space, so a class that every
    member finds improbable keeps a finite value and a useful gradient. The rows are normalised:
    cross-entropy with them as logits is −log of the mean probability of the true class.

    Args:
        logits: M ≥ 1 tensors (B, K), each in any float dtype; log-probabilities are as good as logits.

    Returns:
        float32 (B, K), ≤ 0.

    Raises:
        UsageError: no member.
    """
    members = [tf.nn.log_softmax(tf.cast(member, tf.float32)) for member in logits]
    if not members:
        raise UsageError("an ensemble needs at least one member. Received: logits=[]")
    return tf.reduce_logsumexp(tf.stack(members), axis=0) - math.log(len(members))


class MeanOfMembers(keras.layers.Layer):
    """Holds the members and returns `log_mean_probabilities` of their inference-mode logits.

    A layer, because a functional model refuses two members of the same name, and snapshots of one
    run all have the same name. Always float32: a half-precision mean would undo the members' care.
    """

    def __init__(self, members: Sequence[keras.Model], **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.members = list(members)

    def call(self, x):
        return log_mean_probabilities([member(x, training=False) for member in self.members])


def build_ensemble(members: Sequence[keras.Model]) -> keras.Model:
    """Builds the model that averages its members' probabilities, for attacking them jointly.

    The members are shared, not copied: what changes their weights changes the ensemble. They always
    run in inference mode (BatchNorm uses its moving statistics).

    Args:
        members: built classifiers, all from images (B, H, W, C) to logits (B, K).

    Returns:
        A functional model: float32 image in [0, 1] -> float32 log-probabilities (B, K).

    Raises:
        UsageError: no member, a member not built, or members that differ in image shape or classes.
    """
    if isinstance(members, keras.Model) or not isinstance(members, Iterable):
        raise UsageError(f"members must be a list of Keras models. Received: {type(members).__name__}.")
    members = list(members)
    if not members:
        raise UsageError("an ensemble needs at least one member. Received: members=[]")
    shapes = [_signature(member) for member in members]
    if len(set(shapes)) > 1:
        received = ", ".join(f"{image} -> {classes}" for image, classes in shapes)
        raise UsageError(f"members must share one image shape and class count. Received: members={received}")
    image = keras.Input(shapes[0][0], dtype="float32", name="image")
    log_probabilities = MeanOfMembers(members, name="log_probabilities")(image)
    return keras.Model(image, log_probabilities, name="ensemble")


def image_shape(model: keras.Model) -> tuple | None:
    """Returns (H, W, C) of a model built on images, functional or subclassed; None if it does not tell."""
    inputs = getattr(model, "inputs", None)
    shape = inputs[0].shape if inputs else (model.get_build_config() or {}).get("input_shape")
    return tuple(shape[1:]) if shape and len(shape) == 4 else None


def _signature(member: keras.Model) -> tuple[tuple, int]:
    """Returns the image shape and the number of classes of a built model, functional or subclassed."""
    if not isinstance(member, keras.Model):
        raise UsageError(f"members must be Keras models. Received: member={type(member).__name__}")
    shape = image_shape(member)
    if shape is None:
        raise UsageError(
            "members must be built on images (batch, height, width, channels); call each once first. "
            f"Received: member={member.name}, which is not"
        )
    output = member.compute_output_spec(keras.KerasTensor((None, *shape)), training=False)
    return shape, output.shape[-1]
