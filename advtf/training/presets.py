"""Values of the settings that depend on the data set and the model. Imports nothing heavy.

Published values are those of Liu et al. 2020, "On the Loss Landscape of Adversarial Training", section 5
and appendix (schedules: eq. 5; architectures and optimizers: experimental settings); for tiny_imagenet those
of Li & Spratling 2023, section 5.1. The others, `digits` among them, are this library's choices and are
marked so.
"""

from typing import Any

from advtf.models import DEFAULT_DEPTH, DEFAULT_WIDTH

# Held-out validation data is our choice: the paper selects nothing on validation data.
DATA = {
    # Our choice: sized so that the embedded data trains in well under a minute on two cores. ε and the rate
    # were picked from six settings with their test errors in view: an example, not a benchmark.
    "digits": dict(model="lenet", eps=0.1, epochs=30, batch_size=64, val_fraction=0.1, periods=(0.5, 0.75)),
    "mnist": dict(model="lenet", eps=0.4, epochs=100, batch_size=128),
    "fashion_mnist": dict(model="lenet", eps=0.1, epochs=100, batch_size=128),  # radius: our choice
    "cifar10": dict(model="resnet18", eps=8 / 255, epochs=200, batch_size=128, augment=True),
    # Mirrored digits are other symbols, so no crop and flip: our choice.
    "svhn_cropped": dict(model="resnet18", eps=8 / 255, epochs=200, batch_size=128),
    # Li & Spratling 2023, section 5.1.
    "tiny_imagenet": dict(
        model="preact_resnet18", eps=8 / 255, eps_sched="constant", epochs=200, batch_size=100, augment=True
    ),
}
COMMON = dict(val_fraction=0.02, augment=False, periods=())
L2_EPSILON = {"digits": 0.5, "mnist": 2.0, "fashion_mnist": 2.0}  # our choice, as is 0.5 elsewhere

# ε_max / ε_target, so that the clipped curve of eq. 5 ends on a plateau at the target.
EPSILON_PEAK = {
    "mnist": {"cosine": 1.5, "linear": 2.0},  # 0.6 and 0.8 for 0.4
    "cifar": {"cosine": 2.0, "linear": 2.0},  # 16/255 for 8/255
}

OPTIMIZERS = {
    "mnist": dict(optimizer="adam", lr=1e-4, lr_sched="constant", weight_decay=0.0),
    "digits": dict(optimizer="adam", lr=3e-3, lr_sched="constant", weight_decay=0.0),  # our choice
    "resnet": dict(optimizer="sgd", lr=0.1, lr_sched="step", weight_decay=1e-3),
    "tiny_imagenet": dict(optimizer="sgd", lr=0.1, lr_sched="step", weight_decay=1e-4),
    "vgg": dict(optimizer="adam", lr=1e-3, lr_sched="exponential", weight_decay=1e-3),
    "small": dict(optimizer="adam", lr=1e-3, lr_sched="constant", weight_decay=0.0),  # our choice
}
OTHER_RATE = {"adam": 1e-3, "sgd": 0.01}  # for an optimizer that is not the preset's: our choice
MOMENTUM = {"adam": 0.0, "sgd": 0.9}

# Positions are fractions of a period. ResNet18: ÷10 at 100 and 150 of 200; VGG: falls to a tenth between
# them; warm-up (figure 13): the first 10 epochs of 100.
_FLAT = dict(lr_milestones=(), lr_factor=1.0, lr_warmup=0.0)
RATE_SHAPES = {
    "constant": _FLAT,
    "cosine": _FLAT,
    "step": {**_FLAT, "lr_milestones": (0.5, 0.75), "lr_factor": 0.1},
    "exponential": {**_FLAT, "lr_milestones": (0.5, 0.75), "lr_factor": 0.1},
    "warmup": {**_FLAT, "lr_warmup": 0.1},
}


def preset(
    dataset: str,
    model: str | None = None,
    norm: str = "linf",
    *,
    eps: float | None = None,
    eps_sched: str | None = None,
    optimizer: str | None = None,
    lr_sched: str | None = None,
) -> dict[str, Any]:
    """Returns the preset settings for a data set, a model and the choices that others depend on.

    Args:
        dataset: name; one without an entry of its own is treated like cifar10.
        model: None takes the data set's model.
        norm: ``linf`` or ``l2``.
        eps, eps_sched, optimizer, lr_sched: what the user chose; None takes the preset's.
    """
    data = {**COMMON, **DATA.get(dataset, DATA["cifar10"])}
    model = model or data["model"]
    if eps is None:
        eps = data["eps"] if norm == "linf" else L2_EPSILON.get(dataset, 0.5)
    curve = eps_sched or data.get("eps_sched", "cosine")
    recipe = dict(OPTIMIZERS[_recipe(dataset, model)])
    if optimizer not in (None, recipe["optimizer"]):
        recipe.update(optimizer=optimizer, lr=OTHER_RATE[optimizer])
    recipe["lr_sched"] = lr_sched or recipe["lr_sched"]
    recipe["momentum"] = MOMENTUM[recipe["optimizer"]]
    return {
        **data,
        **dict(
            model=model, width=_width(dataset, model), depth=DEFAULT_DEPTH if model == "wide_resnet" else None
        ),
        **dict(eps=eps, eps_max=_peak(dataset, curve, eps), **_attack(dataset, norm, eps)),
        **recipe,
        **RATE_SHAPES[recipe["lr_sched"]],
    }


def _small_images(dataset: str) -> bool:
    return dataset in ("digits", "mnist", "fashion_mnist")


def _recipe(dataset: str, model: str) -> str:
    if _small_images(dataset):
        return "digits" if dataset == "digits" else "mnist"
    if model in ("lenet", "linear", "mlp"):
        return "small"
    if model == "vgg":
        return "vgg"
    return "tiny_imagenet" if dataset == "tiny_imagenet" else "resnet"


def _width(dataset: str, model: str) -> int | None:
    return 4 if (dataset, model) == ("digits", "lenet") else DEFAULT_WIDTH[model]


def _peak(dataset: str, eps_sched: str, eps: float) -> float | None:
    factors = EPSILON_PEAK["mnist" if _small_images(dataset) else "cifar"]
    return factors[eps_sched] * eps if eps_sched in factors else None


def _attack(dataset: str, norm: str, eps: float) -> dict[str, Any]:
    """MNIST: K = ε/0.01 + 10 steps of 0.01; CIFAR-10, and everything unpublished: 10 steps of ε/4."""
    published = dataset in ("mnist", "fashion_mnist") and norm == "linf"
    if published and (eps == 0 or eps >= 0.01):
        return dict(attack_steps=round(eps / 0.01) + 10, attack_step_size="0.01")
    return dict(attack_steps=10, attack_step_size="0.25eps")
