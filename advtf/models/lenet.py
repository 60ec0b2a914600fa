"""LeNet, the MNIST model of Liu et al. 2020."""

from typing import TYPE_CHECKING

from advtf.errors import UsageError

if TYPE_CHECKING:
    from advtf.models.layers import Layers


def lenet(layers: "Layers", x, *, width: int):
    """Two 5×5 convolutions with pooling and one hidden dense layer: 2w, 4w channels, 64w units.

    Args:
        layers: adds the layers; it holds the activation and the seed that they share.
        x: images (B, H, W, C), at least 4×4.
        width: the width factor w; 16 in the paper, 8, 4 and 2 in its capacity study.

    Returns:
        Features (B, 64w).

    Raises:
        UsageError: the image is smaller than 4×4.
    """
    if min(x.shape[1:3]) < 4:
        raise UsageError(
            f"lenet halves the image twice and needs at least 4×4 pixels. "
            f"Received: input_shape={tuple(x.shape[1:])}; use larger images, or model=mlp."
        )
    for stage, filters in enumerate((2 * width, 4 * width), start=1):
        x = layers.conv(x, filters, 5, f"conv{stage}", bias=True)
        x = layers.activate(x, f"conv{stage}_act")
        x = layers.max_pool(x, f"pool{stage}")
    x = layers.dense(layers.flatten(x), 64 * width, "dense")
    return layers.activate(x, "dense_act")
