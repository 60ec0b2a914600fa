"""When the constant classifier W = 0 is optimal in adversarial training (Liu et al. 2020, Theorem 1).

L_ε(W) is convex, so 0 is optimal exactly if no direction descends from it. At W = 0 every x' of the budget is
a worst case, so the slope along W is the mean of max over x' of v_yᵀx', with v_y = mean_j w_j − w_y. Hence

* W is in T_ε = {W : 0 ∈ argmin_γ L_ε(γW)} if and only if ε ≥ |Σ_i v_{y_i}ᵀx_i| / Σ_i ‖v_{y_i}‖_q;
* T_ε holds every W if and only if perturbations of size ε can make the sums of x over each class equal:
  ε ≥ ε̄ = min_c max_k ‖s_k − c‖_p / n_k, where class k has n_k examples with the sum s_k. For a single
  example ε̄ = ‖x‖_p.

The paper proves that an ε̄ exists, with a bound that depends on W (`multiclass.epsilon_bound`); this is the
smallest ε̄ that serves every W. For l∞ it is max over classes j, k of ‖s_j − s_k‖_∞ / (n_j + n_k), which is
half the largest difference of two class means where classes have equal sizes. For l2 `smallest_growth` solves
the minimax problem between certified bounds. Below ε̄ adversarial training of a linear model without biases
learns something; from ε̄ on its optimum is W = 0 and the loss log K. x' may leave [0, 1].
"""

from dataclasses import dataclass

import numpy as np

from advtf.errors import UsageError
from advtf.theory.multiclass import checked
from advtf.theory.norms import get_norm

BISECTIONS = 60  # of the line search, which resolves its step to the rounding error of float64


@dataclass(frozen=True)
class Interval:
    """A value known to lie in [lower, upper].

    Attributes:
        lower, upper: both certified; equal for a closed form.
        iterations: the number it took; 0 for a closed form.
        converged: whether upper − lower is within the tolerance.
    """

    lower: float
    upper: float
    iterations: int = 0
    converged: bool = True


def radius(weights: np.ndarray, x: np.ndarray, y: np.ndarray, norm: str) -> float:
    """Returns the smallest ε with W in T_ε, for the mean loss over a data set.

    Args:
        weights: W (m, K).
        x: examples (N, m).
        y: labels (N,), integers in [0, K).
        norm: "linf" or "l2", the p of the budget.

    Returns:
        At least 0; it is 0 for a W that cannot help at any ε, such as one with equal columns.
    """
    weights, x, y = checked(weights, x, y)
    pulls = _pulls(weights)[y]
    return float(_ratio(np.abs(np.sum(pulls * x)), get_norm(norm).dual(pulls).sum()))


def threshold(x: np.ndarray, y: np.ndarray, num_classes: int, norm: str) -> Interval:
    """Returns ε̄ of the mean loss over a data set, min over c of max_k ‖s_k − c‖_p / n_k.

    Args:
        x: examples (N, m).
        y: labels (N,), integers.
        num_classes: K, at least 2.
        norm: "linf", which has a closed form, or "l2", which is solved between two certified bounds.

    Raises:
        UsageError: a class without an example, or another norm.
    """
    sums, counts = class_sums(x, y, num_classes)
    if get_norm(norm).name == "l2":
        return smallest_growth(sums, counts)
    # In each coordinate the budgets are intervals, which have a common point if every two of them have one.
    apart = np.abs(sums[:, np.newaxis] - sums[np.newaxis]).max(axis=2)
    value = float((apart / (counts[:, np.newaxis] + counts[np.newaxis])).max())
    return Interval(value, value)


def class_sums(x: np.ndarray, y: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sums s (K, m) of the examples of each class, and their numbers n (K,).

    Raises:
        UsageError: a class without an example.
    """
    _, x, y = checked(np.zeros((np.shape(x)[-1], num_classes)), x, y)
    counts = np.bincount(y, minlength=num_classes)
    if not counts.all():
        raise UsageError(
            f"every class needs an example. Received: none of class {counts.argmin()} of {num_classes}."
        )
    sums = np.zeros((num_classes, x.shape[1]))
    np.add.at(sums, y, x)
    return sums, counts


def smallest_growth(
    centres: np.ndarray, rates: np.ndarray, *, tolerance: float = 1e-9, max_iterations: int = 2000
) -> Interval:
    """Solves min_c max_j ‖s_j − c‖₂ / n_j, the ε at which l2 balls of radii n_j ε around s_j first meet.

    The square of the objective is solved through its dual, the maximum over λ in the simplex of
    min_c Σ_j λ_j ‖s_j − c‖²/n_j². Mass moves from the nearest centre that has some to the farthest (pairwise
    Frank-Wolfe), as far as an exact line search says. Every λ gives a lower bound of the minimum, and the c
    of that λ an upper one.

    Args:
        centres: s (K, m).
        rates: n (K,), positive: how fast each ball grows.
        tolerance: largest upper − lower relative to upper. Defaults to 1e-9.
        max_iterations: largest number of moves. Defaults to 2000.
    """
    scales = 1.0 / np.square(np.asarray(rates, np.float64))
    masses = np.full(len(centres), 1.0 / len(centres))
    lower, upper = 0.0, np.inf
    for iteration in range(max_iterations + 1):
        squares = _squares(centres, scales, masses)
        lower = max(lower, float(np.sqrt(masses @ squares)))
        upper = min(upper, float(np.sqrt(squares.max())))
        if upper - lower <= tolerance * upper:
            return Interval(min(lower, upper), upper, iteration)
        masses = _moved(centres, scales, masses, squares)
    return Interval(lower, upper, max_iterations, False)


def _squares(centres, scales, masses):
    """‖s_j − c‖²/n_j² at the best c of these masses."""
    pull = masses * scales
    return scales * np.square(centres - pull @ centres / pull.sum()).sum(axis=1)


def _moved(centres, scales, masses, squares):
    far, near = squares.argmax(), np.where(masses > 0, squares, np.inf).argmin()
    shift = np.zeros(len(masses))
    shift[far], shift[near] = 1.0, -1.0
    low, high = 0.0, masses[near]
    for _ in range(BISECTIONS):  # the dual is concave: its slope along the move falls
        middle = 0.5 * (low + high)
        at = _squares(centres, scales, masses + middle * shift)
        low, high = (middle, high) if at[far] > at[near] else (low, middle)
    if low >= (1 - 1e-12) * masses[near]:
        low = masses[near]  # all of it: exactly 0 is left
    return masses + low * shift


def _pulls(weights):
    """v_k = mean_j w_j − w_k, (K, m): minus the ascent of the logit of class k over the mean logit."""
    return weights.mean(axis=1) - weights.T


def _ratio(numerator, denominator):
    return np.divide(numerator, denominator, out=np.zeros_like(denominator), where=denominator > 0)
