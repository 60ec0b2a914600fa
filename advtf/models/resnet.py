"""ResNet18 for small images, the main model of Liu et al. 2020, and ResNet50 for those of ImageNet."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from advtf.models.layers import Layers

STAGES = ((4, 1), (8, 2), (16, 2), (32, 2))  # (channels / width, stride of the first block)
BOTTLENECKS = (3, 4, 6, 3)  # of the stages of ResNet50, in which a block has four times the channels


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


def resnet50(layers: "Layers", x, *, width: int):
    """A 7×7 stem, 3×3 pooling and four stages of bottleneck blocks: torchvision's ResNet50 (v1.5).

    He et al. 2016a let the first 1×1 convolution of a block stride; here, as everybody since has it, the 3×3
    convolution does. Stem and pooling halve the image twice before the first stage, whatever its size.

    Args:
        layers: adds the layers; it holds the activation and the seed that they share.
        x: images (B, H, W, C).
        width: the width factor w; 16 is the usual ResNet50 with 256 to 2048 channels.

    Returns:
        Features (B, 128w).
    """
    x = layers.norm_activate(layers.conv(x, 4 * width, 7, "stem", stride=2), "stem")
    x = layers.overlapping_max_pool(x, "stem_pool")
    for stage, ((factor, first_stride), blocks) in enumerate(zip(STAGES, BOTTLENECKS, strict=True), start=1):
        for block in range(1, blocks + 1):
            stride = first_stride if block == 1 else 1
            x = _bottleneck_block(layers, x, factor * width, stride, f"stage{stage}_block{block}")
    return layers.global_average(x)


def _basic_block(layers: "Layers", x, filters: int, stride: int, name: str):
    shortcut = _shortcut(layers, x, filters, stride, name)
    x = layers.norm_activate(layers.conv(x, filters, 3, f"{name}_conv1", stride=stride), f"{name}_conv1")
    x = layers.batch_norm(layers.conv(x, filters, 3, f"{name}_conv2"), f"{name}_conv2_bn")
    return layers.activate(layers.add(x, shortcut, f"{name}_add"), f"{name}_act")


def _bottleneck_block(layers: "Layers", x, filters: int, stride: int, name: str):
    shortcut = _shortcut(layers, x, 4 * filters, stride, name)
    x = layers.norm_activate(layers.conv(x, filters, 1, f"{name}_conv1"), f"{name}_conv1")
    x = layers.norm_activate(layers.conv(x, filters, 3, f"{name}_conv2", stride=stride), f"{name}_conv2")
    x = layers.batch_norm(layers.conv(x, 4 * filters, 1, f"{name}_conv3"), f"{name}_conv3_bn")
    return layers.activate(layers.add(x, shortcut, f"{name}_add"), f"{name}_act")


def _shortcut(layers: "Layers", x, filters: int, stride: int, name: str):
    """Returns x, or where the block changes its shape a 1×1 convolution of it with BatchNorm."""
    if stride == 1 and x.shape[-1] == filters:
        return x
    shortcut = layers.conv(x, filters, 1, f"{name}_shortcut", stride=stride)
    return layers.batch_norm(shortcut, f"{name}_shortcut_bn")
