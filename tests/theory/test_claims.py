"""Claims: those of the paper hold on small problems, and those that go beyond it are told apart."""

import numpy as np
import pytest
from helpers.theory import separable

from advtf.errors import UsageError
from advtf.theory import claims, logistic, smoothness
from advtf.theory.training import train_logistic

NORMS = pytest.mark.parametrize("norm", ["linf", "l2"])


@pytest.mark.parametrize("epsilon", [0.6, 1.2])
def test_proposition_2_holds_on_the_sketch_and_only_with_its_second_term(epsilon):
    (claim,), curves = claims.sketch(1.0, [epsilon], np.linspace(-2, 2, 81))
    assert claim.holds
    assert 0.9 < claim.values["loss_ratio"] <= 1
    assert curves["highest"].shape == (1, 81)
    constants = smoothness.sketch_constants(1.0, epsilon)
    across = abs(
        smoothness.sketch_gradient(1e-9, 1.0, epsilon) - smoothness.sketch_gradient(-1e-9, 1.0, epsilon)
    )
    assert constants.theta_theta * 2e-9 < across <= constants.gradient_bound(2e-9, epsilon)


@NORMS
def test_proposition_2_holds_on_data(norm):
    _, x, y = separable(2)
    claim = claims.bounded_changes(x, y, 0.3, norm, 60, seed=3)
    assert claim.holds
    assert 0.01 < claim.values["gradient_ratio"] <= 1


def test_claims_of_theorem_3_tell_eq_7_from_eq_6():
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(60, 6)), rng.choice([-1.0, 1.0], 60)
    x[:, 0] += 4 * y
    w = train_logistic(x, y, 0.3, "linf", iterations=200)
    directions = logistic.random_directions(100, 6, 8)
    found, arrays = claims.growing_curvature(w, x, y, directions, "linf", 6)
    assert [claim.holds for claim in found] == [True, True, True, False]
    assert arrays["curvatures"].shape == (2, 11, 100)
    assert arrays["epsilons"][5] == pytest.approx(arrays["separation"])
    assert found[3].values["growing"] < 100
    with pytest.raises(UsageError, match="right on every example"):
        claims.growing_curvature(-w, x, y, directions, "linf", 6)
