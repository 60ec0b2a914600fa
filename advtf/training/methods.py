"""From a training's settings to its objective and its adversary."""

from collections.abc import Callable

from advtf.attacks.attack import Attack
from advtf.attacks.losses import cross_entropy, kl_divergence
from advtf.attacks.pgd import fgsm, fgsm_n, noisy, pgd, pgd_from_gradient
from advtf.classifiers.export import load_classifier
from advtf.errors import UsageError
from advtf.training import objectives, regularizers
from advtf.training.objectives import Objective
from advtf.training.settings import TrainConfig

# Compare clean and adversarial logits; their attack climbs the loss.
PAIRED = ("at_minus_st", "advlc", "mart")


def build_objective(config: TrainConfig, num_classes: int) -> Objective:
    """Returns the objective of a configuration; loads the teachers of kdsa.

    Raises:
        UsageError: a teacher cannot be loaded, or has another number of classes.
    """
    strength = config.strength
    builders = {
        "standard": lambda: objectives.standard,
        "at": lambda: objectives.adversarial,
        "at_minus_st": lambda: objectives.adversarial_minus_standard(strength),
        "trades": lambda: objectives.trades(strength),
        "mart": lambda: objectives.mart(strength),
        "advlc": lambda: regularizers.advlc(strength, config.advlc_fraction, config.advlc_distance),
        "igr": lambda: regularizers.igr(strength),
        "cure": lambda: regularizers.cure(strength),
        "gradalign": lambda: regularizers.gradalign(strength),
        "logitalign": lambda: regularizers.logitalign(strength),
        "consistency": lambda: regularizers.consistency(strength, config.temperature),
        "kdsa": lambda: regularizers.kdsa(_teachers(config, num_classes), temperature=config.temperature),
    }
    return builders[config.objective]()


def build_adversary(config: TrainConfig, loss: Callable | None = None) -> Attack:
    """Returns the attack on training batches; it climbs KL(f(x) ‖ f(x')) for trades, cross-entropy else.

    Args:
        loss: what it climbs instead.
    """
    loss = loss or (kl_divergence if config.objective == "trades" else cross_entropy)
    builders = {
        "pgd": lambda: pgd(
            config.norm, config.attack_steps, config.relative_step, config.random_start, loss=loss
        ),
        "fgsm": lambda: fgsm(config.norm, loss=loss),
        "fgsm_r": lambda: fgsm(config.norm, "uniform", loss=loss),
        "fgsm_n": lambda: fgsm_n(config.norm, loss=loss),
        "none": lambda: _no_attack,
    }
    return builders[config.adversary]()


def build_onwards(config: TrainConfig) -> Callable | None:
    """Returns the adversary from its first gradient, where the objective makes that pass anyway; else None.

    So it is with attacks in training mode that begin at what the objective takes for clean images: FGSM, PGD
    without a random start, and FGSM-N with `noised_clean`, as in the published code.
    """
    if config.attack_mode != "training" or config.awp or config.objective not in PAIRED:
        return None
    step = {"fgsm": (1, 1.0), "fgsm_n": (1, 1.0), "pgd": (config.attack_steps, config.relative_step)}
    at_clean = {"fgsm": True, "fgsm_n": config.noised_clean, "pgd": config.random_start == "none"}
    return pgd_from_gradient(config.norm, *step[config.adversary]) if at_clean.get(config.adversary) else None


def clean_view(config: TrainConfig) -> Callable | None:
    """Returns what turns images into the clean images the objective sees; None keeps them."""
    return noisy(config.norm) if config.noised_clean else None


def _no_attack(logits_fn, x, y, epsilon, seed):
    return x


def _teachers(config, num_classes):
    teachers = [load_classifier(path) for path in config.teachers]
    for teacher in teachers:
        if teacher.num_classes != num_classes:
            raise UsageError(
                f"teachers must have the {num_classes} classes of the data. "
                f"Received: {teacher.path} with {teacher.num_classes}."
            )
    return teachers
