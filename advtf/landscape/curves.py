"""Curves in weight space between two ends: Bezier curves and polygonal chains over control points."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from advtf.errors import UsageError, one_of, require_real, require_whole

PANELS, NODES = 32, 16  # of the quadrature of a Bezier curve's length: exact to rounding for a smooth speed


def bernstein(order: int, t: float) -> np.ndarray:
    """Bernstein coefficients C(n, i) (1 − t)^(n−i) t^i, i = 0..n (Liu et al. 2020, eq. 30).

    Args:
        order: n.
        t: in [0, 1].

    Returns:
        (n + 1,) float64, non-negative, with sum 1.
    """
    i = np.arange(order + 1)
    binomials = np.array([math.comb(order, k) for k in i], np.float64)
    return binomials * (1.0 - t) ** (order - i) * float(t) ** i


def hat(order: int, t: float) -> np.ndarray:
    """Coefficients max(0, 1 − |n t − i|), i = 0..n, of the polygonal chain through its control points.

    Args, Returns: as for `bernstein`; point i is reached at t = i/n (Garipov et al. 2018).
    """
    return np.maximum(0.0, 1.0 - np.abs(order * float(t) - np.arange(order + 1)))


COEFFICIENTS: dict[str, Callable[[int, float], np.ndarray]] = {"bezier": bernstein, "chain": hat}


@dataclass(frozen=True, eq=False)
class Curve:
    """B(t) = Σ_i c_i(t) θ_i: linear in its control points, whose coefficients depend on the kind.

    Attributes:
        kind: "bezier" (order n: n + 1 points, eq. 30) or "chain" (straight pieces from point to point).
        points: (n + 1, P) control points in a float dtype; the first and the last are the ends.

    Raises:
        UsageError: an unknown kind, or points that are not two or more vectors of finite numbers.
    """

    kind: str
    points: np.ndarray

    def __post_init__(self) -> None:
        one_of("curve", self.kind, COEFFICIENTS)
        points = np.asarray(self.points)
        if points.ndim != 2 or len(points) < 2 or not np.issubdtype(points.dtype, np.floating):
            raise UsageError(
                "a curve's points must be floats (n + 1, P), with n at least 1. "
                f"Received: points of {points.dtype} {points.shape}."
            )
        if not np.isfinite(points).all():
            raise UsageError("a curve's points must be finite. Received: NaN or infinity.")
        object.__setattr__(self, "points", points)

    @property
    def order(self) -> int:
        """n, the number of control points less one."""
        return len(self.points) - 1

    def coefficients(self, t: float) -> np.ndarray:
        """Returns c(t), (n + 1,) float64.

        Raises:
            UsageError: t outside [0, 1].
        """
        require_real("t", t, 0, 1)
        return COEFFICIENTS[self.kind](self.order, t)

    def at(self, t: float) -> np.ndarray:
        """Returns B(t), (P,) in the points' dtype; a control point that is met exactly keeps its bits.

        Raises:
            UsageError: t outside [0, 1].
        """
        coefficients = self.coefficients(t)
        met = np.flatnonzero(coefficients == 1.0)
        if len(met):  # a sum would turn −0 into +0
            return self.points[met[0]].copy()
        total = np.zeros(self.points.shape[1])
        for coefficient, point in zip(coefficients, self.points, strict=True):
            total += coefficient * point.astype(np.float64)
        return total.astype(self.points.dtype)

    def control_gradient(self, t: float, gradient: np.ndarray) -> np.ndarray:
        """Chain rule: ∂L(B(t))/∂θ_i = c_i(t) ∇L(B(t)).

        Args:
            t: in [0, 1].
            gradient: ∇L at B(t), (P,).

        Returns:
            (n + 1, P), one row per control point.
        """
        return np.multiply.outer(self.coefficients(t), np.asarray(gradient))

    def length(self) -> float:
        """Returns the l2 length ∫₀¹ ‖B'(t)‖₂ dt.

        A chain's is the sum of its pieces. A Bezier curve's velocity is n Σ_i b_i(t) (θ_{i+1} − θ_i), b of
        order n − 1; its norm is integrated by Gauss-Legendre quadrature, panel by panel.
        """
        sides = np.diff(self.points.astype(np.float64), axis=0)
        if self.kind == "chain":
            return float(np.linalg.norm(sides, axis=1).sum())
        nodes, weights = np.polynomial.legendre.leggauss(NODES)
        positions = (np.arange(PANELS)[:, None] + (1 + nodes) / 2).ravel() / PANELS
        velocities = np.array([self.order * bernstein(self.order - 1, t) for t in positions])
        squares = np.einsum("ti,ij,tj->t", velocities, sides @ sides.T, velocities)
        return float(np.tile(weights, PANELS) @ np.sqrt(np.maximum(squares, 0.0)) / (2 * PANELS))


def straight(kind: str, start: np.ndarray, end: np.ndarray, order: int) -> Curve:
    """Returns the straight line between two ends as a curve with evenly spaced control points.

    Its points are B(t) = (1 − t) θ_0 + t θ_n for either kind, which is where training begins.

    Args:
        kind: "bezier" or "chain".
        start, end: (P,), of one float dtype; their bits are kept.
        order: n; 1 has no inner point and stays the straight line.

    Raises:
        UsageError: a bad kind or order, or ends of different shapes.
    """
    require_whole("order", order)
    start, end = np.asarray(start), np.asarray(end)
    if start.shape != end.shape or start.dtype != end.dtype:
        raise UsageError(
            "the ends of a curve must have equal shapes and dtypes. "
            f"Received: {start.dtype} {start.shape} and {end.dtype} {end.shape}."
        )
    line = Curve(one_of("curve", kind, COEFFICIENTS), np.stack([start, end]))
    return Curve(kind, np.stack([line.at(i / order) for i in range(order + 1)]))


def even_parameters(points: int) -> np.ndarray:
    """Returns t = 0, ..., 1 in equal steps, (points,) float64.

    Raises:
        UsageError: fewer than 2 points.
    """
    require_whole("curve_points", points, least=2)
    return np.arange(points) / (points - 1)
