"""Image classifiers by name: `build` returns a Keras model from float32 pixels in [0, 1] to float32 logits.

Read `MODELS` and `build` here first. An architecture is one function in a module of its own (`lenet`, `vgg`,
`resnet`, `preact_resnet`, `wide_resnet`, `linear`), which adds layers from `layers`: convolutions, BatchNorm
and initial weights as in PyTorch. Importing this package does not import TensorFlow, so that flags can be
checked against its tables first. The published networks of Li & Spratling 2023 differ from the textbook's in
their blocks: `VARIANTS` names both, and the registry says which one a model is by default.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from advtf.errors import UsageError, one_of
from advtf.models.size import CountingLayers

if TYPE_CHECKING:
    import keras

# The variants of pre-activation blocks: setting -> its values. The first are those of Li & Spratling 2023,
# the second those of the textbook (He et al. 2016b; Zagoruyko & Komodakis 2016).
VARIANTS = {"shortcut": ("raw", "activated"), "stride_in": ("second", "first")}


@dataclass(frozen=True)
class Architecture:
    """An entry of the registry.

    Attributes:
        module: the module of this package that holds the function of the model's name.
        width: the width factor unless another is given; None where the model has none.
        depth: the number of layers unless another is given; None where it cannot be chosen.
        shortcut: what the 1×1 convolutions of its shortcuts take unless another of `VARIANTS` is given:
            "raw", the input of the block, or "activated", the same after BatchNorm and activation. None where
            there is no such choice.
        stride_in: which of the two 3×3 convolutions of a block strides unless the other is given, "first" or
            "second"; None where there is no such choice.
        family: the key of its optimizer in `advtf.training.presets.FAMILIES`.
    """

    module: str
    width: int | None = None
    depth: int | None = None
    shortcut: str | None = None
    stride_in: str | None = None
    family: str = "resnet"

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the model has, each with its default."""
        values = {name: getattr(self, name) for name in MODEL_SETTINGS}
        return {name: value for name, value in values.items() if value is not None}


MODELS: dict[str, Architecture] = {
    "lenet": Architecture("lenet", width=16, family="small"),
    "vgg": Architecture("vgg", width=8, family="vgg"),
    "resnet18": Architecture("resnet", width=8),
    "resnet50": Architecture("resnet", width=16),
    "preact_resnet18": Architecture("preact_resnet", width=16, shortcut="raw"),
    "wide_resnet": Architecture("wide_resnet", width=10, depth=34, shortcut="raw", stride_in="second"),
    "linear": Architecture("linear", family="small"),
    "mlp": Architecture("linear", width=16, family="small"),
}

# The settings of models: how a description names them, and what a model says that has none.
MODEL_SETTINGS = {
    "width": ("width {}", "the {} model has no width"),
    "depth": ("depth {}", "the depth of {} is fixed"),
    "shortcut": ("{} shortcuts", "the {} model has no choice of shortcuts"),
    "stride_in": (
        "stride in the {} convolution",
        "the {} model has no choice of where it strides",
    ),
}

ACTIVATIONS = ("relu", "softplus", "gelu", "silu", "elu", "leaky_relu", "tanh")


def model_settings(
    name: str,
    width: int | None = None,
    depth: int | None = None,
    shortcut: str | None = None,
    stride_in: str | None = None,
) -> dict[str, Any]:
    """Checks the settings of a model and fills in their defaults, without importing TensorFlow.

    Args:
        name: a key of `MODELS`.
        width: width factor, a positive integer; None takes the model's own. The linear model has none.
        depth: the number of layers of wide_resnet, 6n + 4 (10, 16, ... 28, 34); None takes the model's own.
        shortcut, stride_in: of preact_resnet18 and wide_resnet, as `VARIANTS` and `Architecture` say; None
            takes the model's own, which is the network of Li & Spratling 2023.

    Returns:
        The keyword arguments of the architecture's function: of these four those that the model has.

    Raises:
        UsageError: unknown name, or a setting that the model cannot have.
    """
    one_of("model", name, MODELS)
    given = {"width": width, "depth": depth, "shortcut": shortcut, "stride_in": stride_in}
    values = {key: value for key, value in given.items() if value is not None}
    for key, value in values.items():
        if key not in MODELS[name].settings:
            raise UsageError(f"{MODEL_SETTINGS[key][1].format(name)}. Received: {key}={value}; leave it out.")
    values = MODELS[name].settings | values
    if "width" in values:
        values["width"] = _positive("width", values["width"])
    if "depth" in values:
        values["depth"] = _wide_depth(values["depth"])
    for key in VARIANTS.keys() & values.keys():
        one_of(key, values[key], VARIANTS[key])
    return values


def recorded_settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what stored settings of a training tell about its network, as arguments of `build`.

    Records from before these settings existed lack "shortcut" and "stride_in", and mean the textbook's
    network.

    Args:
        record: the settings by name, with "model" among them, from a config.json or a manifest.
    """
    settings = {name: record.get(name) for name in ("width", "depth")}
    settings |= {name: record.get(name, earlier_variant(record.get("model"), name)) for name in VARIANTS}
    if "activation" in record:
        settings["activation"] = record["activation"]
    return settings


def earlier_variant(model: str, name: str) -> str | None:
    """Returns the value of `VARIANTS` that a model had before it could be chosen: the textbook's, or None."""
    known = isinstance(model, str) and model in MODELS
    return VARIANTS[name][1] if known and name in MODELS[model].settings else None


def describe_network(name: str, settings: Mapping[str, Any]) -> str:
    """Returns a model and those of its settings that are given, for people: in plans and manifests."""
    texts = [text.format(settings[key]) for key, (text, _) in MODEL_SETTINGS.items() if settings.get(key)]
    return ", ".join([name, *texts])


def build(
    name: str,
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: int | None = None,
    depth: int | None = None,
    shortcut: str | None = None,
    stride_in: str | None = None,
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
        depth, shortcut, stride_in: as in `model_settings`.
        activation: one of `ACTIVATIONS`. It does not enter the seeds: a softplus twin has equal weights.
        seed: seed of the initial weights, at least 0.
        synchronized: whether BatchNorm takes its moments over all replicas of a tf.distribute strategy.

    Returns:
        A functional model (B, H, W, C) float32 in [0, 1] -> logits (B, K) float32, without softmax. Its input
        layer is named "image", its last layer "logits". The logits are float32 under mixed precision too.

    Raises:
        UsageError: a setting that no such model can have.
    """
    settings = model_settings(name, width, depth, shortcut, stride_in)
    one_of("activation", activation, ACTIVATIONS)
    shape, classes = _checked_shape(input_shape), _checked_classes(num_classes)
    if not _is_integer(seed) or seed < 0:
        raise UsageError(f"seed must be an integer of at least 0. Received: seed={seed}.")

    import keras

    from advtf.models.layers import Layers

    layers = Layers(activation=activation, seed=int(seed), synchronized=synchronized)
    image = layers.image(shape)
    logits = layers.logits(features_of(name)(layers, image, **settings), classes)
    return keras.Model(image, logits, name=name)


def features_of(name: str) -> Callable:
    """Returns the function of an architecture: ``function(layers, images, **settings) -> features``."""
    return getattr(importlib.import_module(f"advtf.models.{MODELS[name].module}"), name)


def parameter_count(
    name: str, input_shape: tuple[int, int, int], num_classes: int, **settings: int | str | None
) -> int:
    """Returns the number of trainable parameters of a model that is not built, without TensorFlow.

    Args:
        name: a key of `MODELS`.
        input_shape: (height, width, channels) of an image.
        num_classes: number of classes K, at least 2.
        **settings: width, depth, shortcut and stride_in, as in `model_settings`.

    Raises:
        UsageError: a setting that no such model can have.

    Examples:
        >>> parameter_count("resnet18", (32, 32, 3), 10, width=16)
        11173962
    """
    return _counted(name, input_shape, num_classes, settings).parameters


def training_bytes(
    name: str,
    input_shape: tuple[int, int, int],
    num_classes: int,
    batch_size: int,
    **settings: int | str | None,
) -> int:
    """Returns a lower estimate of the memory that a training step needs, in bytes, without TensorFlow.

    It counts the float32 weights with their gradients and one slot of the optimizer, and what every layer
    puts out for the batch, which the gradient needs. What runs beside that (workspaces of convolutions, the
    attack, the images of the data set) is not in it.

    Args:
        name, input_shape, num_classes, **settings: as in `parameter_count`.
        batch_size: the number of images in a step.

    Raises:
        UsageError: a setting that no such model can have.
    """
    counted = _counted(name, input_shape, num_classes, settings)
    return 4 * (3 * counted.parameters + batch_size * counted.activations)


def _counted(name, input_shape, num_classes, settings):
    settings = model_settings(name, **settings)
    layers = CountingLayers()
    image = layers.image(_checked_shape(input_shape))
    layers.logits(features_of(name)(layers, image, **settings), _checked_classes(num_classes))
    return layers


def _is_integer(value: object) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def _positive(what: str, value: int) -> int:
    if not _is_integer(value) or value < 1:
        raise UsageError(f"{what} must be a positive integer. Received: {what}={value}.")
    return int(value)


def _wide_depth(depth: int) -> int:
    if not _is_integer(depth) or not 10 <= depth <= 1000 or (depth - 4) % 6:
        raise UsageError(
            f"depth must be 6n + 4 with n at least 1: 10, 16, 22, 28, 34, ... 1000. Received: depth={depth}."
        )
    return int(depth)


def _checked_classes(num_classes: int) -> int:
    if _positive("num_classes", num_classes) < 2:
        raise UsageError(f"num_classes must be at least 2. Received: num_classes={num_classes}.")
    return int(num_classes)


def _checked_shape(input_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    shape = tuple(input_shape)
    if len(shape) != 3 or not all(_is_integer(side) and side >= 1 for side in shape):
        raise UsageError(
            f"input_shape must be (height, width, channels), three positive integers. "
            f"Received: input_shape={shape}."
        )
    return tuple(int(side) for side in shape)
