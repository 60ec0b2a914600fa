"""Dual norms and projections against random search."""

import numpy as np
import pytest

from advtf.theory.norms import get_norm

NORMS = pytest.mark.parametrize("norm", ["linf", "l2"])


@NORMS
def test_norms_are_dual(norm):
    budget, rng = get_norm(norm), np.random.default_rng(10)
    w = rng.normal(size=(3, 6))
    best = budget.direction(w)
    np.testing.assert_allclose(np.sum(w * best, axis=1), budget.dual(w))
    np.testing.assert_allclose(budget.size(best), 1)
    others = rng.normal(size=(500, 3, 6))
    others /= budget.size(others)[..., np.newaxis]
    assert np.all(np.sum(w * others, axis=2) <= budget.dual(w) + 1e-12)
    assert np.sqrt((others**2).sum(axis=2)).max() <= budget.euclidean(6) + 1e-12
    assert np.sqrt((np.sign(w) ** 2).sum(axis=1)).max() == pytest.approx(np.sqrt(6))


@NORMS
def test_projection_is_onto_the_nearest_point(norm):
    budget, rng = get_norm(norm), np.random.default_rng(11)
    far, inside = rng.normal(size=(4, 3)), rng.uniform(-0.05, 0.05, (4, 3))
    near = budget.project(far, 0.1)
    assert budget.size(near).max() <= 0.1 + 1e-15
    np.testing.assert_array_equal(budget.project(inside, 0.1), inside)
    np.testing.assert_array_equal(budget.project(np.zeros((1, 3)), 0.1), np.zeros((1, 3)))
    samples = rng.uniform(-0.1, 0.1, (3000, 3))
    samples = samples[budget.size(samples) <= 0.1]
    distances = np.linalg.norm(far[:, np.newaxis] - samples, axis=2).min(axis=1)
    assert np.all(np.linalg.norm(far - near, axis=1) <= distances)
