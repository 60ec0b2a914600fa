"""Pre-activation ResNet18, the main model of Li & Spratling 2023; wide_resnet shares its block."""

from typing import TYPE_CHECKING

from advtf.models.resnet import STAGES

if TYPE_CHECKING:
    from advtf.models.layers import Layers


def preact_resnet18(layers: "Layers", x, *, width: int, shortcut: str):
    """A 3×3 stem, four stages of two pre-activation blocks, and a last BatchNorm.

    Args:
        layers: adds the layers; it holds the activation and the seed that they share.
        x: images (B, H, W, C).
        width: the width factor w; 16 is the usual network with 64 to 512 channels.
        shortcut: "raw" is the network of Li & Spratling 2023, "activated" that of He et al. 2016b; see
            `preactivation_block`.

    Returns:
        Features (B, 32w).
    """
    x = layers.conv(x, 4 * width, 3, "stem")
    for stage, (factor, first_stride) in enumerate(STAGES, start=1):
        for block, stride in ((1, first_stride), (2, 1)):
            name = f"stage{stage}_block{block}"
            x = preactivation_block(layers, x, factor * width, stride, name, shortcut=shortcut)
    return layers.global_average(layers.norm_activate(x, "last"))


def preactivation_block(
    layers: "Layers",
    x,
    filters: int,
    stride: int,
    name: str,
    *,
    shortcut: str,
    stride_in: str = "first",
    shortcut_size: int = 1,
):
    """BatchNorm and activation before each of two 3×3 convolutions, plus a shortcut.

    Args:
        layers: adds the layers; it holds the activation and the seed that they share.
        x: features (B, H, W, C).
        filters: channels of the result.
        stride: stride of the block: of its shortcut, and of one of its 3×3 convolutions.
        name: prefix of the layers' names.
        shortcut: what the shortcut's convolution takes: "raw", the block's input x, or "activated", x after
            the first BatchNorm and activation.
        stride_in: which 3×3 convolution strides, "first" or "second".
        shortcut_size: side of the shortcut's kernel.

    Returns:
        Features (B, ⌈H/stride⌉, ⌈W/stride⌉, filters). The shortcut is x itself where the shape stays.
    """
    activated = layers.norm_activate(x, name)
    branch = x
    if stride != 1 or x.shape[-1] != filters:
        source = x if shortcut == "raw" else activated
        branch = layers.conv(source, filters, shortcut_size, f"{name}_shortcut", stride=stride)
    first, second = (stride, 1) if stride_in == "first" else (1, stride)
    x = layers.conv(activated, filters, 3, f"{name}_conv1", stride=first)
    x = layers.conv(layers.norm_activate(x, f"{name}_conv1"), filters, 3, f"{name}_conv2", stride=second)
    return layers.add(x, branch, f"{name}_add")
