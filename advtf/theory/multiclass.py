"""Linear models of K classes under attack: bounds of the adversarial loss, its worst case, and V_ε.

Liu et al. 2020, section 3.1, Proposition 1 and appendix B.1 (eq. 13). The model is f(x) = Wᵀx with W (m, K)
and without biases. Its adversarial loss

    g_ε(x, W) = max over ‖δ‖_p ≤ ε of log Σ_j exp((w_j − w_y)ᵀ(x + δ))

has no closed form for K > 2: it is the maximum of a convex function, for l∞ over 2^m corners. But
`lower_bound` ≤ loss at `worst_case` ≤ g_ε ≤ `upper_bound`, and for K = 2 all four are equal.

The version space V_ε = {W : (w_j − w_y)ᵀx' ≤ 0 for all j and all ‖x' − x‖_p ≤ ε} holds the weights that are
right on the whole budget. It shrinks as ε grows (Proposition 1): V_ε₂ ⊆ V_ε₁ for ε₁ ≤ ε₂.

Everywhere x (N, m) are the examples and y (N,) their labels, integers in [0, K), in float64; x' may leave
[0, 1]. The functions raise UsageError for shapes or labels that do not fit, a negative ε, or another norm.
"""

from collections.abc import Sequence

import numpy as np

from advtf.errors import UsageError
from advtf.theory.norms import Norm, checked_budget, full_step_ascent

ASCENT_STEPS = 5  # from each start; on digits, further steps change the mean loss by less than 1e-4


def losses(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns g(x_i, W) = log(1 + Σ_{j≠y} exp((w_j − w_y)ᵀx)), the cross-entropy, (N,)."""
    weights, x, y = checked(weights, x, y)
    return _log_sum_exp(_relative_logits(weights, x, y))


def gradient(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns ∇_W of the mean of `losses`: mean x_i (softmax(Wᵀx_i) − e_y)ᵀ, (m, K).

    At the worst cases x' of W it is a subgradient of L_ε(W), by Danskin's theorem.
    """
    weights, x, y = checked(weights, x, y)
    return x.T @ _errors(weights, x, y) / len(x)


def input_gradient(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns ∇ₓ g = W (softmax(Wᵀx) − e_y) of each example, (N, m)."""
    weights, x, y = checked(weights, x, y)
    return _errors(weights, x, y) @ weights.T


def upper_bound(weights: np.ndarray, x: np.ndarray, y: np.ndarray, epsilon: float, norm: str) -> np.ndarray:
    """Returns log(1 + Σ_{j≠y} exp((w_j − w_y)ᵀx + ε‖w_j − w_y‖_q)) ≥ g_ε, (N,).

    It is a bound because every class j is given the perturbation that is worst for it alone.
    """
    weights, x, y = checked(weights, x, y)
    epsilon, budget = checked_budget(epsilon, norm)
    distances = distances_between_classes(weights, budget)
    return _log_sum_exp(_relative_logits(weights, x, y) + epsilon * distances[y])


def lower_bound(weights: np.ndarray, x: np.ndarray, y: np.ndarray, epsilon: float, norm: str) -> np.ndarray:
    """Returns the loss at the perturbation of the paper's proof of Theorem 1 (eq. 13), ≤ g_ε, (N,).

    That is x' = x + ε d, where d attains (w_m − w_y)ᵀd = ‖w_m − w_y‖_q over ‖d‖_p ≤ 1 for the farthest
    class m = argmax_j ‖w_j − w_y‖_q.
    """
    weights, x, y = checked(weights, x, y)
    epsilon, budget = checked_budget(epsilon, norm)
    farthest = distances_between_classes(weights, budget).argmax(axis=1)
    towards = budget.direction(weights.T[farthest] - weights.T)
    return losses(weights, x + epsilon * towards[y], y)


def worst_case(
    weights: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    epsilon: float,
    norm: str,
    *,
    steps: int = ASCENT_STEPS,
    every_class: bool = True,
) -> np.ndarray:
    """Searches the worst x' in the budget by full-step ascent, which never lowers this convex loss.

    Args:
        weights: W (m, K).
        x, y: examples (N, m), labels (N,).
        epsilon: radius of the budget, at least 0.
        norm: "linf" or "l2", the p of the budget.
        steps: number of ascent steps from each start. Defaults to 5.
        every_class: whether to start from `x` and from the worst x' of each wrong class, and keep the best,
            which is at least as strong as `lower_bound`. Otherwise the ascent starts from `x` only, which is
            cheaper, and exact as W → 0. Defaults to True.

    Returns:
        (N, m) in the budget. The losses there are lower bounds of g_ε.
    """
    weights, x, y = checked(weights, x, y)
    epsilon, budget = checked_budget(epsilon, norm)

    def slope(at):
        return _errors(weights, at, y) @ weights.T

    def climb(start):
        return full_step_ascent(slope, x, epsilon, budget, steps, start)

    best = climb(x)
    if not every_class:
        return best
    highest = losses(weights, best, y)
    for target in range(weights.shape[1]):
        found = climb(x + epsilon * budget.direction(weights[:, target] - weights.T[y]))
        reached = losses(weights, found, y)
        better = reached > highest
        best = np.where(better[:, np.newaxis], found, best)
        highest = np.where(better, reached, highest)
    return best


def epsilon_bound(weights: np.ndarray, x: np.ndarray, y: np.ndarray, norm: str) -> np.ndarray:
    """Returns the paper's ε̄ for this W, beyond which each example's loss is at least log K (appendix B.1).

    ε̄ = (log(K − 1) − (w_m − w_y)ᵀx)/‖w_m − w_y‖_q with m = argmax_j ‖w_j − w_y‖_q, here at least 0: the two
    terms j = y and j = m of the sum in g_ε then make up K. It depends on W, and for K > 2 it grows as 1/γ
    for γW, γ → 0. The module `constant_classifier` has one ε̄ for all W.

    Returns:
        (N,); 0 where all columns of W are equal, as the loss is then log K at every ε.
    """
    weights, x, y = checked(weights, x, y)
    distances = distances_between_classes(weights, checked_budget(0.0, norm)[1])
    farthest = distances.argmax(axis=1)
    distance = distances.max(axis=1)[y]
    gap = np.log(weights.shape[1] - 1) - _relative_logits(weights, x, y)[np.arange(len(y)), farthest[y]]
    bound = np.divide(gap, distance, out=np.zeros(len(y)), where=distance > 0)
    return np.maximum(bound, 0.0)


def margins(weights: np.ndarray, x: np.ndarray, y: np.ndarray, epsilon: float, norm: str) -> np.ndarray:
    """Returns the smallest (w_y − w_j)ᵀx' over j ≠ y and over x' in the budget, (N,).

    W is in V_ε of an example exactly if this is at least 0. For each j the worst x' is x + ε d_j, where d_j
    attains (w_j − w_y)ᵀd_j = ‖w_j − w_y‖_q over ‖d_j‖_p ≤ 1; the margin is computed at this x'.
    """
    weights, x, y = checked(weights, x, y)
    epsilon, budget = checked_budget(epsilon, norm)
    smallest = np.full(len(y), np.inf)
    for target in range(weights.shape[1]):
        away = weights[:, target] - weights.T  # (K, m): from each class to this one
        worst = x + epsilon * budget.direction(away)[y]
        margin = np.where(y == target, np.inf, -np.sum(away[y] * worst, axis=1))
        smallest = np.minimum(smallest, margin)
    return smallest


def membership(
    weights: Sequence[np.ndarray], x: np.ndarray, y: np.ndarray, epsilons: Sequence[float], norm: str
) -> np.ndarray:
    """Tells whether each W is in the V_ε of each example, for each ε, by `margins`.

    Args:
        weights: S matrices (m, K).
        x, y: examples (N, m), labels (N,).
        epsilons: E radii.
        norm: "linf" or "l2", the p of the budget.

    Returns:
        bool (E, S, N). A W that is True for all N examples is in the V_ε of the data set.
    """
    return np.array([[margins(w, x, y, epsilon, norm) >= 0 for w in weights] for epsilon in epsilons])


def is_nested(members: np.ndarray) -> bool:
    """Tells whether each of the sets (E, ...) of booleans holds the next, as Prop. 1 says of `membership`."""
    return bool(np.all(members[1:] <= members[:-1]))


def distances_between_classes(weights: np.ndarray, budget: Norm) -> np.ndarray:
    """Returns ‖w_j − w_k‖_q at [j, k], (K, K)."""
    return budget.dual(weights.T[:, np.newaxis] - weights.T[np.newaxis])


def checked(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns W (m, K) and x (N, m) in float64, y (N,).

    Raises:
        UsageError: other shapes, fewer than 2 classes, no example, or labels that are not integers in [0, K).
    """
    weights, x, y = np.asarray(weights, np.float64), np.asarray(x, np.float64), np.asarray(y)
    if x.ndim != 2 or not len(x) or weights.ndim != 2 or weights.shape[1] < 2:
        raise UsageError(
            "weights, x must have the shapes (m, K), (N, m) with N > 0, K > 1. "
            f"Received: {weights.shape}, {x.shape}."
        )
    if weights.shape[0] != x.shape[1] or y.shape != x.shape[:1]:
        raise UsageError(
            "weights, x, y must have the shapes (m, K), (N, m), (N,). "
            f"Received: {weights.shape}, {x.shape}, {y.shape}."
        )
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= weights.shape[1]:
        raise UsageError(
            f"y must hold integers in [0, {weights.shape[1]}). Received: {y.dtype}, {y.min()} to {y.max()}."
        )
    return weights, x, y


def _relative_logits(weights, x, y):
    """(w_j − w_y)ᵀx, (N, K): 0 at y."""
    logits = x @ weights
    return logits - logits[np.arange(len(y)), y][:, np.newaxis]


def _log_sum_exp(logits):
    highest = logits.max(axis=1)
    return highest + np.log(np.exp(logits - highest[:, np.newaxis]).sum(axis=1))


def _errors(weights, x, y):
    """softmax(Wᵀx) − e_y, (N, K)."""
    logits = x @ weights
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    powers[np.arange(len(y)), y] -= 1.0
    return powers
