"""Products with the Hessian of a mean loss with respect to the weights, without ever forming it."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from advtf.classifiers.classifier import Classifier
from advtf.classifiers.parameters import Parameters
from advtf.errors import UsageError, require_whole
from advtf.landscape.linear_part import LinearPart
from advtf.landscape.objective import batches, require_pairs
from advtf.runtime import true_float32
from advtf.settings.memory import machine_memory

KEPT_BYTES = 4 * 2**30  # of what does not depend on the vector, and a quarter of the machine's memory at most


def softmax_cross_entropy(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns the softmax cross-entropy (B,) in the dtype of the logits, so that float64 stays float64."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)


class HessianOperator:
    """v ↦ H v with H = ∇²θ 1/N Σ_i loss(y_i, f_θ(x_i)), at the weights that the classifier has at the call.

    The images stay as they are: with adversarial ones this is the Hessian of L_ε(θ) as Liu et al. 2020 take
    it (section 4.2), the maximisers held fixed. H v is the gradient of ⟨∇θ L, v⟩, both by reverse mode in one
    graph; summed over batches, divided by N at the end, so a ragged last batch counts as what it is.

    What does not depend on v, about a quarter of the work, is done in the first product and kept for the next
    ones, until a variable of the classifier changes: `kept_bytes` of memory at most, and nothing on a GPU,
    whose memory is not known here. Products are the same bits, whether their batch is kept or not. Never
    compiled: XLA's second derivative of max-pooling looks for the maximum in bfloat16 and takes another
    entry where two are close, an error of 1 % in products of a LeNet (TensorFlow 2.21).

    Args:
        classifier: classifier, in inference mode.
        x: images (N, H, W, C) in [0, 1].
        y: labels (N,), integers.
        loss: ``loss(y, logits) -> (B,)``.
        batch_size: images at a time; bounds the memory, not the result.
        block: of `Parameters.blocks`; the diagonal block of H for these weights alone.
        kept_bytes: room for what is kept between products. Defaults to 4 GiB or a quarter of the machine's
            memory, whichever is less; a LeNet of width 16 takes 0.21 MB for each image of MNIST.

    Attributes:
        dimension: n, the length of the vectors: P, or of the block.
        products: how many H v have been computed.

    Raises:
        UsageError: no images, unequal lengths, or a block that cuts through a variable.
    """

    def __init__(
        self,
        classifier: Classifier,
        x: np.ndarray,
        y: np.ndarray,
        *,
        loss: Callable = softmax_cross_entropy,
        batch_size: int = 250,
        block: slice | None = None,
        kept_bytes: int | None = None,
    ):
        require_pairs(x, y)
        require_whole("batch_size", batch_size)
        require_whole("kept_bytes", 0 if kept_bytes is None else kept_bytes, 0)
        parameters = classifier.parameters
        self._parameters = parameters if block is None else _within(parameters, block)
        self._x, self._y, self._batch_size = x, y, batch_size
        self.dimension, self.products = self._parameters.size, 0
        self._losses, self._add_gradient, self._product = _graphs(
            classifier.logits_fn, loss, self._parameters, x.shape[1:]
        )
        self._kept = _Kept(self._product, _room() if kept_bytes is None else kept_bytes)

    def __call__(self, vector: np.ndarray) -> np.ndarray:
        """Returns H v for `vector` (n,), in the parameters' dtype.

        Raises:
            UsageError: another length.
        """
        if np.shape(vector) != (self.dimension,):
            raise UsageError(
                f"the Hessian takes vectors of shape ({self.dimension},). Received: {np.shape(vector)}."
            )
        with true_float32():
            direction, total = self._parameters.split(vector), self._zeros()
            self._kept.forget_other_weights()
            for number, (x, y) in enumerate(self._batches()):
                total = self._product(self._kept.at(number, x, y), *total, *direction)
        self.products += 1
        return self._divided(total)

    def gradient(self) -> np.ndarray:
        """Returns ∇θ of the mean loss, (n,) in the parameters' dtype."""
        with true_float32():
            total = self._zeros()
            for x, y in self._batches():
                total = self._add_gradient(x, y, total)
        return self._divided(total)

    @true_float32()
    def loss(self) -> float:
        """Returns the mean loss."""
        return float(
            np.mean(np.concatenate([self._losses(x, y).numpy() for x, y in self._batches()], dtype=float))
        )

    def _zeros(self):
        return [tf.zeros_like(variable) for variable in self._parameters.variables]

    def _divided(self, total):
        return self._parameters.flatten(total).numpy() / self._parameters.dtype.as_numpy_dtype(len(self._x))

    def _batches(self):
        return batches(self._x, self._y, self._batch_size, self._parameters.dtype)


def _graphs(logits_fn: Callable, loss: Callable, parameters: Parameters, shape: tuple) -> tuple:
    """Returns (losses, add_gradient, product added to a total) of one batch, each traced once."""
    variables, dtype = list(parameters.variables), parameters.dtype
    images, labels = tf.TensorSpec((None, *shape), dtype), tf.TensorSpec((None,), tf.int32)
    weights = [tf.TensorSpec(variable.shape, dtype) for variable in variables]

    def compiled(*signature):
        return tf.function(input_signature=signature, autograph=False)

    def gradients(x, y):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            total = tf.reduce_sum(loss(y, logits_fn(x)))
        return tape.gradient(total, variables, unconnected_gradients="zero")

    @compiled(images, labels)
    def losses(x, y):
        return loss(y, logits_fn(x))

    @compiled(images, labels, weights)
    def add_gradient(x, y, total):
        return [old + new for old, new in zip(total, gradients(x, y), strict=True)]

    def add_product(x, y, *total_and_direction):
        total, direction = total_and_direction[: len(weights)], list(total_and_direction[len(weights) :])
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            inner = gradients(x, y)
        product = tape.gradient(inner, variables, direction, unconnected_gradients="zero")
        return [old + new for old, new in zip(total, product, strict=True)]

    return losses, add_gradient, LinearPart(add_product, (images, labels), (*weights, *weights))


class _Kept:
    """What products need of each batch besides the vector, at the weights of the last product."""

    def __init__(self, product: LinearPart, room: int):
        self._product, self._room = product, room
        self._batches, self._weights = {}, None

    def forget_other_weights(self) -> None:
        """Forgets everything if a variable has changed since it was computed, or if that cannot be known."""
        variables = self._product.variables()
        if variables is None:
            self._room = 0
            return
        now = [variable.read_value() for variable in variables]
        if self._weights is None or not all(
            bool(tf.reduce_all(old == new)) for old, new in zip(self._weights, now, strict=True)
        ):
            self._batches, self._weights = {}, now

    def at(self, number: int, x: tf.Tensor, y: tf.Tensor) -> list[tf.Tensor]:
        """Returns what the product with batch `number` needs."""
        kept = self._batches.get(number)
        if kept is None:
            kept = self._product.at(x, y)
            taken = sum(map(_bytes, sum(self._batches.values(), kept)))
            if taken <= self._room:
                self._batches[number] = kept
        return kept


def _bytes(tensor: tf.Tensor) -> int:
    return int(np.prod(tensor.shape)) * tensor.dtype.size


def _room() -> int:
    return 0 if tf.config.list_logical_devices("GPU") else min(KEPT_BYTES, machine_memory() // 4)


def _within(parameters: Parameters, block: slice) -> Parameters:
    """Returns the variables that make up `block` of θ."""
    ends = np.cumsum([0, *(int(np.prod(variable.shape)) for variable in parameters.variables)])
    start, stop, step = block.indices(parameters.size)
    if step != 1 or start not in ends or stop not in ends or stop <= start:
        raise UsageError(
            f"block must be whole variables, as Parameters.blocks gives them. Received: {block} of "
            f"{parameters.size} parameters."
        )
    first, last = np.searchsorted(ends, [start, stop])
    return Parameters(parameters.variables[first:last])
