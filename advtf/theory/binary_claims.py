"""Numerical checks of eq. 6, Proposition 2 and Theorem 3, on logistic regression and on the scalar sketch."""

from collections.abc import Sequence

import numpy as np

from advtf.errors import UsageError
from advtf.theory import curvature, logistic, scalar
from advtf.theory.ascent import projected_ascent
from advtf.theory.claims import ROUNDING, Claim
from advtf.theory.norms import get_norm
from advtf.theory.smoothness import logistic_constants

AGREEMENT = 1e-6  # of a closed form and an ascent with many steps
ASCENT_STEPS = 200
LARGEST_NORM = 10.0  # of the w for which the bounds of Proposition 2 are checked
SMALLEST_DISTANCE = 1e-6  # of two of them: there the gradient's jump is all of the bound


def closed_form(w: np.ndarray, x: np.ndarray, y: np.ndarray, epsilons: dict[str, float], seed: int) -> Claim:
    """Compares eq. 6 with the losses that projected ascent reaches from random starts.

    Args:
        w, x, y: (m,), (N, m), ±1 (N,).
        epsilons: ε by norm.
        seed: of the starts.
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
        epsilons: (E,).
        theta: (T,), ascending.

    Returns:
        The claims, and the curves of figure 1: theta (T,), epsilons (E,), clean (T,), highest and lowest
        (E, T).
    """
    curves = {
        "theta": theta,
        "epsilons": np.asarray(epsilons, np.float64),
        "clean": scalar.loss(theta, x),
        "highest": np.array([scalar.highest_loss(theta, x, epsilon) for epsilon in epsilons]),
        "lowest": np.array([scalar.lowest_loss(theta, x, epsilon) for epsilon in epsilons]),
    }
    return [_sketch_claim(x, epsilon, theta) for epsilon in epsilons], curves


def _sketch_claim(x, epsilon, theta):
    constants = scalar.lipschitz(x, epsilon)
    distance = np.abs(theta[:, np.newaxis] - theta)
    loss, slope = scalar.highest_loss(theta, x, epsilon), scalar.gradient(theta, x, epsilon)
    changes = [np.abs(values[:, np.newaxis] - values) for values in (loss, slope)]
    bounds = [constants.loss_bound(distance), constants.gradient_bound(distance, epsilon)]
    ratios = [float((c[distance > 0] / b[distance > 0]).max()) for c, b in zip(changes, bounds, strict=True)]
    jump = float(scalar.gradient(0.0, x, epsilon, 1) - scalar.gradient(0.0, x, epsilon, -1))
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
        x, y: (N, m), ±1 (N,).
        epsilon, norm: the budget.
        pairs: their number.
        seed: of centres and offsets.
    """
    generator, dual = np.random.default_rng(seed), get_norm(norm).dual
    constants = logistic_constants(x, epsilon, norm, LARGEST_NORM)
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
        w, x, y: (m,), (N, m), ±1 (N,); w is right on every example.
        directions: (D, m).
        norm: of the budget.
        points: number of ε up to ε̂; the arrays go on to 2ε̂, where the theorem says nothing.

    Returns:
        The claims, and arrays: epsilons (2·points − 1,), separation, norms (2,) and curvatures
        (2, 2·points − 1, D), for the two scales.

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
        _curvature_claim(scale, curvature.curvature_growth(v, x, y, epsilons[:points], directions, norm))
        for scale, v in scales.items()
    ]
    claims += _with_moving_norm(w / size, x, y, epsilons[:points], directions, norm)
    grown = [curvature.curvature_growth(v, x, y, epsilons, directions, norm) for v in scales.values()]
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


def _with_moving_norm(w, x, y, epsilons, directions, norm):
    """The same for eq. 6, whose ‖w‖_q changes with w; the theorem takes it for a constant."""
    basis = curvature.tangents(w, norm)

    def along_tangents(*arguments):
        return basis.T @ logistic.hessian(*arguments) @ basis

    for where, hessian, chosen in (
        ("that keep ‖w‖_q", along_tangents, directions @ basis),
        ("of any kind", logistic.hessian, directions),
    ):
        growth = curvature.curvature_growth(w, x, y, epsilons, chosen, norm, hessian)
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
