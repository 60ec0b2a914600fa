"""The projections onto hyperplane and box against scipy, bisection and numbers by hand."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.fab import bisected, reach

from advtf.attacks.projections import project_l2, project_linf

NORMS = ("linf", "l2")
PROJECTIONS = {"linf": project_linf, "l2": project_l2}


def hyperplanes(n=24, dimension=7, seed=0):
    """Points, normals (some entries 0) and reachable changes of both signs, many with active box bounds."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(n, dimension)).astype(np.float32)
    x[::3, 0], x[1::3, 1] = 0, 1
    normal = rng.normal(size=(n, dimension)).astype(np.float32)
    normal[::4, 2] = 0
    furthest = np.where(np.arange(n) % 2, reach(x, normal), -reach(x, -normal))
    return x, normal, (furthest * rng.uniform(0.02, 0.98, n)).astype(np.float32)


def test_linf_projection_equals_a_linear_programme():
    optimize = pytest.importorskip("scipy.optimize")
    x, normal, change = hyperplanes()
    delta = project_linf(*map(tf.constant, (x, normal, change))).numpy().astype(np.float64)
    dimension = x.shape[1]
    for i in range(len(x)):
        # Variables δ and t: min t subject to −t <= δ_j <= t, ⟨normal, δ⟩ = change, −x <= δ <= 1 − x.
        eye, ones = np.eye(dimension), np.ones((dimension, 1))
        best = optimize.linprog(
            np.append(np.zeros(dimension), 1),
            A_ub=np.block([[eye, -ones], [-eye, -ones]]),
            b_ub=np.zeros(2 * dimension),
            A_eq=np.append(normal[i], 0)[None],
            b_eq=[change[i]],
            bounds=[(-v, 1 - v) for v in x[i].astype(np.float64)] + [(0, None)],
        )
        np.testing.assert_allclose(np.abs(delta[i]).max(), best.fun, atol=2e-6)
    check_feasible(x, normal, change, delta)


def test_l2_projection_equals_a_quadratic_programme():
    optimize = pytest.importorskip("scipy.optimize")
    x, normal, change = hyperplanes()
    delta = project_l2(*map(tf.constant, (x, normal, change))).numpy().astype(np.float64)
    for i in range(len(x)):
        row, needed = normal[i].astype(np.float64), float(change[i])
        best = optimize.minimize(
            lambda d: (d @ d, 2 * d),
            np.zeros(x.shape[1]),
            jac=True,
            method="SLSQP",
            bounds=[(-v, 1 - v) for v in x[i].astype(np.float64)],
            constraints={
                "type": "eq",
                "fun": lambda d, w=row, c=needed: w @ d - c,
                "jac": lambda d, w=row: w,
            },
            options={"ftol": 1e-14, "maxiter": 300},
        )
        np.testing.assert_allclose(delta[i] @ delta[i], best.fun, rtol=1e-4, atol=1e-7)
    check_feasible(x, normal, change, delta)


def check_feasible(x, normal, change, delta):
    np.testing.assert_allclose((normal * delta).sum(axis=1), change, atol=3e-6)
    assert (x + delta).min() >= -1e-6 and (x + delta).max() <= 1 + 1e-6
    assert (delta[normal == 0] == 0).all()
    # The oracle problems are worth solving only if the box matters.
    assert (np.isclose(x + delta, 0) | np.isclose(x + delta, 1)).any(axis=1).mean() > 0.5


@pytest.mark.parametrize("norm", NORMS)
def test_projection_in_many_dimensions_equals_bisection(norm):
    x, normal, change = hyperplanes(n=8, dimension=3072, seed=1)
    delta = PROJECTIONS[norm](*map(tf.constant, (x, normal, change))).numpy()
    np.testing.assert_allclose(delta, bisected(norm, x, normal, change), atol=3e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_projection_by_hand(norm):
    # Of the needed 0.5 the first pixel, at 0.9, can give 0.1; two others share the rest; the last is idle.
    x, normal = tf.constant([[0.9, 0.5, 0.5, 0.3]]), tf.constant([[1.0, -1.0, 1.0, 0.0]])
    delta = PROJECTIONS[norm](x, normal, tf.constant([0.5]))
    np.testing.assert_allclose(delta, [[0.1, -0.2, 0.2, 0.0]], atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_projection_of_special_hyperplanes(norm):
    x = tf.fill((4, 3), 0.25)
    normal = tf.constant([[1.0, -2.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [2e-30, -1e-30, 1e-30]])
    delta = PROJECTIONS[norm](x, normal, tf.constant([100.0, 0.0, 1.0, 1e-30])).numpy()
    # Out of reach: as far as the image range lets it.
    np.testing.assert_allclose(delta[0], [0.75, -0.25, 0.0], atol=1e-6)
    np.testing.assert_array_equal(delta[1:3], np.zeros((2, 3)))
    np.testing.assert_allclose(
        delta[3], np.array([1, -1, 1]) / 4 if norm == "linf" else [1 / 3, -1 / 6, 1 / 6]
    )
