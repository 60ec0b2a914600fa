"""The linear classifier, whose robust loss has a closed form, and a small multi-layer perceptron."""

from advtf.models.layers import Layers


def linear(layers: Layers, x):
    """Flattens the image (B,H,W,C) -> (B, H·W·C); the logits follow directly."""
    return layers.flatten(x)


def mlp(layers: Layers, x, *, width: int):
    """Two hidden layers of 16w units.

    Args:
        layers: Where activation and seeds come from.
        x: Images (B,H,W,C).
        width: Width factor w.

    Returns:
        Features (B, 16w).
    """
    x = layers.flatten(x)
    for index in (1, 2):
        x = layers.activate(layers.dense(x, 16 * width, f"dense{index}"), f"dense{index}_act")
    return x
