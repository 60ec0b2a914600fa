"""Logistic regression under attack and its curvature, against ascent, search and finite differences."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.theory import separable

from advtf.attacks.pgd import pgd
from advtf.errors import UsageError
from advtf.theory import logistic
from advtf.theory.norms import get_norm, projected_ascent

EPSILON = {"linf": 0.1, "l2": 0.25}
NORMS = pytest.mark.parametrize("norm", EPSILON)


def problem(seed=0, examples=7, dimension=5, low=0.3, high=0.7, scale=1.0):
    """Examples in [low, high], so that budgets of up to `low` stay inside [0, 1]."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(low, high, (examples, dimension))
    return scale * rng.normal(size=dimension), x, rng.choice([-1.0, 1.0], examples)


def clean_losses(w, x, y):
    return np.log1p(np.exp(-y * (x @ w)))


def differences(function, point, step):
    """Central differences along every coordinate, stacked last."""
    steps = step * np.eye(point.size)
    return np.stack([(function(point + s) - function(point - s)) / (2 * step) for s in steps], axis=-1)


@NORMS
def test_closed_form_equals_the_packages_pgd_where_the_box_does_not_bind(norm):
    w, x, y = problem(scale=0.5)
    kernel = tf.constant(np.stack([w, np.zeros_like(w)], axis=1), tf.float32)
    images = tf.constant(x[:, :, np.newaxis, np.newaxis], tf.float32)
    attack, labels = pgd(norm, steps=100, relative_step=0.1), tf.constant(np.where(y == 1, 0, 1), tf.int32)

    @tf.function
    def attacked():
        seed = tf.constant([1, 2], tf.int64)
        return attack(lambda at: tf.reshape(at, [-1, 5]) @ kernel, images, labels, EPSILON[norm], seed)

    found = attacked()
    reached = clean_losses(w, found.numpy().reshape(x.shape).astype(np.float64), y)
    np.testing.assert_allclose(logistic.losses(w, x, y, EPSILON[norm], norm), reached, atol=1e-6, rtol=0)


@NORMS
def test_closed_form_equals_projected_ascent_in_float64(norm):
    w, x, y = problem(1, scale=3.0)
    start = x + get_norm(norm).project(np.random.default_rng(2).uniform(-0.1, 0.1, x.shape), 0.2)
    found = projected_ascent(
        lambda at: logistic.input_gradient(w, at, y), x, 0.2, norm, steps=300, start=start
    )
    np.testing.assert_allclose(
        logistic.losses(w, x, y, 0.2, norm), clean_losses(w, found, y), atol=1e-6, rtol=0
    )
    assert get_norm(norm).size(found - x).max() <= 0.2 + 1e-12


@NORMS
def test_worst_case_attains_the_closed_form_and_nothing_exceeds_it(norm):
    w, x, y = problem(2)
    closed = logistic.losses(w, x, y, 0.3, norm)
    worst = logistic.worst_case(w, x, y, 0.3, norm)
    np.testing.assert_allclose(clean_losses(w, worst, y), closed, rtol=1e-13)
    order = np.inf if norm == "linf" else 2
    np.testing.assert_allclose(np.linalg.norm(worst - x, ord=order, axis=1), 0.3)
    noise = np.random.default_rng(3).normal(size=(2000, *x.shape))
    noise *= 0.3 / np.linalg.norm(noise, ord=order, axis=2, keepdims=True)
    assert all(np.all(clean_losses(w, x + delta, y) <= closed + 1e-12) for delta in noise)


def test_linf_worst_case_is_the_sign_of_w():
    x, y = np.full((2, 3), 0.5), np.array([1, -1])
    worst = logistic.worst_case(np.array([2.0, -1.0, 0.0]), x, y, 0.1, "linf")
    np.testing.assert_allclose(worst, [[0.4, 0.6, 0.5], [0.6, 0.4, 0.5]])


@NORMS
def test_gradients_are_those_of_finite_differences(norm):
    w, x, y = problem(3)
    numeric = differences(lambda v: logistic.loss(v, x, y, 0.2, norm), w, 1e-5)
    np.testing.assert_allclose(logistic.gradient(w, x, y, 0.2, norm), numeric, atol=1e-9)
    at_example = [differences(lambda v, i=i: clean_losses(w, v, y[i]), x[i], 1e-5) for i in range(len(x))]
    np.testing.assert_allclose(logistic.input_gradient(w, x, y), at_example, atol=1e-9)


@NORMS
def test_hessian_is_that_of_finite_differences(norm):
    w, x, y = problem(4)
    matrix = logistic.hessian(w, x, y, 0.2, norm)
    numeric = differences(lambda v: logistic.gradient(v, x, y, 0.2, norm), w, 1e-5)
    np.testing.assert_allclose(matrix, numeric, atol=1e-8)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-15)


@NORMS
def test_fixed_norm_hessian_is_that_of_eq_7_with_a_constant_norm(norm):
    w, x, y = problem(5)
    size = np.abs(w).sum() if norm == "linf" else np.sqrt(w @ w)

    def slope(v):
        pull = 1 / (1 + np.exp(y * (x @ v) - 0.2 * size))
        return -(pull * y) @ x / len(y)

    matrix = logistic.fixed_norm_hessian(w, x, y, 0.2, norm)
    np.testing.assert_allclose(matrix, differences(slope, w, 1e-5), atol=1e-9)
    clean = logistic.hessian(w, x, y, 0.0, norm)
    np.testing.assert_allclose(logistic.fixed_norm_hessian(w, x, y, 0.0, norm), clean, rtol=1e-13)


@NORMS
def test_zero_epsilon_is_the_clean_loss_and_losses_grow_with_epsilon(norm):
    w, x, y = problem(6)
    np.testing.assert_allclose(logistic.losses(w, x, y, 0.0, norm), clean_losses(w, x, y), rtol=1e-14)
    grown = [logistic.losses(w, x, y, epsilon, norm) for epsilon in np.linspace(0, 2, 9)]
    assert np.all(np.diff(grown, axis=0) > 0)


@NORMS
def test_separation_is_where_the_first_example_turns_wrong(norm):
    rng = np.random.default_rng(7)
    w, x = rng.normal(size=4), rng.normal(size=(9, 4))
    y = np.sign(x @ w)
    radius = logistic.separation(w, x, y, norm)
    for epsilon, right in ((0.999 * radius, 9), (1.001 * radius, 8)):
        worst = logistic.worst_case(w, x, y, epsilon, norm)
        assert np.sum(y * (worst @ w) > 0) == right
    assert logistic.separation(-w, x, y, norm) < 0


def test_large_margins_neither_overflow_nor_vanish():
    x, y = np.array([[1.0], [1.0]]), np.array([1.0, -1.0])
    with np.errstate(over="raise", invalid="raise"):
        np.testing.assert_allclose(
            logistic.losses(np.array([800.0]), x, y, 0.0, "linf"), [0, 800], atol=1e-300
        )
        assert logistic.gradient(np.array([800.0]), x, y, 0.5, "linf") == pytest.approx(0.75)
        assert logistic.sigmoid(np.array([-700.0]))[0] == pytest.approx(np.exp(-700), rel=1e-12)


@NORMS
def test_the_kink_has_a_subgradient_and_no_hessian(norm):
    _, x, y = problem(8)
    w = np.zeros(5)
    slope = logistic.gradient(w, x, y, 0.3, norm)
    rng = np.random.default_rng(9)
    at_kink = logistic.loss(w, x, y, 0.3, norm)
    for other in rng.normal(size=(200, 5)):
        assert logistic.loss(other, x, y, 0.3, norm) >= at_kink + slope @ other - 1e-12
    with pytest.raises(UsageError, match="5 of 5 weights are 0"):
        logistic.hessian(w, x, y, 0.3, norm)
    np.testing.assert_allclose(logistic.hessian(w, x, y, 0.0, norm), x.T @ x / 4 / len(x))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(norm="l1"), "norm must be one of linf, l2"),
        (dict(epsilon=-0.1), "epsilon must be a finite number of at least 0"),
        (dict(epsilon=float("nan")), "epsilon"),
        (dict(epsilon=float("inf")), "epsilon"),
        (dict(y=[1, 0, 1, 1, 1, 1, 1]), r"y must be \+1 or -1"),
        (dict(y=[1.0]), r"\(5,\), \(7, 5\), \(1,\)"),
        (dict(w=np.ones(4)), r"\(4,\)"),
        (dict(x=np.ones((0, 5)), y=[]), "N > 0"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    w, x, y = problem()
    arguments = dict(w=w, x=x, y=y, epsilon=0.1, norm="linf") | changes
    for function in (logistic.losses, logistic.gradient, logistic.hessian, logistic.worst_case):
        with pytest.raises(UsageError, match=message):
            function(**arguments)


def test_zero_weights_separate_nothing():
    with pytest.raises(UsageError, match="w=0"):
        logistic.separation(np.zeros(2), np.ones((1, 2)), np.ones(1), "l2")


@NORMS
@pytest.mark.parametrize("size", [1.0, 20.0])
def test_theorem_3_in_100_random_directions(norm, size):
    w, x, y = separable(4)
    w = w * size / (np.abs(w).sum() if norm == "linf" else np.linalg.norm(w))
    limit = np.min(y * (x @ w)) / size
    assert logistic.separation(w, x, y, norm) == pytest.approx(limit)
    directions = logistic.random_directions(100, 5, 5)
    epsilons = np.linspace(0, limit, 15)
    growth = logistic.curvature_growth(w, x, y, epsilons, directions, norm)
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
    within = logistic.curvature_growth(w, x, y, [0, 0.25, 0.5], directions, "linf")
    beyond = logistic.curvature_growth(w, x, y, [0.5, 0.75, 1.0], directions, "linf")
    assert within.grows().all()
    assert within.grows_everywhere()
    assert not beyond.grows().any()
    assert not beyond.grows_everywhere()


@NORMS
def test_tangents_leave_the_norm_and_the_hessians_alone(norm):
    w, x, y = separable(6)
    basis = logistic.tangents(w, norm)
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


def test_random_directions_are_unit_vectors_of_their_seed():
    first, again, other = (logistic.random_directions(50, 7, seed) for seed in (1, 1, 2))
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert np.abs(first.mean(axis=0)).max() < 0.2
