"""When the origin is optimal: thresholds against linear programs, losses at all corners, and training."""

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog, minimize

from advtf.errors import UsageError
from advtf.theory import constant_classifier, multiclass, training
from advtf.theory.enclosing import smallest_growth

NORMS = pytest.mark.parametrize("norm", ["linf", "l2"])
LIMIT = np.log(3)
SCALES = [s * 10.0**k for k in range(-4, 2) for s in (1, -1, 3, -3)]


def problem(seed=0, examples=9, dimension=3, spread=1.0):
    """Three classes of unequal sizes around their own centres."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([[0, 1, 2], rng.integers(0, 3, examples - 3)])
    centres = rng.uniform(-1, 1, (3, dimension))
    return centres[y] + spread * rng.uniform(-0.5, 0.5, (examples, dimension)), y


def exact_loss(weights, x, y, epsilon):
    """L_ε for l∞, over all corners."""
    corners = itertools.product((-epsilon, epsilon), repeat=x.shape[1])
    losses = [multiclass.losses(weights, x + np.array(corner), y) for corner in corners]
    return np.max(losses, axis=0).mean()


def lowest_along(weights, x, y, epsilon):
    return min(exact_loss(scale * weights, x, y, epsilon) for scale in SCALES)


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
    x, y = problem(seed)
    found = constant_classifier.threshold(x, y, 3, "linf")
    assert found.lower == found.upper
    assert found.upper == pytest.approx(linf_threshold_by_linear_program(x, y), rel=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_l2_threshold_is_that_of_a_general_solver(seed):
    x, y = problem(seed)
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
    x, y = problem(5, examples=300)
    x, y = np.concatenate([x[y == k][:60] for k in range(3)]), np.repeat(np.arange(3), 60)
    means = np.array([x[y == k].mean(axis=0) for k in range(3)])
    largest = np.abs(means[:, np.newaxis] - means).max()
    assert constant_classifier.threshold(x, y, 3, "linf").upper == pytest.approx(largest / 2)


@NORMS
def test_no_radius_exceeds_the_threshold(norm):
    x, y = problem(6)
    threshold = constant_classifier.threshold(x, y, 3, norm).upper
    rng = np.random.default_rng(7)
    radii = [constant_classifier.radius(w, x, y, norm) for w in rng.normal(size=(3000, 3, 3))]
    assert threshold * 0.7 < max(radii) <= threshold * (1 + 1e-9)


def test_two_classes_and_one_pixel_attain_the_linf_threshold():
    x, y = problem(8)
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
    assert exact_loss(1e-4 * signed, x, y, 0.99 * threshold) < LIMIT
    assert exact_loss(1e-4 * signed, x, y, 1.01 * threshold) > LIMIT


@pytest.mark.parametrize("seed", range(6))
def test_a_radius_is_where_the_origin_becomes_optimal(seed):
    x, y = problem(seed)
    weights = np.random.default_rng(seed + 50).normal(size=(3, 3))
    radius = constant_classifier.radius(weights, x, y, "linf")
    assert lowest_along(weights, x, y, 0.98 * radius) < LIMIT
    assert lowest_along(weights, x, y, 1.02 * radius) >= LIMIT


def test_radii_of_single_examples():
    x, y = problem(9)
    weights = np.random.default_rng(10).normal(size=(3, 3))
    radii = constant_classifier.example_radii(weights, x, y, "linf")
    for i, radius in enumerate(radii):
        example = x[i : i + 1], y[i : i + 1]
        assert radius == pytest.approx(constant_classifier.radius(weights, *example, "linf"))
        assert lowest_along(weights, *example, 0.98 * radius) < LIMIT
        assert lowest_along(weights, *example, 1.02 * radius) >= LIMIT


@NORMS
def test_a_single_example_has_its_own_norm_as_threshold(norm):
    x, y = problem(11)
    thresholds = constant_classifier.example_thresholds(x, norm)
    np.testing.assert_allclose(thresholds, np.linalg.norm(x, ord=np.inf if norm == "linf" else 2, axis=1))
    rng = np.random.default_rng(12)
    for weights in rng.normal(size=(200, 3, 3)):
        assert np.all(constant_classifier.example_radii(weights, x, y, norm) <= thresholds + 1e-12)
    for i in range(len(x)):  # w_y along x: attained for l2; for l∞ along its largest pixel
        along = x[i] if norm == "l2" else x[i] * (np.abs(x[i]) == np.abs(x[i]).max())
        weights = np.outer(along, np.eye(3)[y[i]])
        reached = constant_classifier.example_radii(weights, x[i : i + 1], y[i : i + 1], norm)
        assert reached[0] == pytest.approx(thresholds[i])


@NORMS
def test_equal_columns_are_in_every_t(norm):
    x, y = problem(13)
    equal = np.ones((3, 3))
    assert constant_classifier.radius(equal, x, y, norm) == 0
    np.testing.assert_array_equal(constant_classifier.example_radii(equal, x, y, norm), np.zeros(len(y)))


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


@NORMS
def test_training_fails_exactly_beyond_the_threshold(norm):
    x, y = problem(15, examples=60, dimension=4, spread=0.5)
    threshold = constant_classifier.threshold(x, y, 3, norm).upper
    below, beyond = (
        training.train_multiclass(x, y, 3, share * threshold, norm, iterations=400) for share in (0.9, 1.1)
    )
    assert below.loss < LIMIT - 1e-4
    assert below.size > 0.05
    assert beyond.size < 1e-4
    assert 0 <= beyond.loss - LIMIT < 1e-4
    for model in (below, beyond):
        assert model.loss <= model.loss_bound + 1e-12
        assert model.last_change < 1e-4
        np.testing.assert_allclose(model.weights.sum(axis=1), 0, atol=1e-12)


def test_training_comes_close_to_the_minimum_of_a_general_solver():
    x, y = problem(16, examples=12, spread=4.0)
    epsilon = 0.4 * constant_classifier.threshold(x, y, 3, "linf").upper
    found = training.train_multiclass(x, y, 3, epsilon, "linf", iterations=800)
    reached = exact_loss(found.weights, x, y, epsilon)
    solved = minimize(
        lambda v: exact_loss(v.reshape(3, 3), x, y, epsilon),
        np.zeros(9),
        method="Powell",
        options={"xtol": 1e-4, "ftol": 1e-6},
    )
    assert reached < LIMIT - 0.01
    assert reached <= solved.fun + 1e-3
    assert found.loss == pytest.approx(reached, abs=1e-6)


def test_training_depends_on_its_seed_only_and_reports_iterations():
    x, y = problem(17)
    calls = []
    options = dict(iterations=20, report=lambda: calls.append(1))
    runs = [training.train_multiclass(x, y, 3, 0.1, "linf", seed=s, **options).weights for s in (1, 1, 2)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.allclose(runs[0], runs[2])
    assert len(calls) == 60


@NORMS
def test_logistic_training_finds_the_minimum_of_eq_6(norm):
    rng = np.random.default_rng(18)
    x, y = rng.normal(size=(40, 3)), rng.choice([-1.0, 1.0], 40)
    x += 0.5 * y[:, np.newaxis]
    found = training.train_logistic(x, y, 0.2, norm, iterations=800)

    def loss(w):
        dual = np.abs(w).sum() if norm == "linf" else np.sqrt(w @ w)
        return np.log1p(np.exp(0.2 * dual - y * (x @ w))).mean()

    solved = minimize(loss, np.ones(3), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13})
    assert loss(found) == pytest.approx(solved.fun, abs=1e-7)


def test_missing_classes_and_foreign_settings_are_refused():
    x, y = problem(19)
    with pytest.raises(UsageError, match="none of class 3"):
        constant_classifier.threshold(x, y, 4, "linf")
    with pytest.raises(UsageError, match="norm"):
        constant_classifier.threshold(x, y, 3, "l1")
    with pytest.raises(UsageError, match="iterations"):
        training.train_multiclass(x, y, 3, 0.1, "linf", iterations=0)
    with pytest.raises(UsageError, match="epsilon"):
        training.train_multiclass(x, y, 3, -0.1, "linf")
