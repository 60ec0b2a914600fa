"""Dead units and dead layers: activations that are 0 for every input.

A network with a dead layer is a constant classifier whose earlier layers get no gradient, which is how
adversarial training of small networks fails (Liu et al. 2020, section 4.1 and figure 14).
"""

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from advtf.errors import UsageError, require_whole
from advtf.runtime import true_float32

ACTIVATION_LAYERS = (keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.PReLU, keras.layers.ELU)


@dataclass(frozen=True, eq=False)
class LayerUnits:
    """Which units of one layer of activations are alive, over `examples` inputs.

    Attributes:
        name: of the layer.
        alive: bool, (H, W, C) or (C,), as the layer's output; False: 0 for every input.
        examples: number of inputs.
    """

    name: str
    alive: np.ndarray
    examples: int

    @property
    def units(self) -> int:
        """Number of units: channel times position."""
        return self.alive.size

    @property
    def dead(self) -> int:
        """Number of dead units."""
        return int(np.count_nonzero(~self.alive))

    @property
    def channels(self) -> int:
        """Number of channels, each one filter or one dense unit."""
        return self.alive.shape[-1]

    @property
    def dead_channels(self) -> int:
        """Number of channels that are dead at every position."""
        return int(np.count_nonzero(~self.alive.reshape(-1, self.channels).any(axis=0)))

    @property
    def dead_layer(self) -> bool:
        """Whether all its units are dead."""
        return not self.alive.any()


class UnitCounter:
    """Finds the dead units of one model over sets of images, at the weights that it has then.

    Args:
        model: functional or sequential. Its layers that are activations or have one are watched; a model
            inside it is not looked into.
        batch_size: images at a time.

    Raises:
        UsageError: there is no such layer, or one is used more than once.
    """

    def __init__(self, model: keras.Model, *, batch_size: int = 250):
        require_whole("batch_size", batch_size)
        watched = [layer for layer in _layers(model) if _is_activation(layer)]
        if not watched:
            raise UsageError(
                "dead units need a functional or sequential model with layers of activations. "
                f"Received: {model.name} ({type(model).__name__}), without one. "
                "Make its activations layers, such as keras.layers.ReLU()."
            )
        self._batch_size = batch_size
        self._names = [layer.name for layer in watched]
        activations = keras.Model(model.inputs, {layer.name: _output(layer) for layer in watched})

        @tf.function(reduce_retracing=True, autograph=False)
        def alive(x):
            outputs = activations(x, training=False)
            return [tf.reduce_any(outputs[name] != 0, axis=0) for name in self._names]

        self._alive = alive

    @true_float32()
    def __call__(self, x: np.ndarray) -> list[LayerUnits]:
        """Returns the units of every watched layer, in the order of the model.

        Args:
            x: images float32 (N, H, W, C), clean or adversarial.

        Raises:
            UsageError: there is no image.
        """
        if not len(x):
            raise UsageError(f"x must have at least one image. Received: x of shape {np.shape(x)}.")
        alive = [False] * len(self._names)
        for start in range(0, len(x), self._batch_size):
            batch = tf.constant(x[start : start + self._batch_size], tf.float32)
            alive = [old | new.numpy() for old, new in zip(alive, self._alive(batch), strict=True)]
        return [LayerUnits(name, units, len(x)) for name, units in zip(self._names, alive, strict=True)]


def dead_units(model: keras.Model, x: np.ndarray, *, batch_size: int = 250) -> list[LayerUnits]:
    """Returns which units of a model are 0 for every image of `x`; arguments as for `UnitCounter`."""
    return UnitCounter(model, batch_size=batch_size)(x)


def _layers(model):
    return model.layers if getattr(model, "inputs", None) else []  # a subclassed model has no graph


def _is_activation(layer):
    activation = getattr(layer, "activation", None)
    if activation is None:
        return isinstance(layer, ACTIVATION_LAYERS)
    return activation is not keras.activations.linear


def _output(layer):
    if len(layer._inbound_nodes) != 1:
        raise UsageError(
            f"dead units need layers of activations that are used once. Received: {layer.name}, used "
            f"{len(layer._inbound_nodes)} times. Give each use a layer of its own."
        )
    return layer.output
