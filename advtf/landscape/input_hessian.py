"""The largest eigenvalues of each example's input Hessian ∇²ₓ L(x, y), for many examples at once.

An example's Hessian does not depend on the rest of its batch in inference mode, so one differentiation of
the summed loss multiplies every example's Hessian with a vector of its own.
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from advtf.attacks.attack import input_gradient
from advtf.errors import UsageError, one_of, require_whole
from advtf.landscape.batched_lanczos import Spectra, largest_magnitudes
from advtf.landscape.linear_part import LinearPart
from advtf.landscape.objective import batches, require_pairs
from advtf.runtime import true_float32

BASIS_BYTES = 2**30  # of the bases of the examples in hand


def exact_cross_entropy(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns the softmax cross-entropy (B,) in float64.

    In float32 the derivatives of a confident example vanish.
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(y, tf.cast(logits, tf.float64))


def require_second_derivatives(model: keras.Model | None) -> None:
    """Refuses layers of Keras whose second derivatives are silently wrong, even in inference mode.

    They compute the variance by `tf.nn.moments`, which stops the gradient through the mean.

    Raises:
        UsageError: the model has such a layer. A foreign SavedModel, whose model is None, cannot be checked.
    """
    inexact = keras.layers.LayerNormalization, keras.layers.GroupNormalization
    for layer in model._flatten_layers() if model is not None else ():
        if isinstance(layer, inexact):
            raise UsageError(
                "the input Hessian needs exact second derivatives. Received: layer "
                f"{layer.name}, a {type(layer).__name__} of Keras. Leave the Hessian out with hs_examples=0."
            )


class InputHessian:
    """(x, y, v) ↦ ∇²ₓ L(x, y) v for every example of a batch, at the weights that the classifier has then.

    L is the cross-entropy. The gradient of ⟨∇ₓ Σ_i L_i, v⟩, both by reverse mode in one graph, traced once;
    what does not depend on v, half of the work, is done once for many vectors by `at`. Never compiled: XLA's
    second derivative of max-pooling is wrong on the CPU, see `advtf.landscape.hessian`.

    Args:
        logits_fn: (B, H, W, C) in [0, 1] -> (B, K), in inference mode.
        input_shape: (H, W, C) of the images.
        dtype: "float32", or "float64" for a classifier that computes in it.

    Attributes:
        dimension: n = H·W·C.
    """

    def __init__(self, logits_fn: Callable, input_shape: tuple, *, dtype: str = "float32"):
        self.dtype = tf.as_dtype(one_of("dtype", dtype, ("float32", "float64")))
        self.dimension = int(np.prod(input_shape))
        images = tf.TensorSpec((None, *input_shape), self.dtype)

        def product(x, y, direction):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(x)
                gradient = input_gradient(logits_fn, x, y, exact_cross_entropy)
            return [tape.gradient(gradient, x, direction, unconnected_gradients="zero")]

        self._product = LinearPart(product, (images, tf.TensorSpec((None,), tf.int32)), (images,))

    def __call__(self, x: tf.Tensor, y: tf.Tensor, vectors: np.ndarray) -> np.ndarray:
        """Returns the products (B, n) with `vectors` (B, n), in the operator's dtype.

        Raises:
            UsageError: the classifier cannot be differentiated twice.
        """
        return self.at(x, y)(vectors)

    @true_float32()
    def at(self, x: tf.Tensor, y: tf.Tensor) -> Callable[[np.ndarray], np.ndarray]:
        """Returns the function from `vectors` (B, n) to products (B, n), at the weights of this moment.

        Raises:
            UsageError: the classifier cannot be differentiated twice.
        """
        try:
            kept = self._product.at(x, y)
        except LookupError as error:  # of a SavedModel whose operations have no such gradient
            raise UsageError(
                f"the input Hessian needs second derivatives. Received: a classifier without ({error}). "
                "Leave the Hessian out with hs_examples=0."
            ) from error

        @true_float32()
        def products(vectors):
            direction = tf.constant(np.reshape(vectors, x.shape), self.dtype)
            (found,) = self._product(kept, direction)
            return found.numpy().reshape(vectors.shape)

        return products


def input_spectra(
    hessian: InputHessian,
    x: np.ndarray,
    y: np.ndarray,
    k: int = 20,
    *,
    keys: np.ndarray,
    tolerance: float = 1e-3,
    max_products: int = 200,
    seed: int = 0,
    batch_size: int = 250,
    report: Callable[[int], None] | None = None,
) -> Spectra:
    """Finds the k eigenvalues of largest absolute value of every example's input Hessian.

    Args:
        hessian: of the classifier.
        x: images (N, H, W, C) in [0, 1].
        y: labels (N,), integers.
        k: 1 to H·W·C.
        keys: (N,) of the images, from `advtf.attacks.random.image_keys`: an image starts alike everywhere.
        tolerance: of residuals, relative to the example's max|λ|.
        max_products: of an example, at least k.
        seed: at least 0.
        batch_size: images at a time; fewer where their bases would take more than 1 GiB.
        report: called with the number of examples just finished.

    Returns:
        Eigenvalues in nats per squared unit of the image range.

    Raises:
        UsageError: no images, a number out of range, or a classifier without second derivatives.
        FloatingPointError: a product is not finite.
    """
    require_pairs(x, y)
    require_whole("batch_size", batch_size)
    limits = {"tolerance": tolerance, "max_products": max_products, "seed": seed}
    dtype = hessian.dtype.as_numpy_dtype
    held = (1 + min(max_products, hessian.dimension)) * hessian.dimension * hessian.dtype.size
    size, parts = max(min(batch_size, BASIS_BYTES // held), 1), []
    for number, (images, labels) in enumerate(batches(x, y, size, hessian.dtype)):
        part = keys[number * size : (number + 1) * size]
        of_batch = _of_batch(hessian, images, labels)
        parts.append(largest_magnitudes(of_batch, hessian.dimension, k, keys=part, dtype=dtype, **limits))
        if report:
            report(len(part))
    return Spectra.joined(parts)


def _of_batch(hessian: InputHessian, images: tf.Tensor, labels: tf.Tensor) -> Callable:
    """Returns the input Hessians of one batch, for `largest_magnitudes`."""
    searching, products = None, None

    def operators(rows, vectors):
        nonlocal searching, products
        if searching is None or not np.array_equal(rows, searching):
            searching = np.array(rows)
            products = hessian.at(tf.gather(images, rows), tf.gather(labels, rows))
        return products(vectors)

    return operators
