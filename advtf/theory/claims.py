"""The statements of the paper as numerical checks, each of which returns a `Claim`.

The checks of Proposition 1 and Theorem 1 sample weights and follow adversarial training at growing ε. Those
of eq. 6, Proposition 2 and Theorem 3 are on logistic regression and on the sketch of Figure 1. The study
``theory`` runs all of them on digits.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from advtf.errors import UsageError
from advtf.theory import constant_classifier, logistic, multiclass, smoothness
from advtf.theory.logistic import ROUNDING
from advtf.theory.norms import get_norm, projected_ascent
from advtf.theory.training import TrainedLinear

VANISHED = 1e-3  # ‖W‖ relative to the largest of a sweep, which the last steps of training leave of W = 0
AT_ORIGIN = 1e-4  # loss − log K that they leave
SCALES = {"W": 1.0, "W/10": 0.1, "W/100": 0.01}
STEPS_ALONG = (1e-3, 1e-2, 0.1, 1.0, 10.0)
CLOSE = 0.02  # relative distance from a W's own ε at which its losses are looked at

AGREEMENT = 1e-6  # between a closed form and an ascent with many steps
ASCENT_STEPS = 200
LARGEST_NORM = 10.0  # of the w for which the bounds of Proposition 2 are checked
SMALLEST_DISTANCE = 1e-6  # between two of them, where the bound is all but the gradient's jump


@dataclass(frozen=True)
class Claim:
    """A statement and whether it holds numerically.

    Attributes:
        source: the equation, proposition or theorem.
        statement: it in words.
        holds: whether it holds on everything that was tried.
        measured: what was tried and found, as text.
        values: the numbers, for files.
    """

    source: str
    statement: str
    holds: bool
    measured: str
    values: dict = field(default_factory=dict)


def sampled_weights(trained: Sequence[TrainedLinear], each: int, seed: int) -> list[np.ndarray]:
    """Returns weights between trained and random ones: (1 − t)·Ŵ + t·G, both of norm 1, for t from 0 to 1.

    Args:
        trained: models, whose weights scaled to norm 1 are the Ŵ.
        each: number of t for each model.
        seed: of the random G.
    """
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
        weights: S matrices W (m, K).
        x, y: examples (N, m), labels (N,).
        epsilons: E radii, ascending.
        norm: "linf" or "l2", the p of the budget.

    Returns:
        The claims, and for each ε the share of the pairs (W, x) with W in V_ε, (E,).
    """
    members = multiclass.membership(weights, x, y, epsilons, norm)
    bounds = np.array([[multiclass.upper_bound(w, x, y, e, norm) for w in weights] for e in epsilons])
    highest, limit = float(bounds[members].max(initial=0.0)), float(np.log(weights[0].shape[1]))
    shares = members.mean(axis=(1, 2))
    claims = [
        Claim(
            "Prop. 1",
            "V_ε shrinks: each set of robust W holds the next",
            multiclass.is_nested(members) and bool(shares[0] > 0),
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
        compared: number of W for which the formula of T_ε is compared with losses along γW. Defaults to 20.

    Returns:
        The claims, and for each ε the share of the W in T_ε, (E,).
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
    """Compares the ε from which training fails with ε̄, which `constant_classifier.threshold` computes.

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


def closed_form(w: np.ndarray, x: np.ndarray, y: np.ndarray, epsilons: dict[str, float], seed: int) -> Claim:
    """Compares eq. 6 with the losses that projected ascent reaches from random starts.

    Args:
        w, x, y: weights (m,), examples (N, m), labels ±1 (N,).
        epsilons: the radius ε for each norm by its name.
        seed: of the random starts.
    """
    differences = {norm: _difference(w, x, y, epsilon, norm, seed) for norm, epsilon in epsilons.items()}
    worst = max(differences.values())
    return Claim(
        "eq. 6",
        f"closed form equals the loss after {ASCENT_STEPS} steps of PGD",
        worst <= AGREEMENT,
        f"largest difference {worst:.1e} over {len(x)} examples, {' and '.join(epsilons)}",
        {"largest_difference": differences, "epsilon": epsilons},
    )


def _difference(w, x, y, epsilon, norm, seed):
    noise = np.random.default_rng(seed).uniform(-epsilon, epsilon, x.shape)
    start = x + get_norm(norm).project(noise, epsilon)

    def slope(at):
        return logistic.input_gradient(w, at, y)

    found = projected_ascent(slope, x, epsilon, norm, steps=ASCENT_STEPS, start=start)
    reached = logistic.losses(w, found, y, 0.0, norm)
    return float(np.abs(logistic.losses(w, x, y, epsilon, norm) - reached).max())


def sketch(
    x: float, epsilons: Sequence[float], theta: np.ndarray
) -> tuple[list[Claim], dict[str, np.ndarray]]:
    """Checks Proposition 2 on g = log(1 + exp(θx)) for all pairs of θ, and the kink at 0.

    Args:
        x: the input.
        epsilons: E radii.
        theta: weights (T,), ascending.

    Returns:
        The claims, and the curves of Figure 1: theta (T,), epsilons (E,), clean (T,), highest and lowest
        (E, T).
    """
    curves = {
        "theta": theta,
        "epsilons": np.asarray(epsilons, np.float64),
        "clean": smoothness.sketch_loss(theta, x),
        "highest": np.array([smoothness.sketch_highest_loss(theta, x, epsilon) for epsilon in epsilons]),
        "lowest": np.array([smoothness.sketch_lowest_loss(theta, x, epsilon) for epsilon in epsilons]),
    }
    return [_sketch_claim(x, epsilon, theta) for epsilon in epsilons], curves


def _sketch_claim(x, epsilon, theta):
    constants = smoothness.sketch_constants(x, epsilon)
    distance = np.abs(theta[:, np.newaxis] - theta)
    loss, slope = (
        smoothness.sketch_highest_loss(theta, x, epsilon),
        smoothness.sketch_gradient(theta, x, epsilon),
    )
    changes = [np.abs(values[:, np.newaxis] - values) for values in (loss, slope)]
    bounds = [constants.loss_bound(distance), constants.gradient_bound(distance, epsilon)]
    ratios = [float((c[distance > 0] / b[distance > 0]).max()) for c, b in zip(changes, bounds, strict=True)]
    jump = float(
        smoothness.sketch_gradient(0.0, x, epsilon, 1) - smoothness.sketch_gradient(0.0, x, epsilon, -1)
    )
    return Claim(
        "Prop. 2",
        f"sketch, ε = {epsilon:g}: loss and gradient change within the bounds; the gradient jumps by ε at 0",
        max(ratios) <= 1 and abs(jump - epsilon) <= ROUNDING,
        f"at most {ratios[0]:.2f} and {ratios[1]:.2f} of the bounds; jump {jump:.4g}",
        {"epsilon": epsilon, "loss_ratio": ratios[0], "gradient_ratio": ratios[1], "jump": jump},
    )


def bounded_changes(x: np.ndarray, y: np.ndarray, epsilon: float, norm: str, pairs: int, seed: int) -> Claim:
    """Checks Proposition 2 on L_ε of logistic regression, for pairs of w of all distances, ‖w‖_q ≤ 10.

    Each pair is ±d/2 around a random centre; every other centre is the kink w = 0.

    Args:
        x, y: examples (N, m), labels ±1 (N,).
        epsilon: radius of the budget.
        norm: "linf" or "l2", the p of the budget.
        pairs: number of pairs.
        seed: of their centres and offsets.
    """
    generator, dual = np.random.default_rng(seed), get_norm(norm).dual
    constants = smoothness.logistic_constants(x, epsilon, norm, LARGEST_NORM)
    ratios = []
    for number, distance in enumerate(np.geomspace(2 * LARGEST_NORM, SMALLEST_DISTANCE, pairs)):
        centre, offset = generator.normal(size=(2, x.shape[1]))
        offset *= 0.5 * distance / dual(offset)
        centre *= (number % 2) * generator.uniform() * (LARGEST_NORM - 0.5 * distance) / dual(centre)
        ends = [(w, x, y, epsilon, norm) for w in (centre - offset, centre + offset)]
        loss, slope = (np.array([f(*end) for end in ends]) for f in (logistic.loss, logistic.gradient))
        apart = np.linalg.norm(2 * offset)
        ratios.append(
            (
                abs(loss[1] - loss[0]) / constants.loss_bound(apart),
                np.linalg.norm(slope[1] - slope[0]) / constants.gradient_bound(apart, epsilon),
            )
        )
    of_loss, of_gradient = np.max(ratios, axis=0).tolist()
    return Claim(
        "Prop. 2",
        "logistic regression: loss and gradient change within the bounds",
        max(of_loss, of_gradient) <= 1,
        f"at most {of_loss:.2f} and {of_gradient:.2f} of the bounds, {pairs} pairs",
        {"epsilon": epsilon, "loss_ratio": of_loss, "gradient_ratio": of_gradient},
    )


def growing_curvature(
    w: np.ndarray, x: np.ndarray, y: np.ndarray, directions: np.ndarray, norm: str, points: int
) -> tuple[list[Claim], dict[str, np.ndarray]]:
    """Checks Theorem 3 at a separating w, for ε from 0 to ε̂, with ‖w‖_q scaled to 1 and as it is.

    Args:
        w, x, y: weights (m,), examples (N, m), labels ±1 (N,); w must be right on every example.
        directions: (D, m).
        norm: "linf" or "l2", the p of the budget.
        points: number of ε from 0 to ε̂. The arrays go on to 2ε̂, where the theorem says nothing.

    Returns:
        The claims, and the arrays epsilons (2·points − 1,), separation (), norms (2,) and curvatures
        (2, 2·points − 1, D), the last two for the two scales of w.

    Raises:
        UsageError: w is wrong on an example.
    """
    separation = logistic.separation(w, x, y, norm)
    if separation <= 0:
        raise UsageError(f"w must be right on every example. Received: separation={separation:.4g}.")
    epsilons = np.linspace(0, 2 * separation, 2 * points - 1)
    size = float(get_norm(norm).dual(w))
    scales = {1.0: w / size, size: w}
    claims = [
        _curvature_claim(scale, logistic.curvature_growth(v, x, y, epsilons[:points], directions, norm))
        for scale, v in scales.items()
    ]
    claims += _with_moving_norm(w / size, x, y, epsilons[:points], directions, norm)
    grown = [logistic.curvature_growth(v, x, y, epsilons, directions, norm) for v in scales.values()]
    arrays = {
        "epsilons": epsilons,
        "separation": np.float64(separation),
        "norms": np.array(list(scales)),
        "curvatures": np.array([growth.curvatures for growth in grown]),
    }
    return claims, arrays


def _curvature_claim(scale, growth):
    growing, factors = growth.grows(), growth.curvatures[-1] / growth.curvatures[0]
    return Claim(
        "Theorem 3",
        f"‖w‖_q = {scale:.3g}: curvature grows with ε ≤ ε̂ in every direction, as do λ_max and λ_min",
        bool(growing.all() and growth.grows_everywhere()),
        f"{_count(growing)}, × {factors.min():.4g} to {factors.max():.4g} from 0 to ε̂; "
        f"∇²L grows as a matrix: {_yes(growth.grows_everywhere())}",
        {"norm": scale, "growing": int(growing.sum()), "directions": growing.size, "factors": factors},
    )


def _with_moving_norm(w, x, y, epsilons, directions, norm) -> Iterator[Claim]:
    """Checks the same for eq. 6, whose ‖w‖_q changes with w, while the theorem takes it for a constant."""
    basis = logistic.tangents(w, norm)

    def along_tangents(*arguments):
        return basis.T @ logistic.hessian(*arguments) @ basis

    for where, hessian, chosen in (
        ("that keep ‖w‖_q", along_tangents, directions @ basis),
        ("of any kind", logistic.hessian, directions),
    ):
        growth = logistic.curvature_growth(w, x, y, epsilons, chosen, norm, hessian)
        growing = growth.grows()
        yield Claim(
            "Th. 3, eq. 6",
            f"the same where ‖w‖_q changes with w, in directions {where}",
            bool(growing.all() and growth.grows_everywhere()),
            f"{_count(growing)}; ∇²L grows as a matrix: {_yes(growth.grows_everywhere())}",
            {"growing": int(growing.sum()), "directions": growing.size},
        )


def _count(growing):
    return f"{growing.sum()} of {growing.size} random directions"


def _yes(truth):
    return "yes" if truth else "no"
