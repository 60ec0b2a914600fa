"""Curvature of the adversarial loss of logistic regression as ε grows (Liu et al. 2020, Theorem 3)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from advtf.theory import logistic
from advtf.theory.claims import ROUNDING
from advtf.theory.norms import get_norm


@dataclass(frozen=True, eq=False)
class CurvatureGrowth:
    """Curvatures of L_ε at one w for a list of ε.

    Attributes:
        epsilons: (E,) ascending.
        curvatures: (E, D), mᵀ∇²L_ε m of each direction m.
        largest, smallest: (E,), the extreme eigenvalues of ∇²L_ε.
        lowest_change: (E − 1,), the smallest eigenvalue of each ∇²L_ε less the one before it: negative
            exactly if the curvature falls in some direction.
    """

    epsilons: np.ndarray
    curvatures: np.ndarray
    largest: np.ndarray
    smallest: np.ndarray
    lowest_change: np.ndarray

    def grows(self) -> np.ndarray:
        """Whether the curvature along each direction never falls, by more than rounding errors; (D,) bool."""
        return np.all(np.diff(self.curvatures, axis=0) >= -self._rounding, axis=0)

    def grows_everywhere(self) -> bool:
        """Whether it never falls in any direction at all, nor do the extreme eigenvalues."""
        ends = np.diff([self.largest, self.smallest], axis=1)
        return bool(min(self.lowest_change.min(), ends.min()) >= -self._rounding)

    @property
    def _rounding(self):
        return ROUNDING * self.largest.max()


def curvature_growth(
    w: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    epsilons: Sequence[float],
    directions: np.ndarray,
    norm: str,
    hessian: Callable[..., np.ndarray] = logistic.fixed_norm_hessian,
) -> CurvatureGrowth:
    """Measures mᵀ∇²L_ε(w)m, which Theorem 3 says to grow with ε up to ε̂ = `logistic.separation`.

    The theorem is about eq. 7, in which ‖w‖_q does not depend on w: `fixed_norm_hessian`. With
    `logistic.hessian`, that of eq. 6, it holds along `tangents` and need not hold in other directions.

    Args:
        w, x, y: weights (m,), examples (N, m), labels ±1 (N,).
        epsilons: radii, ascending, at least two.
        directions: (D, m).
        norm: "linf" or "l2", that of the budget.
        hessian: ``hessian(w, x, y, epsilon, norm) -> (m, m)``.
    """
    matrices = np.array([hessian(w, x, y, epsilon, norm) for epsilon in epsilons])
    spectra = np.linalg.eigvalsh(matrices)
    return CurvatureGrowth(
        np.asarray(epsilons, np.float64),
        np.sum((directions @ matrices) * directions, axis=-1),
        spectra[:, -1],
        spectra[:, 0],
        np.linalg.eigvalsh(np.diff(matrices, axis=0))[:, 0],
    )


def random_directions(count: int, dimension: int, seed: int) -> np.ndarray:
    """Returns (count, dimension) unit vectors, uniform on the sphere."""
    vectors = np.random.default_rng(seed).normal(size=(count, dimension))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def tangents(w: np.ndarray, norm: str) -> np.ndarray:
    """An orthonormal basis of the directions in which ‖w‖_q does not change to first order.

    Args:
        w: (m,), not 0.
        norm: that of the budget.

    Returns:
        (m, m − 1): the complement of ∇‖w‖_q.
    """
    slope = get_norm(norm).direction(np.asarray(w, np.float64))
    return np.linalg.qr(slope[:, np.newaxis], mode="complete")[0][:, 1:]
