"""The settings that depend on the data set, the model and the schedule.

What belongs to a data set stands in its entry of `advtf.data.registry.DATASETS`. Published values are those
of Liu et al. 2020, "On the Loss Landscape of Adversarial Training", section 5 and appendix (schedules: eq. 5;
architectures and optimizers: experimental settings). The others are choices of ours and are marked so.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from advtf.data.registry import DATASETS, DataSet
from advtf.models import MODEL_SETTINGS, MODELS
from advtf.settings.fields import show
from advtf.settings.threat import format_epsilon
from advtf.training.schedules import RATES

# The settings of CIFAR-10, which serve every data set that has no others. To hold out validation data is our
# choice: the paper selects nothing on such data.
SETTINGS = dict(
    model="resnet18",
    eps=8 / 255,
    eps_sched="cosine",
    epochs=200,
    periods=(),
    batch_size=128,
    augment=True,
    val_fraction=0.02,
)
FAMILIES = {  # the optimizer of each family of models, see `advtf.models.MODELS`
    "resnet": dict(optimizer="sgd", lr=0.1, lr_sched="step", weight_decay=1e-3),
    "vgg": dict(optimizer="adam", lr=1e-3, lr_sched="exponential", weight_decay=1e-3),
    "small": dict(optimizer="adam", lr=1e-3, lr_sched="constant", weight_decay=0.0),  # our choice
}
# The optimizers by name: the rate of one that is not the preset's, which is our choice, and the momentum.
OPTIMIZERS = {"sgd": dict(lr=0.01, momentum=0.9), "adam": dict(lr=1e-3, momentum=0.0)}
ATTACK = dict(attack_steps=10, attack_step_size="0.25eps")
DEPENDS_ON = ("model", "norm", "eps", "eps_sched", "optimizer", "lr_sched")


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
        dataset: the name of the data set; one without an entry of its own is treated like cifar10.
        model: None takes the data set's model.
        norm: ``linf`` or ``l2``.
        eps, eps_sched, optimizer, lr_sched: what the user chose; None takes the preset.
    """
    entry = DATASETS.get(dataset, DataSet())
    data = {**SETTINGS, **entry.settings}
    model = model or data["model"]
    if eps is None:
        eps = data["eps"] if norm == "linf" else entry.l2_epsilon
    eps_sched = eps_sched or data["eps_sched"]
    peak = entry.epsilon_peak.get(eps_sched)
    family = MODELS[model].family
    recipe = dict(entry.optimizers.get("all") or entry.optimizers.get(family) or FAMILIES[family])
    if optimizer not in (None, recipe["optimizer"]):
        recipe.update(optimizer=optimizer, lr=OPTIMIZERS[optimizer]["lr"])
    recipe["lr_sched"] = lr_sched or recipe["lr_sched"]
    recipe["momentum"] = OPTIMIZERS[recipe["optimizer"]]["momentum"]
    return {
        **data,
        "model": model,
        **{name: getattr(MODELS[model], name) for name in MODEL_SETTINGS},
        "width": entry.widths.get(model, MODELS[model].width),
        "eps": eps,
        "eps_sched": eps_sched,
        "eps_max": None if peak is None else peak * eps,
        **(entry.attack(norm, eps) or ATTACK),
        **recipe,
        **RATES[recipe["lr_sched"]].settings,
    }


def attack_as_trained(
    training: Mapping[str, Any], dataset: str, norm: str | None, eps: float | None
) -> dict[str, Any]:
    """Completes an attack: as in the training of the classifier if that is the same one, else by presets.

    Args:
        training: settings of the training by name; empty if they are not known.
        dataset: whose images are attacked.
        norm, eps: what the user chose.

    Returns:
        norm, eps, attack_steps, attack_step_size and random_start.
    """
    norm = norm or training.get("norm", "linf")
    same = training.get("dataset") == dataset and training.get("norm") == norm
    epsilon = training.get("eps") if same and eps is None else eps
    values = preset(dataset, norm=norm, eps=epsilon)
    attack = {name: values[name] for name in ("eps", "attack_steps", "attack_step_size")}
    attack["random_start"] = "uniform"
    if same and epsilon == training.get("eps"):
        attack |= {name: training[name] for name in attack if name in training}
    return {"norm": norm, **attack}


def order_as_trained(training: Mapping[str, Any], dataset: str) -> str:
    """Returns the order of the images in a training on this data set, else the one they are stored in.

    Args:
        training: settings of the training by name; empty if they are not known.
        dataset: whose images are read.
    """
    return training.get("order", "stored") if training.get("dataset") == dataset else "stored"


def preset_table(names: list[str]) -> Iterator[str]:
    """Yields the lines of the table of presets in ``--help``, a row for each of these settings.

    Settings that none of the models shown has are left out.
    """
    columns = [(dataset, model) for dataset, entry in DATASETS.items() for model in entry.shown]
    presets = [preset(dataset, model) for dataset, model in columns]
    rows = {"dataset": [dataset for dataset, _ in columns]}
    names = [name for name in names if any(column[name] is not None for column in presets)]
    rows |= {name: [_cell(name, column[name]) for column in presets] for name in names}
    yield from ("", "Presets, by data set and model (all other data sets: as cifar10):")
    for name, values in rows.items():
        yield f"  {name:<17}" + "".join(f"{value:<14}" for value in values).rstrip()


def _cell(name: str, value: Any) -> str:
    return format_epsilon(value) if name in ("eps", "eps_max") and value is not None else show(value)
