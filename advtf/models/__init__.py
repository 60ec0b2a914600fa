"""Image classifiers by name: `build` returns a Keras model from float32 pixels in [0, 1] to float32 logits.

Importing this module is cheap (no TensorFlow), so that flags can be checked against its tables first.
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
        module: module of this package that holds the function of the model's name.
        width: default width factor; None: the model has no width.
        family: its optimizer is that of the family in `advtf.training.presets.OPTIMIZERS`.
        has_depth: whether its depth is a setting.
    """

    module: str
    width: int | None = None
    family: str = "resnet"
    has_depth: bool = False


MODELS: dict[str, Architecture] = {
    "lenet": Architecture("lenet", width=16, family="small"),
    "vgg": Architecture("vgg", width=8, family="vgg"),
    "resnet18": Architecture("resnet", width=8),
    "preact_resnet18": Architecture("preact_resnet", width=16),
    "wide_resnet": Architecture("wide_resnet", width=10, has_depth=True),
    "linear": Architecture("linear", family="small"),
    "mlp": Architecture("linear", width=16, family="small"),
}

DEFAULT_DEPTH = 34  # of wide_resnet, the one model with a variable depth

ACTIVATIONS = ("relu", "softplus", "gelu", "silu", "elu", "leaky_relu", "tanh")


def model_size(name: str, width: int | None = None, depth: int | None = None) -> dict[str, int]:
    """Checks a model's width and depth and fills in their defaults, without importing TensorFlow.

    Args:
        name: A key of `MODELS`.
        width: Width factor, a positive integer; None takes the model's own. The linear model has none.
        depth: Number of layers of wide_resnet, 6n + 4 (10, 16, ... 28, 34); None takes 34.

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
    if MODELS[name].has_depth:
        size["depth"] = _wide_depth(DEFAULT_DEPTH if depth is None else depth)
    elif depth is not None:
        raise UsageError(
            f"depth is a setting of wide_resnet only. Received: depth={depth}, model={name}; leave it out."
        )
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
        name: A key of `MODELS`.
        input_shape: (height, width, channels) of an image.
        num_classes: Number of classes K, at least 2.
        width: Width factor; None takes the model's own.
        depth: Layers of wide_resnet; None takes 34.
        activation: One of `ACTIVATIONS`. It does not enter the seeds: a softplus twin has equal weights.
        seed: Seed of the initial weights, at least 0.
        synchronized: Whether BatchNorm takes its moments over all replicas of a tf.distribute strategy.

    Returns:
        A functional model (B,H,W,C) float32 in [0, 1] -> logits (B,K) float32; no softmax. Its input layer
        is named "image", its last layer "logits". The logits are float32 under mixed precision too.

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
