"""The threat model: norms, starts of PGD, the ranges of ε and of an attack's step, and how they are shown.

Training, evaluation and analysis all check and print a radius by these functions. This module does not import
TensorFlow.
"""

import math

from advtf.errors import UsageError, one_of, quantity, show_text
from advtf.settings.fields import number

# The norms of a perturbation, with the largest radius that can be meant for pixels in [0, 1].
NORMS = {"linf": 1.0, "l2": 50.0}
# Where PGD starts: anywhere in the ball, anywhere within one step of the image, or at the image itself.
RANDOM_STARTS = ("uniform", "step", "none")
NEGLIGIBLE_EPSILON = 1e-6  # an ε-schedule starts at 0: below this the clean batch is the attack's result
STEP_CEILING = 2.5  # in units of ε: twice the radius crosses the ball, and some slack


def require_radius(name: str, value: float, norm: str | None = None, *, times: float = 1.0) -> float:
    """Returns a radius as a float after checking its range.

    Args:
        name: the name of the setting, for the message.
        value: the radius, for pixels in [0, 1].
        norm: a key of `NORMS`; None checks only that the radius is finite and at least 0.
        times: by how much the radius may exceed that of `NORMS`: 2 for the end of an ε curve that is clipped.

    Raises:
        UsageError: it is negative, not finite, or larger than can be meant.
    """
    value = float(value)
    ceiling = math.inf if norm is None else times * NORMS[norm]
    if 0 <= value <= ceiling and value < math.inf:
        return value
    if norm is None or not value > ceiling:
        raise UsageError(f"{name} must be a finite radius of at least 0. Received: {name}={value:g}.")
    raise UsageError(
        f"{name} must be in [0, {ceiling:g}] for {norm}, as pixels are in [0, 1]. "
        f"Received: {name}={value:g}; {value:g} probably means {value:g}/255."
    )


def read_radius(name: str, value: float | str, norm: str | None) -> float:
    """Returns a radius from a number or a text such as ``"8/255"``, after checking its range.

    Args:
        name: of the argument, for the message.
        value: the radius, for pixels in [0, 1].
        norm: a key of `NORMS`; None where it is not known yet.

    Raises:
        UsageError: an unknown norm, or not a radius that can be meant.
    """
    if norm is not None:
        one_of("norm", norm, NORMS)
    try:
        radius = number(value)
    except (TypeError, ValueError, ArithmeticError):
        raise UsageError(
            f"{name} must be a finite radius of at least 0. Received: {name}={show_text(value)}."
        ) from None
    return require_radius(name, radius, norm)


def require_step(name: str, step: str, epsilon: float) -> None:
    """Checks that a step does not cross the whole ball.

    Args:
        name: the name of the setting, for the message.
        step: as `advtf.settings.fields.step_size` reads it.
        epsilon: the radius ε.

    Raises:
        UsageError: it is longer than `STEP_CEILING` times ε.
    """
    if relative_step(step, epsilon) > STEP_CEILING:
        raise UsageError(
            f"{name} must be at most {STEP_CEILING:g} times ε. "
            f"Received: {name}={step} at eps={format_epsilon(epsilon)}; try eps/4."
        )


def relative_step(step: str, epsilon: float) -> float:
    """Returns a step divided by ε; 1 for a length at ε = 0, where it has no effect.

    Args:
        step: as `advtf.settings.fields.step_size` reads it: ``"0.01"``, a length, or ``"0.25eps"``.
        epsilon: the radius ε.
    """
    if step.endswith("eps"):
        return float(step.removesuffix("eps"))
    return float(step) / epsilon if epsilon else 1.0


def format_epsilon(value: float) -> str:
    """Returns ``8/255`` for a whole number of 255ths up to 64, and a decimal such as ``0.4`` otherwise."""
    levels = value * 255
    if round(value, 2) != value and 0 < value <= 64 / 255 and abs(levels - round(levels)) < 1e-9:
        return f"{round(levels)}/255"
    return f"{value:.4g}"


def describe_pgd(norm: str, epsilon: float, steps: int, step: str, random_start: str) -> str:
    """Describes a PGD attack in one line.

    Args:
        norm: a key of `NORMS`.
        epsilon: the radius ε.
        steps: the number of gradient steps.
        step: as `advtf.settings.fields.step_size` reads it.
        random_start: one of `RANDOM_STARTS`.
    """
    start = "no random start" if random_start == "none" else f"start {random_start}"
    relative = relative_step(step, epsilon)
    return (
        f"PGD, {norm}, ε {format_epsilon(epsilon)}, {quantity(steps, 'step')} of "
        f"{format_epsilon(relative * epsilon)} ({relative:.3g} ε), {start}"
    )
