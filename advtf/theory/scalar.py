"""The sketch of Proposition 2: g(x, θ) = log(1 + exp(θx)) with one weight θ and one input x.

Liu et al. 2020, appendix A.2; Figure 1 of the NeurIPS version, Figure 5 of the arXiv version: x = 1,
θ ∈ [−2, 2], ε = 0.6 and 1.2.
"""

import numpy as np

from advtf.theory.logistic import sigmoid
from advtf.theory.smoothness import STEEPEST, Lipschitz


def loss(theta: np.ndarray, x: float) -> np.ndarray:
    """Returns g(x, θ) = log(1 + exp(θx))."""
    return np.logaddexp(0.0, np.asarray(theta) * x)


def highest_loss(theta: np.ndarray, x: float, epsilon: float) -> np.ndarray:
    """Returns g_ε = max of g over |x' − x| ≤ ε = log(1 + exp(θx + ε|θ|)), attained at x' = x + ε sign(θ)."""
    return np.logaddexp(0.0, np.asarray(theta) * x + epsilon * np.abs(theta))


def lowest_loss(theta: np.ndarray, x: float, epsilon: float) -> np.ndarray:
    """Returns min of g over |x' − x| ≤ ε = log(1 + exp(θx − ε|θ|)), the band's other edge."""
    return np.logaddexp(0.0, np.asarray(theta) * x - epsilon * np.abs(theta))


def gradient(theta: np.ndarray, x: float, epsilon: float, side: int = 1) -> np.ndarray:
    """dg_ε/dθ = σ(θx')·x' at the worst x' = x + ε sign(θ).

    Args:
        side: +1 or −1: the one-sided derivative at θ = 0, where x' jumps by 2ε and the derivative by ε.
    """
    theta = np.asarray(theta, np.float64)
    worst = x + epsilon * np.where(theta == 0, side, np.sign(theta))
    return sigmoid(theta * worst) * worst


def lipschitz(x: float, epsilon: float) -> Lipschitz:
    """Constants of Assumption 1 over |x' − x| ≤ ε and all θ.

    With z = θx': |∂g/∂θ| = σ(z)|x'| < |x| + ε, |∂²g/∂θ²| = σ'(z)x'² ≤ (|x| + ε)²/4 and
    |∂²g/∂θ∂x| = |σ(z) + zσ'(z)| ≤ 1.0998.
    """
    reach = abs(x) + epsilon
    return Lipschitz(theta=reach, theta_theta=reach**2 / 4, theta_x=STEEPEST)
