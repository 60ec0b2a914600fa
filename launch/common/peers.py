"""The same networks in PyTorch, and one classifier for three libraries: advtf, torchattacks and ART.

Needs ``pip install ".[compare]"``. The networks have the names of published ones, so that
`advtf.convert_state_dict` reads their weights; `torch_copy` is the other way.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
import torch
from torch import nn
from torch.nn import functional as F

from advtf import convert_state_dict
from advtf.classifiers.pytorch import SUFFIXES
from advtf.classifiers.pytorch_layouts import recognise
from advtf.errors import UsageError
from advtf.models.resnet import STAGES
from advtf.runtime import cores
from launch.common.classifiers import load

TOLERANCE = 1e-4  # by which the libraries' logits may differ
VARIANT = {"preact_resnet18": {"shortcut": "raw"}}  # what the names of parameters do not tell


class LeNet(nn.Module):
    """LeNet as `advtf.models.lenet` has it: images (B, C, H, W) -> logits (B, K)."""

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int):
        super().__init__()
        height, side, channels = shape
        self.conv1 = nn.Conv2d(channels, 2 * width, 5, padding=2)
        self.conv2 = nn.Conv2d(2 * width, 4 * width, 5, padding=2)
        self.fc1 = nn.Linear((height // 4) * (side // 4) * 4 * width, 64 * width)
        self.fc2 = nn.Linear(64 * width, classes)

    def forward(self, x):
        for convolution in (self.conv1, self.conv2):
            x = F.max_pool2d(F.relu(convolution(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class BasicBlock(nn.Module):
    """Two convolutions, each with BatchNorm, and a shortcut (He et al. 2016a)."""

    def __init__(self, channels: int, filters: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != filters:
            project = nn.Conv2d(channels, filters, 1, stride, bias=False)
            self.shortcut = nn.Sequential(project, nn.BatchNorm2d(filters))

    def forward(self, x):
        changed = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(changed + self.shortcut(x))


class PreActivationBlock(nn.Module):
    """BatchNorm and activation before each convolution; the shortcut takes the raw input, as published."""

    def __init__(self, channels: int, filters: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != filters:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, filters, 1, stride, bias=False))

    def forward(self, x):
        changed = self.conv1(F.relu(self.bn1(x)))
        return self.conv2(F.relu(self.bn2(changed))) + self.shortcut(x)


class ResNet18(nn.Module):
    """ResNet18 for small images, as `advtf.models.resnet` has it."""

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(shape[2], 4 * width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(4 * width)
        self.stages = _add_stages(self, BasicBlock, width)
        self.linear = nn.Linear(32 * width, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return self.linear(x.mean((2, 3)))


class PreActResNet18(nn.Module):
    """Pre-activation ResNet18 with a last BatchNorm, as `advtf.models.preact_resnet` has it."""

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(shape[2], 4 * width, 3, 1, 1, bias=False)
        self.stages = _add_stages(self, PreActivationBlock, width)
        self.bn = nn.BatchNorm2d(32 * width)
        self.linear = nn.Linear(32 * width, classes)

    def forward(self, x):
        x = self.conv1(x)
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return self.linear(F.relu(self.bn(x)).mean((2, 3)))


def _add_stages(network: nn.Module, block: type, width: int) -> list[str]:
    """Adds layer1 to layer4, of two blocks each, and returns these names."""
    channels, names = 4 * width, []
    for number, (factor, stride) in enumerate(STAGES, start=1):
        filters = factor * width
        names.append(f"layer{number}")
        network.add_module(
            names[-1], nn.Sequential(block(channels, filters, stride), block(filters, filters, 1))
        )
        channels = filters
    return names


NETWORKS = {"lenet": LeNet, "resnet18": ResNet18, "preact_resnet18": PreActResNet18}


def torch_copy(model: keras.Model, name: str, width: int) -> nn.Module:
    """Returns a Keras classifier as a PyTorch network in evaluation mode.

    Args:
        model: of `advtf.models`, (B, H, W, C) -> (B, K).
        name: key of `NETWORKS` and of `advtf.models.MODELS`.
        width: its width factor.

    Raises:
        UsageError: a model that is not among `NETWORKS`.
        RuntimeError: the copy, or what `advtf.convert_state_dict` makes of it, has other logits.
    """
    if name not in NETWORKS:
        raise UsageError(f"model must be one of {', '.join(NETWORKS)}. Received: {name}.")
    shape = model.input_shape[1:]
    network = NETWORKS[name](shape, model.output_shape[-1], width)
    arrays = {key: value.numpy() for key, value in network.state_dict().items()}
    (layout,) = recognise(arrays, name, VARIANT.get(name))
    flat = next((layer for layer in model.layers if layer.name == "flatten"), None)
    state = {}
    for layer in model.layers:
        source = flat.input.shape[1:] if flat and layer.weights and layer.input is flat.output else None
        for variable in layer.weights:
            key = f"{layout.modules[layer.name]}.{SUFFIXES[variable.name]}"
            state[key] = torch.tensor(_arranged(np.asarray(variable), source))
    missing = network.load_state_dict(state, strict=False)
    counters = [key for key in missing.missing_keys if not key.endswith("num_batches_tracked")]
    if counters or missing.unexpected_keys:
        raise RuntimeError(f"weights of {name} were not copied: {counters}, {missing.unexpected_keys}")
    network.eval()
    _require_equal(model, network, name)
    return network


def _arranged(value: np.ndarray, source: tuple[int, int, int] | None) -> np.ndarray:
    """Returns a weight in torch's order of axes; `source` is the shape that a dense layer's input had."""
    if source and value.ndim == 2:  # torch flattens (C, H, W)
        value = value.reshape(*source, -1).transpose(2, 0, 1, 3).reshape(value.shape)
    return value.transpose({1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}[value.ndim]).copy()


def _require_equal(model, network, name):
    x = np.random.default_rng(0).random((8, *model.input_shape[1:]), np.float32)
    logits = np.asarray(model(x, training=False))
    with torch.no_grad():
        copied = network(to_torch(x)).numpy()
    settings = VARIANT.get(name, {}) | {"image_size": x.shape[1], "mean": 0.0, "std": 1.0}
    back = convert_state_dict(network.state_dict(), name, **settings)(x, training=False)
    for other in (copied, np.asarray(back)):
        if not np.abs(other - logits).max() <= TOLERANCE * max(1.0, np.abs(logits).max()):
            raise RuntimeError(f"the PyTorch copy differs by {np.abs(other - logits).max():.3g}")


def to_torch(x: np.ndarray) -> torch.Tensor:
    """Returns images (N, H, W, C) as PyTorch has them, (N, C, H, W)."""
    return torch.tensor(x.transpose(0, 3, 1, 2).copy())


@dataclass(frozen=True, eq=False)
class Bench:
    """A classifier in two frameworks, and images that it classifies.

    Attributes:
        name: of the classifier.
        epsilon: radius in the linf norm that it was trained against.
        model: the Keras model.
        torch_model: the same in PyTorch.
        x, y: test images float32 (N, H, W, C) in [0, 1] and labels int32 (N,).
        right: (N,) bool, classified correctly without attack.
    """

    name: str
    epsilon: float
    model: keras.Model
    torch_model: nn.Module
    x: np.ndarray
    y: np.ndarray
    right: np.ndarray

    def logits_fn(self, x: tf.Tensor) -> tf.Tensor:
        """The Keras model in inference mode, float32 (B, H, W, C) -> (B, K)."""
        return self.model(x, training=False)

    @property
    def classes(self) -> int:
        """K."""
        return self.model.output_shape[-1]

    @property
    def torch_x(self) -> torch.Tensor:
        """The images for PyTorch, (N, C, H, W)."""
        return to_torch(self.x)

    @property
    def torch_y(self) -> torch.Tensor:
        """The labels for PyTorch."""
        return torch.tensor(self.y, dtype=torch.int64)

    def only(self, rows: np.ndarray | slice) -> "Bench":
        """Returns the bench with some of its images, given as indices or a mask."""
        kept = {name: getattr(self, name)[rows] for name in ("x", "y", "right")}
        fixed = {name: getattr(self, name) for name in ("name", "epsilon", "model", "torch_model")}
        return Bench(**fixed, **kept)


def load_bench(path: str, examples: int, data_dir: str | None = None) -> Bench:
    """Loads an export and the first test images of the data set it was trained on.

    Args:
        path, examples, data_dir: as `launch.common.classifiers.load` takes them.

    Raises:
        UsageError: no such export, not one of `NETWORKS` trained against linf, or no data.
        RuntimeError: the PyTorch copy computes something else.
    """
    subject = load(path, examples, data_dir)
    training: Mapping = subject.training
    if training.get("norm") != "linf":
        raise UsageError(f"model must have been trained against linf. Received: {path}.")
    model = subject.classifier.model
    copy = torch_copy(model, training.get("model"), training["width"])
    right = np.asarray(model(subject.x, training=False)).argmax(axis=1) == subject.y
    return Bench(subject.classifier.name, training["eps"], model, copy, subject.x, subject.y, right)


def use_all_cores() -> None:
    """Lets PyTorch compute on as many cores as TensorFlow does."""
    torch.set_num_threads(cores())


def art_classifier(bench: Bench, compiled: bool):
    """Wraps the Keras model for ART as its documentation does, or first compiled as a tf.function."""
    from art.estimators.classification import TensorFlowV2Classifier

    function = tf.function(lambda x, training=False: bench.logits_fn(x), reduce_retracing=True)
    return TensorFlowV2Classifier(
        function if compiled else bench.model,
        bench.classes,
        bench.x.shape[1:],
        loss_object=keras.losses.CategoricalCrossentropy(from_logits=True),
        clip_values=(0, 1),
    )
