"""The trainable variables of a classifier as one vector θ, and directions in that space."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import keras
import numpy as np
import tensorflow as tf

from advtf.errors import UsageError, require_whole


class Parameters:
    """Variables of one float dtype, seen as a flat vector θ of P numbers in the order given.

    Args:
        variables: `keras.Variable` or `tf.Variable`, at least one.

    Attributes:
        variables: the `tf.Variable` behind each.
        names: such as "conv1/kernel", one per variable.
        size: P.
        dtype: of the variables, and of every vector here.

    Raises:
        UsageError: no variable, or variables of several dtypes or of one that is not a float.
    """

    def __init__(self, variables: Sequence):
        self.variables = tuple(_tensorflow_variable(variable) for variable in variables)
        self.names = tuple(_name(variable) for variable in variables)
        dtypes = {variable.dtype for variable in self.variables}
        if len(dtypes) != 1 or not self.variables[0].dtype.is_floating:
            received = ", ".join(sorted(dtype.name for dtype in dtypes)) or "no variable"
            raise UsageError(f"parameters must be variables of one float dtype. Received: {received}.")
        (self.dtype,) = dtypes
        self._shapes = [tuple(variable.shape) for variable in self.variables]
        self._sizes = [int(np.prod(shape)) for shape in self._shapes]
        self.size = sum(self._sizes)

    def value(self) -> np.ndarray:
        """Returns θ, a copy (P,)."""
        return np.concatenate([variable.numpy().ravel() for variable in self.variables])

    def assign(self, vector) -> None:
        """Sets θ to `vector` (P,).

        Raises:
            UsageError: another length.
        """
        vector = np.asarray(vector, self.dtype.as_numpy_dtype)
        if vector.shape != (self.size,):
            raise UsageError(
                f"a vector of parameters must have shape ({self.size},). Received: {vector.shape}."
            )
        for variable, part, shape in zip(self.variables, self._parts(vector), self._shapes, strict=True):
            variable.assign(part.reshape(shape))

    def flatten(self, tensors: Sequence) -> tf.Tensor:
        """Returns one vector (P,) of tensors shaped as the variables; None, no gradient, counts as zeros."""
        dense = [
            tf.zeros(size, self.dtype) if tensor is None else tf.reshape(tf.convert_to_tensor(tensor), [-1])
            for tensor, size in zip(tensors, self._sizes, strict=True)
        ]
        return tf.concat(dense, axis=0)

    def split(self, vector) -> list[tf.Tensor]:
        """Returns a vector (P,) as tensors of the variables' shapes; the inverse of `flatten`."""
        vector = tf.ensure_shape(tf.convert_to_tensor(vector, self.dtype), (self.size,))
        parts = tf.split(vector, self._sizes)
        return [tf.reshape(part, shape) for part, shape in zip(parts, self._shapes, strict=True)]

    @contextmanager
    def at(self, vector) -> Iterator[None]:
        """Sets θ to `vector` (P,) inside the block; afterwards every variable has its old bits back.

        Raises:
            UsageError: another length.
        """
        before = [variable.numpy() for variable in self.variables]
        try:
            self.assign(vector)
            yield
        finally:
            for variable, old in zip(self.variables, before, strict=True):
                variable.assign(old)

    def blocks(self) -> dict[str, slice]:
        """Returns the part of θ that belongs to each layer, in order: {"conv1": slice(0, 832), ...}.

        Neighbours whose names share all but the last part ("conv1/kernel", "conv1/bias") make one block; a
        variable without such a name is a block of its own.
        """
        blocks, owner, start = {}, None, 0
        for name, size in zip(self.names, self._sizes, strict=True):
            layer, _, last = name.rpartition("/")
            if layer and layer == owner:
                label = list(blocks)[-1]
                blocks[label] = slice(blocks[label].start, start + size)
            else:
                blocks[_unused(layer or last, blocks)] = slice(start, start + size)
            owner, start = layer, start + size
        return blocks

    def _parts(self, vector: np.ndarray) -> list[np.ndarray]:
        return np.split(vector, np.cumsum(self._sizes)[:-1])


@contextmanager
def unchanged(model: keras.Model) -> Iterator[None]:
    """Gives every variable of `model` its old bits back at the end of the block."""
    before = [variable.numpy() for variable in model.variables]
    try:
        yield
    finally:
        for variable, old in zip(model.variables, before, strict=True):
            variable.assign(old)


def unit_direction(parameters: Parameters, seed: int) -> np.ndarray:
    """Returns a direction (P,) uniform on the unit sphere of l2, the same for the same seed."""
    require_whole("seed", seed, least=0)
    direction = np.random.default_rng(seed).standard_normal(parameters.size)
    return (direction / np.linalg.norm(direction)).astype(parameters.dtype.as_numpy_dtype)


def filter_normalised(parameters: Parameters, direction: np.ndarray) -> np.ndarray:
    """Gives every filter of a direction the norm of the weights' filter (Li et al. 2018, section 4).

    d_ij ← d_ij ‖θ_ij‖ / ‖d_ij‖, where j counts the output channels (the last axis) of a kernel; biases
    and BatchNorm's γ and β do not move. A slice along it has the scale of the weights, whatever the layers'.

    Args:
        parameters: the weights θ; nothing is changed.
        direction: (P,).

    Returns:
        (P,), in the parameters' dtype.
    """
    parts = [tensor.numpy().astype(np.float64) for tensor in parameters.split(direction)]
    scaled = [
        _like_filters(part, variable.numpy().astype(np.float64))
        for part, variable in zip(parts, parameters.variables, strict=True)
    ]
    return np.concatenate([part.ravel() for part in scaled]).astype(parameters.dtype.as_numpy_dtype)


def _like_filters(part: np.ndarray, weights: np.ndarray) -> np.ndarray:
    if part.ndim < 2:
        return np.zeros_like(part)
    axes = tuple(range(part.ndim - 1))
    lengths = np.sqrt(np.sum(part**2, axis=axes))
    wanted = np.sqrt(np.sum(weights**2, axis=axes))
    return part * np.divide(wanted, lengths, out=np.zeros_like(wanted), where=lengths > 0)


def _tensorflow_variable(variable):
    return variable.value if isinstance(variable, keras.Variable) else variable


def _name(variable):
    return variable.path if isinstance(variable, keras.Variable) else variable.name.removesuffix(":0")


def _unused(name, taken):
    """Tells apart layers of equal names, as an ensemble's members have them."""
    names = [name, *(f"{name}#{number}" for number in range(2, len(taken) + 2))]
    return next(free for free in names if free not in taken)
