"""Adversarial training of linear models: convex problems with kinks, solved by subgradient steps.

Full batches, so the only randomness is the initial weights. Adam (Kingma & Ba 2015) gives every weight its
own step length; the lengths fall geometrically, which near a kink is what lets the weights come to rest.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from advtf.errors import require_whole
from advtf.theory import logistic, multiclass
from advtf.theory.norms import checked_budget

FIRST_STEP, LAST_STEP = 0.1, 1e-6
INITIAL_SCALE = 0.1  # standard deviation of the initial weights
MEMORY, SQUARED_MEMORY = 0.9, 0.99
Report = Callable[[], object]


@dataclass(frozen=True, eq=False)
class TrainedLinear:
    """A linear model of K classes after adversarial training.

    Attributes:
        weights: (m, K). Their columns sum to 0: adding a vector to all columns changes no loss.
        epsilon: that it was trained for.
        loss: mean loss at the worst x' found by ascent, at most L_ε.
        loss_bound: mean `multiclass.upper_bound`, at least L_ε.
        iterations: of training.
        last_change: ‖ΔW‖ of the last one. Steps fall anyway, so a small one proves no minimum: for small ε,
            where classes are nearly separable and the minimum is far, more iterations lower the loss.
    """

    weights: np.ndarray
    epsilon: float
    loss: float
    loss_bound: float
    iterations: int
    last_change: float

    @property
    def size(self) -> float:
        """‖W‖, Frobenius."""
        return float(np.linalg.norm(self.weights))


def train_multiclass(
    x: np.ndarray,
    y: np.ndarray,
    num_classes: int,
    epsilon: float,
    norm: str,
    *,
    iterations: int = 500,
    ascent_steps: int = 2,
    seed: int = 0,
    report: Report | None = None,
) -> TrainedLinear:
    """Minimises L_ε(W) from random weights; the worst x' of each iteration is found by ascent from x.

    Args:
        x, y: (N, m), (N,) integers.
        num_classes: K.
        epsilon, norm: the budget.
        iterations: over the whole data set.
        ascent_steps: of `multiclass.worst_case` in each iteration; the final loss takes more and more starts.
        seed: of the initial weights.
        report: called after each iteration.
    """
    checked_budget(epsilon, norm)
    start = INITIAL_SCALE * np.random.default_rng(seed).normal(size=(np.shape(x)[-1], num_classes))

    def subgradient(weights):
        search = {"steps": ascent_steps, "every_class": False}
        return multiclass.gradient(weights, multiclass.worst_case(weights, x, y, epsilon, norm, **search), y)

    weights, last_change = descend(subgradient, start, iterations, project=_centred, report=report)
    worst = multiclass.worst_case(weights, x, y, epsilon, norm)
    return TrainedLinear(
        weights,
        float(epsilon),
        float(multiclass.losses(weights, worst, y).mean()),
        float(multiclass.upper_bound(weights, x, y, epsilon, norm).mean()),
        iterations,
        last_change,
    )


def train_logistic(
    x: np.ndarray,
    y: np.ndarray,
    epsilon: float,
    norm: str,
    *,
    iterations: int = 500,
    seed: int = 0,
    report: Report | None = None,
) -> np.ndarray:
    """Minimises eq. 6 from random weights, and returns w (m,); arguments as in `train_multiclass`, y ±1."""
    start = INITIAL_SCALE * np.random.default_rng(seed).normal(size=np.shape(x)[-1])
    return descend(lambda w: logistic.gradient(w, x, y, epsilon, norm), start, iterations, report=report)[0]


def descend(
    gradient: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    iterations: int,
    *,
    project: Callable[[np.ndarray], np.ndarray] = lambda point: point,
    report: Report | None = None,
) -> tuple[np.ndarray, float]:
    """Adam with steps that fall geometrically from 0.1 to 1e-6.

    Args:
        gradient: or a subgradient, of the shape of `start`.
        start: where to begin.
        iterations: at least 1.
        project: applied to the start and after every step.
        report: called after each iteration.

    Returns:
        The last point, and the l2 norm of the last step.
    """
    require_whole("iterations", iterations)
    point = project(start)
    mean, square, change = np.zeros_like(point), np.zeros_like(point), np.zeros_like(point)
    for done in range(iterations):
        slope = gradient(point)
        mean += (1 - MEMORY) * (slope - mean)
        square += (1 - SQUARED_MEMORY) * (np.square(slope) - square)
        length = FIRST_STEP * (LAST_STEP / FIRST_STEP) ** (done / iterations)
        direction = mean / (1 - MEMORY ** (done + 1))
        spread = np.sqrt(square / (1 - SQUARED_MEMORY ** (done + 1)))
        moved = project(point - length * direction / (spread + np.finfo(np.float64).tiny))
        point, change = moved, moved - point
        if report is not None:
            report()
    return point, float(np.linalg.norm(change))


def _centred(weights):
    return weights - weights.mean(axis=1, keepdims=True)
