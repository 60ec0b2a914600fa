"""When the constant classifier W = 0 is optimal in adversarial training (Liu et al. 2020, Theorem 1).

L_ε(W) is convex, so 0 is optimal exactly if no direction descends from it. There every x' of the budget is a
worst case, and the slope along W is the mean of max over x' of v_yᵀx', v_y = mean_j w_j − w_y. Hence

* W is in T_ε = {W : 0 ∈ argmin_γ L_ε(γW)} if and only if ε ≥ |Σ_i v_{y_i}ᵀx_i| / Σ_i ‖v_{y_i}‖_q;
* T_ε holds every W if and only if perturbations of size ε can make the sums of x over each class equal:
  ε ≥ ε̄ = min_c max_k ‖s_k − c‖_p / n_k, where class k has n_k examples with the sum s_k. For a single
  example ε̄ = ‖x‖_p.

The paper proves that an ε̄ exists with a bound that depends on W (`multiclass.epsilon_bound`); this is the
smallest ε̄ that serves every W. For l∞ it is max over classes j, k of ‖s_j − s_k‖_∞ / (n_j + n_k): half the
largest difference of two class means, where classes have equal sizes. Below ε̄ adversarial training of a
linear model without biases learns something; from ε̄ on its optimum is W = 0 and the loss log K. x' may leave
[0, 1].
"""

import numpy as np

from advtf.errors import UsageError
from advtf.theory.enclosing import Interval, smallest_growth
from advtf.theory.multiclass import checked
from advtf.theory.norms import get_norm


def radius(weights: np.ndarray, x: np.ndarray, y: np.ndarray, norm: str) -> float:
    """The smallest ε with W in T_ε, for the mean loss over a data set.

    Args:
        weights: W (m, K).
        x: (N, m).
        y: integers in [0, K), (N,).
        norm: "linf" or "l2", that of the budget.

    Returns:
        At least 0; 0 for a W that cannot help at any ε, as one with equal columns.
    """
    weights, x, y = checked(weights, x, y)
    pulls = _pulls(weights)[y]
    return float(_ratio(np.abs(np.sum(pulls * x)), get_norm(norm).dual(pulls).sum()))


def example_radii(weights: np.ndarray, x: np.ndarray, y: np.ndarray, norm: str) -> np.ndarray:
    """The smallest ε with W in T_ε of each example's own loss, as the paper defines T_ε, (N,)."""
    weights, x, y = checked(weights, x, y)
    pulls = _pulls(weights)[y]
    return _ratio(np.abs(np.sum(pulls * x, axis=1)), get_norm(norm).dual(pulls))


def example_thresholds(x: np.ndarray, norm: str) -> np.ndarray:
    """ε̄ of each example's own loss: ‖x‖_p, (N,).

    The budget then holds x' = 0, whose loss is log K at every W.
    """
    return get_norm(norm).size(np.asarray(x, np.float64))


def threshold(x: np.ndarray, y: np.ndarray, num_classes: int, norm: str) -> Interval:
    """ε̄ of the mean loss over a data set: min over c of max_k ‖s_k − c‖_p / n_k.

    Args:
        x: (N, m).
        y: integers (N,).
        num_classes: K, at least 2.
        norm: "linf", in closed form, or "l2", between two certified bounds.

    Raises:
        UsageError: a class without an example, or another norm.
    """
    sums, counts = class_sums(x, y, num_classes)
    if get_norm(norm).name == "l2":
        return smallest_growth(sums, counts)
    # Intervals on a line have a point in common if each two of them have, so pairs of classes decide.
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


def _pulls(weights):
    """v_k = mean_j w_j − w_k, (K, m): minus the ascent of the logit of class k over the mean logit."""
    return weights.mean(axis=1) - weights.T


def _ratio(numerator, denominator):
    return np.divide(numerator, denominator, out=np.zeros_like(denominator), where=denominator > 0)
