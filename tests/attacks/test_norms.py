"""Norms: uniform sampling, dual-norm steps and projections against closed forms and random search."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.attack import norms, seed
from scipy.stats import kstest

from advtf.attacks.norms import NORMS as KNOWN
from advtf.attacks.norms import get_norm
from advtf.errors import UsageError

NORMS = sorted(KNOWN)


def gaussian(shape, number=0):
    return np.random.default_rng(number).normal(size=shape).astype(np.float32)


def test_linf_points_are_uniform_in_the_cube():
    points = get_norm("linf").random_point(tf.constant([4000, 1, 1, 3]), 0.3, seed(1, 2)).numpy()
    assert np.abs(points).max() <= 0.3
    for coordinate in points.reshape(4000, 3).T:  # 1.63/√n is the 1% level of the Kolmogorov-Smirnov test
        assert kstest(coordinate, lambda v: (v + 0.3) / 0.6).statistic < 1.63 / np.sqrt(4000)
    assert np.abs(np.corrcoef(points.reshape(4000, 3).T) - np.eye(3)).max() < 0.06


@pytest.mark.parametrize("dimension", [1, 2, 7])
def test_l2_points_are_uniform_in_the_ball(dimension):
    points = get_norm("l2").random_point(tf.constant([4000, dimension, 1, 1]), 2.0, seed(3, 4)).numpy()
    radii = norms("l2", points)
    assert radii.max() <= 2.0 * (1 + 1e-6)
    assert kstest(radii, lambda r: (r / 2.0) ** dimension).statistic < 1.63 / np.sqrt(4000)
    directions = points.reshape(4000, -1) / radii[:, None]
    assert np.abs(directions.mean(axis=0)).max() < 0.06
    assert np.abs(directions.T @ directions / 4000 - np.eye(dimension) / dimension).max() < 0.06
    # Direction and length are independent: the outer half of the ball has no preferred side.
    outer = directions[radii > np.median(radii)]
    assert np.abs(outer.mean(axis=0)).max() < 0.09


@pytest.mark.parametrize("norm", NORMS)
def test_random_points_depend_on_the_seed_only(norm):
    draw = get_norm(norm).random_point
    shape = tf.constant([3, 4, 4, 2])
    first = draw(shape, 0.5, seed(1, 2)).numpy()
    np.testing.assert_array_equal(first, draw(shape, 0.5, seed(1, 2)))
    np.testing.assert_allclose(draw(shape, 1.0, seed(1, 2)), 2 * first, rtol=1e-6)
    for other in (seed(1, 3), seed(2, 2), seed(2, 1)):
        assert np.abs(first - draw(shape, 0.5, other)).min() > 0


@pytest.mark.parametrize("norm", NORMS)
def test_steepest_step_is_the_dual_norm_maximiser(norm):
    gradient = gaussian((5, 3, 2, 1))
    step = get_norm(norm).steepest_step(tf.constant(gradient), 0.7).numpy()
    np.testing.assert_allclose(norms(norm, step), 0.7, rtol=1e-6)
    flat = gradient.reshape(5, -1).astype(np.float64)
    gain = (flat * step.reshape(5, -1)).sum(axis=1)
    dual = np.abs(flat).sum(axis=1) if norm == "linf" else np.sqrt((flat**2).sum(axis=1))
    np.testing.assert_allclose(gain, 0.7 * dual, rtol=1e-6)
    rivals = np.random.default_rng(1).normal(size=(2000, 6))
    rivals *= 0.7 / norms(norm, rivals)[:, None]
    corners = np.sign(rivals) * 0.7 if norm == "linf" else rivals
    assert (np.concatenate([rivals, corners]) @ flat.T <= gain * (1 + 1e-6)).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e15, 1e30])
def test_a_step_does_not_depend_on_the_scale_of_the_gradient(norm, scale):
    # A confident classifier has gradients far below 1e-12: they point uphill all the same.
    gradient = gaussian((4, 3, 3, 2))
    step = get_norm(norm).steepest_step
    scaled = step(tf.constant(gradient * np.float32(scale)), 0.5)
    np.testing.assert_allclose(scaled, step(tf.constant(gradient), 0.5), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("norm", NORMS)
def test_a_zero_gradient_takes_no_step(norm):
    gradient = gaussian((3, 2, 2, 1))
    gradient[1] = 0.0
    step = get_norm(norm).steepest_step(tf.constant(gradient), 0.5).numpy()
    np.testing.assert_array_equal(step[1], np.zeros((2, 2, 1)))
    np.testing.assert_allclose(norms(norm, step), [0.5, 0.0, 0.5], rtol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_projection_is_the_nearest_point_of_the_ball(norm):
    delta = gaussian((6, 2, 1, 2), 3)
    delta[0] *= 1e-3  # inside
    project = get_norm(norm).project
    nearest = project(tf.constant(delta), 0.8).numpy()
    assert (norms(norm, nearest) <= 0.8 * (1 + 1e-6)).all()
    np.testing.assert_array_equal(nearest[0], delta[0])
    np.testing.assert_allclose(project(tf.constant(nearest), 0.8), nearest, rtol=1e-6)
    inside = np.random.default_rng(4).normal(size=(3000, 4))
    inside *= 0.8 * np.random.default_rng(5).random((3000, 1)) / norms(norm, inside)[:, None]
    flat, best = delta.reshape(6, 4), nearest.reshape(6, 4)
    distance = np.linalg.norm(flat - best, axis=1)
    assert (np.linalg.norm(inside[:, None] - flat, axis=2) >= distance - 1e-6).all()
    # Optimality on a convex set: no point of the ball lies beyond the projection, seen from delta.
    assert (((inside[:, None] - best) * (flat - best)).sum(axis=2) <= 1e-6).all()


@pytest.mark.parametrize("norm", NORMS)
def test_projection_to_radius_zero_and_of_zero(norm):
    project = get_norm(norm).project
    np.testing.assert_array_equal(project(tf.constant(gaussian((2, 3, 3, 1))), 0.0), np.zeros((2, 3, 3, 1)))
    np.testing.assert_array_equal(project(tf.zeros((2, 3, 3, 1)), 0.1), np.zeros((2, 3, 3, 1)))


@pytest.mark.parametrize("norm", NORMS)
def test_one_radius_per_example(norm):
    geometry = get_norm(norm)
    radii = np.array([0.1, 0.5, 2.0], np.float32)
    column = tf.constant(radii.reshape(3, 1, 1, 1))
    delta = tf.constant(10 * gaussian((3, 4, 2, 1)))
    np.testing.assert_allclose(norms(norm, geometry.project(delta, column)), radii, rtol=1e-6)
    np.testing.assert_allclose(norms(norm, geometry.steepest_step(delta, column)), radii, rtol=1e-6)
    points = geometry.random_point(tf.constant([3, 4, 2, 1]), column, seed(0, 0)).numpy()
    assert (norms(norm, points) <= radii * (1 + 1e-6)).all()
    for one in range(3):
        alone = geometry.project(delta[one : one + 1], radii[one])[0]
        np.testing.assert_allclose(geometry.project(delta, column)[one], alone, rtol=1e-6)


def test_sizes_of_each_example():
    batch = np.stack([np.full((2, 2, 1), 3.0), np.array([3.0, -4.0, 0.0, 0.0]).reshape(2, 2, 1)])
    for norm, expected in (("l2", [6.0, 5.0]), ("linf", [3.0, 4.0])):
        sizes = get_norm(norm).size(tf.constant(batch, tf.float32))
        assert sizes.shape == (2, 1, 1, 1)
        np.testing.assert_allclose(tf.reshape(sizes, [-1]), expected, rtol=1e-6)


def test_unknown_norm_suggests_the_nearest():
    with pytest.raises(UsageError, match=r"Received: norm=linff\. Did you mean 'linf'\?"):
        get_norm("linff")
