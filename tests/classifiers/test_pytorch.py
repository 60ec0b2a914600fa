"""Conversion of PyTorch checkpoints: logits against torch for every published layout, and what is refused.

The networks are written here with torch.nn.functional under the parameter names of the published code.
"""

import json
import subprocess
import sys

import numpy as np
import pytest

from advtf.classifiers.pytorch import convert_state_dict, load_torch
from advtf.errors import UsageError

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

    def preact_resnet18(self, x, last_norm=True):
        x = self.conv(x, "conv1", 4)
        x = self.preact(x, "layer{stage}.{block}", (4, 8, 16, 32), 2, 1, PREACT, raw=not last_norm)
        x = self.act(self.norm(x, "bn")) if last_norm else x
        return self.dense(self.F.avg_pool2d(x, 4).flatten(1), "linear", 10)

    def fast_preact_resnet18(self, x):
        return self.preact_resnet18(x, last_norm=False)

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


def images(shape=(4, 32, 32, 3)):
    return np.random.default_rng(1).random(shape, dtype=np.float32)


def torch_logits(network, name, x):
    return getattr(network, name)(network.torch.tensor(x.transpose(0, 3, 1, 2))).numpy()


@pytest.mark.parametrize(
    ("name", "model", "layers"),
    [
        ("lenet", "lenet", {}),
        ("vgg", "vgg", {}),
        ("resnet18", "resnet18", {}),
        ("preact_resnet18", "preact_resnet18", {}),
        ("fast_preact_resnet18", "preact_resnet18", {}),
        ("wide_resnet", "wide_resnet", {}),
        ("narrow_wide_resnet", "wide_resnet", {}),
        ("deepmind_wide_resnet", "wide_resnet", {"activation": "silu", "one_sided": True}),
        ("deepmind_preact_resnet18", "preact_resnet18", {"activation": "silu", "one_sided": True}),
    ],
)
def test_logits_equal_torch(name, model, layers):
    x = images((4, 28, 28, 1) if name == "lenet" else (4, 32, 32, 3))
    parameters = Parameters()
    expected = torch_logits(Network(parameters, **layers), name, x)
    settings = {"activation": layers["activation"], "mean": MEAN, "std": STD} if layers else {}
    classifier = convert_state_dict(parameters, **settings)
    assert classifier.name == model and np.ptp(expected) > 0.5
    np.testing.assert_allclose(classifier(x, training=False), expected, atol=1e-4, rtol=1e-5)


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
        ({"epoch": 3}, {}, "none in the checkpoint"),
        ([1, 2], {}, "none in the checkpoint"),
    ],
)
def test_what_does_not_fit_is_refused(state, settings, message):
    with pytest.raises(UsageError, match=message) as caught:
        convert_state_dict(state, **settings)
    assert "\n" not in str(caught.value)


def test_files_that_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="must be a file"):
        load_torch(tmp_path)
    file = tmp_path / "x.npz"
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(UsageError, match="git lfs pull"):
        load_torch(file)
    file.write_bytes(b"PK damaged")
    with pytest.raises(UsageError, match="state dict alone"):
        load_torch(file)
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
    assert manifest["settings"] == {"image_size": None, "activation": "gelu", "mean": [0.25], "std": [0.5]}
    assert manifest["converted_from"]["file"] == "x.npz"
