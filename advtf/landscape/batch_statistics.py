"""The running statistics of BatchNorm, estimated anew for weights that were not trained but constructed."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import numpy as np
import tensorflow as tf

from advtf.errors import UsageError, require_whole
from advtf.runtime import true_float32


class BatchStatistics:
    """Sets the running mean and variance of every BatchNorm layer to those of its inputs over all of `x`.

    The layers are taken in order from the input: the inputs of each are computed in inference mode, with the
    statistics just found before it. So the result is exact for the network as it will be used, and depends
    neither on the batch size nor on the order of the examples, as averages of batch statistics do.

    Args:
        model: functional Keras model; one without BatchNorm is left as it is.
        batch_size: examples at a time.
        jit_compile: compile with XLA.

    Raises:
        UsageError: BatchNorm layers that are not part of the model's own graph of layers.
    """

    def __init__(self, model: keras.Model, *, batch_size: int = 250, jit_compile: bool = False):
        require_whole("batch_size", batch_size)
        self.layers = norm_layers(model)
        self._batch_size = batch_size
        self._moments = [_moments_function(model, layer, jit_compile) for layer in self.layers]

    @true_float32()
    def __call__(self, x: np.ndarray) -> None:
        """Estimates them on images `x`, float32 (N, H, W, C), with the weights the model has now.

        The variance is the unbiased one, Σ(z − μ)²/(n − 1) over examples and positions, as in PyTorch.
        """
        for layer, moments in zip(self.layers, self._moments, strict=True):
            mean, variance = self._pooled(moments, x)
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(variance)

    def _pooled(self, moments, x):
        """Returns the mean and unbiased variance of all batches together (Chan et al. 1979), in float64."""
        count, mean, squares = 0.0, 0.0, 0.0
        for start in range(0, len(x), self._batch_size):
            n, batch_mean, batch_squares = (
                part.numpy().astype(np.float64) for part in moments(x[start : start + self._batch_size])
            )
            shift, total = batch_mean - mean, count + n
            mean = mean + shift * n / total
            squares = squares + batch_squares + shift**2 * count * n / total
            count = total
        return mean, squares / max(count - 1, 1)


def norm_layers(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Returns the BatchNorm layers of a functional model, none before those it depends on.

    Raises:
        UsageError: a subclassed or nested model with BatchNorm.
    """
    layers, own = _norms(model._flatten_layers()), _norms(model.layers)
    # A Sequential model counts as functional: its layers have symbolic inputs, too.
    functional = bool(getattr(model, "inputs", None)) and len(own) == len(layers)
    if layers and not functional:
        raise UsageError(
            "BatchNorm statistics can be estimated for functional models whose layers are not nested. "
            f"Received: {model.name} ({type(model).__name__}) with {len(layers)} BatchNorm layers."
        )
    return own


def _norms(layers):
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]


@contextmanager
def of_the_batch(layers: list[keras.layers.BatchNormalization]) -> Iterator[None]:
    """Makes a training-mode forward pass, traced inside, set the running statistics to those of its batch."""
    before = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.momentum = 0.0
        yield
    finally:
        for layer, momentum in zip(layers, before, strict=True):
            layer.momentum = momentum


def _moments_function(model, layer, jit_compile):
    inputs = keras.Model(model.inputs[0], layer.input)  # shares the model's layers and weights
    axis = layer.axis

    def moments(x):
        features = tf.cast(inputs(x, training=False), layer.variable_dtype)
        axes = [a for a in range(features.shape.rank) if a != axis % features.shape.rank]
        mean = tf.reduce_mean(features, axes, keepdims=True)
        count = tf.size(features) // tf.size(mean)
        squares = tf.reduce_sum(tf.square(features - mean), axes)
        return tf.cast(count, features.dtype), tf.reshape(mean, [-1]), squares

    images = tf.TensorSpec((None, *model.inputs[0].shape[1:]), model.inputs[0].dtype)
    return tf.function(moments, input_signature=[images], jit_compile=jit_compile, autograph=False)
