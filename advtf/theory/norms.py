"""The l_p budgets of the theory and their dual norms, 1/p + 1/q = 1: p = ∞ with q = 1, and p = q = 2."""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

import numpy as np

from advtf.errors import UsageError, one_of


@dataclass(frozen=True)
class Norm:
    """One budget {δ : ‖δ‖_p ≤ ε}; every function works along the last axis.

    Attributes:
        name: "linf" or "l2".
        size: δ -> ‖δ‖_p.
        dual: w -> ‖w‖_q = max wᵀδ over ‖δ‖_p ≤ 1.
        direction: w -> a δ that attains it; 0 where w is 0, and in the coordinates (l∞) where w is 0.
        project: (δ, ε) -> the nearest point of the budget.
        euclidean: m -> max ‖δ‖₂ over ‖δ‖_p ≤ 1 in m dimensions.
    """

    name: str
    size: Callable[[np.ndarray], np.ndarray]
    dual: Callable[[np.ndarray], np.ndarray]
    direction: Callable[[np.ndarray], np.ndarray]
    project: Callable[[np.ndarray, float], np.ndarray]
    euclidean: Callable[[int], float]


def _length(vectors):
    return np.sqrt(np.sum(np.square(vectors), axis=-1))


def _unit(vectors):
    length = _length(vectors)[..., np.newaxis]
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def _shrink(delta, epsilon):
    length = _length(delta)[..., np.newaxis]
    return delta * np.minimum(1.0, np.divide(epsilon, length, out=np.ones_like(length), where=length > 0))


NORMS = {
    "linf": Norm(
        "linf",
        size=lambda delta: np.abs(delta).max(axis=-1),
        dual=lambda w: np.abs(w).sum(axis=-1),
        direction=np.sign,
        project=lambda delta, epsilon: np.clip(delta, -epsilon, epsilon),
        euclidean=np.sqrt,
    ),
    "l2": Norm("l2", size=_length, dual=_length, direction=_unit, project=_shrink, euclidean=lambda m: 1.0),
}


def get_norm(name: str) -> Norm:
    """Returns the norm "linf" or "l2".

    Raises:
        UsageError: another name.
    """
    return NORMS[one_of("norm", name, NORMS)]


def checked_budget(epsilon: float, norm: str) -> tuple[float, Norm]:
    """Returns the budget as (ε, its norm).

    Raises:
        UsageError: another norm, or an ε that is not a finite number of at least 0.
    """
    if not isinstance(epsilon, Real) or not 0 <= epsilon < float("inf"):
        raise UsageError(f"epsilon must be a finite number of at least 0. Received: epsilon={epsilon}.")
    return float(epsilon), get_norm(norm)
