"""Conversion of PyTorch checkpoints: logits against torch for every published layout, and what is refused.

The networks are written here with torch.nn.functional under the parameter names of the published code.
"""

import json
import subprocess
import sys
import warnings
from collections import OrderedDict

import keras
import numpy as np
import pytest
import tensorflow as tf

from advtf.classifiers.pytorch import CONVERTIBLE, AmbiguousNetwork, convert_state_dict, load_torch
from advtf.classifiers.pytorch_layouts import SIGNATURES
from advtf.errors import UsageError
from advtf.models import parameter_count

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
PREACT = {"bn1": "bn1", "conv1": "conv1", "bn2": "bn2", "conv2": "conv2", "shortcut": "shortcut.0"}
WIDE = PREACT | {"shortcut": "convShortcut"}
DEEPMIND = {"bn1": "batchnorm_0", "bn2": "batchnorm_1", "shortcut": "shortcut"}
DEEPMIND_WIDE = DEEPMIND | {"conv1": "conv_0", "conv2": "conv_1"}
DEEPMIND_PREACT = DEEPMIND | {"conv1": "conv_2d_1", "conv2": "conv_2d_2"}


class Parameters(dict):
    """A state dict that draws each parameter when a network first asks for it, from the shapes it needs."""

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)

    def draw(self, name, shape, low, high):
        if name not in self:
            self[name] = self.rng.uniform(low, high, shape).astype(np.float32)
        return self[name]

    def weight(self, name, *shape):
        bound = np.sqrt(6 / np.prod(shape[1:]))  # keeps the activations' size through ReLU
        return self.draw(f"{name}.weight", shape, -bound, bound)

    def bias(self, name, size):
        return self.draw(f"{name}.bias", size, -0.3, 0.3)


class Network:
    """The layers of torch on arrays, by the names of the parameters."""

    def __init__(self, parameters, activation="relu", one_sided=False):
        self.torch = pytest.importorskip("torch")
        self.F, self.parameters, self.one_sided = self.torch.nn.functional, parameters, one_sided
        self.act = getattr(self.F, activation)

    def conv(self, x, name, filters, size=3, stride=1, bias=False):
        kernel = self.torch.tensor(self.parameters.weight(name, filters, x.shape[1], size, size))
        offset = self.torch.tensor(self.parameters.bias(name, filters)) if bias else None
        padding = size // 2
        if self.one_sided and stride == 2 and size == 3:
            x, padding = self.F.pad(x, (0, 1, 0, 1)), 0
        return self.F.conv2d(x, kernel, offset, stride, padding)

    def norm(self, x, name):
        size, draw = x.shape[1], self.parameters.draw
        scale, offset = draw(f"{name}.weight", size, 0.5, 1.5), self.parameters.bias(name, size)
        mean, variance = (
            draw(f"{name}.running_mean", size, -0.3, 0.3),
            draw(f"{name}.running_var", size, 0.3, 2),
        )
        self.parameters[f"{name}.num_batches_tracked"] = np.int64(7)
        return self.F.batch_norm(x, *map(self.torch.tensor, (mean, variance, scale, offset)))

    def dense(self, x, name, units):
        weight, bias = self.parameters.weight(name, units, x.shape[1]), self.parameters.bias(name, units)
        return self.F.linear(x, self.torch.tensor(weight), self.torch.tensor(bias))

    def lenet(self, x, width=2):
        x = self.F.max_pool2d(self.act(self.conv(x, "conv1", 2 * width, 5, bias=True)), 2)
        x = self.F.max_pool2d(self.act(self.conv(x, "conv2", 4 * width, 5, bias=True)), 2)
        return self.dense(self.act(self.dense(x.flatten(1), "fc1", 64 * width)), "fc2", 10)

    def vgg(self, x, width=1):
        index = 0
        for label in (4, 4, "M", 8, 8, "M", 16, 16, 16, "M", 32, 32, 32, "M", 32, 32, 32, "M"):
            if label == "M":
                x, index = self.F.max_pool2d(x, 2), index + 1
                continue
            x = self.conv(x, f"feature_extractor.{index}", label * width, bias=True)
            x, index = self.act(self.norm(x, f"feature_extractor.{index + 1}")), index + 3
        return self.dense(x.flatten(1), "classifier", 10)

    def resnet18(self, x, width=1, head="classifier"):
        x = self.act(self.norm(self.conv(x, "conv1", 4 * width), "bn1"))
        for path, filters, stride in blocks("layer{stage}.{block}", (4, 8, 16, 32), 2, width):
            out = self.act(self.norm(self.conv(x, f"{path}.conv1", filters, 3, stride), f"{path}.bn1"))
            out = self.norm(self.conv(out, f"{path}.conv2", filters), f"{path}.bn2")
            if stride == 2:
                x = self.conv(x, f"{path}.shortcut.0", filters, 1, 2)
                x = self.norm(x, f"{path}.shortcut.1")
            x = self.act(out + x)
        return self.dense(self.F.avg_pool2d(x, 4).flatten(1), head, 10)

    def preact(self, x, path, stages, count, width, names, raw=False, size=1):
        for block, filters, stride in blocks(path, stages, count, width):
            activated = self.act(self.norm(x, f"{block}.{names['bn1']}"))
            out = self.conv(activated, f"{block}.{names['conv1']}", filters, 3, stride)
            out = self.act(self.norm(out, f"{block}.{names['bn2']}"))
            if stride == 2 or x.shape[1] != filters:
                source = x if raw else activated
                x = self.conv(source, f"{block}.{names['shortcut']}", filters, size, stride)
            x = self.conv(out, f"{block}.{names['conv2']}", filters) + x
        return x

    def preact_resnet18(self, x, last_norm=True, raw=False):
        x = self.conv(x, "conv1", 4)
        x = self.preact(x, "layer{stage}.{block}", (4, 8, 16, 32), 2, 1, PREACT, raw=raw)
        x = self.act(self.norm(x, "bn")) if last_norm else x
        return self.dense(self.F.avg_pool2d(x, 4).flatten(1), "linear", 10)

    def raw_preact_resnet18(self, x):
        return self.preact_resnet18(x, raw=True)

    def fast_preact_resnet18(self, x):
        return self.preact_resnet18(x, last_norm=False)

    def raw_fast_preact_resnet18(self, x):
        return self.preact_resnet18(x, last_norm=False, raw=True)

    def deepmind_preact_resnet18(self, x):
        x = self.conv(self.normalised(x), "conv_2d", 4)
        x = self.preact(x, "layer_{index}.{block}", (4, 8, 16, 32), 2, 1, DEEPMIND_PREACT, raw=True, size=3)
        x = self.F.avg_pool2d(self.act(self.norm(x, "batchnorm")), 4)
        return self.dense(x.flatten(1), "logits", 10)

    def wide_resnet(self, x, width=2, count=2):
        self.parameters.weight("sub_block1.layer.0.conv1", 32, 16, 3, 3)  # created, never used
        x = self.preact(
            self.conv(x, "conv1", 16), "block{stage}.layer.{block}", (16, 32, 64), count, width, WIDE
        )
        return self.dense(self.F.avg_pool2d(self.act(self.norm(x, "bn1")), 8).flatten(1), "fc", 10)

    def narrow_wide_resnet(self, x):
        return self.wide_resnet(x, width=1, count=1)

    def deepmind_wide_resnet(self, x):
        x = self.conv(self.normalised(x), "init_conv", 16)
        x = self.preact(x, "layer.{index}.block.{block}", (16, 32, 64), 1, 2, DEEPMIND_WIDE)
        x = self.F.avg_pool2d(self.act(self.norm(x, "batchnorm")), 8)
        return self.dense(x.flatten(1), "logits", 10)

    def normalised(self, x):
        mean, std = (self.torch.tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
        return (x - mean) / std


def blocks(path, stages, count, width):
    for index, factor in enumerate(stages):
        for block in range(count):
            stride = 2 if index and not block else 1
            yield path.format(stage=index + 1, index=index, block=block), factor * width, stride


pytestmark = pytest.mark.filterwarnings("ignore:the checkpoint stores no normalisation")


def images(shape=(4, 32, 32, 3)):
    return np.random.default_rng(1).random(shape, dtype=np.float32)


def torch_logits(network, name, x):
    return getattr(network, name)(network.torch.tensor(x.transpose(0, 3, 1, 2))).numpy()


@pytest.mark.parametrize(
    ("name", "model", "layers", "variant"),
    [
        ("lenet", "lenet", {}, {}),
        ("vgg", "vgg", {}, {}),
        ("resnet18", "resnet18", {}, {}),
        ("preact_resnet18", "preact_resnet18", {}, {"shortcut": "activated"}),
        ("raw_preact_resnet18", "preact_resnet18", {}, {"shortcut": "raw"}),
        ("fast_preact_resnet18", "preact_resnet18", {}, {"shortcut": "activated"}),
        ("raw_fast_preact_resnet18", "preact_resnet18", {}, {"shortcut": "raw"}),
        ("wide_resnet", "wide_resnet", {}, {}),
        ("narrow_wide_resnet", "wide_resnet", {}, {}),
        ("deepmind_wide_resnet", "wide_resnet", {"activation": "silu", "one_sided": True}, {}),
        ("deepmind_preact_resnet18", "preact_resnet18", {"activation": "silu", "one_sided": True}, {}),
    ],
)
def test_logits_equal_torch(name, model, layers, variant):
    x = images((4, 28, 28, 1) if name == "lenet" else (4, 32, 32, 3))
    parameters = Parameters()
    expected = torch_logits(Network(parameters, **layers), name, x)
    settings = {"activation": layers["activation"], "mean": MEAN, "std": STD} if layers else {}
    classifier = convert_state_dict(parameters, **settings, **variant)
    assert classifier.name == model and np.ptp(expected) > 0.5
    np.testing.assert_allclose(classifier(x, training=False), expected, atol=1e-4, rtol=1e-5)


# --- Li & Spratling 2023: both networks as modules, with PyTorch's own initial weights


def blocks_module(torch, shortcut, stride_in):
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, source, filters, stride):
            super().__init__()
            first, second = (stride, 1) if stride_in == "first" else (1, stride)
            self.bn1, self.bn2 = nn.BatchNorm2d(source), nn.BatchNorm2d(filters)
            self.conv1 = nn.Conv2d(source, filters, 3, first, 1, bias=False)
            self.conv2 = nn.Conv2d(filters, filters, 3, second, 1, bias=False)
            changes = stride > 1 or source != filters
            projection = [nn.Conv2d(source, filters, 1, stride, bias=False)] if changes else []
            self.shortcut = nn.Sequential(*projection)

        def forward(self, x):
            activated = self.bn1(x).relu()
            branch = activated if shortcut == "activated" and len(self.shortcut) else x
            return self.conv2(self.bn2(self.conv1(activated)).relu()) + self.shortcut(branch)

    return Block


def published(kind, width, depth=None, shortcut="raw", stride_in="first", seed=0):
    """PreActResNet18, or Wide-ResNet with the names of Li & Spratling, in float64 and inference mode."""
    torch = pytest.importorskip("torch")
    nn, Block = torch.nn, blocks_module(torch, shortcut, stride_in)
    wide = kind == "wide_resnet"
    stages = [16 * width, 32 * width, 64 * width] if wide else [width * factor for factor in (4, 8, 16, 32)]
    count, source = ((depth - 4) // 6, 16) if wide else (2, 4 * width)
    torch.manual_seed(seed)
    layers = {"conv1": nn.Conv2d(3, source, 3, 1, 1, bias=False)}
    for stage, filters in enumerate(stages, start=1):
        stage_blocks = {}
        for block in range(count):
            stride = 2 if stage > 1 and block == 0 else 1
            stage_blocks[f"block{block}" if wide else f"{block}"] = Block(source, filters, stride)
            source = filters
        layers[f"layer{stage}"] = nn.Sequential(OrderedDict(stage_blocks))
    layers["bn1" if wide else "bn"] = nn.BatchNorm2d(source)
    layers |= {"act": nn.ReLU(), "aap": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    layers["fc0" if wide else "linear"] = nn.Linear(source, 10)
    network = nn.Sequential(OrderedDict(layers))
    randomise_norms(network)
    return network.double().eval()


def randomise_norms(network):
    """Gives BatchNorm parameters and statistics that all matter."""
    for module in network.modules():
        if hasattr(module, "running_var"):
            for values, low, high in (
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2),
            ):
                values.uniform_(low, high)


PUBLISHED = [
    ("preact_resnet18", {"width": 2}, {"shortcut": "raw"}),
    ("preact_resnet18", {"width": 2}, {"shortcut": "activated"}),
    ("wide_resnet", {"width": 2, "depth": 16}, {}),
    *[
        ("wide_resnet", {"width": 1, "depth": 10}, {"shortcut": shortcut, "stride_in": stride_in})
        for shortcut in ("raw", "activated")
        for stride_in in ("first", "second")
    ],
]


@pytest.mark.parametrize(("model", "size", "variant"), PUBLISHED)
def test_published_networks_and_the_textbooks_in_float64(model, size, variant, float64):
    whole = variant or {"shortcut": "raw", "stride_in": "second"}  # what the published names mean
    network = published(model, **size, **whole)
    state = network.state_dict()
    assert f"layer2.{'block0' if model == 'wide_resnet' else '0'}.shortcut.0.weight" in state
    classifier = convert_state_dict(state, **variant, mean=0, std=1)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert parameter_count(model, (32, 32, 3), 10, **size, **whole) == count
    assert_same_logits_and_gradients(classifier, network, 32)


def assert_same_logits_and_gradients(classifier, network, side):
    rng = np.random.default_rng(3)
    x, cotangent = rng.random((3, side, side, 3)), rng.normal(size=(3, classifier.output_shape[-1]))
    theirs = x.transpose(0, 3, 1, 2)
    theirs = network.conv1.weight.new_tensor(theirs).requires_grad_()
    wanted = network(theirs)
    (wanted * wanted.new_tensor(cotangent)).sum().backward()
    ours = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(ours)
        logits = classifier(ours, training=False)
    gradient = tape.gradient(logits, ours, output_gradients=tf.constant(cotangent))
    np.testing.assert_allclose(logits, wanted.detach(), rtol=1e-6, atol=1e-6)  # weights carry float32
    np.testing.assert_allclose(gradient, theirs.grad.permute(0, 2, 3, 1), rtol=1e-5, atol=1e-6)


# --- torchvision's ResNet50, as a module under the published names


def resnet50(width=4, classes=7):
    """ResNet50 v1.5 with `width` channels in its stem, in float64 and inference mode."""
    torch = pytest.importorskip("torch")
    nn = torch.nn

    def convolution(source, filters, size, stride=1):
        return nn.Conv2d(source, filters, size, stride, size // 2, bias=False)

    class Bottleneck(nn.Module):
        def __init__(self, source, filters, stride):
            super().__init__()
            self.conv1, self.bn1 = convolution(source, filters, 1), nn.BatchNorm2d(filters)
            self.conv2, self.bn2 = convolution(filters, filters, 3, stride), nn.BatchNorm2d(filters)
            self.conv3, self.bn3 = convolution(filters, 4 * filters, 1), nn.BatchNorm2d(4 * filters)
            self.downsample = None
            if stride > 1 or source != 4 * filters:
                projection = convolution(source, 4 * filters, 1, stride)
                self.downsample = nn.Sequential(projection, nn.BatchNorm2d(4 * filters))

        def forward(self, x):
            out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
            branch = x if self.downsample is None else self.downsample(x)
            return (self.bn3(self.conv3(out)) + branch).relu()

    torch.manual_seed(0)
    layers = {"conv1": convolution(3, width, 7, 2), "bn1": nn.BatchNorm2d(width), "relu": nn.ReLU()}
    layers["maxpool"], source = nn.MaxPool2d(3, 2, 1), width
    for stage, count in enumerate((3, 4, 6, 3)):
        filters, stage_blocks = width * 2**stage, []
        for block in range(count):
            stage_blocks.append(Bottleneck(source, filters, 2 if stage and not block else 1))
            source = 4 * filters
        layers[f"layer{stage + 1}"] = nn.Sequential(*stage_blocks)
    layers |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(source, classes)}
    network = nn.Sequential(OrderedDict(layers))
    randomise_norms(network)
    return network.double().eval()


@pytest.mark.parametrize("side", [64, 45])
def test_resnet50_under_the_names_of_torchvision_in_float64(side, float64):
    network = resnet50()
    state = network.state_dict()
    assert {"layer1.0.conv1.weight", "layer4.0.downsample.1.running_var", "layer3.5.bn3.bias"} <= state.keys()
    classifier = convert_state_dict(state, image_size=side, mean=0, std=1)
    assert classifier.name == "resnet50"
    assert_same_logits_and_gradients(classifier, network, side)


def test_the_published_resnet50_has_as_many_parameters():
    count = sum(parameter.numel() for parameter in resnet50(64, 1000).parameters())
    assert count == parameter_count("resnet50", (224, 224, 3), 1000) == 25_557_032


@pytest.fixture
def float64():
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)


def float32_state(network):
    return {name: value.float().numpy() for name, value in network.state_dict().items()}


def test_names_that_several_networks_have_need_a_choice():
    state = float32_state(published("preact_resnet18", 1))
    with pytest.raises(AmbiguousNetwork) as caught:
        convert_state_dict(state)
    assert caught.value.choices == [{"shortcut": "raw"}, {"shortcut": "activated"}]
    message = str(caught.value)
    assert "\n" not in message and "preact_resnet18, width 1, which do not tell" in message
    assert "Give shortcut='raw' or shortcut='activated', or check_images" in message
    for bad in ({"stride_in": "first"}, {"shortcut": "row"}):
        with pytest.raises(UsageError, match=r"no choice of where it strides|Did you mean 'raw'"):
            convert_state_dict(state, **bad)
    with pytest.raises(UsageError, match="lenet model has no choice of shortcuts"):
        convert_state_dict(lenet_state(), shortcut="raw")


# --- reference logits


def write_reference(file, network, x):
    logits = network(network.conv1.weight.new_tensor(x)).detach().numpy()
    np.savez(file, images=x, logits=logits)
    return file


def test_reference_logits_decide(tmp_path):
    network, x = published("preact_resnet18", 1, shortcut="activated"), images((3, 32, 32, 3))
    state = float32_state(network)
    file = write_reference(tmp_path / "x.npz", network, x.transpose(0, 3, 1, 2))
    expected = convert_state_dict(state, shortcut="activated", mean=0, std=1)(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # logits that agree leave nothing to hint at
        np.testing.assert_allclose(convert_state_dict(state, check_images=file)(x), expected, atol=1e-6)
    with pytest.raises(UsageError, match=r"must differ by at most .*Received: .* raw shortcuts\. Check"):
        convert_state_dict(state, shortcut="raw", check_images=file)
    with pytest.raises(UsageError, match=r"raw shortcuts; .* activated shortcuts\. Check activation"):
        convert_state_dict(state, check_images=file, mean=0.5, std=0.5)


def test_eight_bit_images_and_shortcuts_that_do_not_matter(tmp_path):
    network = published("preact_resnet18", 1)
    for stage in (network.layer2, network.layer3, network.layer4):
        stage[0].shortcut[0].weight.data.zero_()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    file = write_reference(tmp_path / "x.npz", network, pixels.transpose(0, 3, 1, 2) / 255)
    with np.load(file) as stored:
        np.savez(file, images=pixels, logits=stored["logits"])
    state = float32_state(network)
    convert_state_dict(state, check_images=file, shortcut="raw")
    with pytest.raises(AmbiguousNetwork, match="agree with both"):
        convert_state_dict(state, check_images=file)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(3)}, r"with the arrays images and logits.* Received: .*x\.npz with x\."),
        ({"images": np.zeros((2, 8, 8, 1)), "logits": np.zeros((2, 3))}, "finite and not all 0"),
        (
            {"images": np.zeros((2, 8, 8, 1)), "logits": np.ones(2)},
            r"shape \(N, K\)\. Received: float64 \(2,\)",
        ),
        ({"images": np.full((2, 8, 8, 1), 255.0), "logits": np.ones((2, 3))}, "in .*from 255 to 255"),
        ({"images": np.zeros((2, 64)), "logits": np.ones((2, 3))}, r"on 4 axes.*\(2, 64\)"),
        ({"images": np.full((2, 8, 8, 1), np.nan), "logits": np.ones((2, 3))}, "before any normalisation"),
        ({"images": np.zeros((2, 9, 9, 1)), "logits": np.ones((2, 3))}, r"\(N, 8, 8, 1\) or \(N, 1, 8, 8\)"),
        ({"images": np.zeros((2, 8, 8, 1)), "logits": np.ones((2, 4))}, "of 3 classes for 2 images"),
        ({"images": np.zeros((2, 8, 8, 1)), "logits": np.ones((3, 3))}, "of 3 classes for 2 images"),
        ({"images": np.zeros((2, 8, 8, 1)), "logits": np.ones((2, 3))}, "must differ by at most 0.001 "),
    ],
)
def test_references_that_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UsageError, match=message) as caught:
        convert_state_dict(lenet_state(), check_images=tmp_path / "x.npz")
    assert "\n" not in str(caught.value)
    for name, content in {"absent": None, "text": b"images", "pickled": np.array([{}], object)}.items():
        file = tmp_path / f"{name}.npz"
        if isinstance(content, bytes):
            file.write_bytes(content)
        elif content is not None:
            np.savez(file, images=content, logits=content)
        with pytest.raises(UsageError, match="must be an NPZ file with the arrays images and logits"):
            convert_state_dict(lenet_state(), check_images=file)


def test_the_library_hints_at_a_missing_normalisation():
    with pytest.warns(UserWarning, match="stores no normalisation: give mean and std") as caught:
        convert_state_dict(lenet_state())
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert_state_dict(lenet_state(), mean=0, std=1)


def test_a_checkpoint_of_torch_save(tmp_path):
    torch = pytest.importorskip("torch")
    nn = torch.nn
    modules = {"conv1": nn.Conv2d(1, 4, 5, padding=2), "relu1": nn.ReLU(), "pool1": nn.MaxPool2d(2)}
    modules |= {"conv2": nn.Conv2d(4, 8, 5, padding=2), "relu2": nn.ReLU(), "pool2": nn.MaxPool2d(2)}
    modules |= {
        "flatten": nn.Flatten(),
        "fc1": nn.Linear(392, 128),
        "relu3": nn.ReLU(),
        "fc2": nn.Linear(128, 7),
    }
    torch.manual_seed(3)
    net = nn.Sequential()
    for name, module in modules.items():
        net.add_module(name, module)
    state = nn.DataParallel(net).state_dict()
    file = tmp_path / "lenet.pt"
    halved = {key: value / 2 for key, value in state.items()}
    torch.save({"epoch": 3, "last": state, "best": halved, "optimizer": {"param_groups": []}}, file)
    x = images((3, 28, 28, 1))
    expected = net(torch.tensor(x.transpose(0, 3, 1, 2))).detach().numpy()
    np.testing.assert_allclose(load_torch(file, "lenet", entry="last")(x), expected, atol=1e-5)
    with pytest.raises(UsageError, match=r"entry=lst, and last, best .* Did you mean 'last'"):
        load_torch(file, entry="lst")
    with pytest.raises(UsageError, match="entry=None, and last, best"):
        load_torch(file)


def test_objects_that_are_no_tensors_are_not_unpickled(tmp_path):
    torch = pytest.importorskip("torch")
    file = tmp_path / "whole.pt"
    torch.save(torch.nn.Linear(2, 2), file)  # a module, which only an unsafe load would restore
    with pytest.raises(UsageError, match="weights_only=True"):
        load_torch(file)


# --- without torch


def lenet_state(width=1, side=2, classes=3):
    parameters = Parameters(5)
    for name, filters, source in (("conv1", 2 * width, 1), ("conv2", 4 * width, 2 * width)):
        parameters.weight(name, filters, source, 5, 5)
        parameters.bias(name, filters)
    for name, units, source in (("fc1", 64 * width, 4 * width * side**2), ("fc2", classes, 64 * width)):
        parameters.weight(name, units, source)
        parameters.bias(name, units)
    return dict(parameters)


def test_axes_and_the_order_after_the_flatten():
    state = lenet_state(side=3)
    model = convert_state_dict(state)
    assert model.input_shape == (None, 12, 12, 1) and model.output_shape == (None, 3)
    assert model.get_layer("conv2").kernel[1, 4, 0, 3] == state["conv2.weight"][3, 0, 1, 4]
    row, column, channel, unit = 2, 1, 3, 17
    ours, theirs = (row * 3 + column) * 4 + channel, channel * 9 + row * 3 + column
    assert model.get_layer("dense").kernel[ours, unit] == state["fc1.weight"][unit, theirs]
    assert model.get_layer("logits").kernel[ours, 2] == state["fc2.weight"][2, ours]


def test_prefixes_nesting_and_stored_normalisation():
    state, x = lenet_state(), images((5, 8, 8, 1))
    plain = convert_state_dict(state)
    expected = plain((x - 0.25) / 0.5)
    wrapped = {f"module.model.{name}": value for name, value in state.items()}
    wrapped |= {"module.normalize.mean": np.full((1, 1, 1, 1), 0.25), "module.normalize.std": np.full(1, 0.5)}
    stored = convert_state_dict({"epoch": 1, "state_dict": wrapped})
    given = convert_state_dict(state, mean=0.25, std=(0.5,))
    np.testing.assert_allclose(stored(x), expected, atol=1e-5)
    np.testing.assert_allclose(given(x), expected, atol=1e-5)
    assert np.abs(plain(x) - expected).max() > 0.01
    with pytest.raises(UsageError, match="its own"):
        convert_state_dict(wrapped, mean=0.1, std=1)


def without(name):
    return {key: value for key, value in lenet_state().items() if key != name}


@pytest.mark.parametrize(
    ("state", "settings", "message"),
    [
        (without("conv2.bias"), {}, r"must hold conv2\.bias of lenet, width 1"),
        (without("fc2.weight"), {}, r"must hold fc2\.weight"),
        (lenet_state() | {"fc3.weight": np.zeros((3, 3))}, {}, r"no more\. Received: fc3\.weight"),
        (lenet_state() | {"conv2.bias": np.zeros(5)}, {}, r"conv2\.bias must have the shape \(4,\).*\(5,\)"),
        (lenet_state() | {"fc1.weight": np.zeros((64, 15))}, {}, r"fc1\.weight must have the shape"),
        (lenet_state() | {"conv1.weight": np.zeros((3, 1, 5, 5))}, {}, "multiple of 2 channels. Received: 3"),
        (lenet_state() | {"fc2.bias": np.array([0, np.nan, 0])}, {}, r"fc2\.bias must be finite"),
        (lenet_state() | {"module.fc2.bias": np.zeros(3)}, {}, "fc2.bias under two prefixes"),
        (lenet_state(), {"model": "vgg"}, "names of vgg as published. Received: those of lenet; use model"),
        (lenet_state(), {"model": "lenett"}, "Did you mean 'lenet'"),
        (lenet_state(), {"image_size": 12}, r"fc1\.weight must have the shape \(64, 36\)"),
        (lenet_state(), {"activation": "rely"}, "Did you mean 'relu'"),
        (lenet_state(), {"image_size": -4}, "image_size must be a whole number of at least 4"),
        (lenet_state(), {"image_size": "28"}, "image_size must be a whole number"),
        (lenet_state(), {"mean": "grey", "std": 1}, "mean and std must be numbers"),
        (lenet_state(), {"mean": 0.5}, "mean and std must both be"),
        (lenet_state(), {"mean": 0.5, "std": 0}, "std > 0"),
        (lenet_state(), {"mean": MEAN, "std": STD}, "must have 1 value each"),
        ({"layer.weight": np.zeros((2, 2))}, {}, r"Received: layer\.weight"),
        ({"epoch": 3}, {}, r"such as conv1\.weight\. Received: epoch; write it with torch\.save"),
        ({}, {}, "Received: nothing; write it with"),
        ([1, 2], {}, "none in the checkpoint"),
    ],
)
def test_what_does_not_fit_is_refused(state, settings, message):
    with pytest.raises(UsageError, match=message) as caught:
        convert_state_dict(state, **settings)
    assert "\n" not in str(caught.value)


def test_the_models_that_are_offered_are_those_with_a_layout():
    assert set(CONVERTIBLE) == {layout[0] for layout in SIGNATURES}


def test_files_that_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="must be a file"):
        load_torch(tmp_path)
    file = tmp_path / "x.npz"
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(UsageError, match="git lfs pull"):
        load_torch(file)
    file.write_bytes(b"PK damaged")
    with pytest.raises(UsageError, match=r"a file of numpy\.savez, .*Write it with numpy\.savez"):
        load_torch(file)
    np.savez(file, weights=np.array([{}], object))
    with pytest.raises(UsageError, match=r"a file of numpy\.savez, of numbers"):
        load_torch(file)
    np.savez(file, clean=np.zeros((2, 8, 8, 1)), labels=np.zeros(2))  # as in the examples of a run
    with pytest.raises(UsageError, match=r"must hold a state dict.* Received: clean, labels; write it with"):
        load_torch(file)
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(b"PK damaged")
    with pytest.raises(UsageError, match="state dict alone"):
        load_torch(damaged)
    monkeypatch.setitem(sys.modules, "torch", None)  # import torch now fails
    with pytest.raises(UsageError, match="pip install torch"):
        load_torch(file.rename(tmp_path / "x.pt"))


@pytest.mark.slow
def test_command(tmp_path):
    def command(*arguments):
        run = [sys.executable, "-m", "advtf.convert", *arguments]
        return subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)

    missing = command("--checkpoint=x.npz")
    assert (missing.returncode, missing.stdout) == (2, "") and "out_dir must be given" in missing.stderr
    state = lenet_state()
    np.savez(tmp_path / "x.npz", **state)
    done = command(
        "--checkpoint=x.npz", "--out_dir=out/lenet", "--mean=0.25", "--std=1/2", "--activation=gelu"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "lenet, width 1, gelu" in done.stdout and "8×8×1, 3 classes" in done.stdout

    from advtf.classifiers.export import load_classifier

    saved, x = load_classifier(tmp_path / "out" / "lenet"), images((3, 8, 8, 1))
    expected = convert_state_dict(state, activation="gelu", mean=0.25, std=0.5)(x)
    np.testing.assert_allclose(saved(x), expected, atol=1e-5)
    manifest = json.loads((tmp_path / "out" / "lenet" / "manifest.json").read_text())
    settings = {"image_size": None, "activation": "gelu", "mean": [0.25], "std": [0.5], "width": 1}
    assert manifest["settings"] == settings
    assert manifest["converted_from"]["file"] == "x.npz"


@pytest.mark.slow
def test_command_with_a_choice(tmp_path):
    def command(*arguments):
        given = ["--checkpoint=my net.npz", "--out_dir=out/net", *arguments]
        run = [sys.executable, "-m", "advtf.convert", *given]
        return subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)

    network, x = published("preact_resnet18", 1), images((3, 32, 32, 3))
    np.savez(tmp_path / "my net.npz", **float32_state(network))
    write_reference(tmp_path / "ref.npz", network, x.transpose(0, 3, 1, 2))
    unclear = command()
    assert (unclear.returncode, unclear.stdout, unclear.stderr.count("\n")) == (2, "", 1)
    for shortcut in ("raw", "activated"):
        line = f"python -m advtf.convert '--checkpoint=my net.npz' --out_dir=out/net --shortcut={shortcut}"
        assert line in unclear.stderr
    wrong = command("--shortcut=activated", "--check_images=ref.npz")
    assert (wrong.returncode, wrong.stdout) == (2, "") and "must differ by at most" in wrong.stderr
    assert not (tmp_path / "out").exists()
    done = command("--check_images=ref.npz")
    assert (done.returncode, done.stderr) == (0, "")
    assert "preact_resnet18, width 1, raw shortcuts, relu" in done.stdout
    assert (
        "not           preact_resnet18, width 1, activated shortcuts, whose logits differ by" in done.stdout
    )
    manifest = json.loads((tmp_path / "out" / "net" / "manifest.json").read_text())
    assert manifest["network"] == "preact_resnet18, width 1, raw shortcuts"
    assert manifest["settings"]["shortcut"] == "raw"
    record = manifest["reference_logits"]
    assert (record["file"], record["images"]) == ("ref.npz", 3)
    assert record["largest_difference"] < record["tolerance"]
