"""Slices of the loss surface: L_ε at weights on a line or a plane (Liu et al. 2020, figure 12)."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from advtf.classifiers.parameters import Parameters
from advtf.errors import UsageError, require_real, require_whole
from advtf.landscape.objective import AdversarialObjective
from advtf.storage.cache import ResultCache

Weights = Callable[..., np.ndarray]  # coordinates -> a vector of parameters (P,)
QUANTITIES = ("adversarial_loss", "robust_error", "clean_loss", "clean_error")


@dataclass(frozen=True, eq=False)
class Surface:
    """Values on a grid of 1 or 2 axes; entry [i] or [i, j] belongs to axes[0][i], axes[1][j].

    Attributes:
        axes: coordinates a of each axis, increasing.
        adversarial_loss: L_ε, nats, the attack made anew at every point.
        robust_error: percent misclassified clean or attacked.
        clean_loss: L_0, nats.
        clean_error: percent misclassified without attack.
        examples: number of images.
    """

    axes: tuple[np.ndarray, ...]
    adversarial_loss: np.ndarray
    robust_error: np.ndarray
    clean_loss: np.ndarray
    clean_error: np.ndarray
    examples: int

    def at(self, *coordinates: float) -> dict[str, float] | None:
        """Returns the four values at a point of the grid; None if the grid does not have it."""
        found = [np.flatnonzero(axis == a) for axis, a in zip(self.axes, coordinates, strict=True)]
        if not all(len(indices) for indices in found):
            return None
        point = tuple(int(indices[0]) for indices in found)
        return {name: float(getattr(self, name)[point]) for name in QUANTITIES}


def symmetric_axis(radius: float, points: int) -> np.ndarray:
    """Returns `points` equidistant coordinates (points,) from −radius to radius, 0 exactly among them.

    Raises:
        UsageError: an even number of points, which would leave the origin out, or a radius not above 0.
    """
    require_whole("points", points, least=3)
    require_real("radius", radius, np.nextafter(0, 1))
    if points % 2 == 0:
        raise UsageError(
            f"points must be odd, so that the model itself is on the grid. Received: points={points}. "
            f"Use {points + 1}."
        )
    half = points // 2
    return radius * (np.arange(-half, half + 1) / half)


def segment_axis(radius: float, points: int) -> np.ndarray:
    """Returns coordinates t of a line from one model, t = 0, to another, t = 1.

    Args:
        radius: the segment [0, 1] is stretched about its middle by this factor, so 1 is the segment.
        points: equidistant coordinates, at least 3; 0 and 1 are added where they are not among them.

    Raises:
        UsageError: a number out of range.
    """
    require_whole("points", points, least=3)
    require_real("radius", radius, np.nextafter(0, 1))
    return np.union1d(np.linspace((1 - radius) / 2, (1 + radius) / 2, points), [0.0, 1.0])


def around(origin: np.ndarray, directions: Sequence[np.ndarray]) -> Weights:
    """Returns the function a ↦ θ + Σ_k a_k v_k of coordinates a; at a = 0 it is θ exactly.

    Args:
        origin: θ (P,).
        directions: v_k (P,), one per axis.
    """
    moves = [np.asarray(direction, np.float64) for direction in directions]
    return lambda *a: origin + sum(step * move for step, move in zip(a, moves, strict=True))


def between(models: Sequence[np.ndarray]) -> Weights:
    """Returns the function t ↦ (1 − Σ t_k) θ_0 + Σ_k t_k θ_k of coordinates t; it meets every θ_k exactly.

    Args:
        models: θ_0, θ_1, ..., each (P,): one more than axes.
    """
    vectors = [np.asarray(vector, np.float64) for vector in models]

    def weights(*t):
        shares = (1 - sum(t), *t)
        return sum(share * vector for share, vector in zip(shares, vectors, strict=True))

    return weights


def surface(
    objective: AdversarialObjective,
    parameters: Parameters,
    weights: Weights,
    axes: Sequence[np.ndarray],
    *,
    cache: ResultCache | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Surface:
    """Measures adversarial and clean loss and error at every point of a grid.

    Every point has the same random starts. The weights have their old bits back when it ends, also by an
    exception.

    Args:
        objective: of the classifier whose weights `parameters` are.
        parameters: whose values `weights` returns.
        weights: coordinates, one per axis -> vector (P,), as `around` and `between` make it.
        axes: one or two axes of coordinates, each (n,).
        cache: rows already measured are taken from it, others put into it, so that a killed scan goes on.
        report: called as ``report(done, total)`` with points.

    Raises:
        UsageError: no axis, more than two, or one that is not increasing.
    """
    axes = tuple(np.asarray(axis, np.float64) for axis in axes)
    if not 1 <= len(axes) <= 2 or any(axis.ndim != 1 or not (np.diff(axis) > 0).all() for axis in axes):
        raise UsageError("axes must be one or two increasing sequences of coordinates. Received: others.")
    cache, shape = cache or ResultCache(None, ""), tuple(map(len, axes))
    rows = [cache.get(f"row{number}") for number in range(shape[0])]
    total = int(np.prod(shape))
    done = itertools.count(1 + total // shape[0] * sum(row is not None for row in rows))

    def measure(point):
        with parameters.at(weights(*point)):
            attacked, clean = objective(), objective.clean()
        if report:
            report(next(done), total)
        return attacked.loss, attacked.error, clean.loss, clean.error, clean.examples

    for number, first in enumerate(axes[0]):
        if rows[number] is None:
            points = itertools.product([first], *axes[1:])
            rows[number] = {"values": np.array([measure(point) for point in points])}
            cache.put(f"row{number}", rows[number])
    *values, examples = np.concatenate([row["values"] for row in rows]).T
    grids = {name: grid.reshape(shape) for name, grid in zip(QUANTITIES, values, strict=True)}
    return Surface(axes, **grids, examples=int(examples[0]))
