"""ResNet18 for small images, the main model of Liu et al. 2020."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from advtf.models.layers import Layers

STAGES = ((4, 1), (8, 2), (16, 2), (32, 2))  # (channels / width, stride of the first block)


def resnet18(layers: "Layers", x, *, width: int):
    """A 3×3 stem and four stages of two basic blocks (He et al. 2016a).

    Args:
        layers: adds the layers; it holds the activation and the seed that they share.
        x: images (B, H, W, C).
        width: the width factor w; 8 in the paper, 16 is the usual ResNet18 with 64 to 512 channels.

    Returns:
        Features (B, 32w).
    """
    x = layers.norm_activate(layers.conv(x, 4 * width, 3, "stem"), "stem")
    for stage, (factor, stride) in enumerate(STAGES, start=1):
        x = _basic_block(layers, x, factor * width, stride, f"stage{stage}_block1")
        x = _basic_block(layers, x, factor * width, 1, f"stage{stage}_block2")
    return layers.global_average(x)


def _basic_block(layers: "Layers", x, filters: int, stride: int, name: str):
    shortcut = x
    if stride != 1 or x.shape[-1] != filters:
        shortcut = layers.conv(x, filters, 1, f"{name}_shortcut", stride=stride)
        shortcut = layers.batch_norm(shortcut, f"{name}_shortcut_bn")
    x = layers.norm_activate(layers.conv(x, filters, 3, f"{name}_conv1", stride=stride), f"{name}_conv1")
    x = layers.batch_norm(layers.conv(x, filters, 3, f"{name}_conv2"), f"{name}_conv2_bn")
    return layers.activate(layers.add(x, shortcut, f"{name}_add"), f"{name}_act")
