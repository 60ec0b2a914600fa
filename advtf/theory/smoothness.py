"""Continuous loss, jumping gradient: the bounds of Proposition 2, with constants for logistic regression.

Liu et al. 2020, Assumption 1 (eq. 2) and Proposition 2 (eq. 3).
"""

from dataclasses import dataclass

import numpy as np

from advtf.errors import require_real
from advtf.theory.norms import checked_budget

# The largest value of σ(z) + zσ'(z), at the z with z·tanh(z/2) = 2; the smallest is 1 minus it, at −z.
STEEPEST = 1.0998393201288668


@dataclass(frozen=True)
class Lipschitz:
    """Constants of Assumption 1 (eq. 2) over the perturbed inputs.

    Attributes:
        theta: L_θ, of g in θ.
        theta_theta: L_θθ, of ∇θ g in θ.
        theta_x: L_θx, of ∇θ g in x, measured in the norm of the budget.
    """

    theta: float
    theta_theta: float
    theta_x: float

    def loss_bound(self, distance: np.ndarray) -> np.ndarray:
        """Returns L_θ‖θ₁ − θ₂‖ ≥ |L_ε(θ₁) − L_ε(θ₂)| (eq. 3, first line)."""
        return self.theta * distance

    def gradient_bound(self, distance: np.ndarray, epsilon: float) -> np.ndarray:
        """Returns L_θθ‖θ₁ − θ₂‖ + 2ε L_θx ≥ ‖∇L_ε(θ₁) − ∇L_ε(θ₂)‖ (eq. 3, second line)."""
        return self.theta_theta * distance + 2 * epsilon * self.theta_x


def logistic_constants(x: np.ndarray, epsilon: float, norm: str, largest_dual_norm: float) -> Lipschitz:
    """Constants of eq. 2 for logistic regression, in the mean over a data set.

    With r_i = max ‖x'‖₂ over the budget of x_i, ∇_w g = −yσx and σ ≤ 1, σ' ≤ 1/4: L_θ = mean r_i,
    L_θθ = mean r_i²/4, and L_θx = max ‖d‖₂ + R mean r_i/4 over ‖d‖_p ≤ 1.

    Args:
        x: (N, m).
        epsilon, norm: the budget.
        largest_dual_norm: R, the largest ‖w‖_q that the bound is for.
    """
    epsilon, ball = checked_budget(epsilon, norm)
    require_real("largest_dual_norm", largest_dual_norm, 0.0)
    x = np.asarray(x, np.float64)
    reach = np.linalg.norm(x, axis=1) + epsilon
    if ball.name == "linf":  # the farthest corner
        reach = np.linalg.norm(np.abs(x) + epsilon, axis=1)
    slope = float(ball.euclidean(x.shape[1])) + largest_dual_norm * reach.mean() / 4
    return Lipschitz(float(reach.mean()), float(np.square(reach).mean()) / 4, slope)
