"""Settings of the training method: objective, adversary, weight perturbation. No TensorFlow, no NumPy.

Strengths are those of Li & Spratling 2023 (section 5.1), by objective and adversary; of TRADES and MART those
of their papers. Those of igr and cure are the published ones over the batch size there, 100: the squared
gradient is that of the batch's mean loss in the paper, of each example's here, where no batch size matters.
The paper's numbers leave no other reading: 1000 ‖∇ₓL‖₂² would be above 100 nats at its ‖∇ₓL‖₁ of 21.
"""

import dataclasses

from advtf.errors import UsageError
from advtf.settings.fields import Parser, choice, real, setting, switch

# objective -> default strength with a single-step adversary, and with PGD; None: it has none
STRENGTHS: dict[str, tuple[float, float] | None] = {
    "standard": None,
    "at": None,
    "at_minus_st": (0.5, 0.5),  # our choice: figure 2 goes from 0 to 1
    "advlc": (0.55, 0.4),
    "igr": (12.0, 10.0),
    "cure": (15.0, 15.0),
    "gradalign": (7.0, 6.0),
    "logitalign": (100.0, 50.0),
    "consistency": (50.0, 50.0),
    "kdsa": None,
    "trades": (6.0, 6.0),
    "mart": (5.0, 5.0),
}
ADVERSARIES = ("pgd", "fgsm", "fgsm_r", "fgsm_n", "none")
UNATTACKED = ("standard", "igr", "cure", "gradalign")  # make sense without an adversary
DISTANCES = ("top", "l1", "l2", "kl", "js", "nuclear")
TEMPERATURES = {"consistency": 1.0, "kdsa": 2.0}


def _paths(value) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else list(value)
    paths = tuple(part for part in parts if part and part != "none")
    if len(paths) not in (0, 2):
        raise ValueError("two paths")
    return paths


two_paths = Parser(_paths, "two SavedModels with a comma between: the standard teacher, the robust one")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """What is minimised, and against whom; `advtf.training.methods` makes functions of it."""

    objective: str = setting("method", choice(*STRENGTHS), "what is minimised", "at")
    adversary: str = setting("method", choice(*ADVERSARIES), "who attacks the training batches", "pgd")
    strength: float | None = setting("method", real(), "weight of the penalty; default the paper's", None)
    strength_ramp: bool = setting("method", switch(), "raise the strength linearly from 0", False)
    advlc_fraction: float = setting("method", real(0, 1, open_low=True), "advlc: N as part of the batch", 0.1)
    advlc_distance: str = setting("method", choice(*DISTANCES), "advlc: distance of the logits", "top")
    temperature: float | None = setting(
        "method", real(open_low=True), "of consistency and kdsa; default 1 and 2", None
    )
    teachers: tuple[str, ...] = setting("method", two_paths, "kdsa: standard,robust SavedModel", ())
    noised_clean: bool = setting(
        "method", switch(), "fgsm_n: the objective's clean images are the noised ones, as published", False
    )
    attack_mode: str = setting(
        "method", choice("inference", "training"), "mode of BatchNorm during the attack", "inference"
    )
    awp: float = setting("method", real(), "γ of adversarial weight perturbation, such as 0.005", 0.0)


def fill_method(config: MethodSettings) -> None:
    """Sets what was not given and depends on the objective and the adversary, from a ``__post_init__``."""
    strengths = STRENGTHS[config.objective]
    if config.strength is None and strengths:
        object.__setattr__(config, "strength", strengths[config.adversary in ("pgd", "none")])
    if config.temperature is None and config.objective in TEMPERATURES:
        object.__setattr__(config, "temperature", TEMPERATURES[config.objective])


def check_method(config) -> None:
    """Checks the method's settings against each other and against the rest of the training's.

    Args:
        config: a `TrainConfig`.

    Raises:
        UsageError: they contradict each other.
    """
    _check_adversary(config)
    _check_users(config)
    if config.objective == "kdsa" and not config.teachers:
        raise UsageError("kdsa needs two teachers. Received: no --teachers=STANDARD,ROBUST.")
    if config.objective == "consistency" and not config.augment:
        raise UsageError("consistency compares two augmentations. Received: augment=False; add --augment.")
    if config.awp and config.strategy == "mirrored":
        raise UsageError(
            f"awp works on one device. Received: awp={config.awp:g} with strategy=mirrored; use none."
        )


def _check_adversary(config) -> None:
    name, adversary = config.objective, config.adversary
    if adversary == "none" and name not in UNATTACKED:
        raise UsageError(
            f"{name} needs an adversary. Received: adversary=none. "
            "Use --objective=standard, or --adversary=pgd."
        )
    if name == "trades" and (adversary == "fgsm" or (adversary == "pgd" and config.random_start == "none")):
        raise UsageError(
            "trades needs a random start: its divergence has no gradient at the clean image. Received: "
            f"adversary={adversary}, random_start={config.random_start}; use --random_start=uniform."
        )
    if config.noised_clean and adversary != "fgsm_n":
        raise UsageError(f"noised_clean needs adversary=fgsm_n. Received: adversary={adversary}.")


def _check_users(config) -> None:
    """Refuses a setting that the chosen objective would ignore."""
    ignored = {
        "strength": (None, [name for name, value in STRENGTHS.items() if value]),
        "strength_ramp": (False, [name for name, value in STRENGTHS.items() if value]),
        "advlc_fraction": (0.1, ["advlc"]),
        "advlc_distance": ("top", ["advlc"]),
        "temperature": (None, list(TEMPERATURES)),
        "teachers": ((), ["kdsa"]),
    }
    for name, (unused, objectives) in ignored.items():
        value = getattr(config, name)
        if value != unused and config.objective not in objectives:
            raise UsageError(
                f"{name} needs objective={' or '.join(objectives)}. "
                f"Received: {name}={value} with objective={config.objective}."
            )
