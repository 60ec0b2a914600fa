"""One classifier for three libraries: advtf, torchattacks (PyTorch) and ART (TensorFlow).

For `launch.benchmarks.attacks` and `launch.benchmarks.attack_strength`. Needs ``pip install ".[compare]"``.
"""

import importlib.metadata
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
import torch

from advtf import convert_state_dict
from advtf.classifiers.classifier import as_classifier
from advtf.data import sets as data
from advtf.data.arrays import to_unit_float
from advtf.errors import UsageError
from advtf.storage import files
from advtf.training.presets import order_as_trained

TOLERANCE = 1e-4  # by which the libraries' logits may differ
TORCH_NAMES = {"conv1": "conv1", "conv2": "conv2", "dense": "fc1", "logits": "fc2"}


class TorchLeNet(torch.nn.Module):
    """LeNet as `advtf.models.lenet` has it: images (B, C, H, W) -> logits (B, K).

    Args:
        state: its state dict, which tells the sizes.
    """

    def __init__(self, state: dict[str, torch.Tensor]):
        super().__init__()
        for name in ("conv1", "conv2"):
            out, channels, size, _ = state[f"{name}.weight"].shape
            setattr(self, name, torch.nn.Conv2d(channels, out, size, padding=size // 2))
        for name in ("fc1", "fc2"):
            setattr(self, name, torch.nn.Linear(*reversed(state[f"{name}.weight"].shape)))
        self.load_state_dict(state)
        self.eval()

    def forward(self, x):
        for convolution in (self.conv1, self.conv2):
            x = torch.nn.functional.max_pool2d(torch.relu(convolution(x)), 2)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


def torch_state(model: keras.Model) -> dict[str, torch.Tensor]:
    """Returns the weights of a Keras LeNet under the names and in the order of PyTorch."""
    height, width, channels = model.get_layer("flatten").input.shape[1:]
    state = {}
    for ours, theirs in TORCH_NAMES.items():
        kernel, bias = (np.asarray(weight) for weight in model.get_layer(ours).get_weights())
        if ours == "dense":  # PyTorch flattens (C, H, W)
            kernel = kernel.reshape(height, width, channels, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
        order = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
        state[f"{theirs}.weight"] = torch.tensor(kernel.transpose(order).copy())
        state[f"{theirs}.bias"] = torch.tensor(bias)
    return state


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
    torch_model: TorchLeNet
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
        return torch.tensor(self.x.transpose(0, 3, 1, 2).copy())

    @property
    def torch_y(self) -> torch.Tensor:
        """The labels for PyTorch."""
        return torch.tensor(self.y, dtype=torch.int64)

    def only(self, rows: np.ndarray) -> "Bench":
        """Returns the bench with some of its images, given as indices or a mask."""
        kept = {name: getattr(self, name)[rows] for name in ("x", "y", "right")}
        fixed = {name: getattr(self, name) for name in ("name", "epsilon", "model", "torch_model")}
        return Bench(**fixed, **kept)


def load_bench(path: str, examples: int, data_dir: str | None = None) -> Bench:
    """Loads an exported LeNet and the first test images of the data set it was trained on.

    Raises:
        UsageError: not the export of a LeNet trained against linf, or no data.
        RuntimeError: the PyTorch copy computes something else.
    """
    classifier = as_classifier(path, movable=True)
    if (classifier.config.get("model"), classifier.config.get("norm")) != ("lenet", "linf"):
        raise UsageError(f"model must be the export of a lenet trained against linf. Received: {path}.")
    dataset = classifier.config["dataset"]
    order = order_as_trained(classifier.config, dataset)
    images, _ = data.load_test(dataset, data_dir, order=order, first=examples)
    x = to_unit_float(images.images).numpy()
    torch_model = TorchLeNet(torch_state(classifier.model))
    logits = np.asarray(classifier.model(x, training=False))
    right = logits.argmax(axis=1) == images.labels
    bench = Bench(
        classifier.name, classifier.config["eps"], classifier.model, torch_model, x, images.labels, right
    )
    with torch.no_grad():
        copied = torch_model(bench.torch_x).numpy()
    back = convert_state_dict(torch_model.state_dict(), "lenet")(x, training=False)
    for other in (copied, np.asarray(back)):
        if not np.abs(other - logits).max() <= TOLERANCE * max(1.0, np.abs(logits).max()):
            raise RuntimeError(f"the PyTorch copy differs by {np.abs(other - logits).max():.3g}")
    return bench


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


def versions() -> dict[str, str]:
    """Returns the versions of what was compared."""
    packages = ("torch", "torchattacks", "adversarial-robustness-toolbox")
    return files.versions() | {package: importlib.metadata.version(package) for package in packages}
