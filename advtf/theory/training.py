"""Adversarial training of linear models: convex problems with kinks, solved by subgradient steps.

Every step uses the whole data set, so that the initial weights are the only randomness. Adam (Kingma & Ba
2015) gives every weight its own step length, and the lengths fall geometrically, without which the weights
would never come to rest at a kink.
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
        weights: W (m, K). Its columns sum to 0, as adding a vector to all columns changes no loss.
        epsilon: the ε it was trained for.
        loss: mean loss at the worst x' found by ascent, in nats; at most L_ε.
        loss_bound: mean `multiclass.upper_bound`, in nats; at least L_ε.
        iterations: number of training steps.
        last_change: ‖ΔW‖ of the last step. As the step lengths fall anyway, a small value proves no minimum:
            for small ε, where classes are nearly separable and the minimum is far, more iterations lower the
            loss.
    """

    weights: np.ndarray
    epsilon: float
    loss: float
    loss_bound: float
    iterations: int
    last_change: float

    @property
    def size(self) -> float:
        """The Frobenius norm ‖W‖."""
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
        x, y: examples (N, m), integer labels (N,).
        num_classes: K.
        epsilon: radius of the budget.
        norm: "linf" or "l2", the p of the budget.
        iterations: number of steps. Defaults to 500.
        ascent_steps: steps of `multiclass.worst_case` in each iteration; the final loss is computed with its
            defaults. Defaults to 2.
        seed: of the initial weights. Defaults to 0.
        report: called after each iteration. Defaults to None.
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
    """Minimises eq. 6 from random weights and returns w (m,).

    The arguments are those of `train_multiclass`, with labels ±1.
    """
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
    """Takes steps of Adam whose lengths fall geometrically from 0.1 to 1e-6.

    Args:
        gradient: point -> a gradient or subgradient, of the shape of `start`.
        start: the first point.
        iterations: number of steps, at least 1.
        project: applied to the start and after every step. Defaults to the identity.
        report: called after each iteration. Defaults to None.

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
