"""Binary logistic regression under attack, in closed form (Liu et al. 2020, appendix A.1).

The model is sign(wᵀx); g(x, w) = log(1 + exp(−y wᵀx)) falls with the margin y wᵀx, and the worst x' in the
budget lowers every margin by ε‖w‖_q, q dual to p. x (N, m), y ±1 (N,), w (m,), float64; x' may leave [0, 1].
"""

import numpy as np

from advtf.errors import UsageError
from advtf.theory.norms import Norm, checked_budget, get_norm


def worst_case(w: np.ndarray, x: np.ndarray, y: np.ndarray, epsilon: float, norm: str) -> np.ndarray:
    """Returns x' = x − ε y d, ‖d‖_p ≤ 1, wᵀd = ‖w‖_q: d = sign(w) for l∞, w/‖w‖₂ for l2. Shape (N, m)."""
    w, x, y = checked(w, x, y)
    epsilon, ball = checked_budget(epsilon, norm)
    return x - epsilon * y[:, np.newaxis] * ball.direction(w)


def input_gradient(w: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns ∇ₓ g = −y σ(−y wᵀx) w of each example, (N, m)."""
    w, x, y = checked(w, x, y)
    return -np.outer(y * sigmoid(-y * (x @ w)), w)


def losses(w: np.ndarray, x: np.ndarray, y: np.ndarray, epsilon: float, norm: str) -> np.ndarray:
    """Adversarial losses g_ε(x_i, w) = log(1 + exp(−y_i wᵀx_i + ε‖w‖_q)), whose mean is eq. 6.

    Args:
        w: weights (m,).
        x: examples (N, m).
        y: labels +1 or −1 (N,).
        epsilon: radius of the budget, at least 0.
        norm: "linf" or "l2", the p of the budget.

    Returns:
        (N,), each at least 0.

    Raises:
        UsageError: shapes or labels that do not fit, a negative ε, another norm.
    """
    w, x, y = checked(w, x, y)
    epsilon, ball = checked_budget(epsilon, norm)
    return np.logaddexp(0.0, _exponents(w, x, y, epsilon, ball))


def loss(w: np.ndarray, x: np.ndarray, y: np.ndarray, epsilon: float, norm: str) -> float:
    """Returns L_ε(w), the mean of `losses` (eq. 6)."""
    return float(losses(w, x, y, epsilon, norm).mean())


def gradient(w: np.ndarray, x: np.ndarray, y: np.ndarray, epsilon: float, norm: str) -> np.ndarray:
    """Gradient of eq. 6: mean σ(z_i)·(ε s − y_i x_i), z_i = −y_i wᵀx_i + ε‖w‖_q, s = ∇‖w‖_q.

    Where ‖w‖_q has a kink (l∞: a weight that is 0; l2: w = 0) it is the subgradient with s = 0 there.

    Returns:
        (m,).
    """
    w, x, y = checked(w, x, y)
    epsilon, ball = checked_budget(epsilon, norm)
    pull = sigmoid(_exponents(w, x, y, epsilon, ball))
    return (pull.mean() * epsilon) * ball.direction(w) - (pull * y) @ x / len(x)


def hessian(w: np.ndarray, x: np.ndarray, y: np.ndarray, epsilon: float, norm: str) -> np.ndarray:
    """Hessian of eq. 6, where ‖w‖_q is smooth.

    mean σ(z_i)σ(−z_i) u_i u_iᵀ + ε mean σ(z_i) ∇²‖w‖_q with u_i = ε s − y_i x_i. ∇²‖w‖₁ is 0 and ∇²‖w‖₂ is
    (I − w wᵀ/‖w‖₂²)/‖w‖₂.

    Returns:
        (m, m), symmetric, positive semi-definite.

    Raises:
        UsageError: also for a w at a kink of its norm: there is no Hessian.
    """
    w, x, y = checked(w, x, y)
    epsilon, ball = checked_budget(epsilon, norm)
    if epsilon > 0 and not (np.all(w) if ball.name == "linf" else np.any(w)):
        raise UsageError(
            f"w must have {'no weight of' if ball.name == 'linf' else 'a weight other than'} 0: "
            f"the norm has a kink there. Received: {np.count_nonzero(w == 0)} of {w.size} weights are 0."
        )
    z = _exponents(w, x, y, epsilon, ball)
    moved = epsilon * ball.direction(w) - y[:, np.newaxis] * x
    return _weighted_square(moved, z) + epsilon * sigmoid(z).mean() * _norm_hessian(w, ball)


def fixed_norm_hessian(w: np.ndarray, x: np.ndarray, y: np.ndarray, epsilon: float, norm: str) -> np.ndarray:
    """The Hessian of eq. 29: that of eq. 7, where ‖w‖_q is a constant, as the paper defines it for Theorem 3.

    mean σ(z_i)σ(−z_i) x_i x_iᵀ. The paper takes ‖w‖_q = 1; here it is that of `w`. Along directions in which
    ‖w‖_q does not change to first order it equals `hessian` for l∞, and for l2 up to the term in ∇²‖w‖₂.

    Returns:
        (m, m), symmetric, positive semi-definite.
    """
    w, x, y = checked(w, x, y)
    epsilon, ball = checked_budget(epsilon, norm)
    return _weighted_square(x, _exponents(w, x, y, epsilon, ball))


def separation(w: np.ndarray, x: np.ndarray, y: np.ndarray, norm: str) -> float:
    """Returns ε̂ = min_i y_i wᵀx_i / ‖w‖_q: up to this ε every example is right; negative if one is wrong.

    Raises:
        UsageError: w = 0.
    """
    w, x, y = checked(w, x, y)
    if not w.any():
        raise UsageError("w must have a weight other than 0 to separate. Received: w=0.")
    return float((y * (x @ w)).min() / get_norm(norm).dual(w))


def sigmoid(z: np.ndarray) -> np.ndarray:
    """Returns σ(z) = 1/(1 + exp(−z)); no overflow, and full relative precision where it is small."""
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, small) / (1.0 + small)


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


def _exponents(w: np.ndarray, x: np.ndarray, y: np.ndarray, epsilon: float, ball: Norm) -> np.ndarray:
    return epsilon * ball.dual(w) - y * (x @ w)


def _weighted_square(vectors, z):
    weights = sigmoid(z) * sigmoid(-z)
    return (vectors * weights[:, np.newaxis]).T @ vectors / len(vectors)


def _norm_hessian(w, ball):
    if ball.name == "linf" or not w.any():
        return np.zeros((w.size, w.size))
    unit = ball.direction(w)
    return (np.eye(w.size) - np.outer(unit, unit)) / ball.dual(w)
