"""The size of a network that is not built: layers that only count, in the place of those that compute.

An architecture is a function of the object that adds its layers, so the same function which builds a network
also counts it. This module imports neither TensorFlow nor NumPy.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Features:
    """What a layer would put out; `shape` is that of the tensor, with None for the batch."""

    shape: tuple[int | None, ...]


class CountingLayers:
    """Has the methods of `advtf.models.layers.Layers`, and adds up instead of computing.

    Attributes:
        parameters: trainable parameters of the layers so far.
        activations: numbers that they put out for one image, the image itself included.
    """

    def __init__(self) -> None:
        self.parameters = 0
        self.activations = 0

    def image(self, shape: tuple[int, int, int]) -> Features:
        """Starts with images of shape (H, W, C)."""
        return self._output(shape)

    def conv(
        self, x: Features, filters: int, size: int, name: str, *, stride: int = 1, bias: bool = False
    ) -> Features:
        """Counts a convolution with an odd kernel, padded on each side."""
        if size == 1 and stride > 1:
            x, stride = self.subsample(x, stride, f"{name}_subsample"), 1
        height, width, channels = x.shape[1:]
        if stride > 1:
            self.pad(x, size // 2, f"{name}_pad")
        self.parameters += (size * size * channels + bias) * filters
        return self._output((-(-height // stride), -(-width // stride), filters))

    def subsample(self, x: Features, stride: int, name: str) -> Features:
        """Counts what is left of every `stride`-th row and column."""
        height, width, channels = x.shape[1:]
        return self._output((-(-height // stride), -(-width // stride), channels))

    def pad(self, x: Features, amount: int, name: str) -> Features:
        """Counts zeros on every side."""
        height, width, channels = x.shape[1:]
        return self._output((height + 2 * amount, width + 2 * amount, channels)) if amount else x

    def batch_norm(self, x: Features, name: str) -> Features:
        """Counts BatchNorm, a scale and an offset per channel."""
        self.parameters += 2 * x.shape[-1]
        return self._output(x.shape[1:])

    def activate(self, x: Features, name: str) -> Features:
        """Counts an activation function."""
        return self._output(x.shape[1:])

    def norm_activate(self, x: Features, name: str) -> Features:
        """Counts BatchNorm and an activation function."""
        return self.activate(self.batch_norm(x, f"{name}_bn"), f"{name}_act")

    def max_pool(self, x: Features, name: str) -> Features:
        """Counts the maxima of 2×2 pixels."""
        height, width, channels = x.shape[1:]
        return self._output((height // 2, width // 2, channels))

    def overlapping_max_pool(self, x: Features, name: str) -> Features:
        """Counts the maxima of 3×3 pixels at every second row and column, and the copy with a border."""
        height, width, channels = self.pad(x, 1, f"{name}_border").shape[1:]
        return self._output(((height - 1) // 2, (width - 1) // 2, channels))

    def global_average(self, x: Features) -> Features:
        """Counts the averages of the channels."""
        return self._output(x.shape[-1:])

    def flatten(self, x: Features) -> Features:
        """Counts flattened images."""
        return self._output((math.prod(x.shape[1:]),))

    def add(self, x: Features, shortcut: Features, name: str) -> Features:
        """Counts the sum of two branches."""
        return self._output(x.shape[1:])

    def dense(self, x: Features, units: int, name: str) -> Features:
        """Counts a fully connected layer with bias."""
        self.parameters += (x.shape[-1] + 1) * units
        return self._output((units,))

    def logits(self, x: Features, num_classes: int) -> Features:
        """Counts the last layer."""
        return self.dense(x, num_classes, "logits")

    def _output(self, shape: tuple[int, ...]) -> Features:
        self.activations += math.prod(shape)
        return Features((None, *shape))
