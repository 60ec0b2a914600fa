"""Binary logistic regression under attack, in closed form, and the growth of its curvature (Theorem 3).

Liu et al. 2020, appendix A.1 (eq. 6 and 7) and Theorem 3 (eq. 29). The model is sign(wᵀx), its loss
g(x, w) = log(1 + exp(−y wᵀx)) falls as the margin y wᵀx grows, and the worst x' in the budget lowers every
margin by ε‖w‖_q, with q dual to p:

    L_ε(w) = mean log(1 + exp(−y_i wᵀx_i + ε‖w‖_q))                                            (eq. 6)

Everywhere x (N, m) are the examples, y (N,) their labels ±1 and w (m,) the weights, in float64; x' may leave
[0, 1]. The functions raise UsageError for shapes or labels that do not fit, a negative ε, or another norm.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from advtf.errors import UsageError
from advtf.theory.norms import Norm, checked_budget, get_norm

ROUNDING = 1e-12  # relative error of sums over the examples in float64


def worst_case(w: np.ndarray, x: np.ndarray, y: np.ndarray, epsilon: float, norm: str) -> np.ndarray:
    """Returns the worst x' = x − ε y d of each example, (N, m).

    d attains wᵀd = ‖w‖_q over ‖d‖_p ≤ 1: it is sign(w) for l∞ and w/‖w‖₂ for l2.
    """
    w, x, y = checked(w, x, y)
    epsilon, budget = checked_budget(epsilon, norm)
    return x - epsilon * y[:, np.newaxis] * budget.direction(w)


def input_gradient(w: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns ∇ₓ g = −y σ(−y wᵀx) w of each example, (N, m)."""
    w, x, y = checked(w, x, y)
    return -np.outer(y * sigmoid(-y * (x @ w)), w)


def losses(w: np.ndarray, x: np.ndarray, y: np.ndarray, epsilon: float, norm: str) -> np.ndarray:
    """Returns the adversarial losses g_ε(x_i, w) = log(1 + exp(−y_i wᵀx_i + ε‖w‖_q)), whose mean is eq. 6.

    Args:
        w: weights (m,).
        x: examples (N, m).
        y: labels +1 or −1 (N,).
        epsilon: radius of the budget, at least 0.
        norm: "linf" or "l2", the p of the budget.

    Returns:
        (N,), each at least 0, in nats.
    """
    w, x, y = checked(w, x, y)
    epsilon, budget = checked_budget(epsilon, norm)
    return np.logaddexp(0.0, _exponents(w, x, y, epsilon, budget))


def loss(w: np.ndarray, x: np.ndarray, y: np.ndarray, epsilon: float, norm: str) -> float:
    """Returns L_ε(w), the mean of `losses` (eq. 6)."""
    return float(losses(w, x, y, epsilon, norm).mean())


def gradient(w: np.ndarray, x: np.ndarray, y: np.ndarray, epsilon: float, norm: str) -> np.ndarray:
    """Returns the gradient of eq. 6, mean σ(z_i)·(ε s − y_i x_i), z_i = −y_i wᵀx_i + ε‖w‖_q, s = ∇‖w‖_q.

    Where ‖w‖_q has a kink (for l∞ a weight that is 0, for l2 w = 0) it is the subgradient with s = 0.

    Returns:
        (m,).
    """
    w, x, y = checked(w, x, y)
    epsilon, budget = checked_budget(epsilon, norm)
    pull = sigmoid(_exponents(w, x, y, epsilon, budget))
    return (pull.mean() * epsilon) * budget.direction(w) - (pull * y) @ x / len(x)


def hessian(w: np.ndarray, x: np.ndarray, y: np.ndarray, epsilon: float, norm: str) -> np.ndarray:
    """Returns the Hessian of eq. 6, where ‖w‖_q is smooth.

    Differentiating `gradient` once more gives mean σ(z_i)σ(−z_i) u_i u_iᵀ + ε mean σ(z_i) ∇²‖w‖_q with
    u_i = ∇z_i = ε s − y_i x_i. Here ∇²‖w‖₁ is 0, and ∇²‖w‖₂ is (I − w wᵀ/‖w‖₂²)/‖w‖₂.

    Returns:
        (m, m), symmetric, positive semi-definite.

    Raises:
        UsageError: w is at a kink of its norm, where there is no Hessian.
    """
    w, x, y = checked(w, x, y)
    epsilon, budget = checked_budget(epsilon, norm)
    if epsilon > 0 and not (np.all(w) if budget.name == "linf" else np.any(w)):
        raise UsageError(
            f"w must have {'no weight of' if budget.name == 'linf' else 'a weight other than'} 0: "
            f"the norm has a kink there. Received: {np.count_nonzero(w == 0)} of {w.size} weights are 0."
        )
    z = _exponents(w, x, y, epsilon, budget)
    moved = epsilon * budget.direction(w) - y[:, np.newaxis] * x
    return _weighted_square(moved, z) + epsilon * sigmoid(z).mean() * _norm_hessian(w, budget)


def fixed_norm_hessian(w: np.ndarray, x: np.ndarray, y: np.ndarray, epsilon: float, norm: str) -> np.ndarray:
    """Returns the Hessian of eq. 29, mean σ(z_i)σ(−z_i) x_i x_iᵀ: that of eq. 7, where ‖w‖_q is a constant.

    Theorem 3 of the paper is about this matrix, with ‖w‖_q = 1; here ‖w‖_q is that of `w`. Along directions
    in which ‖w‖_q does not change to first order it equals `hessian` for l∞, and for l2 up to the term in
    ∇²‖w‖₂.

    Returns:
        (m, m), symmetric, positive semi-definite.
    """
    w, x, y = checked(w, x, y)
    epsilon, budget = checked_budget(epsilon, norm)
    return _weighted_square(x, _exponents(w, x, y, epsilon, budget))


def separation(w: np.ndarray, x: np.ndarray, y: np.ndarray, norm: str) -> float:
    """Returns ε̂ = min_i y_i wᵀx_i / ‖w‖_q, up to which every example is classified rightly (Theorem 3).

    It is negative if an example is wrong without perturbation.

    Raises:
        UsageError: w = 0.
    """
    w, x, y = checked(w, x, y)
    if not w.any():
        raise UsageError("w must have a weight other than 0 to separate. Received: w=0.")
    return float((y * (x @ w)).min() / get_norm(norm).dual(w))


def sigmoid(z: np.ndarray) -> np.ndarray:
    """Returns σ(z) = 1/(1 + exp(−z)) without overflow, and with full relative precision where it is small."""
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, small) / (1.0 + small)


@dataclass(frozen=True, eq=False)
class CurvatureGrowth:
    """Curvatures of L_ε at one w for a list of ε.

    Attributes:
        epsilons: (E,) ascending.
        curvatures: (E, D), mᵀ∇²L_ε m of each direction m.
        largest, smallest: (E,), the extreme eigenvalues of ∇²L_ε.
        lowest_change: (E − 1,), the smallest eigenvalue of the difference between each ∇²L_ε and the one
            before it; it is negative exactly if the curvature falls in some direction.
    """

    epsilons: np.ndarray
    curvatures: np.ndarray
    largest: np.ndarray
    smallest: np.ndarray
    lowest_change: np.ndarray

    def grows(self) -> np.ndarray:
        """Tells for each direction whether its curvature never falls by more than rounding; (D,) bool."""
        return np.all(np.diff(self.curvatures, axis=0) >= -self._rounding, axis=0)

    def grows_everywhere(self) -> bool:
        """Tells whether it never falls in any direction at all, nor do the extreme eigenvalues."""
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
    hessian: Callable[..., np.ndarray] = fixed_norm_hessian,
) -> CurvatureGrowth:
    """Measures mᵀ∇²L_ε(w)m, which by Theorem 3 grows with ε up to ε̂ = `separation`.

    The theorem is about eq. 7, in which ‖w‖_q does not depend on w, and so about `fixed_norm_hessian`. With
    `hessian`, that of eq. 6, it holds along `tangents` and need not hold in other directions.

    Args:
        w, x, y: weights (m,), examples (N, m), labels ±1 (N,).
        epsilons: at least two radii, ascending.
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
    """Returns an orthonormal basis of the directions in which ‖w‖_q does not change to first order.

    Args:
        w: (m,), not 0.
        norm: that of the budget.

    Returns:
        (m, m − 1): the complement of ∇‖w‖_q.
    """
    slope = get_norm(norm).direction(np.asarray(w, np.float64))
    return np.linalg.qr(slope[:, np.newaxis], mode="complete")[0][:, 1:]


def checked(w: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns w (m,), x (N, m), y (N,) in float64.

    Raises:
        UsageError: other shapes, no example, or labels other than +1 and −1.
    """
    w, x, y = (np.asarray(values, np.float64) for values in (w, x, y))
    if x.ndim != 2 or not len(x) or w.shape != x.shape[1:] or y.shape != x.shape[:1]:
        raise UsageError(
            "w, x, y must have the shapes (m,), (N, m), (N,) with N > 0. "
            f"Received: {w.shape}, {x.shape}, {y.shape}."
        )
    if not np.all(np.abs(y) == 1):
        raise UsageError(f"y must be +1 or -1. Received: y with {np.unique(y)[:5].tolist()}.")
    return w, x, y


def _exponents(w: np.ndarray, x: np.ndarray, y: np.ndarray, epsilon: float, budget: Norm) -> np.ndarray:
    """z_i = −y_i wᵀx_i + ε‖w‖_q, (N,)."""
    return epsilon * budget.dual(w) - y * (x @ w)


def _weighted_square(vectors, z):
    """mean σ(z_i)σ(−z_i) v_i v_iᵀ, (m, m)."""
    weights = sigmoid(z) * sigmoid(-z)
    return (vectors * weights[:, np.newaxis]).T @ vectors / len(vectors)


def _norm_hessian(w, budget):
    if budget.name == "linf" or not w.any():
        return np.zeros((w.size, w.size))
    unit = budget.direction(w)
    return (np.eye(w.size) - np.outer(unit, unit)) / budget.dual(w)
