"""Architectures against published parameter counts and torch; initial weights; bad settings."""

import itertools
import math
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from advtf.errors import UsageError
from advtf.models import (
    ACTIVATIONS,
    MODELS,
    VARIANTS,
    build,
    model_settings,
    parameter_count,
    training_bytes,
)
from advtf.models.layers import Layers

DEPTH = dict.fromkeys(MODELS) | {"wide_resnet": 10}
VARIANTS_OF_MODELS = [
    (name, dict(zip(settings, values, strict=True)))
    for name in MODELS
    for settings in [[key for key in VARIANTS if key in MODELS[name].settings]]
    for values in itertools.product(*(VARIANTS[key] for key in settings))
]
TINY = dict.fromkeys(MODELS, 1) | {"lenet": 2, "linear": None}


def tiny(name, shape=(8, 8, 1), **settings):
    return build(name, shape, 10, width=TINY[name], depth=DEPTH[name], **settings)


def images(shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


# Counts of trainable parameters: ResNet18, VGG16 and WRN-28-10 are those printed by the usual PyTorch codes,
# ResNet50's is that of torchvision for 1,000 classes, less the weights and offsets of 990 of them.
@pytest.mark.parametrize(
    ("name", "shape", "width", "depth", "count"),
    [
        ("lenet", (28, 28, 1), 16, None, 832 + 51_264 + 3_212_288 + 10_250),
        ("lenet", (28, 28, 1), 2, None, 104 + 808 + 50_304 + 1_290),
        ("vgg", (32, 32, 3), 16, None, 14_728_266),
        ("resnet18", (32, 32, 3), 16, None, 11_173_962),
        ("resnet50", (224, 224, 3), 16, None, 25_557_032 - 990 * 2049),
        ("preact_resnet18", (32, 32, 3), 16, None, 11_172_170),
        ("wide_resnet", (32, 32, 3), 10, 28, 36_479_194),
        ("linear", (28, 28, 1), None, None, 7_850),
        ("mlp", (28, 28, 1), 2, None, 784 * 32 + 32 + 32 * 32 + 32 + 330),
    ],
)
def test_parameter_counts(name, shape, width, depth, count):
    assert parameter_count(name, shape, 10, width=width, depth=depth) == count


@pytest.mark.parametrize(("name", "variant"), VARIANTS_OF_MODELS)
@pytest.mark.parametrize("shape", [(8, 8, 1), (13, 17, 2)])
def test_what_is_counted_is_what_is_built(name, variant, shape):
    model = tiny(name, shape, **variant)
    sizes = {"width": TINY[name], "depth": DEPTH[name], **variant}
    count = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    outputs = sum(math.prod(layer.output.shape[1:]) for layer in model.layers)
    assert parameter_count(name, shape, 10, **sizes) == count
    assert training_bytes(name, shape, 10, 7, **sizes) == 4 * (3 * count + 7 * outputs)
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    corrupts_memory = [each for each in convolutions if each.kernel_size == (1, 1) and each.strides > (1, 1)]
    assert not corrupts_memory


def test_sizes_beyond_any_memory_are_counted_at_once():
    assert parameter_count("linear", (10**6, 10**6, 3), 10) == (3 * 10**12 + 1) * 10
    assert training_bytes("wide_resnet", (32, 32, 3), 10, 128, width=10**5, depth=1000) > 10**15


def test_default_sizes():
    assert model_settings("resnet18") == {"width": 8}
    assert model_settings("preact_resnet18") == {"width": 16, "shortcut": "raw"}
    published = {"width": 10, "depth": 34, "shortcut": "raw", "stride_in": "second"}
    assert model_settings("wide_resnet") == published
    assert model_settings("linear") == {}
    stem = build("resnet18", (32, 32, 3), 10).get_layer("stem")
    assert stem.kernel.shape == (3, 3, 3, 32)


def test_tables_need_no_tensorflow():
    code = (
        "import sys, advtf.models; sys.exit(any(m in sys.modules for m in ('tensorflow', 'keras', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


EACH_MODEL = [pytest.param(name, marks=[pytest.mark.slow] * (name == "resnet50")) for name in MODELS]


@pytest.mark.parametrize("name", EACH_MODEL)
@pytest.mark.parametrize("shape", [(8, 8, 1), (13, 17, 2)])
def test_any_shape_gives_logits_and_gradients(name, shape):
    model = tiny(name, shape)
    assert (model.layers[0].name, model.layers[-1].name) == ("image", "logits")
    x = tf.constant(images((5, *shape)))
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = model(x, training=True)
        loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(tf.range(5), logits))
    assert logits.shape == (5, 10) and logits.dtype == tf.float32
    gradients = tape.gradient(loss, [x, *(weight.value for weight in model.trainable_weights)])
    for gradient in gradients:
        assert np.all(np.isfinite(gradient))
    assert np.all(np.any(np.asarray(gradients[0]) != 0, axis=(1, 2, 3)))


@pytest.mark.parametrize(("shape", "last"), [((32, 32), (1, 1)), ((8, 9), (1, 1)), ((64, 96), (2, 3))])
def test_vgg_pools_while_it_can(shape, last):
    assert build("vgg", (*shape, 3), 10, width=1).get_layer("pool").input.shape[1:3] == last


# --- initialisation


def test_initial_weights_follow_the_fan_in_rule():
    model = build("lenet", (28, 28, 1), 10)
    for name, fan_in in {"conv1": 25, "conv2": 25 * 32, "dense": 49 * 64, "logits": 1024}.items():
        layer = model.get_layer(name)
        bound = 1 / np.sqrt(fan_in)
        for weight in (layer.kernel, layer.bias):
            values = np.asarray(weight, np.float64).ravel()
            error = 4 / np.sqrt(len(values))  # 4 standard errors of the mean; those of the square are smaller
            assert np.abs(values).max() <= bound * (1 + 1e-6)  # float32 rounds the bound
            assert abs(values.mean()) <= error * bound / np.sqrt(3)
            assert abs((values**2).mean() / (bound**2 / 3) - 1) <= error
            assert np.abs(values).max() > bound * (1 - 20 / len(values))


@pytest.mark.parametrize("name", ["preact_resnet18", "wide_resnet"])
def test_initial_weights_are_those_of_torch(name):
    """Every layer begins as torch's own of the same shape does: the same bounds, the same spread."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = tiny(name, (8, 8, 3))
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            values = {weight.name: weight.numpy() for weight in layer.weights}
            theirs = torch.nn.BatchNorm2d(len(values["gamma"])).state_dict()
            for ours, name_there in {
                "gamma": "weight",
                "beta": "bias",
                "moving_variance": "running_var",
            }.items():
                assert np.array_equal(values[ours], theirs[name_there])
        elif isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            shape = layer.kernel.shape
            conv = len(shape) == 4
            there = torch.nn.Conv2d(*shape[2:], shape[:2]) if conv else torch.nn.Linear(*shape)
            ours, theirs = layer.kernel.numpy().ravel(), there.weight.detach().numpy().ravel()
            spread = 5 / np.sqrt(ours.size)
            assert abs(ours.std() / theirs.std() - 1) < spread
            assert abs(np.abs(ours).max() / np.abs(theirs).max() - 1) < spread


def test_seed_alone_decides_the_weights():
    keras.utils.set_random_seed(1)
    first = tiny("resnet18", seed=3).get_weights()
    keras.utils.set_random_seed(2)
    keras.random.uniform((3,))
    second, other = tiny("resnet18", seed=3), tiny("resnet18", seed=4)
    assert all(np.array_equal(a, b) for a, b in zip(first, second.get_weights(), strict=True))
    kernels = [layer.kernel.numpy() for layer in second.layers if isinstance(layer, keras.layers.Conv2D)]
    assert not any(a.shape == b.shape and np.any(a == b) for i, a in enumerate(kernels) for b in kernels[:i])
    assert not np.any(second.get_layer("stem").kernel.numpy() == other.get_layer("stem").kernel.numpy())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_twins_share_weights_and_follow_torch(activation):
    relu, twin = build("mlp", (2, 2, 1), 3), build("mlp", (2, 2, 1), 3, activation=activation)
    assert all(np.array_equal(a, b) for a, b in zip(relu.get_weights(), twin.get_weights(), strict=True))
    torch = pytest.importorskip("torch")
    values = np.linspace(-4, 4, 81, dtype=np.float32)
    expected = getattr(torch.nn.functional, activation)(torch.tensor(values)).numpy()
    np.testing.assert_allclose(twin.get_layer("dense1_act")(values[None]).numpy()[0], expected, atol=2e-6)


# --- parity with torch: the same weights in networks written with torch.nn.functional


class TorchNetwork:
    """Layers of a Keras model by name, applied by torch; BatchNorm statistics are torch's own."""

    def __init__(self, model, variant):
        self.torch, self.variant = pytest.importorskip("torch"), variant
        self.F = self.torch.nn.functional
        self.weights = {
            f"{layer.name}/{weight.name}": self.torch.tensor(weight.numpy())
            for layer in model.layers
            for weight in layer.weights
        }
        self.training = False

    def conv(self, x, name, stride=1):
        kernel = self.weights[f"{name}/kernel"].permute(3, 2, 0, 1)
        padding = kernel.shape[-1] // 2
        return self.F.conv2d(x, kernel, self.weights.get(f"{name}/bias"), stride=stride, padding=padding)

    def norm(self, x, name):
        parts = ("moving_mean", "moving_variance", "gamma", "beta")
        return self.F.batch_norm(x, *(self.weights[f"{name}/{part}"] for part in parts), self.training)

    def dense(self, x, name):
        return x @ self.weights[f"{name}/kernel"] + self.weights[f"{name}/bias"]

    def lenet(self, x):
        for stage in "12":
            x = self.F.max_pool2d(self.F.relu(self.conv(x, f"conv{stage}")), 2)
        x = self.F.relu(self.dense(x.permute(0, 2, 3, 1).flatten(1), "dense"))
        return self.dense(x, "logits")

    def resnet18(self, x):
        x = self.F.relu(self.norm(self.conv(x, "stem"), "stem_bn"))
        for name, stride in self.blocks(4):
            out = self.F.relu(self.norm(self.conv(x, f"{name}_conv1", stride), f"{name}_conv1_bn"))
            out = self.norm(self.conv(out, f"{name}_conv2"), f"{name}_conv2_bn")
            if f"{name}_shortcut/kernel" in self.weights:
                x = self.norm(self.conv(x, f"{name}_shortcut", stride), f"{name}_shortcut_bn")
            x = self.F.relu(out + x)
        return self.dense(x.mean((2, 3)), "logits")

    def resnet50(self, x):
        x = self.F.relu(self.norm(self.conv(x, "stem", 2), "stem_bn"))
        x = self.F.max_pool2d(x, 3, 2, 1)
        for name, stride in self.blocks(4):
            out = self.F.relu(self.norm(self.conv(x, f"{name}_conv1"), f"{name}_conv1_bn"))
            out = self.F.relu(self.norm(self.conv(out, f"{name}_conv2", stride), f"{name}_conv2_bn"))
            out = self.norm(self.conv(out, f"{name}_conv3"), f"{name}_conv3_bn")
            if f"{name}_shortcut/kernel" in self.weights:
                x = self.norm(self.conv(x, f"{name}_shortcut", stride), f"{name}_shortcut_bn")
            x = self.F.relu(out + x)
        return self.dense(x.mean((2, 3)), "logits")

    def preact_resnet18(self, x, stages=4):
        x = self.conv(x, "stem")
        for name, stride in self.blocks(stages):
            out = self.F.relu(self.norm(x, f"{name}_bn"))
            if f"{name}_shortcut/kernel" in self.weights:
                raw = self.variant["shortcut"] == "raw"
                x = self.conv(x if raw else out, f"{name}_shortcut", stride)
            late = self.variant.get("stride_in") == "second"
            out = self.conv(out, f"{name}_conv1", 1 if late else stride)
            out = self.F.relu(self.norm(out, f"{name}_conv1_bn"))
            x = self.conv(out, f"{name}_conv2", stride if late else 1) + x
        return self.dense(self.F.relu(self.norm(x, "last_bn")).mean((2, 3)), "logits")

    def wide_resnet(self, x):
        return self.preact_resnet18(x, stages=3)

    def vgg(self, x):
        for stage, count in enumerate((2, 2, 3, 3, 3), start=1):
            for index in range(1, count + 1):
                name = f"stage{stage}_conv{index}"
                x = self.F.relu(self.norm(self.conv(x, name), f"{name}_bn"))
            x = self.F.max_pool2d(x, 2)
        return self.dense(x.flatten(1), "logits")

    def blocks(self, stages):
        for stage in range(1, stages + 1):
            for block in range(1, 7):
                name = f"stage{stage}_block{block}"
                if f"{name}_conv1/kernel" in self.weights:
                    yield name, 2 if block == 1 and stage > 1 else 1


CONVOLUTIONAL = [(name, variant) for name, variant in VARIANTS_OF_MODELS if name not in ("linear", "mlp")]


@pytest.fixture
def policy():
    """Sets a global dtype policy for one test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize(("name", "variant"), CONVOLUTIONAL)
def test_forward_and_running_statistics_match_torch(name, variant, policy):
    dtype = "float64" if name == "resnet50" else "float32"  # 53 layers of BatchNorm make 1e-3 of a rounding
    policy(dtype)
    model = tiny(name, (32, 32, 3), **variant)
    torch_net = TorchNetwork(model, variant)
    network = getattr(torch_net, name)
    x = images((16, 32, 32, 3)).astype(dtype)
    inputs = torch_net.torch.tensor(x.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(model(x, training=False), network(inputs), atol=1e-5)

    torch_net.training = True
    np.testing.assert_allclose(model(x, training=True), network(inputs), atol=1e-4)
    for layer in model.layers:
        for weight in layer.weights:
            expected = torch_net.weights[f"{layer.name}/{weight.name}"]
            np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-4, atol=1e-5, err_msg=weight.path)

    torch_net.training = False
    np.testing.assert_allclose(model(x, training=False), network(inputs), atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 6), (7, 8), (8, 5)])
def test_overlapping_maxima_and_their_gradients_are_those_of_torch(shape):
    """Maxima below zero, too, which some activations leave."""
    torch = pytest.importorskip("torch")
    image = keras.Input((*shape, 2))
    pool = keras.Model(image, Layers().overlapping_max_pool(image, "pool"))
    random = np.random.default_rng(0)
    x = random.normal(size=(3, *shape, 2)).astype(np.float32) - 3
    theirs = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    expected = torch.nn.functional.max_pool2d(theirs, 3, 2, 1)
    cotangent = random.normal(size=expected.shape).astype(np.float32)
    expected.backward(torch.tensor(cotangent))
    ours = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(ours)
        found = pool(ours)
    gradient = tape.gradient(found, ours, output_gradients=cotangent.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(found, expected.detach().permute(0, 2, 3, 1))
    np.testing.assert_allclose(gradient, theirs.grad.permute(0, 2, 3, 1), rtol=1e-6)


# --- saving, and bad settings


@pytest.mark.parametrize("name", EACH_MODEL)
def test_configuration_round_trip(name):
    model = tiny(name, activation="leaky_relu", seed=5)
    copy = keras.models.model_from_json(model.to_json())
    assert all(np.array_equal(a, b) for a, b in zip(model.weights, copy.weights, strict=True))
    x = images((3, 8, 8, 1))
    assert np.array_equal(model(x, training=True), copy(x, training=True))
    assert np.array_equal(model(x), copy(x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "resnet8"}, "Did you mean 'resnet18'"),
        ({"name": "linear", "width": 2}, "no width. Received: width=2"),
        ({"name": "mlp", "depth": 10}, "depth of mlp is fixed. Received: depth=10"),
        ({"name": "wide_resnet", "depth": 30}, "6n \\+ 4"),
        ({"name": "wide_resnet", "depth": 1006}, "1000. Received: depth=1006"),
        ({"name": "resnet18", "shortcut": "raw"}, "no choice of shortcuts. Received: shortcut=raw; leave it"),
        ({"name": "preact_resnet18", "stride_in": "first"}, "no choice of where it strides"),
        ({"name": "wide_resnet", "shortcut": "row"}, "Did you mean 'raw'"),
        ({"name": "wide_resnet", "depth": "16"}, "6n \\+ 4"),
        ({"name": "vgg", "width": 0}, "positive integer. Received: width=0"),
        ({"name": "vgg", "width": 1.5}, "positive integer. Received: width=1.5"),
        ({"activation": "rely"}, "Did you mean 'relu'"),
        ({"input_shape": (8, 8)}, "height, width, channels"),
        ({"input_shape": (None, 8, 1)}, "height, width, channels"),
        ({"name": "lenet", "input_shape": (3, 8, 1)}, "4×4"),
        ({"num_classes": 1}, "at least 2. Received: num_classes=1"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_impossible_models_are_refused(settings, message):
    settings = {"name": "mlp", "input_shape": (8, 8, 1), "num_classes": 10, **settings}
    with pytest.raises(UsageError, match=message):
        build(**settings)
