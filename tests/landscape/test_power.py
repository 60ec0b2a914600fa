"""Power iteration with deflation against the spectrum, dense algebra and Lanczos."""

import itertools

import numpy as np
import pytest
from helpers.spectrum import network_like, operator_of, residuals, symmetric

from advtf.errors import UsageError
from advtf.landscape.lanczos import lanczos
from advtf.landscape.power import power_iteration

SPECTRUM = np.concatenate([[9, -7, 5, 4, -3], np.linspace(-0.5, 0.5, 60)])
TIGHT = {"tolerance": 1e-13, "max_iterations": 400, "dtype": np.float64}


def test_eigenpairs_of_largest_magnitude_by_signed_value():
    matrix = symmetric(SPECTRUM)
    pairs = power_iteration(operator_of(matrix), 65, 5, **TIGHT)
    np.testing.assert_allclose(pairs.values, [9, 5, 4, -3, -7], rtol=1e-10)
    np.testing.assert_allclose(pairs.vectors.T @ pairs.vectors, np.eye(5), atol=1e-12)
    np.testing.assert_allclose(pairs.residuals, residuals(matrix, pairs), atol=1e-12)
    assert pairs.converged.all() and pairs.method == "power"


def test_agrees_with_lanczos():
    operator = operator_of(symmetric(SPECTRUM))
    power = power_iteration(operator, 65, 5, **TIGHT)
    krylov = lanczos(operator, 65, 5, which="magnitude", tolerance=1e-11, dtype=np.float64)
    np.testing.assert_allclose(power.values, krylov.values, rtol=1e-10)
    overlaps = np.abs((power.vectors * krylov.vectors).sum(axis=0))
    np.testing.assert_allclose(overlaps, 1, atol=1e-10)


def test_repeated_eigenvalues_come_with_their_multiplicity():
    spectrum = np.concatenate([[5, 5, 5, 3, 3], np.linspace(-1, 1, 50)])
    pairs = power_iteration(operator_of(symmetric(spectrum)), 55, 5, **TIGHT)
    np.testing.assert_allclose(pairs.values, [5, 5, 5, 3, 3], rtol=1e-10)


@pytest.mark.parametrize("k", [4, 9])
def test_a_null_space_needs_no_iterations(k):
    spectrum = np.concatenate([[4, -2], np.zeros(30)])
    pairs = power_iteration(operator_of(symmetric(spectrum)), 32, k, **TIGHT)
    expected = np.concatenate([[4], np.zeros(k - 2), [-2]])
    np.testing.assert_allclose(pairs.values, expected, atol=1e-11)
    assert pairs.converged.all() and pairs.products < 100


def test_defaults_are_the_criterion_of_the_paper():
    matrix, seen = symmetric(network_like()), []
    pairs = power_iteration(
        operator_of(matrix, np.float32), 400, 20, report=lambda *state: seen.append(state)
    )
    assert pairs.products == pairs.iterations == len(seen) <= 20 * 50
    assert [products for products, _ in seen] == list(range(1, pairs.products + 1)) and seen[-1][1] == 20
    # Steady is not converged: some accepted pairs are far from eigenvectors, and the residuals say so.
    true = residuals(matrix, pairs)
    np.testing.assert_allclose(pairs.residuals, true, atol=1e-5)
    assert true[pairs.converged].max() > 1e-2 * pairs.values[0]
    np.testing.assert_allclose(pairs.values[0], 10, rtol=5e-3)


def test_first_steps_by_hand():
    matrix = np.array([[2.0, 1.0], [1.0, 3.0]])
    given = []
    pairs = power_iteration(
        lambda v: given.append(v.copy()) or matrix @ v, 2, 1, max_iterations=3, tolerance=0, dtype=np.float64
    )
    for before, after in itertools.pairwise(given):
        np.testing.assert_allclose(after, matrix @ before / np.linalg.norm(matrix @ before), rtol=1e-14)
    # The vector returned is the one that the last product, and so value and residual, belong to.
    np.testing.assert_array_equal(pairs.vectors[:, 0], given[-1])
    np.testing.assert_allclose(pairs.values, given[-1] @ matrix @ given[-1], rtol=1e-14)
    assert len(given) == 3 and not pairs.converged.any()


def test_same_seed_same_bits():
    operator = operator_of(symmetric(SPECTRUM), np.float32)
    one, two, other = (power_iteration(operator, 65, 3, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.vectors, two.vectors)
    assert (one.vectors != other.vectors).any()


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"k": 11}, "k must not exceed"),
        ({"tolerance": -1}, "tolerance must be"),
        ({"max_iterations": 1}, "max_iterations must be"),
        ({"seed": -1}, "seed must be"),
        ({"dtype": int}, "dtype must be one of"),
    ],
)
def test_bad_requests(options, reason):
    with pytest.raises(UsageError, match=reason):
        power_iteration(lambda v: v, **({"dimension": 10, "k": 3} | options))


def test_bad_operators():
    with pytest.raises(UsageError, match="must return shape"):
        power_iteration(lambda v: v[:3], 10, 3)
    with pytest.raises(FloatingPointError, match="product 1"):
        power_iteration(lambda v: v * np.inf, 10, 3)


def test_the_criterion_of_lanczos_bounds_the_residuals():
    matrix = symmetric(SPECTRUM)
    settings = {"tolerance": 1e-4, "max_iterations": 400, "dtype": np.float64}
    pairs = power_iteration(operator_of(matrix), 65, 5, criterion="residual", **settings)
    # An error of each earlier pair enters the residual once.
    assert pairs.converged.all() and residuals(matrix, pairs).max() <= 5**0.5 * 1e-4 * 9
    assert residuals(matrix, pairs).max() > 1e-5 * 9
    looser = power_iteration(
        operator_of(matrix), 65, 5, criterion="residual", **settings | {"tolerance": 0.01}
    )
    assert looser.products < pairs.products
    short = power_iteration(
        operator_of(matrix), 65, 5, criterion="residual", **settings | {"max_iterations": 3}
    )
    assert not short.converged.all()
    with pytest.raises(UsageError, match="criterion"):
        power_iteration(operator_of(matrix), 65, 5, criterion="gap")


def test_a_random_start_on_which_the_operator_nearly_vanishes_is_not_accepted():
    spectrum = np.zeros(4000)
    spectrum[:4] = 1, 0.5, 0.25, 0.12
    start = np.random.default_rng(0).standard_normal((4000, 1))
    start /= np.linalg.norm(start)
    assert np.linalg.norm(spectrum[:, None] * start) < 0.03
    pairs = power_iteration(
        lambda v: spectrum * v, 4000, 4, criterion="residual", tolerance=0.03, dtype=np.float64
    )
    np.testing.assert_allclose(pairs.values, spectrum[:4], atol=0.01)
