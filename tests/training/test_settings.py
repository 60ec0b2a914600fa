"""The settings of a training: presets, contradictions, JSON and the printed plan."""

import dataclasses
import json
import math

import pytest

from advtf.errors import UsageError
from advtf.models import MODELS
from advtf.settings.fields import OPEN
from advtf.settings.threat import describe_pgd
from advtf.training.presets import preset
from advtf.training.settings import RunOptions, TrainConfig, describe, period_epochs, presets_help


def test_relative_step_keeps_the_absolute_size_when_epsilon_changes():
    small, large = (TrainConfig.of(dict(eps=eps, attack_step_size="0.01")) for eps in (0.1, 0.4))
    assert small.relative_step * small.eps == pytest.approx(large.relative_step * large.eps) == 0.01


# Periods


@pytest.mark.parametrize(
    ("periods", "epochs", "starts"),
    [
        ((0.5, 0.75), 200, (100, 150)),
        ((0.5, 0.75), 30, (15, 23)),  # 22.5 rounds up
        ((0.7,), 10, (7,)),
        ((0.5, 0.75), 2, (1,)),  # 1.5 rounds onto the end
        ((0.5, 0.75), 1, ()),
        ((100, 150), 200, (100, 150)),
        ((), 5, ()),
    ],
)
def test_periods_become_epochs(periods, epochs, starts):
    assert period_epochs(periods, epochs) == starts
    assert TrainConfig.of(dict(periods=periods, epochs=epochs)).periods == starts


def test_none_switches_preset_periods_off():
    assert TrainConfig.of({}).periods == (15, 23)
    assert TrainConfig.of(dict(periods="none")).periods == ()


# Presets


def test_preset_of_digits_is_the_quick_start():
    config = TrainConfig.of({})
    assert (config.dataset, config.model, config.width, config.eps, config.eps_max) == (
        "digits", "lenet", 4, 0.1, pytest.approx(0.15),
    )  # fmt: skip
    assert config.run_name == "digits-lenet-cosine-seed0"


@pytest.mark.parametrize(("eps", "steps"), [(0.1, 20), (0.2, 30), (0.3, 40), (0.4, 50), (0.0, 10)])
def test_mnist_attack_steps_follow_the_radius(eps, steps):
    config = TrainConfig.of(dict(dataset="mnist", eps=eps))
    assert (config.attack_steps, config.attack_step_size) == (steps, "0.01")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (dict(dataset="cifar10"), dict(model="resnet18", val_fraction=0.02, augment=True)),
        (dict(dataset="svhn_cropped"), dict(model="resnet18", augment=False, eps=8 / 255)),
        (dict(dataset="stanford_dogs"), dict(model="resnet18", optimizer="sgd", lr=0.1)),
        (dict(dataset="cifar10", norm="l2"), dict(eps=0.5, eps_max=1.0, attack_step_size="0.25eps")),
        (dict(dataset="mnist", norm="l2"), dict(eps=2.0, eps_max=3.0, attack_steps=10)),
        (dict(dataset="cifar100", model="mlp"), dict(optimizer="adam", lr=1e-3, lr_sched="constant")),
        (dict(dataset="cifar10", optimizer="adam"), dict(lr=1e-3, lr_sched="step", momentum=0.0)),
        (dict(optimizer="sgd"), dict(lr=0.01, momentum=0.9)),
        (dict(lr_sched="warmup"), dict(lr_warmup=0.1, lr_milestones=())),
        (dict(model="wide_resnet"), dict(width=10, depth=34)),
        (dict(model="linear"), dict(width=None, depth=None)),
        (dict(eps_sched="constant"), dict(eps_max=None)),
    ],
)
def test_presets_follow_what_is_given(given, expected):
    config = TrainConfig.of(given)
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "dataset", ["digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn_cropped"]
)
def test_every_preset_is_valid_and_complete(dataset, model):
    required = {field.name for field in dataclasses.fields(TrainConfig) if field.default is OPEN}
    assert set(preset(dataset, model)) == required
    for norm in ("linf", "l2"):
        for kind in ("constant", "linear", "cosine"):
            config = TrainConfig.of(dict(dataset=dataset, model=model, norm=norm, eps_sched=kind))
            assert config.width == (4 if (dataset, model) == ("digits", "lenet") else MODELS[model].width)


def test_standard_training_is_epsilon_zero():
    for dataset in ("digits", "mnist", "cifar10"):
        assert TrainConfig.of(dict(dataset=dataset, eps=0)).eps_max == 0.0


# Bad input


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(eps=8), ["eps=8", "8/255", "[0, 1]"]),
        (dict(eps=128, norm="l2"), ["eps=128", "128/255"]),
        (dict(eps=-0.1), ["eps=-0.1", "at least 0"]),
        (dict(eps=math.nan), ["eps=nan"]),
        (dict(eps="inf"), ["eps=inf"]),
        (dict(eps="eight"), ["eps=eight", "fraction"]),
        (dict(eps_max=16), ["eps_max=16", "16/255"]),
        (dict(eps_min=0.3, eps_max=0.2, eps=0.1), ["eps_min=0.3"]),
        (dict(eps_min=0.2, eps=0.1), ["eps_min=0.2", "eps=0.1"]),
        (dict(eps_min=0.1, eps_max=0.05, eps=0.2), ["eps_min=0.1", "eps_max=0.05"]),
        (dict(eps_sched="constant", eps_max=0.2), ["eps_max=0.2", "eps_sched=constant"]),
        (dict(eps_sched="constant", eps_min=0.1), ["eps_min=0.1", "eps_sched=constant"]),
        (dict(model="resnet81"), ["model=resnet81", "Did you mean 'resnet18'?"]),
        (dict(activation="rleu"), ["activation=rleu", "Did you mean 'relu'?"]),
        (dict(norm="linff"), ["norm=linff", "'linf'"]),
        (dict(norm=2), ["norm=2", "linf, l2"]),
        (dict(epsilon=0.1), ["epsilon", "Did you mean 'eps"]),
        (dict(dataset="cifar 10"), ["dataset=cifar 10"]),
        (dict(periods="100,150"), ["periods=100,150", "epochs=30"]),
        (dict(periods="30"), ["periods=30", "epochs=30"]),
        (dict(periods="0.5,20"), ["periods=0.5,20", "fractions"]),
        (dict(periods="10.5"), ["periods=10.5", "whole epochs"]),
        (dict(periods="20,10"), ["periods=20,10", "increasing"]),
        (dict(periods="0.5,0.5"), ["periods=0.5,0.5", "increasing"]),
        (dict(periods="0"), ["periods=0"]),
        (dict(periods="-5"), ["periods=-5"]),
        (dict(periods="half"), ["periods=half"]),
        (dict(epochs=0), ["epochs=0", "at least 1"]),
        (dict(epochs=2.5), ["epochs=2.5", "whole"]),
        (dict(epochs=True), ["epochs=True", "whole"]),
        (dict(batch_size=0), ["batch_size=0"]),
        (dict(attack_steps=0), ["attack_steps=0"]),
        (dict(attack_step_size="0"), ["attack_step_size=0", "positive"]),
        (dict(attack_step_size="-eps"), ["attack_step_size=-eps"]),
        (dict(attack_step_size="3eps"), ["attack_step_size=3.0eps", "eps/4"]),
        (dict(attack_step_size="2", eps=0.1), ["attack_step_size=2.0", "eps/4"]),
        (dict(attack_step_size="eps/0"), ["attack_step_size=eps/0"]),
        (dict(attack_step_size="quarter"), ["attack_step_size=quarter"]),
        (dict(val_fraction=0.6), ["val_fraction=0.6", "[0, 0.5]"]),
        (dict(val_fraction=-0.1), ["val_fraction=-0.1"]),
        (dict(image_size=4), ["image_size=4"]),
        (dict(seed=-1), ["seed=-1", "from 0"]),
        (dict(seed=2**31), ["seed=2147483648"]),
        (dict(model="linear", width=3), ["width=3", "linear"]),
        (dict(model="vgg", depth=16), ["depth=16"]),
        (dict(model="wide_resnet", depth=18), ["depth=18"]),
        (dict(width=0), ["width=0"]),
        (dict(nesterov=True), ["nesterov=True", "optimizer=adam"]),
        (dict(momentum=0.5), ["momentum=0.5", "optimizer=adam"]),
        (dict(optimizer="sgd", momentum=1), ["momentum=1"]),
        (dict(optimizer="sgd", momentum=0, nesterov=True), ["nesterov", "momentum=0"]),
        (dict(decoupled_weight_decay=True), ["weight_decay=0"]),
        (dict(lr=0), ["lr=0", "above 0"]),
        (dict(lr_milestones="0.5"), ["lr_milestones=0.5", "lr_sched=constant"]),
        (dict(lr_sched="cosine", lr_milestones="0.5"), ["lr_milestones=0.5", "lr_sched=cosine"]),
        (dict(lr_sched="warmup", lr_milestones="0.5"), ["lr_milestones=0.5", "lr_sched=warmup"]),
        (dict(lr_sched="step", lr_milestones="100,150"), ["100", "150", "[0, 1]"]),
        (dict(lr_sched="exponential", lr_milestones="0.5"), ["begin", "0.5"]),
        (dict(lr_factor=0.5), ["lr_factor=0.5", "lr_sched=constant"]),
        (dict(lr_warmup=0.1), ["lr_warmup=0.1", "lr_sched=constant"]),
        (dict(lr_sched="warmup", lr_warmup=31), ["31"]),
        (dict(strategy="mirrored", jit="on"), ["strategy=mirrored", "jit=on"]),
        (dict(deterministic="true", jit="on"), ["deterministic=true, jit=on", "--jit=auto"]),
        (dict(precision="tf23"), ["float32, tf32, bfloat16", "Did you mean 'tf32'?"]),
        (dict(eval_restarts=0), ["eval_restarts=0"]),
        (dict(eval_restarts=2, random_start="none"), ["eval_restarts=2", "random_start=none"]),
        (dict(objective="trades", adversary="fgsm"), ["adversary=fgsm", "use --adversary=pgd"]),
        (dict(strength=1), ["needs objective=at_minus_st, advlc,", " or mart. Received: strength=1"]),
        (dict(augment="maybe"), ["augment=maybe", "true or false"]),
    ],
    ids=str,
)
def test_bad_settings_are_one_line_that_says_what_was_received(given, words):
    with pytest.raises(UsageError) as caught:
        TrainConfig.of(given)
    message = str(caught.value)
    assert "\n" not in message
    assert "Received" in message
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (dict(resume=True, overwrite=True), "resume=True, overwrite=True"),
        (dict(checkpoint_minutes=0), "checkpoint_minutes=0"),
        (dict(out_dir=""), "out_dir="),
        (dict(outdir="x"), "Did you mean 'out_dir'?"),
    ],
)
def test_bad_options(given, word):
    with pytest.raises(UsageError, match="Received") as caught:
        RunOptions.of(given)
    assert word in str(caught.value)


# JSON


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig.of({}),
        TrainConfig.of(
            dict(dataset="cifar10", model="vgg", eps="8/255", periods="0.5,0.75", eps_sched="constant")
        ),
        TrainConfig.of(dict(model="linear", attack_step_size="2/255", random_start="none", eval_examples=50)),
        RunOptions.of(dict(out_dir="runs/x", resume=True)),
    ],
    ids=["digits", "vgg", "linear", "options"],
)
def test_json_round_trip(config):
    values = json.loads(json.dumps(config.to_json(), allow_nan=False))
    assert type(config).from_json(values) == config


def test_a_ramp_of_an_earlier_version_is_not_continued():
    values = TrainConfig.of(dict(objective="advlc", strength_ramp=True)).to_json()
    assert TrainConfig.from_json(values).order == "stored"
    del values["order"]
    with pytest.raises(UsageError, match=r"strength_ramp must be .*\(k \+ 1\)/K.* Start anew"):
        TrainConfig.from_json(values)
    assert TrainConfig.from_json(values | {"strength_ramp": False}).order == "stored"


def test_a_run_of_an_earlier_version_trained_on_all_images():
    config = TrainConfig.of(dict(train_examples="70"))
    values = config.to_json()
    assert values.pop("train_examples") == 70
    assert TrainConfig.from_json(values) == TrainConfig.of({})
    assert "train_examples" not in TrainConfig.of({}).identity()


# The printed plan


def test_the_plan_is_short_and_says_what_matters():
    config = TrainConfig.of(dict(dataset="cifar10", eps="8/255", periods="0.5,0.75"))
    plan = describe(config, ["dataset", "eps", "periods"])
    lines = dict(plan)
    assert len(lines) <= 9
    assert "8/255" in lines["attack"] and "10 steps of 2/255" in lines["attack"]
    assert "cosine from 0 to 16/255" in lines["epsilon"] and "100,150" in lines["epsilon"]
    assert "momentum 0.9, lr 0.1 step, times 0.1 at 0.5,0.75" in lines["optimizer"]
    assert lines["given"].startswith("eps, periods (")


@pytest.mark.parametrize(
    ("settings", "attack", "method"),
    [
        ({}, "PGD, linf, ε 0.1, 10 steps of 0.025", "at against pgd"),
        ({"adversary": "fgsm"}, "FGSM, linf, ε 0.1, 1 step of ε, no random start", "at against fgsm"),
        ({"adversary": "fgsm_r"}, "FGSM-R, linf, ε 0.1, 1 step of ε, start uniform", "against fgsm_r"),
        ({"adversary": "fgsm_n", "attack_mode": "training"}, "BatchNorm in training mode", "against fgsm_n"),
        ({"objective": "standard"}, "none, the objective standard sees clean images only", "standard"),
        ({"objective": "igr", "adversary": "none"}, "none", "igr 10"),
        ({"attack_steps": 1, "attack_step_size": "eps"}, "1 step of 0.1 (1 ε)", "at against pgd"),
        ({"eps": 0}, "none, as ε is 0", "at against pgd"),
    ],
)
def test_the_plan_names_the_attack_that_trains_and_the_one_that_measures(settings, attack, method):
    config = TrainConfig.of(settings)
    plan = describe(config, settings)
    assert attack in plan["attack"] and plan["method"].endswith(method)
    assert plan["measured"] == describe_pgd(
        "linf", config.eps, config.attack_steps, config.attack_step_size, "uniform"
    )


def test_the_plan_says_how_much_is_measured():
    plan = describe(TrainConfig.of({"eval_restarts": 5, "eval_examples": 1, "deterministic": True}), {})
    assert plan["compute"] == "float32, jit auto, strategy none, seed 0, deterministic"
    assert plan["measured"].endswith("start uniform, the worst of 5 starts, on 1 test image")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"lr_sched": "step", "lr_milestones": "5,9"},
            "fractions of a .* Received: lr_milestones=5,9",
        ),
        (
            {"lr_sched": "step", "lr_milestones": "none"},
            "as lr_milestones. Received: lr_milestones=none",
        ),
        ({"lr_sched": "warmup", "lr_warmup": 20}, "lr_warmup must fit .* 7 epochs. Received: lr_warmup=20"),
        ({"lr_sched": "warmup", "lr_warmup": 0}, "lr_warmup must be above 0.* Received: lr_warmup=0"),
    ],
)
def test_schedules_are_refused_by_the_names_of_settings(settings, message):
    with pytest.raises(UsageError, match=message):
        TrainConfig.of(settings)


# The table of presets


def test_the_table_of_presets_has_a_column_for_each_data_set_and_model():
    table = {line.split()[0]: line.split()[1:] for line in presets_help() if line.startswith("  ")}
    assert table["dataset"][:2] == ["digits", "mnist"] and len(table["dataset"]) == 7
    assert table["eps_max"] == ["0.15", "0.6", "0.15", "16/255", "16/255", "16/255", "none"]
    assert table["periods"][0] == "0.5,0.75"


@pytest.mark.parametrize(
    ("model", "shortcut", "stride_in"),
    [("wide_resnet", "activated", "first"), ("preact_resnet18", "activated", None), ("resnet18", None, None)],
)
def test_runs_of_before_the_published_blocks_keep_the_textbooks(model, shortcut, stride_in):
    stored = TrainConfig(model=model).to_json()
    assert TrainConfig.from_json(stored) == TrainConfig(model=model)
    earlier = {name: value for name, value in stored.items() if name not in ("shortcut", "stride_in")}
    config = TrainConfig.from_json(earlier)
    assert (config.shortcut, config.stride_in) == (shortcut, stride_in)
    assert config.to_json() == stored | {"shortcut": shortcut, "stride_in": stride_in}
    with pytest.raises(UsageError, match=r"needs every setting\. Received: none for lr\."):
        TrainConfig.from_json({name: value for name, value in stored.items() if name != "lr"})


def test_the_plan_says_how_many_images_are_trained_on():
    plan = describe(TrainConfig.of(dict(dataset="cifar10", train_examples=1280, image_size=16)), {})["data"]
    assert plan == "cifar10 at 16x16, 1,280 training images, batch 128, 0.02 held out, crop and flip"


def test_the_plan_names_the_variant():
    plan = describe(TrainConfig(model="wide_resnet", depth=16, shortcut="activated"), ())
    assert plan["model"] == (
        "wide_resnet, width 10, depth 16, activated shortcuts, stride in the second convolution, relu"
    )
    assert describe(TrainConfig(model="lenet"), ())["model"] == "lenet, width 4, relu"
