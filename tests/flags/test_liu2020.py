"""The flagfiles of Liu et al. 2020 against the settings and the error numbers that the paper states."""

import re

import pytest
from helpers.flagfiles import content, experiments, header, parsed

from advtf.training.presets import preset
from advtf.training.settings import TrainConfig

SCHEDULES = ("constant", "cosine", "linear")
MNIST = dict(
    dataset="mnist", model="lenet", width=16, eps=0.4, attack_steps=50, attack_step_size="0.01", epochs=100,
    batch_size=128, augment=False, optimizer="adam", lr=1e-4, lr_sched="constant", weight_decay=0.0,
    momentum=0.0, periods=(), activation="relu", norm="linf", random_start="uniform", eps_min=0.0,
)  # fmt: skip
CIFAR = dict(
    dataset="cifar10", width=8, eps=8 / 255, attack_steps=10, epochs=200, batch_size=128, augment=True,
    weight_decay=1e-3, periods=(), activation="relu", norm="linf", eps_min=0.0, lr_milestones=(0.5, 0.75),
    lr_factor=0.1, decoupled_weight_decay=False, nesterov=False, reset_optimizer=False,
)  # fmt: skip
CIFAR_OPTIMIZER = {
    "vgg": dict(model="vgg", optimizer="adam", lr=1e-3, lr_sched="exponential", momentum=0.0),
    "resnet18": dict(model="resnet18", optimizer="sgd", lr=0.1, lr_sched="step", momentum=0.9),
}
MNIST_PEAK = {"constant": None, "cosine": 0.6, "linear": 0.8}
CIFAR_PEAK = {"constant": None, "cosine": 16 / 255, "linear": 16 / 255}
PUBLISHED = {  # clean and PGD error in %
    "liu2020/mnist/lenet/constant": ("1.56", "8.58"),
    "liu2020/mnist/lenet/cosine": ("1.08", "6.64"),
    "liu2020/mnist/lenet/linear": ("1.06", "6.69"),
    "liu2020/cifar10/vgg/constant": ("28.25", "56.22"),
    "liu2020/cifar10/vgg/cosine": ("25.06", "56.06"),
    "liu2020/cifar10/vgg/linear": ("23.56", "56.09"),
    "liu2020/cifar10/vgg/constant_periodic": ("28.33", "54.24"),
    "liu2020/cifar10/vgg/cosine_periodic": ("23.91", "53.18"),
    "liu2020/cifar10/vgg/linear_periodic": ("21.88", "53.03"),
    "liu2020/cifar10/resnet18/constant": ("18.62", "55.00"),
    "liu2020/cifar10/resnet18/cosine": ("18.43", "53.95"),
    "liu2020/cifar10/resnet18/linear": ("18.55", "53.46"),
    "liu2020/cifar10/resnet18/constant_periodic": ("21.00", "48.98"),
    "liu2020/cifar10/resnet18/cosine_periodic": ("19.90", "48.57"),
    "liu2020/cifar10/resnet18/linear_periodic": ("20.26", "48.60"),
}


def expectations() -> dict[str, dict]:
    expected = {}
    for kind in SCHEDULES:
        mnist = {**MNIST, "eps_sched": kind, "eps_max": MNIST_PEAK[kind]}
        expected[f"liu2020/mnist/lenet/{kind}"] = mnist
        for width in (8, 4, 2):
            expected[f"liu2020/mnist/lenet/w{width}_{kind}"] = {**mnist, "width": width}
        for model, optimizer in CIFAR_OPTIMIZER.items():
            cifar = {**CIFAR, **optimizer, "eps_sched": kind, "eps_max": CIFAR_PEAK[kind]}
            expected[f"liu2020/cifar10/{model}/{kind}"] = cifar
            expected[f"liu2020/cifar10/{model}/{kind}_periodic"] = {**cifar, "periods": (100, 150)}
    for rate in ("1e-4", "3e-4", "1e-3"):
        warmup = dict(eps_sched="constant", eps_max=None, lr=float(rate), lr_sched="warmup", lr_warmup=0.1)
        expected[f"liu2020/mnist/lenet/lr_warmup_{rate}"] = {**MNIST, **warmup}
    return expected | dynamics()


def dynamics() -> dict[str, dict]:
    constant = dict(eps_sched="constant", eps_max=None)
    expected = {}
    for tenths in range(5):
        name = f"liu2020/mnist/lenet/dynamics_eps{'0.' if tenths else ''}{tenths}"
        expected[name] = {**MNIST, **constant, "eps": tenths / 10, "attack_steps": 10 * tenths + 10}
    for level in (0, 2, 4, 8):
        resnet = {**CIFAR, **CIFAR_OPTIMIZER["resnet18"], **constant, "eps": level / 255}
        expected[f"liu2020/cifar10/resnet18/dynamics_eps{level}"] = resnet
    return expected


EXPECTED = expectations()


def test_the_folder_holds_exactly_these_experiments():
    assert experiments("liu2020") == sorted(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_resolves_to_the_published_settings(name):
    settings, options = parsed(name)
    config, updates = TrainConfig.of(settings), 500 if "mnist" in name else 2000
    assert options == ({"dynamics_steps": str(updates)} if "dynamics" in name else {})
    for setting, value in EXPECTED[name].items():
        assert getattr(config, setting) == pytest.approx(value), setting
    step = 0.01 if "mnist" in name else 2 / 255 * EXPECTED[name]["eps"] / (8 / 255)
    assert config.relative_step * config.eps == pytest.approx(step if config.eps else 0)


@pytest.mark.parametrize("name", EXPECTED)
def test_header_names_the_table_or_figure(name):
    assert re.search(r"Liu et al\. 2020, (Table 1|Figure 1[34]|Figures [28] and 11)", header(name))


@pytest.mark.parametrize("base", ["liu2020/mnist/lenet/base", "liu2020/cifar10/base"])
def test_the_base_files_name_the_held_out_data(base):
    assert f"holds out {preset(parsed(base)[0]['dataset'])['val_fraction']:.0%}" in header(base)


@pytest.mark.parametrize("name", PUBLISHED)
def test_header_quotes_the_published_errors(name):
    clean, robust = PUBLISHED[name]
    assert re.search(rf"clean {clean}±0\.\d\d, PGD {robust}±0\.\d\d", content(name))


def test_epochs_alone_rescale_a_recipe():
    config = TrainConfig.of(parsed("liu2020/cifar10/vgg/cosine_periodic", "--epochs=20")[0])
    assert (config.periods, config.lr_milestones) == ((10, 15), (0.5, 0.75))


def test_a_flag_after_the_file_overrides_it():
    assert parsed("liu2020/mnist/lenet/cosine", "--width=4")[0]["width"] == "4"
