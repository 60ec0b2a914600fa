"""The settings that determine the numbers of an evaluation. Imports no TensorFlow."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from advtf.classifiers.manifest import OUTPUTS
from advtf.errors import UsageError, one_of
from advtf.evaluation.attacks import NAMES
from advtf.settings import compute
from advtf.settings.fields import Parser, Settings, choice, number, real, setting, step_size, whole
from advtf.settings.threat import NORMS, require_radius, require_step


def _names(value: Any) -> tuple[str, ...]:
    names = tuple(value.replace(" ", "").split(",")) if isinstance(value, str) else tuple(value)
    if not names or not all(names):
        raise ValueError("no attack")
    return tuple(dict.fromkeys(names))


# The registry is read when names are needed, so that an attack registered later is known, too.
attack_names = Parser(_names, lambda: f"names with commas between, of {', '.join(NAMES)}", NAMES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackSettings(Settings):
    """Everything but the classifier and the images that determines the numbers of an evaluation.

    Raises:
        UsageError: a bad value, a radius out of range, or a step too long for it.
    """

    attacks: tuple[str, ...] = setting(
        "attack", attack_names, "attacks or suites, names with commas between", ("autoattack",)
    )
    norm: str = setting("attack", choice(NORMS), "norm of the perturbation", "linf", "as in training")
    eps: float = setting(
        "attack",
        real(),
        "radius of the perturbation, for pixels in [0, 1]",
        8 / 255,
        "as in training, or of the data set",
    )
    restarts: int = setting("attack", whole(1), "random starts of pgd, pgd100 and each apgd attack", 1)
    steps: int = setting("attack", whole(1), "iterations of apgd and fab", 100)
    targets: int = setting("attack", whole(1, 9), "classes aimed at by apgd_t and fab_t", 9)
    queries: int = setting("attack", whole(1), "queries of square", 5000)
    pgd_steps: int = setting("attack", whole(1), "iterations of pgd", 10, "as in training")
    pgd_step_size: str = setting(
        "attack", step_size(), "step of pgd, 2/255 or eps/4", "0.25eps", "as in training"
    )
    outputs: str = setting("attack", choice(OUTPUTS), "what the classifier returns", "logits")
    seed: int = compute.seed("all random numbers")
    batch_size: int = setting("compute", whole(1), "images attacked at a time", 250)
    jit: str = compute.jit()
    deterministic: bool = compute.deterministic()

    def check(self) -> None:
        """Checks the attacks' names, the radius, the step and how to compute."""
        for name in self.attacks:
            one_of("attacks", name, NAMES)
        require_radius("eps", self.eps, self.norm)
        require_step("pgd_step_size", self.pgd_step_size, self.eps)
        compute.check(self)


def require_grid(name: str, radii: Iterable | str, norm: str) -> tuple[float, ...]:
    """Returns more radii for the curve of robust accuracy as floats, after checking their range.

    Args:
        name: of the setting, for the message.
        radii: numbers or their texts, such as ``(0.1, "8/255")``; or one text with commas between.
        norm: "linf" or "l2".

    Raises:
        UsageError: something else than radii, or one that cannot be meant.
    """
    try:
        found = [number(radius) for radius in (radii.split(",") if isinstance(radii, str) else radii)]
    except (TypeError, ValueError, ArithmeticError):
        raise UsageError(f"{name} must be radii, finite numbers. Received: {name}={radii}.") from None
    return tuple(require_radius(name, radius, norm) for radius in found)
