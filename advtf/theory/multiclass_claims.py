"""Numerical checks of Proposition 1 and Theorem 1: sampled weights, and adversarial training at growing ε."""

from collections.abc import Sequence

import numpy as np

from advtf.theory import constant_classifier, multiclass, version_space
from advtf.theory.claims import ROUNDING, Claim
from advtf.theory.training import TrainedLinear

VANISHED = 1e-3  # ‖W‖ relative to the largest of a sweep: what the last steps of training leave of W = 0
AT_ORIGIN = 1e-4  # loss − log K that they leave
SCALES = {"W": 1.0, "W/10": 0.1, "W/100": 0.01}
STEPS_ALONG = (1e-3, 1e-2, 0.1, 1.0, 10.0)
CLOSE = 0.02  # relative: how close to a W's own ε its losses are looked at


def sampled_weights(trained: Sequence[TrainedLinear], each: int, seed: int) -> list[np.ndarray]:
    """Weights from trained to random: (1 − t)·Ŵ + t·G, both of norm 1, t from 0 to 1; `each` per model."""
    generator = np.random.default_rng(seed)
    found = []
    for model in trained:
        for share in np.linspace(0, 1, each):
            noise = generator.normal(size=model.weights.shape)
            mixed = (1 - share) * model.weights / model.size + share * noise / np.linalg.norm(noise)
            found.append(mixed)
    return found


def shrinking_version_space(
    weights: Sequence[np.ndarray], x: np.ndarray, y: np.ndarray, epsilons: Sequence[float], norm: str
) -> tuple[list[Claim], np.ndarray]:
    """Checks Proposition 1, and g_ε ≤ log K inside V_ε, for sampled W and each example's own V_ε.

    Args:
        weights: W (m, K), S of them.
        x, y: (N, m), (N,).
        epsilons: E radii, ascending.
        norm: of the budget.

    Returns:
        The claims, and the share of the pairs (W, x) with W in V_ε, (E,).
    """
    members = version_space.membership(weights, x, y, epsilons, norm)
    bounds = np.array([[multiclass.upper_bound(w, x, y, e, norm) for w in weights] for e in epsilons])
    highest, limit = float(bounds[members].max(initial=0.0)), float(np.log(weights[0].shape[1]))
    shares = members.mean(axis=(1, 2))
    claims = [
        Claim(
            "Prop. 1",
            "V_ε shrinks: each set of robust W holds the next",
            version_space.nested(members) and bool(shares[0] > 0),
            f"{len(weights)} W × {len(x)} examples, {len(epsilons)} ε; "
            f"in V_ε {100 * shares[0]:.0f} % → {100 * shares[-1]:.2g} %",
            {"first_share": shares[0], "last_share": shares[-1]},
        ),
        Claim(
            "Prop. 1",
            "g_ε ≤ log K for every W in V_ε",
            highest <= limit * (1 + ROUNDING),
            f"highest {highest:.4f}, log K {limit:.4f}",
            {"highest": highest, "log_classes": limit},
        ),
    ]
    return claims, shares


def growing_directions(
    weights: Sequence[np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
    epsilons: Sequence[float],
    norm: str,
    *,
    threshold: float,
    compared: int = 20,
) -> tuple[list[Claim], np.ndarray]:
    """Checks that T_ε, the directions in which the origin is optimal, grows with ε until it holds every W.

    Args:
        weights, x, y, epsilons, norm: as in `shrinking_version_space`; T_ε is that of the mean loss.
        threshold: ε̄ of the data set.
        compared: for so many of the W the formula for T_ε is compared with losses along γW.

    Returns:
        The claims, and the share of the W in T_ε, (E,).
    """
    radii = np.array([constant_classifier.radius(w, x, y, norm) for w in weights])
    chosen = np.linspace(0, len(weights) - 1, min(compared, len(weights))).astype(int)
    agree = [_radius_agrees(weights[index], x, y, radii[index], norm) for index in chosen]
    claims = [
        Claim(
            "Theorem 1",
            "T_ε grows: from its own ε on, the loss along ±γW never falls under log K",
            all(agree),
            f"{sum(agree)} of {len(agree)} W, at {100 * CLOSE:g} % below and above their ε",
            {"agree": sum(agree), "compared": len(agree)},
        ),
        Claim(
            "Theorem 1",
            "from ε̄ on T_ε holds every W",
            bool(radii.max() <= threshold * (1 + ROUNDING)),
            f"ε̄ = {threshold:.4f}; the last of {len(radii)} W enters at {radii.max():.4f}",
            {"threshold": threshold, "largest_radius": radii.max()},
        ),
    ]
    return claims, np.mean(radii <= np.asarray(epsilons)[:, np.newaxis], axis=1)


def _radius_agrees(weights, x, y, radius, norm):
    weights = weights / np.linalg.norm(weights)
    limit = np.log(weights.shape[1])

    def lowest(epsilon):
        points = [sign * step * weights for step in STEPS_ALONG for sign in (1, -1)]
        worst = [multiclass.worst_case(w, x, y, epsilon, norm, every_class=False) for w in points]
        return min(multiclass.losses(w, at, y).mean() for w, at in zip(points, worst, strict=True))

    return bool(lowest((1 - CLOSE) * radius) < limit <= lowest((1 + CLOSE) * radius))


def constant_beyond(trained: Sequence[TrainedLinear], threshold: float) -> list[Claim]:
    """Compares where training fails with ε̄, which `constant_classifier.threshold` computes from the data.

    Args:
        trained: models at ascending ε, on both sides of ε̄.
        threshold: ε̄.
    """
    limit = np.log(trained[0].weights.shape[1])
    below = [model for model in trained if model.epsilon < threshold]
    last, last_gap = below[-1], below[-1].loss - limit
    certified = max((model.epsilon for model in below if model.loss_bound < limit), default=None)
    beyond = [model for model in trained if model.epsilon > threshold]
    size, gaps = max(model.size for model in beyond), [model.loss - limit for model in beyond]
    vanished = size <= VANISHED * max(model.size for model in trained)
    return [
        Claim(
            "Theorem 1",
            "below ε̄ adversarial training learns: its loss falls under log K",
            all(model.loss < limit for model in below),
            f"at ε = {last.epsilon:.4f}: ‖W‖ {last.size:.2g}, loss by ascent − log K {last_gap:.1e}",
            {"epsilon": last.epsilon, "norm": last.size, "gap": last_gap, "certified_up_to": certified},
        ),
        Claim(
            "Theorem 1",
            "beyond ε̄ it gives the constant classifier: W → 0, loss → log K",
            bool(vanished and min(gaps) >= 0 and max(gaps) <= AT_ORIGIN),
            f"from ε = {beyond[0].epsilon:.4f} on: ‖W‖ {size:.1e}, loss − log K {max(gaps):.1e} at most",
            {"epsilon": beyond[0].epsilon, "norm": size, "gap": max(gaps)},
        ),
    ]


def bound_of_the_proof(trained: Sequence[TrainedLinear], x: np.ndarray, y: np.ndarray, norm: str) -> Claim:
    """Checks g_ε ≥ log K at the paper's ε̄(x, W), for each example and model, and follows it as W → 0."""
    limit, lowest = np.log(trained[0].weights.shape[1]), np.inf
    for weights in (model.weights for model in trained):
        for index, epsilon in enumerate(multiclass.epsilon_bound(weights, x, y, norm)):
            example = slice(index, index + 1)
            lowest = min(lowest, multiclass.lower_bound(weights, x[example], y[example], epsilon, norm)[0])
    scaled = {name: trained[0].weights * scale for name, scale in SCALES.items()}
    means = {name: float(multiclass.epsilon_bound(w, x, y, norm).mean()) for name, w in scaled.items()}
    return Claim(
        "Theorem 1",
        "at the bound of its proof, ε̄(x, W), the loss is at least log K",
        bool(lowest >= limit * (1 - ROUNDING)),
        f"{len(trained) * len(x)} pairs; it depends on W: "
        + ", ".join(f"{mean:.3g} at {name}" for name, mean in means.items()),
        {"lowest": lowest, "log_classes": limit, "mean_bound": means},
    )
