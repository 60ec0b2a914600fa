"""The budgets ‖δ‖_p ≤ ε of the theory, their dual norms, and the ascent of a loss over a budget.

Dual norms have 1/p + 1/q = 1: q = 1 belongs to p = ∞, and q = 2 to p = 2. Perturbed inputs may leave [0, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from advtf.errors import one_of, require_real

InputGradient = Callable[[np.ndarray], np.ndarray]  # (N, m) -> (N, m), each row of its own example


@dataclass(frozen=True)
class Norm:
    """The geometry of one kind of budget {δ : ‖δ‖_p ≤ ε}; every function works along the last axis.

    Attributes:
        name: "linf" or "l2".
        size: δ -> ‖δ‖_p.
        dual: w -> ‖w‖_q = max wᵀδ over ‖δ‖_p ≤ 1.
        direction: w -> a δ that attains this maximum; it is 0 where w is 0, for l∞ in each coordinate.
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
    require_real("epsilon", epsilon, 0)
    return float(epsilon), get_norm(norm)


def projected_ascent(
    gradient: InputGradient,
    x: np.ndarray,
    epsilon: float,
    norm: str,
    *,
    steps: int,
    relative_step: float = 0.1,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """Ascends by PGD in float64, x' ← x + Π_ε(x' + step·direction(∇ₓ g(x')) − x).

    Args:
        gradient: of each example's loss with respect to that example.
        x: examples (N, m).
        epsilon: radius ε of the budget.
        norm: "linf" or "l2", the p of the budget.
        steps: number of steps.
        relative_step: length of a step as a fraction of ε. Defaults to 0.1.
        start: (N, m) inside the budget. Defaults to `x`.

    Returns:
        (N, m) in the budget.
    """
    epsilon, budget = checked_budget(epsilon, norm)
    x_adv = x if start is None else start
    for _ in range(steps):
        move = relative_step * epsilon * budget.direction(gradient(x_adv))
        x_adv = x + budget.project(x_adv + move - x, epsilon)
    return x_adv


def full_step_ascent(
    gradient: InputGradient, x: np.ndarray, epsilon: float, budget: Norm, steps: int, start: np.ndarray
) -> np.ndarray:
    """Ascends by x' ← x + ε·direction(∇ₓ g(x')); the loss g never falls where it is convex in x.

    Those of linear models are convex: g(x'ₙ) ≥ g(x') + ∇g(x')ᵀ(x'ₙ − x'), and the step maximises the
    right-hand side over the budget. No step length has to be chosen, and the extreme points of the budget
    are reached at once.

    Args:
        gradient: as in `projected_ascent`; where it is 0 the loss is lowest, and x' goes back to `x`.
        x: examples (N, m).
        epsilon: radius ε of the budget.
        budget: its norm.
        steps: number of steps.
        start: (N, m) inside the budget.

    Returns:
        (N, m) in the budget.
    """
    x_adv = start
    for _ in range(steps):
        x_adv = x + epsilon * budget.direction(gradient(x_adv))
    return x_adv
