"""Linear models of K classes under attack: bounds of the adversarial loss, and its worst case by ascent.

f(x) = Wᵀx with W (m, K), no biases, as in Liu et al. 2020, section 3.1. For K > 2 the adversarial loss
g_ε(x, W) = max over ‖δ‖_p ≤ ε of log Σ_j exp((w_j − w_y)ᵀ(x + δ)) has no closed form: a convex function is
maximised, over 2^m corners for l∞. But `lower_bound` ≤ loss at `worst_case` ≤ g_ε ≤ `upper_bound`, and for
K = 2 all four are equal. x (N, m), y integers (N,), float64; x' may leave [0, 1].
"""

import numpy as np

from advtf.errors import UsageError
from advtf.theory.ascent import full_step_ascent
from advtf.theory.norms import Norm, checked_budget

ASCENT_STEPS = 5  # from each start; on digits, later steps change the mean loss by less than 1e-4


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
    """Returns log(1 + Σ_{j≠y} exp((w_j − w_y)ᵀx + ε‖w_j − w_y‖_q)) ≥ g_ε, (N,): each class has its own δ."""
    weights, x, y = checked(weights, x, y)
    epsilon, ball = checked_budget(epsilon, norm)
    distances = distances_between_classes(weights, ball)
    return _log_sum_exp(_relative_logits(weights, x, y) + epsilon * distances[y])


def lower_bound(weights: np.ndarray, x: np.ndarray, y: np.ndarray, epsilon: float, norm: str) -> np.ndarray:
    """Returns the loss at the perturbation of the paper's proof of Theorem 1 (eq. 13), ≤ g_ε, (N,).

    x' = x + ε d, the d with ‖d‖_p ≤ 1 and (w_m − w_y)ᵀd = ‖w_m − w_y‖_q, m = argmax_j ‖w_j − w_y‖_q.
    """
    weights, x, y = checked(weights, x, y)
    epsilon, ball = checked_budget(epsilon, norm)
    farthest = distances_between_classes(weights, ball).argmax(axis=1)
    towards = ball.direction(weights.T[farthest] - weights.T)
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
        epsilon, norm: the budget.
        steps: of ascent from each start.
        every_class: start from `x` and from the worst x' of each wrong class, and keep the best: at least as
            strong as `lower_bound`. Otherwise from `x` only, which is exact as W → 0, and cheaper.

    Returns:
        (N, m) in the budget. The losses there are lower bounds of g_ε.
    """
    weights, x, y = checked(weights, x, y)
    epsilon, ball = checked_budget(epsilon, norm)

    def slope(at):
        return _errors(weights, at, y) @ weights.T

    def climb(start):
        return full_step_ascent(slope, x, epsilon, ball, steps, start)

    best = climb(x)
    if not every_class:
        return best
    highest = losses(weights, best, y)
    for target in range(weights.shape[1]):
        found = climb(x + epsilon * ball.direction(weights[:, target] - weights.T[y]))
        reached = losses(weights, found, y)
        better = reached > highest
        best = np.where(better[:, np.newaxis], found, best)
        highest = np.where(better, reached, highest)
    return best


def epsilon_bound(weights: np.ndarray, x: np.ndarray, y: np.ndarray, norm: str) -> np.ndarray:
    """The paper's ε̄ for this W: beyond it, each example's loss is at least log K (appendix B.1).

    ε̄ = (log(K − 1) − (w_m − w_y)ᵀx)/‖w_m − w_y‖_q, m = argmax_j ‖w_j − w_y‖_q, here at least 0. It depends
    on W: for K > 2 it grows as 1/γ for γW, γ → 0. One ε̄ for all W is in `constant_classifier`.

    Returns:
        (N,); 0 where all columns of W are equal: the loss is log K at every ε.
    """
    weights, x, y = checked(weights, x, y)
    distances = distances_between_classes(weights, checked_budget(0.0, norm)[1])
    farthest = distances.argmax(axis=1)
    distance = distances.max(axis=1)[y]
    gap = np.log(weights.shape[1] - 1) - _relative_logits(weights, x, y)[np.arange(len(y)), farthest[y]]
    bound = np.divide(gap, distance, out=np.zeros(len(y)), where=distance > 0)
    return np.maximum(bound, 0.0)


def distances_between_classes(weights: np.ndarray, ball: Norm) -> np.ndarray:
    """Returns ‖w_j − w_k‖_q at [j, k], (K, K)."""
    return ball.dual(weights.T[:, np.newaxis] - weights.T[np.newaxis])


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
