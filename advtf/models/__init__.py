"""Image classifiers by name: `build` returns a Keras model from float32 pixels in [0, 1] to float32 logits.

Read `MODELS` and `build` here first. An architecture is one function in a module of its own (`lenet`, `vgg`,
`resnet`, `preact_resnet`, `wide_resnet`, `linear`), which adds layers from `layers`: convolutions, BatchNorm
and initial weights as in PyTorch. Importing this package does not import TensorFlow, so that flags can be
checked against its tables first.
"""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from advtf.errors import UsageError, one_of

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Architecture:
    """An entry of the registry.

    Attributes:
        module: the module of this package that holds the function of the model's name.
        width: the width factor unless another is given; None where the model has none.
        depth: the number of layers unless another is given; None where it cannot be chosen.
        family: the key of its optimizer in `advtf.training.presets.FAMILIES`.
    """

    module: str
    width: int | None = None
    depth: int | None = None
    family: str = "resnet"


MODELS: dict[str, Architecture] = {
    "lenet": Architecture("lenet", width=16, family="small"),
    "vgg": Architecture("vgg", width=8, family="vgg"),
    "resnet18": Architecture("resnet", width=8),
    "preact_resnet18": Architecture("preact_resnet", width=16),
    "wide_resnet": Architecture("wide_resnet", width=10, depth=34),
    "linear": Architecture("linear", family="small"),
    "mlp": Architecture("linear", width=16, family="small"),
}

ACTIVATIONS = ("relu", "softplus", "gelu", "silu", "elu", "leaky_relu", "tanh")


def model_size(name: str, width: int | None = None, depth: int | None = None) -> dict[str, int]:
    """Checks a model's width and depth and fills in their defaults, without importing TensorFlow.

    Args:
        name: a key of `MODELS`.
        width: width factor, a positive integer; None takes the model's own. The linear model has none.
        depth: the number of layers of wide_resnet, 6n + 4 (10, 16, ... 28, 34); None takes the model's own.

    Returns:
        The keyword arguments of the architecture's function: `width` and `depth`, each only if it has one.

    Raises:
        UsageError: unknown name, or a width or depth that the model cannot have.
    """
    one_of("model", name, MODELS)
    size = {}
    if MODELS[name].width is not None:
        size["width"] = _positive("width", MODELS[name].width if width is None else width)
    elif width is not None:
        raise UsageError(f"the {name} model has no width. Received: width={width}; leave it out.")
    if MODELS[name].depth is not None:
        size["depth"] = _wide_depth(MODELS[name].depth if depth is None else depth)
    elif depth is not None:
        raise UsageError(f"the depth of {name} is fixed. Received: depth={depth}; leave it out.")
    return size


def build(
    name: str,
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: int | None = None,
    depth: int | None = None,
    activation: str = "relu",
    seed: int = 0,
    synchronized: bool = False,
) -> "keras.Model":
    """Builds a classifier with PyTorch's initialisation; the same seed gives the same weights, bit for bit.

    Args:
        name: a key of `MODELS`.
        input_shape: (height, width, channels) of an image.
        num_classes: number of classes K, at least 2.
        width: width factor; None takes the model's own.
        depth: as in `model_size`.
        activation: one of `ACTIVATIONS`. It does not enter the seeds: a softplus twin has equal weights.
        seed: seed of the initial weights, at least 0.
        synchronized: whether BatchNorm takes its moments over all replicas of a tf.distribute strategy.

    Returns:
        A functional model (B, H, W, C) float32 in [0, 1] -> logits (B, K) float32, without softmax. Its input
        layer is named "image", its last layer "logits". The logits are float32 under mixed precision too.

    Raises:
        UsageError: a setting that no such model can have.
    """
    size = model_size(name, width, depth)
    one_of("activation", activation, ACTIVATIONS)
    shape = _checked_shape(input_shape)
    if _positive("num_classes", num_classes) < 2:
        raise UsageError(f"num_classes must be at least 2. Received: num_classes={num_classes}.")
    if not _is_integer(seed) or seed < 0:
        raise UsageError(f"seed must be an integer of at least 0. Received: seed={seed}.")

    import keras

    from advtf.models.layers import Layers

    layers = Layers(activation=activation, seed=int(seed), synchronized=synchronized)
    features = getattr(importlib.import_module(f"advtf.models.{MODELS[name].module}"), name)
    image = layers.image(shape)
    logits = layers.logits(features(layers, image, **size), int(num_classes))
    return keras.Model(image, logits, name=name)


def _is_integer(value: object) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def _positive(what: str, value: int) -> int:
    if not _is_integer(value) or value < 1:
        raise UsageError(f"{what} must be a positive integer. Received: {what}={value}.")
    return int(value)


def _wide_depth(depth: int) -> int:
    if not _is_integer(depth) or depth < 10 or (depth - 4) % 6:
        raise UsageError(
            f"depth must be 6n + 4 with n at least 1: 10, 16, 22, 28, 34, ... Received: depth={depth}."
        )
    return int(depth)


def _checked_shape(input_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    shape = tuple(input_shape)
    if len(shape) != 3 or not all(_is_integer(side) and side >= 1 for side in shape):
        raise UsageError(
            f"input_shape must be (height, width, channels), three positive integers. "
            f"Received: input_shape={shape}."
        )
    return tuple(int(side) for side in shape)
