"""A loss that is Lipschitz with a gradient that jumps: Proposition 2, and the sketch that shows it.

Liu et al. 2020, Assumption 1 (eq. 2), Proposition 2 (eq. 3) and appendix A.2. `Lipschitz` holds the constants
and gives the two bounds of eq. 3. Two functions have such constants here: the mean loss of logistic
regression (`logistic_constants`), and the sketch of the paper's Figure 1 (Figure 5 of the arXiv version),
g(x, θ) = log(1 + exp(θx)) with one weight θ and one input x, for x = 1, θ ∈ [−2, 2], ε = 0.6 and 1.2.
"""

from dataclasses import dataclass

import numpy as np

from advtf.errors import require_real
from advtf.theory.logistic import sigmoid
from advtf.theory.norms import checked_budget

# The largest value of σ(z) + zσ'(z), where its derivative 2σ' + zσ'' = σ'(2 − z·tanh(z/2)) is 0. At −z it is
# 1 minus this value, which is the smallest.
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
    """Returns the constants of eq. 2 for logistic regression, in the mean over a data set.

    ∇_w g = −yσx' with σ ≤ 1 and σ' ≤ 1/4. With r_i = max ‖x'‖₂ over the budget of x_i this gives
    L_θ = mean r_i, L_θθ = mean r_i²/4, and L_θx = max ‖d‖₂ + R mean r_i/4 over ‖d‖_p ≤ 1.

    Args:
        x: examples (N, m).
        epsilon: radius of the budget.
        norm: "linf" or "l2", the p of the budget.
        largest_dual_norm: R, the largest ‖w‖_q that the bound is for.
    """
    epsilon, budget = checked_budget(epsilon, norm)
    require_real("largest_dual_norm", largest_dual_norm, 0.0)
    x = np.asarray(x, np.float64)
    reach = np.linalg.norm(x, axis=1) + epsilon
    if budget.name == "linf":  # the farthest corner
        reach = np.linalg.norm(np.abs(x) + epsilon, axis=1)
    slope = float(budget.euclidean(x.shape[1])) + largest_dual_norm * reach.mean() / 4
    return Lipschitz(float(reach.mean()), float(np.square(reach).mean()) / 4, slope)


def sketch_loss(theta: np.ndarray, x: float) -> np.ndarray:
    """Returns g(x, θ) = log(1 + exp(θx))."""
    return np.logaddexp(0.0, np.asarray(theta) * x)


def sketch_highest_loss(theta: np.ndarray, x: float, epsilon: float) -> np.ndarray:
    """Returns g_ε = log(1 + exp(θx + ε|θ|)), the maximum of g, attained at x' = x + ε sign(θ)."""
    return np.logaddexp(0.0, np.asarray(theta) * x + epsilon * np.abs(theta))


def sketch_lowest_loss(theta: np.ndarray, x: float, epsilon: float) -> np.ndarray:
    """Returns the minimum of g over |x' − x| ≤ ε, log(1 + exp(θx − ε|θ|)): the lower edge of the band."""
    return np.logaddexp(0.0, np.asarray(theta) * x - epsilon * np.abs(theta))


def sketch_gradient(theta: np.ndarray, x: float, epsilon: float, side: int = 1) -> np.ndarray:
    """Returns dg_ε/dθ = σ(θx')·x' at the worst x' = x + ε sign(θ).

    Args:
        theta: weights of any shape.
        x: the input.
        epsilon: radius of the budget.
        side: +1 or −1, which one-sided derivative to take at θ = 0, where x' jumps by 2ε and the derivative
            by ε. Defaults to +1.
    """
    theta = np.asarray(theta, np.float64)
    worst = x + epsilon * np.where(theta == 0, side, np.sign(theta))
    return sigmoid(theta * worst) * worst


def sketch_constants(x: float, epsilon: float) -> Lipschitz:
    """Returns the constants of Assumption 1 (eq. 2) for the sketch, over |x' − x| ≤ ε and all θ.

    With z = θx': |∂g/∂θ| = σ(z)|x'| < |x| + ε, |∂²g/∂θ²| = σ'(z)x'² ≤ (|x| + ε)²/4 and
    |∂²g/∂θ∂x| = |σ(z) + zσ'(z)| ≤ 1.0998.
    """
    reach = abs(x) + epsilon
    return Lipschitz(theta=reach, theta_theta=reach**2 / 4, theta_x=STEEPEST)
