"""Pre-activation ResNet18, the main model of Li & Spratling 2023; wide_resnet shares its block."""

from advtf.models.layers import Layers
from advtf.models.resnet import STAGES


def preact_resnet18(layers: Layers, x, *, width: int):
    """A 3×3 stem, four stages of two pre-activation blocks, and a last BatchNorm (He et al. 2016b).

    Args:
        layers: adds the layers; it holds the activation and the seed that they share.
        x: images (B, H, W, C).
        width: the width factor w; 16 is the usual network with 64 to 512 channels.

    Returns:
        Features (B, 32w).
    """
    x = layers.conv(x, 4 * width, 3, "stem")
    for stage, (factor, stride) in enumerate(STAGES, start=1):
        x = preactivation_block(layers, x, factor * width, stride, f"stage{stage}_block1")
        x = preactivation_block(layers, x, factor * width, 1, f"stage{stage}_block2")
    return layers.global_average(layers.norm_activate(x, "last"))


def preactivation_block(layers: Layers, x, filters: int, stride: int, name: str):
    """BatchNorm and activation before each of two 3×3 convolutions, plus a shortcut.

    Args:
        layers: adds the layers; it holds the activation and the seed that they share.
        x: features (B, H, W, C).
        filters: channels of the result.
        stride: stride of the first convolution and of the shortcut.
        name: prefix of the layers' names.

    Returns:
        Features (B, ⌈H/stride⌉, ⌈W/stride⌉, filters). The shortcut is x itself, or a 1×1 convolution of the
        activated x where the shape changes.
    """
    activated = layers.norm_activate(x, name)
    shortcut = x
    if stride != 1 or x.shape[-1] != filters:
        shortcut = layers.conv(activated, filters, 1, f"{name}_shortcut", stride=stride)
    x = layers.conv(activated, filters, 3, f"{name}_conv1", stride=stride)
    x = layers.conv(layers.norm_activate(x, f"{name}_conv1"), filters, 3, f"{name}_conv2")
    return layers.add(x, shortcut, f"{name}_add")
