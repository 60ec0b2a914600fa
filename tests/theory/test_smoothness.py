"""Kinks, bounds on changes, and the growth of curvature, against dense scans and finite differences."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from advtf.errors import UsageError
from advtf.theory import binary_claims, curvature, logistic, scalar, smoothness
from advtf.theory.training import train_logistic

NORMS = pytest.mark.parametrize("norm", ["linf", "l2"])
SKETCH = pytest.mark.parametrize("epsilon", [0.6, 1.2])
THETA = np.linspace(-2, 2, 81)


def separable(seed=0, examples=30, dimension=5):
    rng = np.random.default_rng(seed)
    w, x = rng.normal(size=dimension), rng.normal(size=(3 * examples, dimension))
    x = x[np.argsort(-np.abs(x @ w))][:examples]
    return w, x, np.sign(x @ w)


@SKETCH
def test_band_of_the_sketch_is_that_of_a_dense_scan(epsilon):
    inputs = np.linspace(1 - epsilon, 1 + epsilon, 2001)
    losses = np.log1p(np.exp(THETA[:, np.newaxis] * inputs))
    np.testing.assert_allclose(scalar.highest_loss(THETA, 1.0, epsilon), losses.max(axis=1), atol=1e-12)
    np.testing.assert_allclose(scalar.lowest_loss(THETA, 1.0, epsilon), losses.min(axis=1), atol=1e-12)
    np.testing.assert_allclose(scalar.loss(THETA, 1.0), losses[:, 1000], atol=1e-12)


@SKETCH
def test_gradient_of_the_sketch_jumps_by_epsilon_at_zero(epsilon):
    away = THETA[THETA != 0]
    h = 1e-6
    numeric = (scalar.highest_loss(away + h, 1.0, epsilon) - scalar.highest_loss(away - h, 1.0, epsilon)) / (
        2 * h
    )
    np.testing.assert_allclose(scalar.gradient(away, 1.0, epsilon), numeric, atol=1e-8)
    right, left = (scalar.gradient(0.0, 1.0, epsilon, side) for side in (1, -1))
    assert right == pytest.approx((scalar.highest_loss(h, 1.0, epsilon) - np.log(2)) / h, abs=1e-5)
    assert left == pytest.approx((np.log(2) - scalar.highest_loss(-h, 1.0, epsilon)) / h, abs=1e-5)
    assert right - left == pytest.approx(epsilon)
    assert (left < 0) == (epsilon > 1)  # beyond |x| the origin is the minimum, as in Theorem 1


def test_constants_of_the_sketch_are_the_largest_derivatives():
    slope = minimize_scalar(
        lambda z: -(logistic.sigmoid(z) + z * logistic.sigmoid(z) * logistic.sigmoid(-z)), bounds=(0, 10)
    )
    np.testing.assert_allclose(smoothness.STEEPEST, -slope.fun, rtol=1e-9)
    constants = scalar.lipschitz(1.0, 0.6)
    theta, x = np.meshgrid(np.linspace(-40, 40, 801), np.linspace(0.4, 1.6, 121))
    z, h = theta * x, 1e-4
    first = logistic.sigmoid(z) * x
    second = (logistic.sigmoid((theta + h) * x) * x - logistic.sigmoid((theta - h) * x) * x) / (2 * h)
    mixed = (logistic.sigmoid(theta * (x + h)) * (x + h) - logistic.sigmoid(theta * (x - h)) * (x - h)) / (
        2 * h
    )
    for derivative, constant in (
        (first, constants.theta),
        (second, constants.theta_theta),
        (mixed, constants.theta_x),
    ):
        assert 0.99 * constant <= np.abs(derivative).max() <= constant * (1 + 1e-6)


@SKETCH
def test_proposition_2_holds_on_the_sketch_and_only_with_its_second_term(epsilon):
    (claim,), curves = binary_claims.sketch(1.0, [epsilon], THETA)
    assert claim.holds
    assert 0.9 < claim.values["loss_ratio"] <= 1
    assert curves["highest"].shape == (1, 81)
    constants = scalar.lipschitz(1.0, epsilon)
    across = abs(scalar.gradient(1e-9, 1.0, epsilon) - scalar.gradient(-1e-9, 1.0, epsilon))
    assert constants.theta_theta * 2e-9 < across <= constants.gradient_bound(2e-9, epsilon)


@NORMS
def test_logistic_constants_bound_single_gradients(norm):
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(1, 4)), rng.normal(size=(2, 4))
    order, dual = (np.inf, 1) if norm == "linf" else (2, 2)
    radius = np.linalg.norm(w, ord=dual, axis=1).max()
    constants = smoothness.logistic_constants(x, 0.5, norm, radius)
    for _ in range(500):
        delta = rng.normal(size=(2, 4))
        delta *= 0.5 / np.linalg.norm(delta, ord=order, axis=1, keepdims=True)
        near, far = x + delta[:1], x + delta[1:]
        slopes = [logistic.gradient(w[0], at, np.ones(1), 0.0, norm) for at in (near, far)]
        apart = np.linalg.norm(near - far, ord=order)
        assert np.linalg.norm(slopes[1] - slopes[0]) <= constants.theta_x * apart + 1e-12
        other = logistic.gradient(w[1], near, np.ones(1), 0.0, norm)
        moved = np.linalg.norm(w[1] - w[0])
        assert np.linalg.norm(other - slopes[0]) <= constants.theta_theta * moved + 1e-12
        change = abs(np.diff([logistic.loss(v, near, np.ones(1), 0.0, norm) for v in w])[0])
        assert change <= constants.theta * moved + 1e-12


@NORMS
def test_proposition_2_holds_on_data(norm):
    _, x, y = separable(2)
    claim = binary_claims.bounded_changes(x, y, 0.3, norm, 60, seed=3)
    assert claim.holds
    assert 0.01 < claim.values["gradient_ratio"] <= 1
    with pytest.raises(UsageError, match="largest_dual_norm"):
        smoothness.logistic_constants(x, 0.1, norm, -1.0)


@NORMS
@pytest.mark.parametrize("size", [1.0, 20.0])
def test_theorem_3_in_100_random_directions(norm, size):
    w, x, y = separable(4)
    w = w * size / (np.abs(w).sum() if norm == "linf" else np.linalg.norm(w))
    limit = np.min(y * (x @ w)) / size
    assert logistic.separation(w, x, y, norm) == pytest.approx(limit)
    directions = curvature.random_directions(100, 5, 5)
    epsilons = np.linspace(0, limit, 15)
    growth = curvature.curvature_growth(w, x, y, epsilons, directions, norm)
    expected = []
    for epsilon in epsilons:  # eq. 29 as it is written, for ‖w‖_q = size
        margin = np.exp(y * (x @ w) - epsilon * size)
        weights = margin / (1 + margin) ** 2
        expected.append([(weights * (x @ m) ** 2).mean() for m in directions])
    np.testing.assert_allclose(growth.curvatures, expected, rtol=1e-10)
    assert np.all(np.diff(expected, axis=0) > 0)
    assert growth.grows().all()
    assert growth.grows_everywhere()
    assert np.all(np.diff(growth.largest) > 0)
    assert np.all(np.diff(growth.smallest) > 0)


def test_curvature_falls_beyond_the_separation():
    x, y = np.array([[1.0, 0.0], [0.0, 1.0]]), np.ones(2)
    w = np.array([0.5, 0.5])
    assert logistic.separation(w, x, y, "linf") == 0.5
    directions = np.eye(2)
    within = curvature.curvature_growth(w, x, y, [0, 0.25, 0.5], directions, "linf")
    beyond = curvature.curvature_growth(w, x, y, [0.5, 0.75, 1.0], directions, "linf")
    assert within.grows().all()
    assert within.grows_everywhere()
    assert not beyond.grows().any()
    assert not beyond.grows_everywhere()


@NORMS
def test_tangents_leave_the_norm_and_the_hessians_alone(norm):
    w, x, y = separable(6)
    basis = curvature.tangents(w, norm)
    np.testing.assert_allclose(basis.T @ basis, np.eye(4), atol=1e-14)
    size = (lambda v: np.abs(v).sum()) if norm == "linf" else np.linalg.norm
    for tangent in basis.T:
        assert (size(w + 1e-5 * tangent) - size(w - 1e-5 * tangent)) / 2e-5 == pytest.approx(0, abs=1e-9)
    full = basis.T @ logistic.hessian(w, x, y, 0.2, norm) @ basis
    fixed = basis.T @ logistic.fixed_norm_hessian(w, x, y, 0.2, norm) @ basis
    bend = np.zeros((4, 4))
    if norm == "l2":
        pull = 1 / (1 + np.exp(y * (x @ w) - 0.2 * np.linalg.norm(w)))
        bend = 0.2 * pull.mean() * np.eye(4) / np.linalg.norm(w)
    np.testing.assert_allclose(full, fixed + bend, atol=1e-14)


def test_claims_of_theorem_3_tell_eq_7_from_eq_6():
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(60, 6)), rng.choice([-1.0, 1.0], 60)
    x[:, 0] += 4 * y
    w = train_logistic(x, y, 0.3, "linf", iterations=200)
    directions = curvature.random_directions(100, 6, 8)
    claims, arrays = binary_claims.growing_curvature(w, x, y, directions, "linf", 6)
    assert [claim.holds for claim in claims] == [True, True, True, False]
    assert arrays["curvatures"].shape == (2, 11, 100)
    assert arrays["epsilons"][5] == pytest.approx(arrays["separation"])
    assert claims[3].values["growing"] < 100
    with pytest.raises(UsageError, match="right on every example"):
        binary_claims.growing_curvature(-w, x, y, directions, "linf", 6)


def test_random_directions_are_unit_vectors_of_their_seed():
    first, again, other = (curvature.random_directions(50, 7, seed) for seed in (1, 1, 2))
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert np.abs(first.mean(axis=0)).max() < 0.2
