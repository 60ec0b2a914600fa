"""The version space V_ε: weights that are right on the whole budget (Liu et al. 2020, Proposition 1).

V_ε = {W : (w_j − w_y)ᵀx' ≤ 0 for all j and all ‖x' − x‖_p ≤ ε}. It shrinks as ε grows: V_ε₂ ⊆ V_ε₁ for
ε₁ ≤ ε₂.
"""

from collections.abc import Sequence

import numpy as np

from advtf.theory.multiclass import checked, distances_between_classes
from advtf.theory.norms import checked_budget, get_norm


def margins(weights: np.ndarray, x: np.ndarray, y: np.ndarray, epsilon: float, norm: str) -> np.ndarray:
    """The smallest (w_y − w_j)ᵀx' over j ≠ y and x' in the budget, at the x' that attain it, (N,).

    For each j the worst x' is x + ε d_j with ‖d_j‖_p ≤ 1, (w_j − w_y)ᵀd_j = ‖w_j − w_y‖_q.
    """
    weights, x, y = checked(weights, x, y)
    epsilon, ball = checked_budget(epsilon, norm)
    smallest = np.full(len(y), np.inf)
    for target in range(weights.shape[1]):
        away = weights[:, target] - weights.T  # (K, m): from each class to this one
        worst = x + epsilon * ball.direction(away)[y]
        margin = np.where(y == target, np.inf, -np.sum(away[y] * worst, axis=1))
        smallest = np.minimum(smallest, margin)
    return smallest


def membership(
    weights: Sequence[np.ndarray], x: np.ndarray, y: np.ndarray, epsilons: Sequence[float], norm: str
) -> np.ndarray:
    """Whether each W is in the V_ε of each example, for each ε, by `margins`.

    Args:
        weights: S matrices (m, K).
        x, y: (N, m), (N,).
        epsilons: E radii.
        norm: "linf" or "l2".

    Returns:
        bool (E, S, N); all along the last axis: W is in the V_ε of the data set.
    """
    return np.array([[margins(w, x, y, epsilon, norm) >= 0 for w in weights] for epsilon in epsilons])


def radii(weights: np.ndarray, x: np.ndarray, y: np.ndarray, norm: str) -> np.ndarray:
    """The largest ε with W in V_ε of each example: min over j ≠ y of (w_y − w_j)ᵀx / ‖w_y − w_j‖_q, (N,).

    Negative for an example that is wrong without perturbation; infinite if all columns of W are equal.
    """
    weights, x, y = checked(weights, x, y)
    distances = distances_between_classes(weights, get_norm(norm))[y]
    logits = x @ weights
    apart = logits[np.arange(len(y)), y][:, np.newaxis] - logits
    return np.divide(apart, distances, out=np.full_like(apart, np.inf), where=distances > 0).min(axis=1)


def nested(members: np.ndarray) -> bool:
    """Whether sets (E, ...) of booleans each hold the next: Prop. 1 for `membership` along ascending ε."""
    return bool(np.all(members[1:] <= members[:-1]))
