"""When the origin is optimal: thresholds against linear programs, other solvers and losses at all corners."""

import itertools

import numpy as np
import pytest
from helpers.theory import exact_linf_loss, three_classes
from scipy.optimize import linprog, minimize

from advtf.errors import UsageError
from advtf.theory import constant_classifier
from advtf.theory.constant_classifier import smallest_growth

NORMS = pytest.mark.parametrize("norm", ["linf", "l2"])
LIMIT = np.log(3)
SCALES = [s * 10.0**k for k in range(-4, 2) for s in (1, -1, 3, -3)]


def lowest_along(weights, x, y, epsilon):
    return min(exact_linf_loss(scale * weights, x, y, epsilon) for scale in SCALES)


def linf_threshold_by_linear_program(x, y):
    """min t over (x', t) with |x' − x| ≤ t and equal class sums: the definition, one variable per pixel."""
    n, m = x.shape
    objective = np.r_[np.zeros(n * m), 1]
    sides = np.vstack([np.eye(n * m), -np.eye(n * m)])
    bound = np.r_[x.ravel(), -x.ravel()]
    equal, ones = [], np.eye(m)
    for k in range(3):
        weight = 1 / 3 - (y == k)
        equal += [np.r_[np.outer(weight, ones[d]).ravel(), 0] for d in range(m)]
    solved = linprog(
        objective,
        A_ub=np.c_[sides, -np.ones(2 * n * m)],
        b_ub=bound,
        A_eq=np.array(equal),
        b_eq=np.zeros(len(equal)),
        bounds=[(None, None)] * (n * m) + [(0, None)],
    )
    assert solved.success
    return solved.fun


@pytest.mark.parametrize("seed", range(4))
def test_linf_threshold_is_the_linear_programs(seed):
    x, y = three_classes(seed)
    found = constant_classifier.threshold(x, y, 3, "linf")
    assert found.lower == found.upper
    assert found.upper == pytest.approx(linf_threshold_by_linear_program(x, y), rel=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_l2_threshold_is_that_of_a_general_solver(seed):
    x, y = three_classes(seed)
    sums = np.array([x[y == k].sum(axis=0) for k in range(3)])
    counts = np.bincount(y)

    def slack(v):  # t·n_k ≥ ‖s_k − c‖, as squares
        return (v[-1] * counts) ** 2 - ((sums - v[:-1]) ** 2).sum(axis=1)

    # SLSQP stalls from some starts, which ones depends on the rounding of BLAS: the best of several.
    solved = [
        minimize(
            lambda v: v[-1],
            np.r_[sums.mean(axis=0), start],
            bounds=[(None, None)] * 3 + [(0, None)],
            constraints={"type": "ineq", "fun": slack},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        for start in (1.0, 2.0, 3.0, 5.0, 10.0)
    ]
    best = min(result.fun for result in solved if slack(result.x).min() > -1e-8)
    found = constant_classifier.threshold(x, y, 3, "l2")
    assert found.converged
    assert found.lower <= found.upper <= found.lower * (1 + 1e-8)
    assert found.upper == pytest.approx(best, rel=1e-6)


def test_balanced_classes_have_half_the_largest_difference_of_means():
    x, y = three_classes(5, examples=300)
    x, y = np.concatenate([x[y == k][:60] for k in range(3)]), np.repeat(np.arange(3), 60)
    means = np.array([x[y == k].mean(axis=0) for k in range(3)])
    largest = np.abs(means[:, np.newaxis] - means).max()
    assert constant_classifier.threshold(x, y, 3, "linf").upper == pytest.approx(largest / 2)


@NORMS
def test_no_radius_exceeds_the_threshold(norm):
    x, y = three_classes(6)
    threshold = constant_classifier.threshold(x, y, 3, norm).upper
    rng = np.random.default_rng(7)
    radii = [constant_classifier.radius(w, x, y, norm) for w in rng.normal(size=(3000, 3, 3))]
    assert threshold * 0.7 < max(radii) <= threshold * (1 + 1e-9)


def test_two_classes_and_one_pixel_attain_the_linf_threshold():
    x, y = three_classes(8)
    sums, counts = constant_classifier.class_sums(x, y, 3)
    ratios = {
        (j, k, d): abs(sums[j, d] - sums[k, d]) / (counts[j] + counts[k])
        for j, k, d in itertools.product(range(3), range(3), range(3))
        if j < k
    }
    j, k, d = max(ratios, key=ratios.get)
    weights = np.zeros((3, 3))
    weights[d, j], weights[d, k] = 1, -1
    threshold = constant_classifier.threshold(x, y, 3, "linf").upper
    assert constant_classifier.radius(weights, x, y, "linf") == pytest.approx(threshold)
    signed = weights * np.sign(sums[j, d] - sums[k, d])
    assert exact_linf_loss(1e-4 * signed, x, y, 0.99 * threshold) < LIMIT
    assert exact_linf_loss(1e-4 * signed, x, y, 1.01 * threshold) > LIMIT


@pytest.mark.parametrize("seed", range(6))
def test_a_radius_is_where_the_origin_becomes_optimal(seed):
    x, y = three_classes(seed)
    weights = np.random.default_rng(seed + 50).normal(size=(3, 3))
    radius = constant_classifier.radius(weights, x, y, "linf")
    assert lowest_along(weights, x, y, 0.98 * radius) < LIMIT
    assert lowest_along(weights, x, y, 1.02 * radius) >= LIMIT


@NORMS
def test_a_single_example_has_its_own_norm_as_threshold(norm):
    x, y = three_classes(11)
    thresholds = np.linalg.norm(x, ord=np.inf if norm == "linf" else 2, axis=1)
    rng = np.random.default_rng(12)
    for i in range(len(x)):
        example = x[i : i + 1], y[i : i + 1]
        for weights in rng.normal(size=(20, 3, 3)):
            assert constant_classifier.radius(weights, *example, norm) <= thresholds[i] + 1e-12
        # w_y along x: attained for l2; for l∞ along its largest pixel
        along = x[i] if norm == "l2" else x[i] * (np.abs(x[i]) == np.abs(x[i]).max())
        weights = np.outer(along, np.eye(3)[y[i]])
        assert constant_classifier.radius(weights, *example, norm) == pytest.approx(thresholds[i])


@NORMS
def test_equal_columns_are_in_every_t(norm):
    x, y = three_classes(13)
    equal = np.ones((3, 3))
    assert constant_classifier.radius(equal, x, y, norm) == 0


@pytest.mark.parametrize(
    ("centres", "rates", "growth"),
    [
        ([[0, 0], [3, 4]], [1, 1], 2.5),
        ([[0, 0], [3, 4]], [2, 3], 1.0),
        ([[0, 0], [1, 0], [0.5, np.sqrt(3) / 2]], [1, 1, 1], 1 / np.sqrt(3)),
        ([[0, 0], [2, 0], [1, 0.1]], [1, 1, 1], 1.0),  # the third is inside
        ([[1, 1], [1, 1]], [1, 2], 0.0),
    ],
)
def test_balls_of_known_growth(centres, rates, growth):
    found = smallest_growth(np.array(centres, float), np.array(rates))
    assert found.converged
    assert found.lower - 1e-12 <= growth <= found.upper + 1e-12
    assert found.upper == pytest.approx(growth, abs=1e-8)


def test_balls_of_many_centres_in_few_dimensions_converge():
    rng = np.random.default_rng(14)
    for _ in range(20):
        found = smallest_growth(rng.normal(size=(10, 2)), rng.uniform(0.5, 2, 10))
        assert found.converged
        assert found.iterations < 500
    stopped = smallest_growth(rng.normal(size=(10, 2)), rng.uniform(0.5, 2, 10), max_iterations=1)
    assert not stopped.converged
    assert stopped.lower < stopped.upper


def test_missing_classes_and_other_norms_are_refused():
    x, y = three_classes(19)
    with pytest.raises(UsageError, match="none of class 3"):
        constant_classifier.threshold(x, y, 4, "linf")
    with pytest.raises(UsageError, match="norm"):
        constant_classifier.threshold(x, y, 3, "l1")
