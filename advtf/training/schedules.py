"""Schedules of the perturbation radius ε and of the learning rate, as pure functions of progress.

A schedule is written in `t` = d/D, the progress within a period of D epochs (0 at its start, 1 at its end).
`epsilon_schedule` and `rate_schedule` check the settings once and return `position in epochs -> value`;
with period boundaries both restart, and each curve is scaled to the length of its period (PAS, the periodic
strategy of Liu et al. 2020). A position may be fractional: step / steps_per_epoch changes the value per step.

`EPSILONS` and `RATES` hold the schedules by name: to add one, write its function of `t` and an entry.
The flags, their checks and the printed plan follow from the entries.
"""

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any

from advtf.errors import UsageError, one_of, quantity

# How often a schedule sets its value; see `advtf.training.callbacks.EpsilonSchedule`.
UNITS = ("epoch", "step")

# Positions are k/steps_per_epoch and milestones are decimals. In floats 1.4/7 falls just short of 0.2 and a
# milestone is missed by one step; the rational number meant is recovered exactly up to this denominator.
_LARGEST_DENOMINATOR = 10**6


class ScheduleError(UsageError):
    """A bad argument of a schedule.

    Attributes:
        requirement: what is required, with the names of arguments in braces.
        received: argument -> what was given.
    """

    def __init__(self, requirement: str, **received: Any):
        self.requirement, self.received = requirement, received
        super().__init__(self._text({}))

    def in_terms_of(self, settings: Mapping[str, str]) -> UsageError:
        """Returns the error with the arguments called by the settings that gave them.

        Args:
            settings: argument -> setting.
        """
        return UsageError(self._text(settings))

    def _text(self, settings: Mapping[str, str]) -> str:
        called = {name: settings.get(name, name) for name in (*self.received, *ARGUMENTS)}
        given = ", ".join(f"{called[name]}={_shown(value)}" for name, value in self.received.items())
        return f"{self.requirement.format_map(called)}. Received: {given}."


# The arguments of the schedules -> the settings that give them.
ARGUMENTS = {
    "target": "eps",
    "minimum": "eps_min",
    "maximum": "eps_max",
    "rate": "lr",
    "milestones": "lr_milestones",
    "factor": "lr_factor",
    "warmup": "lr_warmup",
    "boundaries": "periods",
    "epochs": "epochs",
}


def constant_epsilon(t: float, target: float) -> float:
    """Returns ε = target at every progress `t`."""
    return target


def linear_epsilon(t: float, minimum: float, maximum: float, target: float) -> float:
    """Returns ε(t) = (maximum − minimum)·t + minimum, clipped to [0, target] (Liu et al. 2020, eq. 5).

    Args:
        t: progress within the period, in [0, 1].
        minimum, maximum: unclipped ends of the curve, in input units.
        target: the radius trained for, in input units.
    """
    return min(max((maximum - minimum) * t + minimum, 0.0), target)


def cosine_epsilon(t: float, minimum: float, maximum: float, target: float) -> float:
    """Returns ε(t) = ½(1 − cos πt)(maximum − minimum) + minimum, clipped to [0, target] (eq. 5).

    The arguments are those of `linear_epsilon`.
    """
    return linear_epsilon(0.5 * (1 - math.cos(math.pi * t)), minimum, maximum, target)


def constant_rate(t: float, rate: float) -> float:
    """Returns the learning rate `rate` at every progress `t`."""
    return rate


def step_rate(t: float, rate: float, milestones: Sequence[float], factor: float) -> float:
    """Returns rate · factor^n, n the number of `milestones` (fractions of the period) at or before `t`."""
    return rate * factor ** sum(t >= milestone for milestone in milestones)


def exponential_rate(t: float, rate: float, begin: float, end: float, factor: float) -> float:
    """Returns `rate` up to `begin`, then geometrically down to rate · factor at `end`, then constant.

    Between them the rate is rate · factor^((t − begin)/(end − begin)).
    """
    return rate * factor ** min(max((t - begin) / (end - begin), 0.0), 1.0)


def cosine_rate(t: float, rate: float, minimum: float = 0.0) -> float:
    """Returns ½(1 + cos πt)(rate − minimum) + minimum: from `rate` at t = 0 down to `minimum` at t = 1."""
    return 0.5 * (1 + math.cos(math.pi * t)) * (rate - minimum) + minimum


def warmup_rate(t: float, rate: float, warmup: float) -> float:
    """Returns rate · min(t/warmup, 1): linear from 0 over the first `warmup` of the period, then constant."""
    return rate * min(t / warmup, 1.0)


@dataclass(frozen=True)
class EpsilonKind:
    """An entry of `EPSILONS`.

    Attributes:
        curve: ``curve(t, minimum, maximum, target)`` -> ε at progress t, at most target.
        has_ends: whether the curve uses minimum and maximum.
    """

    curve: Callable[[float, float, float, float], float]
    has_ends: bool = True


EPSILONS: dict[str, EpsilonKind] = {
    "constant": EpsilonKind(lambda t, minimum, maximum, target: constant_epsilon(t, target), has_ends=False),
    "linear": EpsilonKind(linear_epsilon),
    "cosine": EpsilonKind(cosine_epsilon),
}

# The values of these settings where the schedule does not use them.
UNUSED = {"lr_milestones": (), "lr_factor": 1.0, "lr_warmup": 0.0}


@dataclass(frozen=True)
class RateKind:
    """An entry of `RATES`.

    Attributes:
        curve: ``curve(t, rate, milestones, factor, warmup)`` -> learning rate at progress t; warmup is a
            fraction of the period.
        defaults: the settings among `UNUSED` that it uses, with their presets.
        milestones: what an error calls them, and how many it takes; None where it takes none.
        plan: what the plan of a run tells about it, with the fields {factor}, {milestones} and {warmup}.
    """

    curve: Callable[[float, float, Sequence[float], float, float], float]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    milestones: tuple[str, Callable[[int], bool]] | None = None
    plan: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """The preset of each setting among `UNUSED`."""
        return {**UNUSED, **self.defaults}


# Positions are fractions of a period. In Liu et al. 2020 the rate of ResNet18 is divided by 10 at epochs 100
# and 150 of 200, that of VGG falls to a tenth between them, and the warm-up of figure 13 takes the first 10
# epochs of 100.
_TENTH = {"lr_milestones": (0.5, 0.75), "lr_factor": 0.1}
RATES: dict[str, RateKind] = {
    "constant": RateKind(lambda t, rate, *_: constant_rate(t, rate)),
    "step": RateKind(
        lambda t, rate, milestones, factor, _: step_rate(t, rate, milestones, factor),
        _TENTH,
        ("at least one fraction, such as 0.5,0.75,", lambda count: count > 0),
        "times {factor} at {milestones} of a period",
    ),
    "exponential": RateKind(
        lambda t, rate, milestones, factor, _: exponential_rate(t, rate, *milestones, factor),
        _TENTH,
        ("two fractions, begin and end,", lambda count: count == 2),
        "times {factor} between {milestones} of a period",
    ),
    "cosine": RateKind(lambda t, rate, *_: cosine_rate(t, rate)),
    "warmup": RateKind(
        lambda t, rate, milestones, factor, warmup: warmup_rate(t, rate, warmup),
        {"lr_warmup": 0.1},
        plan="from 0 over {warmup}",
    ),
}


def period_progress(position: float, boundaries: Sequence[float], epochs: float) -> float:
    """Returns the progress t = d/D within the period that holds `position`.

    Args:
        position: epochs since the start of training, whole or fractional; clamped to [0, epochs].
        boundaries: starts of the periods after the first, in epochs, increasing inside (0, epochs).
        epochs: the length of the training, which ends the last period.

    Returns:
        t in [0, 1]: exactly 0 at a boundary, 1 only at or after `epochs`; the correctly rounded quotient, so
        that d = 7 of D = 10 compares as reached with a milestone of 0.7.

    Raises:
        UsageError: epochs not > 0, or boundaries not increasing inside (0, epochs).
    """
    return float(_locate(_exact(position), _checked_edges(boundaries, epochs))[0])


def epsilon_schedule(
    kind: str,
    *,
    target: float,
    minimum: float = 0.0,
    maximum: float | None = None,
    boundaries: Sequence[float] = (),
    epochs: float,
) -> Callable[[float], float]:
    """Builds ε as a function of the position in epochs (Liu et al. 2020, eq. 5, restarted in each period).

    Args:
        kind: a key of `EPSILONS`.
        target: the radius trained for, >= 0, in input units; values never exceed it.
        minimum: where a linear or cosine curve starts, in [0, target].
        maximum: where the unclipped curve ends, >= minimum; None means target. Above target, the curve
            reaches target before the end of the period.
        boundaries, epochs: as for `period_progress`.

    Raises:
        UsageError: an unknown kind, a value out of range, or a curve's ends given for a constant ε.
    """
    one_of("epsilon schedule", kind, EPSILONS)
    edges = _checked_edges(boundaries, epochs)
    _require(_at_least(target, 0.0), "{target} must be a finite radius of at least 0", target=target)
    curve, has_ends = EPSILONS[kind].curve, EPSILONS[kind].has_ends
    if not has_ends:
        without = minimum == 0 and maximum is None
        requirement = f"the {kind} schedule of ε takes no {{minimum}} and no {{maximum}}"
        _require(without, requirement, minimum=minimum, maximum=maximum)
    maximum = target if maximum is None else maximum
    ends = {"minimum": minimum, "maximum": maximum, "target": target}
    _require(0 <= minimum <= target, "{minimum} must lie between 0 and {target}", **ends)
    _require(_at_least(maximum, minimum), "{maximum} must be finite and at least {minimum}", **ends)
    return lambda position: curve(float(_locate(_exact(position), edges)[0]), minimum, maximum, target)


def rate_schedule(
    kind: str,
    rate: float,
    *,
    milestones: Sequence[float] = (),
    factor: float = 0.1,
    warmup: float = 0.0,
    boundaries: Sequence[float] = (),
    epochs: float,
) -> Callable[[float], float]:
    """Builds the learning rate as a function of the position in epochs, restarted in each period.

    Args:
        kind: a key of `RATES`.
        rate: the base rate, > 0.
        milestones: fractions of a period. step: where the rate is multiplied by `factor`;
            exponential: where the decay to rate · factor begins and ends.
        factor: > 0.
        warmup: for a kind that uses it: epochs (>= 1) or a fraction (< 1) of each period, not above its
            length.
        boundaries, epochs: as for `period_progress`.

    Raises:
        UsageError: an unknown kind, a value out of range, or a setting that `kind` does not use.
    """
    one_of("learning rate schedule", kind, RATES)
    edges = _checked_edges(boundaries, epochs)
    _require(math.isfinite(rate) and rate > 0, "{rate} must be a finite number above 0", rate=rate)
    _require(math.isfinite(factor) and factor > 0, "{factor} must be a finite number above 0", factor=factor)
    milestones = _checked_milestones(kind, milestones)
    _check_warmup(kind, warmup, edges)
    curve = RATES[kind].curve

    def value(position: float) -> float:
        progress, length = _locate(_exact(position), edges)
        share = warmup if warmup < 1 else float(_exact(warmup) / length)
        return curve(float(progress), rate, milestones, factor, share)

    return value


def strength_ramp(epochs: float, unit: str = "epoch", steps_per_epoch: int = 1) -> Callable[[float], float]:
    """Builds the share of a penalty's strength λ that is in force, as a function of the position in epochs.

    The share is (k + 1)/K in the k-th epoch of K, counted from 0: the first epoch has 1/K, the last one the
    whole strength, and so has a training of one epoch. This is the published code of Li & Spratling 2023,
    whose λ changes once per epoch. With the unit "step", which is ours, k and K count steps.

    Args:
        epochs: the length of the training.
        unit: "epoch" or "step", see `UNITS`.
        steps_per_epoch: the number of steps in an epoch.
    """
    one_of("schedule_unit", unit, UNITS)
    interval = Fraction(1) if unit == "epoch" else Fraction(1, steps_per_epoch)
    return lambda position: float((_exact(position) + interval) / _exact(epochs))


def _exact(value: float) -> Fraction:
    """Returns the rational number a position or boundary stands for (2.1 -> 21/10)."""
    if isinstance(value, numbers.Rational):
        return Fraction(int(value.numerator), int(value.denominator))
    return Fraction(float(value)).limit_denominator(_LARGEST_DENOMINATOR)


def _locate(position: Fraction, edges: list[Fraction]) -> tuple[Fraction, Fraction]:
    """Returns (progress in [0, 1], length in epochs) of the period between two `edges` around `position`."""
    position = min(max(position, edges[0]), edges[-1])
    start = max(edge for edge in edges[:-1] if edge <= position)
    length = edges[edges.index(start) + 1] - start
    return (position - start) / length, length


def _at_least(value: float, bound: float) -> bool:
    return math.isfinite(value) and value >= bound


def _require(condition: bool, requirement: str, **received: Any) -> None:
    if not condition:
        raise ScheduleError(requirement, **received)


def _plain(value: Fraction) -> int | float:
    return int(value) if value.denominator == 1 else float(value)


def _shown(value: Any) -> str:
    """Returns an argument as one would type it."""
    return ",".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def _checked_edges(boundaries: Sequence[float], epochs: float) -> list[Fraction]:
    _require(math.isfinite(epochs) and epochs > 0, "{epochs} must be a finite number above 0", epochs=epochs)
    boundaries = tuple(boundaries)
    given = {"boundaries": boundaries, "epochs": epochs}
    requirement = "{boundaries} must increase strictly between 0 and {epochs}"
    _require(all(map(math.isfinite, boundaries)), requirement, **given)
    edges = [Fraction(0), *map(_exact, boundaries), _exact(epochs)]
    _require(all(a < b for a, b in pairwise(edges)), requirement, **given)
    return edges


def _checked_milestones(kind: str, milestones: Sequence[float]) -> tuple[float, ...]:
    milestones = tuple(milestones)
    if RATES[kind].milestones is None:
        _require(not milestones, f"the {kind} learning rate takes no {{milestones}}", milestones=milestones)
    else:
        needed, enough = RATES[kind].milestones
        requirement = f"the {kind} learning rate needs {needed} as {{milestones}}"
        _require(enough(len(milestones)), requirement, milestones=milestones)
    inside = all(0 <= m <= 1 for m in milestones)
    increasing = all(a < b for a, b in pairwise(milestones))
    requirement = "{milestones} must be increasing fractions of a period, in [0, 1]"
    _require(inside and increasing, requirement, milestones=milestones)
    return milestones


def _check_warmup(kind: str, warmup: float, edges: list[Fraction]) -> None:
    if "lr_warmup" not in RATES[kind].defaults:
        _require(warmup == 0, f"the {kind} learning rate takes no {{warmup}}", warmup=warmup)
        return
    positive = math.isfinite(warmup) and warmup > 0
    requirement = "{warmup} must be above 0: epochs, or below 1 a fraction of a period"
    _require(positive, requirement, warmup=warmup)
    shortest = min(b - a for a, b in pairwise(edges))
    fits = warmup < 1 or _exact(warmup) <= shortest
    requirement = (
        f"{{warmup}} must fit into the shortest period, which has {quantity(_plain(shortest), 'epoch')}"
    )
    _require(fits, requirement, warmup=warmup)
