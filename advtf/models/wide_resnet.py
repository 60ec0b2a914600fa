"""Wide ResNet (Zagoruyko & Komodakis 2016), the analysis model of Li & Spratling 2023."""

from advtf.models.layers import Layers
from advtf.models.preact_resnet import preactivation_block

STAGES = ((16, 1), (32, 2), (64, 2))  # (channels / width, stride of the first block)


def wide_resnet(layers: Layers, x, *, width: int, depth: int):
    """A 3×3 stem of 16 channels, three stages of pre-activation blocks, and a last BatchNorm; no dropout.

    Args:
        layers: adds the layers; it holds the activation and the seed that they share.
        x: images (B, H, W, C).
        width: the widening factor k; WRN-34-10 has 10.
        depth: the number of layers, 6n + 4 for n blocks per stage.

    Returns:
        Features (B, 64k).
    """
    x = layers.conv(x, 16, 3, "stem")
    for stage, (channels, stride) in enumerate(STAGES, start=1):
        for block in range(1, (depth - 4) // 6 + 1):
            name = f"stage{stage}_block{block}"
            x = preactivation_block(layers, x, channels * width, stride if block == 1 else 1, name)
    return layers.global_average(layers.norm_activate(x, "last"))
