"""The objectives and the training adversaries by name: what each needs, and what it defaults to.

To add an objective, write its function (see `advtf.training.objectives`) and an entry of `OBJECTIVES`; to add
an adversary, write the attack and an entry of `ADVERSARIES`. The flags, their help, the checks and the plan
of a run follow from the entries. TensorFlow is imported when something is built, not before, so that a wrong
flag is answered at once.

The strengths are those of Li & Spratling 2023 (section 5.1); TRADES and MART have those of their own papers.
The strengths of igr and cure are the published ones divided by the published batch size, 100, because the
paper squares the gradient of the mean loss of a batch, and we square that of the loss of each example, where
the batch size plays no part. The numbers of the paper leave no other reading: at its ‖∇ₓL‖₁ of 21 the penalty
1000 ‖∇ₓL‖₂² would be above 100 nats.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from advtf.classifiers.manifest import read_manifest
from advtf.errors import UsageError, quantity
from advtf.settings.threat import describe_pgd, format_epsilon

if TYPE_CHECKING:
    from advtf.attacks.attack import Attack
    from advtf.training.objectives import Objective

Config = Any  # a `TrainConfig`, which is made with the tables below and so cannot be imported here

# The modes of BatchNorm during an attack, see `advtf.training.trainer.AdversarialTrainer`.
ATTACK_MODES = ("inference", "training")
# How advlc measures the distance of two logits; `advtf.training.regularizers.DISTANCES` has the functions.
DISTANCES = ("top", "l1", "l2", "kl", "js", "nuclear")
WHOLE_BATCH = ("top", "nuclear")  # which of them depend on the other examples of the batch


class Strength(NamedTuple):
    """The default weight of a penalty, which differs by the adversary.

    Attributes:
        single_step: against an adversary of one step, such as FGSM-N.
        multi_step: against PGD, and without an adversary.
    """

    single_step: float
    multi_step: float


@dataclass(frozen=True)
class ObjectiveEntry:
    """An entry of `OBJECTIVES`.

    Attributes:
        build: ``build(config, num_classes)`` -> `advtf.training.objectives.Objective`, or a plain function of
            ``(logits_fn, batch)``.
        strength: the default of ``--strength``; None where the objective has no strength.
        settings: further settings that it uses; an objective that does not use them refuses them.
        defaults: the values of settings that are None unless they are given.
        attacks: whether it looks at adversarial examples, as `advtf.training.objectives.Objective` says.
        needs_adversary: whether it makes no sense with ``--adversary=none``.
        adversary_loss: the name in `advtf.attacks.losses` of the loss that the adversary climbs.
        needs_random_start: whether the adversary must not start at the clean image.
        shares_clean_pass: whether its forward pass over the clean images can be the attack's first one.
        check: ``check(config)`` raises UsageError for settings that it cannot work with.
    """

    build: Callable[[Config, int], "Objective | Callable"]
    strength: Strength | None = None
    settings: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    attacks: bool = True
    needs_adversary: bool = True
    adversary_loss: str = "cross_entropy"
    needs_random_start: bool = False
    shares_clean_pass: bool = False
    check: Callable[[Config], None] = lambda config: None


def _objective(name: str) -> Callable[[Config, int], "Objective"]:
    """Returns what builds an objective without settings, `advtf.training.objectives.<name>`."""

    def build(config: Config, num_classes: int) -> "Objective":
        from advtf.training import objectives

        return getattr(objectives, name)

    return build


def _of_strength(name: str, **settings: str) -> Callable[[Config, int], "Objective"]:
    """Returns what builds an objective whose first argument is the strength λ.

    Args:
        name: its function in `advtf.training.objectives` or `advtf.training.regularizers`.
        **settings: the names of the settings that its other arguments take their values from.
    """

    def build(config: Config, num_classes: int) -> "Objective":
        from advtf.training import objectives, regularizers

        function = getattr(objectives, name, None) or getattr(regularizers, name)
        others = {argument: getattr(config, setting) for argument, setting in settings.items()}
        return function(config.strength, **others)

    return build


def _kdsa(config: Config, num_classes: int) -> "Objective":
    from advtf.classifiers.export import load_classifier
    from advtf.training.regularizers import kdsa

    teachers = []
    for path in config.teachers:
        try:
            teacher = load_classifier(path)
        except UsageError as error:
            raise UsageError(f"a teacher must load. Received: teachers={path}: {error}") from error
        if teacher.num_classes != num_classes:
            raise UsageError(
                f"teachers must have the {quantity(num_classes, 'class')} of the data. "
                f"Received: teachers={path} with {quantity(teacher.num_classes, 'class')}."
            )
        teachers.append(teacher)
    return kdsa(teachers, temperature=config.temperature)


def _check_kdsa(config: Config) -> None:
    if not config.teachers:
        raise UsageError("kdsa needs two teachers. Received: no --teachers=STANDARD,ROBUST.")


def _check_consistency(config: Config) -> None:
    if not config.augment:
        raise UsageError("consistency compares two augmentations. Received: augment=False; add --augment.")


OBJECTIVES: dict[str, ObjectiveEntry] = {
    "standard": ObjectiveEntry(_objective("standard"), attacks=False, needs_adversary=False),
    "at": ObjectiveEntry(_objective("adversarial")),
    "at_minus_st": ObjectiveEntry(
        _of_strength("adversarial_minus_standard"),
        Strength(0.5, 0.5),  # our choice: figure 2 goes from 0 to 1
        shares_clean_pass=True,
    ),
    "advlc": ObjectiveEntry(
        _of_strength("advlc", fraction="advlc_fraction", distance="advlc_distance"),
        Strength(0.55, 0.4),
        ("advlc_fraction", "advlc_distance"),
        shares_clean_pass=True,
    ),
    "igr": ObjectiveEntry(_of_strength("igr"), Strength(12.0, 10.0), needs_adversary=False),
    "cure": ObjectiveEntry(_of_strength("cure"), Strength(15.0, 15.0), needs_adversary=False),
    "gradalign": ObjectiveEntry(_of_strength("gradalign"), Strength(7.0, 6.0), needs_adversary=False),
    "logitalign": ObjectiveEntry(_of_strength("logitalign"), Strength(100.0, 50.0)),
    "consistency": ObjectiveEntry(
        _of_strength("consistency", temperature="temperature"),
        Strength(50.0, 50.0),
        ("temperature",),
        {"temperature": 1.0},
        check=_check_consistency,
    ),
    "kdsa": ObjectiveEntry(
        _kdsa, settings=("temperature", "teachers"), defaults={"temperature": 2.0}, check=_check_kdsa
    ),
    "trades": ObjectiveEntry(
        _of_strength("trades"), Strength(6.0, 6.0), adversary_loss="kl_divergence", needs_random_start=True
    ),
    "mart": ObjectiveEntry(_of_strength("mart"), Strength(5.0, 5.0), shares_clean_pass=True),
}


@dataclass(frozen=True)
class AdversaryEntry:
    """An entry of `ADVERSARIES`.

    Attributes:
        build: ``build(config, loss)`` -> ``attack(logits_fn, x, y, epsilon, seed) -> x_adv`` that climbs
            `loss`.
        single_step: whether it takes one gradient step; the default of the strength depends on it.
        starts_at_clean: ``starts_at_clean(config)`` -> whether it starts at the images themselves.
        first_gradient_at_clean: ``first_gradient_at_clean(config)`` -> whether its first gradient is taken at
            the images that the objective sees as clean ones.
        steps: ``steps(config)`` -> number of steps and length of a step divided by ε.
        plan: ``plan(config)`` -> what the printed plan says of it; None gives its name, the norm and ε.
    """

    build: Callable[[Config, Callable], "Attack"]
    single_step: bool = True
    starts_at_clean: Callable[[Config], bool] = lambda config: False
    first_gradient_at_clean: Callable[[Config], bool] = lambda config: False
    steps: Callable[[Config], tuple[int, float]] = lambda config: (1, 1.0)
    plan: Callable[[Config], str] | None = None


def _pgd(config: Config, loss: Callable) -> "Attack":
    from advtf.attacks.pgd import pgd

    return pgd(config.norm, config.attack_steps, config.relative_step, config.random_start, loss=loss)


def _fgsm(config: Config, loss: Callable) -> "Attack":
    from advtf.attacks.pgd import fgsm

    return fgsm(config.norm, loss=loss)


def _fgsm_r(config: Config, loss: Callable) -> "Attack":
    from advtf.attacks.pgd import fgsm

    return fgsm(config.norm, "uniform", loss=loss)


def _fgsm_n(config: Config, loss: Callable) -> "Attack":
    from advtf.attacks.pgd import fgsm_n

    return fgsm_n(config.norm, loss=loss)


def _no_attack(config: Config, loss: Callable) -> "Attack":
    from advtf.attacks.attack import no_attack

    return no_attack


def _pgd_plan(config: Config) -> str:
    settings = (config.attack_steps, config.attack_step_size, config.random_start)
    return describe_pgd(config.norm, config.eps, *settings)


def _fgsm_plan(name: str, start: str) -> Callable[[Config], str]:
    def plan(config: Config) -> str:
        return f"{name}, {config.norm}, ε {format_epsilon(config.eps)}, 1 step of ε, {start}"

    return plan


def _without_start(config: Config) -> bool:
    return config.random_start == "none"


ADVERSARIES: dict[str, AdversaryEntry] = {
    "pgd": AdversaryEntry(
        _pgd,
        single_step=False,
        starts_at_clean=_without_start,
        first_gradient_at_clean=_without_start,
        steps=lambda config: (config.attack_steps, config.relative_step),
        plan=_pgd_plan,
    ),
    "fgsm": AdversaryEntry(
        _fgsm,
        starts_at_clean=lambda config: True,
        first_gradient_at_clean=lambda config: True,
        plan=_fgsm_plan("FGSM", "no random start"),
    ),
    "fgsm_r": AdversaryEntry(_fgsm_r, plan=_fgsm_plan("FGSM-R", "start uniform")),
    "fgsm_n": AdversaryEntry(
        _fgsm_n,
        first_gradient_at_clean=lambda config: config.noised_clean,
        plan=_fgsm_plan("FGSM-N", "from uniform noise, not projected"),
    ),
    "none": AdversaryEntry(_no_attack, single_step=False),
}


def build_objective(
    config: Config, num_classes: int, input_shape: tuple[int, int, int] | None = None
) -> "Objective":
    """Returns the objective of a configuration; loads the teachers of kdsa.

    Args:
        config: the settings of the training.
        num_classes: the number of classes K of the data.
        input_shape: (H, W, C) of the images; None leaves it to the first step to tell teachers of others.

    Raises:
        UsageError: a teacher cannot be loaded, or is one for other images or another number of classes.
    """
    for path in config.teachers if input_shape else ():
        manifest = read_manifest(Path(path))  # a SavedModel of another program has none
        if manifest and tuple(manifest["input"]["shape"]) != tuple(input_shape):
            raise UsageError(
                f"teachers must take the images of the data, {'×'.join(map(str, input_shape))}. "
                f"Received: teachers={path} for {'×'.join(map(str, manifest['input']['shape']))}."
            )
    from advtf.training.objectives import as_objective

    return as_objective(OBJECTIVES[config.objective].build(config, num_classes))


def build_adversary(config: Config, loss: Callable | None = None) -> "Attack":
    """Returns the attack on training batches.

    Args:
        config: the settings of the training.
        loss: the loss that it climbs; None takes the one that the objective's entry names.
    """
    from advtf.attacks import losses

    loss = loss or getattr(losses, OBJECTIVES[config.objective].adversary_loss)
    return ADVERSARIES[config.adversary].build(config, loss)


def build_attack_from_gradient(config: Config, objective: "Objective") -> Callable | None:
    """Returns the adversary as a function of its first gradient, or None where it makes that gradient itself.

    Its first gradient is at the objective's clean images for FGSM, for PGD without a random start, and for
    FGSM-N with `noised_clean`, as in the published code. In training mode the objective must need that
    forward pass, too. In inference mode it gives the clean accuracy, which saves a pass worth saving where
    the attack is a single step.

    Args:
        config: the settings of the training.
        objective: what `build_objective` returned for them.
    """
    from advtf.attacks.pgd import pgd_from_gradient

    adversary = ADVERSARIES[config.adversary]
    if config.attack_mode == "training":
        gains = OBJECTIVES[config.objective].shares_clean_pass and not config.awp
    else:
        of_one_view = not (objective.attack_target or objective.second_view or objective.views > 1)
        gains = adversary.single_step and of_one_view and not config.noised_clean
    if not gains or not adversary.first_gradient_at_clean(config):
        return None
    return pgd_from_gradient(config.norm, *adversary.steps(config))


def clean_view(config: Config) -> Callable | None:
    """Returns what makes the objective's clean images; None where they are the images themselves."""
    from advtf.attacks.pgd import noisy

    return noisy(config.norm) if config.noised_clean else None
