"""Maximisation of the loss over a budget, by gradients. No image range: x' may leave [0, 1]."""

from collections.abc import Callable

import numpy as np

from advtf.theory.norms import Norm, checked_budget

InputGradient = Callable[[np.ndarray], np.ndarray]  # (N, m) -> (N, m), each row of its own example


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
    """PGD in float64: x' ← x + Π_ε(x' + step·steepest(∇ₓ g) − x).

    Args:
        gradient: of each example's loss with respect to that example.
        x: (N, m).
        epsilon, norm: the budget.
        steps: how many.
        relative_step: step length as a fraction of ε.
        start: (N, m) inside the budget; default `x`.

    Returns:
        (N, m) in the budget.
    """
    epsilon, ball = checked_budget(epsilon, norm)
    x_adv = x if start is None else start
    for _ in range(steps):
        move = relative_step * epsilon * ball.direction(gradient(x_adv))
        x_adv = x + ball.project(x_adv + move - x, epsilon)
    return x_adv


def full_step_ascent(
    gradient: InputGradient, x: np.ndarray, epsilon: float, ball: Norm, steps: int, start: np.ndarray
) -> np.ndarray:
    """x' ← x + ε·direction(∇ₓ g(x')), whose loss never falls when g is convex in x, as that of linear models.

    Convexity gives g(x'ₙ) ≥ g(x') + ∇g(x')ᵀ(x'ₙ − x'), and the step maximises the right-hand side over the
    budget. No step length has to be chosen, and the budget's extreme points are reached at once.

    Args:
        gradient: as in `projected_ascent`; where it is 0 the loss is lowest, and x' goes back to `x`.
        x, start: (N, m).
        epsilon, ball: the budget.
        steps: how many.

    Returns:
        (N, m) in the budget.
    """
    x_adv = start
    for _ in range(steps):
        x_adv = x + epsilon * ball.direction(gradient(x_adv))
    return x_adv
