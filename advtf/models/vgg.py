"""VGG16 with BatchNorm, a CIFAR-10 model of Liu et al. 2020."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from advtf.models.layers import Layers

STAGES = ((4, 2), (8, 2), (16, 3), (32, 3), (32, 3))  # (channels / width, convolutions)


def vgg(layers: "Layers", x, *, width: int):
    """Five stages of 3×3 convolution, BatchNorm, activation, each ended by pooling.

    Images below 32×32 are pooled as long as both sides are at least 2, and the rest is averaged.

    Args:
        layers: adds the layers; it holds the activation and the seed that they share.
        x: images (B, H, W, C).
        width: the width factor w; 8 in the paper, 16 is the usual VGG16 with 512 channels.

    Returns:
        Features (B, 32w).
    """
    for stage, (factor, convolutions) in enumerate(STAGES, start=1):
        for index in range(1, convolutions + 1):
            name = f"stage{stage}_conv{index}"
            # The bias does nothing before BatchNorm, but the published network has and decays it.
            x = layers.norm_activate(layers.conv(x, factor * width, 3, name, bias=True), name)
        if min(x.shape[1:3]) >= 2:
            x = layers.max_pool(x, f"stage{stage}_pool")
    return layers.global_average(x)
