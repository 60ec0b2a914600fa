"""Adversarial training of linear models against the threshold of Theorem 1 and general solvers."""

import numpy as np
import pytest
from helpers.theory import exact_linf_loss, three_classes
from scipy.optimize import minimize

from advtf.errors import UsageError
from advtf.theory import constant_classifier, training

NORMS = pytest.mark.parametrize("norm", ["linf", "l2"])
LIMIT = np.log(3)


@NORMS
def test_training_fails_exactly_beyond_the_threshold(norm):
    x, y = three_classes(15, examples=60, dimension=4, spread=0.5)
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
    x, y = three_classes(16, examples=12, spread=4.0)
    epsilon = 0.4 * constant_classifier.threshold(x, y, 3, "linf").upper
    found = training.train_multiclass(x, y, 3, epsilon, "linf", iterations=800)
    reached = exact_linf_loss(found.weights, x, y, epsilon)
    solved = minimize(
        lambda v: exact_linf_loss(v.reshape(3, 3), x, y, epsilon),
        np.zeros(9),
        method="Powell",
        options={"xtol": 1e-4, "ftol": 1e-6},
    )
    assert reached < LIMIT - 0.01
    assert reached <= solved.fun + 1e-3
    assert found.loss == pytest.approx(reached, abs=1e-6)


def test_training_depends_on_its_seed_only_and_reports_iterations():
    x, y = three_classes(17)
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


def test_training_refuses_what_is_out_of_range():
    x, y = three_classes(19)
    with pytest.raises(UsageError, match="iterations"):
        training.train_multiclass(x, y, 3, 0.1, "linf", iterations=0)
    with pytest.raises(UsageError, match="epsilon"):
        training.train_multiclass(x, y, 3, -0.1, "linf")
