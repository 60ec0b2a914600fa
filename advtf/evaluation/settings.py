"""The settings that determine the numbers of an evaluation. Imports no TensorFlow."""

import dataclasses
from typing import Any

from advtf.errors import UsageError, one_of
from advtf.evaluation.attacks import NAMES, components_of
from advtf.settings.fields import Parser, choice, normalise, real, setting, step_size, whole
from advtf.training.rules import EPSILON_CEILING, require_step


def _names(value: Any) -> tuple[str, ...]:
    names = tuple(value.replace(" ", "").split(",")) if isinstance(value, str) else tuple(value)
    if not names:
        raise ValueError("no attack")
    return tuple(dict.fromkeys(names))


attack_names = Parser(_names, f"names of attacks with commas between: {', '.join(NAMES)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackSettings:
    """Everything but the classifier and the images that determines the numbers of an evaluation.

    Raises:
        UsageError: a bad value, a radius out of range, or a step too long for it.
    """

    attacks: tuple[str, ...] = setting(
        "attack", attack_names, f"with commas: {', '.join(NAMES)}", ("autoattack",)
    )
    norm: str = setting("attack", choice(*EPSILON_CEILING), "norm of the perturbation", "linf")
    eps: float | None = setting(
        "attack", real(), "radius; default that of the data set, as in training", None
    )
    restarts: int = setting("attack", whole(1), "random starts of pgd, pgd100 and apgd", 1)
    steps: int = setting("attack", whole(1), "iterations of apgd and fab", 100)
    targets: int = setting("attack", whole(1, 9), "classes aimed at by apgd_t and fab_t", 9)
    queries: int = setting("attack", whole(1), "queries of square", 5000)
    pgd_steps: int | None = setting("attack", whole(1), "iterations of pgd; default as in training", None)
    pgd_step_size: str | None = setting(
        "attack", step_size(), "step of pgd, 2/255 or eps/4; default as in training", None
    )
    outputs: str = setting(
        "attack", choice("logits", "probabilities"), "what the classifier returns", "logits"
    )
    seed: int = setting("compute", whole(0, 2**31 - 1), "of random starts and of square", 0)
    batch_size: int = setting("compute", whole(1), "images attacked at a time", 250)
    jit: str = setting("compute", choice("auto", "on", "off"), "XLA; auto: on a GPU", "auto")

    def __post_init__(self) -> None:
        normalise(self)
        for name, value in (("eps", 8 / 255), ("pgd_steps", 10), ("pgd_step_size", "0.25eps")):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in self.attacks:
            one_of("attacks", name, NAMES)
        require_radius(self.eps, self.norm)
        require_step("pgd_step_size", self.pgd_step_size, self.eps)

    @property
    def suites(self) -> dict[str, tuple[str, ...]]:
        """Name in `attacks` -> the attacks it stands for, itself or those of a suite."""
        return {name: components_of(name) for name in self.attacks}

    @property
    def components(self) -> tuple[str, ...]:
        """Every attack that is to run, once."""
        return tuple(dict.fromkeys(name for suite in self.suites.values() for name in suite))


def require_radius(epsilon: float, norm: str, name: str = "eps") -> None:
    """Refuses an absurd radius.

    Raises:
        UsageError: ε is above the ceiling of its norm.
    """
    if not 0 <= epsilon <= EPSILON_CEILING[norm]:
        hint = f"; {epsilon:g} probably means {epsilon:g}/255" if epsilon > 0 else ""
        raise UsageError(
            f"{name} must be in [0, {EPSILON_CEILING[norm]:g}] for {norm}, as pixels are in [0, 1]. "
            f"Received: {name}={epsilon:g}{hint}."
        )
