"""The smallest growth at which balls around given centres meet: min over c of max_j ‖s_j − c‖₂ / n_j."""

from dataclasses import dataclass

import numpy as np

BISECTIONS = 60  # a step length to the rounding errors of float64


@dataclass(frozen=True)
class Interval:
    """A value known to lie in [lower, upper].

    Attributes:
        lower, upper: both certified; equal for a closed form.
        iterations: that it took; 0 for a closed form.
        converged: whether upper − lower is within the tolerance asked for.
    """

    lower: float
    upper: float
    iterations: int = 0
    converged: bool = True


def smallest_growth(
    centres: np.ndarray, rates: np.ndarray, *, tolerance: float = 1e-9, max_iterations: int = 2000
) -> Interval:
    """Solves min_c max_j ‖s_j − c‖₂ / n_j through its dual.

    max over λ in the simplex of min_c Σ_j λ_j ‖s_j − c‖²/n_j², by moving mass from the nearest centre that
    has some to the farthest (pairwise Frank-Wolfe) with exact line search. Every λ gives a lower bound, the
    c of that λ an upper one.

    Args:
        centres: s (K, m).
        rates: n (K,), positive: how fast each ball grows.
        tolerance: of upper − lower, relative to upper.
        max_iterations: of moves.
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
