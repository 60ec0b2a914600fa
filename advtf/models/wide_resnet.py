"""Wide ResNet (Zagoruyko & Komodakis 2016), the analysis model of Li & Spratling 2023."""

from typing import TYPE_CHECKING

from advtf.models.preact_resnet import preactivation_block

if TYPE_CHECKING:
    from advtf.models.layers import Layers

STAGES = ((16, 1), (32, 2), (64, 2))  # (channels / width, stride of the first block)


def wide_resnet(layers: "Layers", x, *, width: int, depth: int, shortcut: str, stride_in: str):
    """A 3×3 stem of 16 channels, three stages of pre-activation blocks, and a last BatchNorm; no dropout.

    Args:
        layers: adds the layers; it holds the activation and the seed that they share.
        x: images (B, H, W, C).
        width: the widening factor k; WRN-34-10 has 10.
        depth: the number of layers, 6n + 4 for n blocks per stage.
        shortcut, stride_in: "raw" and "second" make the network of Li & Spratling 2023, "activated" and
            "first" the one that others call Wide ResNet; see `preactivation_block`.

    Returns:
        Features (B, 64k).
    """
    x = layers.conv(x, 16, 3, "stem")
    variant = {"shortcut": shortcut, "stride_in": stride_in}
    for stage, (channels, first_stride) in enumerate(STAGES, start=1):
        for block in range(1, (depth - 4) // 6 + 1):
            stride = first_stride if block == 1 else 1
            x = preactivation_block(
                layers, x, channels * width, stride, f"stage{stage}_block{block}", **variant
            )
    return layers.global_average(layers.norm_activate(x, "last"))
