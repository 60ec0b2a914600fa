"""Published PyTorch networks: which of their modules is which layer of our models.

Liu et al. 2020 (lenet, vgg, resnet18), Li & Spratling 2023 (PreActResNet18, Wide-ResNet), torchvision's
ResNet50, and RobustBench's PreActResNet18, WideResNet and DeepMind's two networks. A layout is recognised
by the names in a state dict. The variants that are no model of `advtf.models` are assembled here from the
same layers.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import keras
import numpy as np

from advtf.errors import UsageError, one_of
from advtf.models import describe_network, features_of, model_settings, preact_resnet, resnet, vgg
from advtf.models.layers import Layers

State = Mapping[str, np.ndarray]
SHORTCUTS = {  # variant of PreActResNet18 -> who published it, under the same names of parameters
    "raw": "Li & Spratling 2023, Wong et al. 2020",
    "activated": "He et al. 2016, Rice et al. 2020",
}
HEADS = ("linear", "classifier", "fc")  # what the published ResNets call their last layer


@dataclasses.dataclass(frozen=True)
class Layout:
    """The names and the sizes of one published network.

    Attributes:
        model: key of `advtf.models.MODELS`.
        size: width, depth and the variant of the blocks, as `advtf.models.build` takes them.
        modules: name of our layer -> name of the torch module; the stem first, the logits last.
        image_size: side of the images that the network was written for.
        features: builds the network up to its last layer, where that is not the model's own function.
        one_sided: whether strided convolutions pad on the right and below only.
        unused: prefix of parameters that the published code creates and never applies.
        note: how the network differs from the model, for people.
        origin: who has published it, where several networks have its parameters.
    """

    model: str
    size: dict[str, int | str]
    modules: dict[str, str]
    image_size: int = 32
    features: Callable | None = None
    one_sided: bool = False
    unused: str | None = None
    note: str = ""
    origin: str = ""

    def __str__(self) -> str:
        return describe_network(self.model, self.size) + self.note

    def network(self, state: State, image_size: int, activation: str, normalisation: tuple) -> keras.Model:
        """Builds the network with the channels and classes of `state`; `normalisation` is () or (mean, std).

        Raises:
            UsageError: the stem or the last layer is missing, or the sizes do not fit.
        """
        if self.one_sided and image_size % 8:
            raise UsageError(f"image_size must be a multiple of 8 for {self}. Received: {image_size}.")
        channels = sizes(state, next(iter(self.modules.values())))[1]
        layers = (OneSidedLayers if self.one_sided else Layers)(activation=activation)
        image = x = layers.image((image_size, image_size, channels))
        if normalisation:
            x = _normalised(x, *normalisation)
        features = (self.features or features_of(self.model))(layers, x, **self.size)
        classes = sizes(state, self.modules["logits"])[0]
        return keras.Model(image, layers.logits(features, classes), name=self.model)


@dataclasses.dataclass(frozen=True)
class OneSidedLayers(Layers):
    """Layers whose strided convolutions pad on the right and below only, as DeepMind's networks do."""

    def conv(self, x, filters: int, size: int, name: str, *, stride: int = 1, bias: bool = False):
        """Adds a convolution; one of stride 1 is padded on all sides."""
        if stride == 1 or size == 1:
            return super().conv(x, filters, size, name, stride=stride, bias=bias)
        x = keras.layers.ZeroPadding2D(((0, size // 2), (0, size // 2)), name=f"{name}_pad")(x)
        return keras.layers.Conv2D(filters, size, stride, "valid", use_bias=bias, name=name)(x)


def recognise(
    state: State, model: str | None = None, variant: Mapping[str, str | None] | None = None
) -> list[Layout]:
    """Returns the layouts whose names `state` has: several where it does not tell them apart.

    Args:
        state: parameter name -> array, without prefixes such as ``module.``.
        model: the expected key of `advtf.models.MODELS`; None accepts every layout.
        variant: "shortcut" and "stride_in" as the user chose them, None or absent where nobody did. They
            stand in the place of the published ones.

    Raises:
        UsageError: no layout, or one of another model, or sizes that no such network has.
    """
    names = sorted({name for name, _, _ in SIGNATURES})
    if model is not None:
        one_of("model", model, names)
    found = [(name, read) for name, parameter, read in SIGNATURES if parameter in state]
    for name, read in found:
        if model in (None, name):
            return _chosen(read(state), variant or {})
    received = f"those of {found[0][0]}" if found else f"{', '.join(list(state)[:4])}, ..."
    raise UsageError(
        f"checkpoint must have the parameter names of {model or 'one of ' + ', '.join(names)} as published. "
        f"Received: {received}{f'; use model={found[0][0]}' if found else ''}."
    )


def _chosen(layout: Layout, variant: Mapping[str, str | None]) -> list[Layout]:
    """Returns the layout with the variant that was chosen; without a choice, with every one that is open."""
    given = {name: value for name, value in variant.items() if value is not None}
    model_settings(layout.model, **given)
    layout = dataclasses.replace(layout, size=layout.size | given)
    if layout.size.get("shortcut", "") is not None:
        return [layout]
    return [
        dataclasses.replace(layout, size=layout.size | {"shortcut": shortcut}, origin=origin)
        for shortcut, origin in SHORTCUTS.items()
    ]


def sizes(state: State, module: str) -> tuple[int, ...]:
    """Returns the shape of a module's weight, (out, in) or (out, in, height, width)."""
    key = f"{module}.weight"
    shape = state[key].shape if key in state else None
    if shape is None or len(shape) not in (2, 4) or 0 in shape:
        raise UsageError(f"checkpoint must hold {key}, with 2 or 4 axes. Received: {shape}.")
    return shape


def _width(state: State, model: str, module: str, divisor: int) -> dict[str, int]:
    channels = sizes(state, module)[0]
    if channels % divisor:
        raise UsageError(f"{module} must have a multiple of {divisor} channels. Received: {channels}.")
    return {"width": channels // divisor}


def _normalised(x, mean: np.ndarray, std: np.ndarray):
    shape = x.shape[-1:]
    if not {mean.size, std.size} <= {1, *shape}:
        counts = "1 value" if shape == (1,) else f"1 or {shape[0]} values"
        raise UsageError(f"mean and std must have {counts} each. Received: mean={mean}, std={std}.")
    scale, offset = np.broadcast_to(1 / std, shape), np.broadcast_to(-mean / std, shape)
    return keras.layers.Rescaling(scale.tolist(), offset.tolist(), name="normalisation")(x)


# --- the layouts


def _lenet(state: State) -> Layout:
    size = _width(state, "lenet", "conv1", 2)
    side = math.isqrt(sizes(state, "fc1")[1] // (4 * size["width"]))  # after two halvings
    modules = {"conv1": "conv1", "conv2": "conv2", "dense": "fc1", "logits": "fc2"}
    return Layout("lenet", size, modules, image_size=4 * max(side, 1))


def _vgg(state: State) -> Layout:
    modules, index = {}, 0
    for stage, (_, convolutions) in enumerate(vgg.STAGES, start=1):
        for convolution in range(1, convolutions + 1):
            name = f"stage{stage}_conv{convolution}"
            modules |= {name: f"feature_extractor.{index}", f"{name}_bn": f"feature_extractor.{index + 1}"}
            index += 3  # convolution, BatchNorm, activation
        index += 1  # pooling
    return Layout("vgg", _width(state, "vgg", "feature_extractor.0", 4), modules | {"logits": "classifier"})


def _resnet18(state: State) -> Layout:
    parts = {"conv1": "conv1", "conv1_bn": "bn1", "conv2": "conv2", "conv2_bn": "bn2"}
    parts |= {"shortcut": "shortcut.0", "shortcut_bn": "shortcut.1"}
    modules = {"stem": "conv1", "stem_bn": "bn1"} | _blocks("layer{stage}.{block}", 4, 2, parts)
    return Layout("resnet18", _width(state, "resnet18", "conv1", 4), modules | _head(state))


def _resnet50(state: State) -> Layout:
    parts = {f"conv{number}": f"conv{number}" for number in (1, 2, 3)}
    parts |= {f"{name}_bn": f"bn{number}" for number, name in enumerate(parts, start=1)}
    parts |= {"shortcut": "downsample.0", "shortcut_bn": "downsample.1"}
    blocks = _blocks("layer{stage}.{block}", 4, max(resnet.BOTTLENECKS), parts)
    modules = {"stem": "conv1", "stem_bn": "bn1"} | blocks | _head(state)
    return Layout("resnet50", _width(state, "resnet50", "conv1", 4), modules, image_size=224)


def _preact_resnet18(state: State) -> Layout:
    size = _width(state, "preact_resnet18", "conv1", 4) | {"shortcut": None}
    parts = {"bn": "bn1", "conv1": "conv1", "conv1_bn": "bn2", "conv2": "conv2", "shortcut": "shortcut.0"}
    modules = {"stem": "conv1", "last_bn": "bn"} | _blocks("layer{stage}.{block}", 4, 2, parts) | _head(state)
    if any(key.startswith("bn.") for key in state):
        return Layout("preact_resnet18", size, modules)
    features = functools.partial(_preact_variant, deepmind=False)
    return Layout("preact_resnet18", size, modules, features=features, note=" (no last BatchNorm)")


def _wide_resnet(state: State) -> Layout:
    size = _wide_size(state, "block1.layer.{}.conv1") | {"shortcut": "activated", "stride_in": "first"}
    parts = {"bn": "bn1", "conv1": "conv1", "conv1_bn": "bn2", "conv2": "conv2", "shortcut": "convShortcut"}
    modules = {"stem": "conv1"} | _blocks("block{stage}.layer.{block}", 3, (size["depth"] - 4) // 6, parts)
    modules |= {"last_bn": "bn1", "logits": "fc"}
    return Layout("wide_resnet", size, modules, unused="sub_block1.")


def _li2023_wide_resnet(state: State) -> Layout:
    size = _wide_size(state, "layer1.block{}.conv1") | {"shortcut": "raw", "stride_in": "second"}
    parts = {"bn": "bn1", "conv1": "conv1", "conv1_bn": "bn2", "conv2": "conv2", "shortcut": "shortcut.0"}
    modules = {"stem": "conv1"} | _blocks("layer{stage}.block{block}", 3, (size["depth"] - 4) // 6, parts)
    return Layout("wide_resnet", size, modules | {"last_bn": "bn1", "logits": "fc0"})


def _deepmind_wide_resnet(state: State) -> Layout:
    size = _wide_size(state, "layer.0.block.{}.conv_0") | {"shortcut": "activated", "stride_in": "first"}
    parts = _deepmind_block("conv_0", "conv_1")
    blocks = _blocks("layer.{index}.block.{block}", 3, (size["depth"] - 4) // 6, parts)
    modules = {"stem": "init_conv"} | blocks | {"last_bn": "batchnorm", "logits": "logits"}
    return Layout("wide_resnet", size, modules, one_sided=True, note=" (DeepMind's)")


def _deepmind_preact_resnet18(state: State) -> Layout:
    size = _width(state, "preact_resnet18", "conv_2d", 4) | {"shortcut": "raw"}
    blocks = _blocks("layer_{index}.{block}", 4, 2, _deepmind_block("conv_2d_1", "conv_2d_2"))
    modules = {"stem": "conv_2d"} | blocks | {"last_bn": "batchnorm", "logits": "logits"}
    features = functools.partial(_preact_variant, deepmind=True)
    note = " (DeepMind's)"
    return Layout("preact_resnet18", size, modules, features=features, one_sided=True, note=note)


SIGNATURES = (  # (model, a parameter that no other layout has, reader); a BatchNorm ends ResNet's shortcut
    ("lenet", "fc1.weight", _lenet),
    ("vgg", "feature_extractor.0.weight", _vgg),
    ("resnet18", "layer2.0.shortcut.1.weight", _resnet18),
    ("resnet50", "layer1.0.downsample.0.weight", _resnet50),
    ("preact_resnet18", "layer2.0.shortcut.0.weight", _preact_resnet18),
    ("preact_resnet18", "conv_2d.weight", _deepmind_preact_resnet18),
    ("wide_resnet", "block1.layer.0.conv1.weight", _wide_resnet),
    ("wide_resnet", "layer1.block0.conv1.weight", _li2023_wide_resnet),
    ("wide_resnet", "init_conv.weight", _deepmind_wide_resnet),
)


def _blocks(path: str, stages: int, count: int, parts: Mapping[str, str]) -> dict[str, str]:
    """Names of all residual blocks; each gets a shortcut's, for the model knows which block has one."""
    modules = {}
    for stage in range(1, stages + 1):
        for block in range(count):
            ours = f"stage{stage}_block{block + 1}"
            theirs = path.format(stage=stage, index=stage - 1, block=block)
            modules |= {f"{ours}_{part}": f"{theirs}.{module}" for part, module in parts.items()}
    return modules


def _deepmind_block(conv1: str, conv2: str) -> dict[str, str]:
    norms = {"bn": "batchnorm_0", "conv1_bn": "batchnorm_1"}
    return norms | {"conv1": conv1, "conv2": conv2, "shortcut": "shortcut"}


def _head(state: State) -> dict[str, str]:
    return {"logits": next((name for name in HEADS if f"{name}.weight" in state), HEADS[0])}


def _wide_size(state: State, path: str) -> dict[str, int]:
    blocks = 0
    while f"{path.format(blocks)}.weight" in state:
        blocks += 1
    size = _width(state, "wide_resnet", path.format(0), 16)
    return size | {"depth": 6 * blocks + 4}


def _preact_variant(layers: Layers, x, *, width: int, shortcut: str, deepmind: bool):
    """PreActResNet18 with 3×3 shortcuts, which is DeepMind's, or without a BatchNorm at the end."""
    x = layers.conv(x, 4 * width, 3, "stem")
    kernel = {"shortcut": shortcut, "shortcut_size": 3 if deepmind else 1}
    for stage, (factor, first_stride) in enumerate(resnet.STAGES, start=1):
        for block, stride in ((1, first_stride), (2, 1)):
            name = f"stage{stage}_block{block}"
            x = preact_resnet.preactivation_block(layers, x, factor * width, stride, name, **kernel)
    return layers.global_average(layers.norm_activate(x, "last") if deepmind else x)
