"""The linear classifier, whose robust loss has a closed form, and a small multi-layer perceptron."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from advtf.models.layers import Layers


def linear(layers: "Layers", x):
    """Flattens the images (B, H, W, C) -> (B, H·W·C), so that the logits are linear in the pixels."""
    return layers.flatten(x)


def mlp(layers: "Layers", x, *, width: int):
    """Two hidden layers of 16w units.

    Args:
        layers: adds the layers; it holds the activation and the seed that they share.
        x: images (B, H, W, C).
        width: the width factor w.

    Returns:
        Features (B, 16w).
    """
    x = layers.flatten(x)
    for index in (1, 2):
        x = layers.activate(layers.dense(x, 16 * width, f"dense{index}"), f"dense{index}_act")
    return x
