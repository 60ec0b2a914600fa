"""The kink of the sketch, and the Lipschitz constants, against dense scans and finite differences."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from advtf.errors import UsageError
from advtf.theory import logistic, smoothness

NORMS = pytest.mark.parametrize("norm", ["linf", "l2"])
SKETCH = pytest.mark.parametrize("epsilon", [0.6, 1.2])
THETA = np.linspace(-2, 2, 81)


@SKETCH
def test_band_of_the_sketch_is_that_of_a_dense_scan(epsilon):
    inputs = np.linspace(1 - epsilon, 1 + epsilon, 2001)
    losses = np.log1p(np.exp(THETA[:, np.newaxis] * inputs))
    np.testing.assert_allclose(
        smoothness.sketch_highest_loss(THETA, 1.0, epsilon), losses.max(axis=1), atol=1e-12
    )
    np.testing.assert_allclose(
        smoothness.sketch_lowest_loss(THETA, 1.0, epsilon), losses.min(axis=1), atol=1e-12
    )
    np.testing.assert_allclose(smoothness.sketch_loss(THETA, 1.0), losses[:, 1000], atol=1e-12)


@SKETCH
def test_gradient_of_the_sketch_jumps_by_epsilon_at_zero(epsilon):
    away = THETA[THETA != 0]
    h = 1e-6
    numeric = (
        smoothness.sketch_highest_loss(away + h, 1.0, epsilon)
        - smoothness.sketch_highest_loss(away - h, 1.0, epsilon)
    ) / (2 * h)
    np.testing.assert_allclose(smoothness.sketch_gradient(away, 1.0, epsilon), numeric, atol=1e-8)
    right, left = (smoothness.sketch_gradient(0.0, 1.0, epsilon, side) for side in (1, -1))
    assert right == pytest.approx((smoothness.sketch_highest_loss(h, 1.0, epsilon) - np.log(2)) / h, abs=1e-5)
    assert left == pytest.approx((np.log(2) - smoothness.sketch_highest_loss(-h, 1.0, epsilon)) / h, abs=1e-5)
    assert right - left == pytest.approx(epsilon)
    assert (left < 0) == (epsilon > 1)  # beyond |x| the origin is the minimum, as in Theorem 1


def test_constants_of_the_sketch_are_the_largest_derivatives():
    slope = minimize_scalar(
        lambda z: -(logistic.sigmoid(z) + z * logistic.sigmoid(z) * logistic.sigmoid(-z)), bounds=(0, 10)
    )
    np.testing.assert_allclose(smoothness.STEEPEST, -slope.fun, rtol=1e-9)
    constants = smoothness.sketch_constants(1.0, 0.6)
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


def test_a_negative_norm_bounds_nothing():
    with pytest.raises(UsageError, match="largest_dual_norm"):
        smoothness.logistic_constants(np.ones((2, 3)), 0.1, "linf", -1.0)
