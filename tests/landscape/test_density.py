"""Stochastic Lanczos quadrature against moments and spectra that are known exactly."""

import numpy as np
import pytest
from helpers.spectrum import network_like, operator_of, symmetric

from advtf.errors import UsageError
from advtf.landscape.density import (
    average,
    covering_grid,
    kernel_width,
    quadrature,
    smooth,
    spectral_density,
)

SPECTRUM = network_like(300)
MATRIX = symmetric(SPECTRUM)


def estimated(**options):
    return spectral_density(operator_of(MATRIX), 300, **({"dtype": np.float64, "steps": 30} | options))


def test_a_quadrature_is_exact_for_polynomials_of_its_probe():
    found = quadrature(operator_of(MATRIX), 300, 6, seed=2, probe=1, dtype=np.float64)
    signs = 2.0 * np.random.default_rng([2, 1]).integers(0, 2, 300, dtype=np.int8) - 1
    power = signs
    for degree in range(12):
        np.testing.assert_allclose(found.weights @ found.nodes**degree, signs @ power / 300, rtol=1e-9)
        power = MATRIX @ power
    assert found.nodes.shape == found.weights.shape == (6,) and (np.diff(found.nodes) > 0).all()


def test_traces_are_those_of_the_probes():
    found = estimated(probes=5, seed=3)
    probes = [2.0 * np.random.default_rng([3, i]).integers(0, 2, 300, dtype=np.int8) - 1 for i in range(5)]
    traces = [v @ MATRIX @ v for v in probes]
    squares = [v @ MATRIX @ MATRIX @ v for v in probes]
    for estimate, values in ((found.trace, traces), (found.square_trace, squares)):
        np.testing.assert_allclose(estimate.mean, np.mean(values))
        np.testing.assert_allclose(estimate.standard_error, np.std(values, ddof=1) / 5**0.5)
    assert found.products == 5 * 30 and found.dimension == 300


def test_standard_errors_cover_the_truth():
    # |estimate − truth| < 2 standard errors of 16 probes: 94% by Student's t; 9 in 10 leaves room for chance.
    runs = [estimated(probes=16, steps=2, seed=seed) for seed in range(100)]
    for name, truth in (("trace", SPECTRUM.sum()), ("square_trace", (SPECTRUM**2).sum())):
        errors = np.array([getattr(run, name).mean - truth for run in runs])
        claimed = np.array([getattr(run, name).standard_error for run in runs])
        assert 0.86 <= np.mean(np.abs(errors) < 2 * claimed) <= 0.99
        # No bias: the mean of 100 runs is within its own error, too.
        assert abs(errors.mean()) < 3 * errors.std() / 10


def test_a_diagonal_operator_has_no_variance():
    found = spectral_density(lambda v: np.arange(50.0) * v, 50, probes=3, steps=50, dtype=np.float64)
    np.testing.assert_allclose(found.trace.mean, 49 * 25, rtol=1e-12)
    assert found.trace.standard_error < 1e-9
    np.testing.assert_allclose(found.nodes, np.tile(np.arange(50), (3, 1)), atol=1e-8)
    np.testing.assert_allclose(found.weights, 1 / 50, atol=1e-8)


def test_extreme_nodes_approach_extreme_eigenvalues():
    found = estimated(probes=2, steps=60)
    np.testing.assert_allclose(found.nodes[:, -1], SPECTRUM.max(), rtol=1e-8)
    np.testing.assert_allclose(found.nodes[:, 0], SPECTRUM.min(), rtol=1e-8)


def test_the_density_is_the_smoothed_spectrum():
    found = estimated(probes=80, steps=40)
    grid = np.linspace(-1, 11, 200)
    density = smooth(found.nodes, found.weights, grid, 0.3)
    exact = np.exp(-(((grid[:, None] - SPECTRUM) / 0.3) ** 2) / 2).mean(axis=1) / (0.3 * (2 * np.pi) ** 0.5)
    # Where no node comes near, the density of all probes is too small for their scatter to be Gaussian.
    assert (np.abs(density.mean - exact) <= 4 * density.standard_error + 1e-9).all()
    np.testing.assert_allclose(density.mean, exact, rtol=0.35)


def test_density_grid_and_width():
    found = estimated(probes=3)
    width = kernel_width(found.nodes)
    np.testing.assert_allclose(width, (found.nodes.max() - found.nodes.min()) / 200)
    grid = covering_grid(found.nodes, width)
    smoothed = smooth(found.nodes, found.weights, grid, width)
    density, error = smoothed.mean, smoothed.standard_error
    np.testing.assert_allclose(np.trapezoid(density, grid), 1, rtol=1e-6)
    mean = np.trapezoid(density * grid, grid)
    np.testing.assert_allclose(300 * mean, found.trace.mean, rtol=1e-6)
    assert (density >= 0).all() and density.shape == error.shape == grid.shape
    # A kernel can be drawn on the grid.
    assert np.diff(grid).max() <= width / 5 + 1e-12


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_a_multiple_of_the_identity(value):
    found = spectral_density(lambda v: value * v, 30, probes=3, steps=10)
    assert found.products == 3 and found.trace.standard_error == 0
    np.testing.assert_allclose(found.nodes, value * np.ones((3, 1)))
    width = kernel_width(found.nodes)
    density = smooth(found.nodes, found.weights, covering_grid(found.nodes, width), width)
    np.testing.assert_allclose(density.mean.max(), 1 / (width * (2 * np.pi) ** 0.5), rtol=1e-6)


def test_probes_of_unequal_length_are_padded_without_weight():
    short, long = (
        quadrature(operator_of(MATRIX), 300, steps, seed=0, probe=i, dtype=np.float64)
        for i, steps in enumerate((4, 9))
    )
    both = average([short, long], 300)
    np.testing.assert_allclose(both.weights.sum(axis=1), 1)
    assert (both.weights[0, 4:] == 0).all() and (both.nodes[0, 4:] == short.nodes[-1]).all()
    assert both.products == 13
    np.testing.assert_allclose(
        both.trace.mean, 150 * sum(each.weights @ each.nodes for each in (short, long))
    )


def test_one_probe_has_no_standard_error():
    found = estimated(probes=1)
    assert np.isnan(found.trace.standard_error) and np.isfinite(found.trace.mean)


def test_float32_agrees_with_float64():
    low = spectral_density(operator_of(MATRIX, np.float32), 300, steps=30)
    np.testing.assert_allclose(low.trace.mean, estimated().trace.mean, rtol=1e-5)


def test_same_seed_same_bits_report_and_probes_are_independent_of_their_number():
    seen = []
    one, two = estimated(probes=3), estimated(probes=3, report=lambda *state: seen.append(state))
    np.testing.assert_array_equal(one.nodes, two.nodes)
    np.testing.assert_array_equal(one.weights, two.weights)
    np.testing.assert_array_equal(one.nodes[:2], estimated(probes=2).nodes)
    assert (one.nodes != estimated(probes=3, seed=1).nodes).any()
    assert seen == [(product, (product - 1) // 30) for product in range(1, 91)]


@pytest.mark.parametrize("options", [{"probes": 0}, {"steps": 0}, {"seed": -1}, {"dtype": np.float16}])
def test_bad_requests(options):
    with pytest.raises(UsageError, match=f"{next(iter(options))} must be"):
        spectral_density(lambda v: v, 10, **options)


def test_bad_operators_and_widths():
    with pytest.raises(UsageError, match="must return shape"):
        spectral_density(lambda v: v[:3], 10)
    with pytest.raises(FloatingPointError, match="product 1"):
        spectral_density(lambda v: v * np.nan, 10)
    with pytest.raises(UsageError, match="width must be positive"):
        smooth(np.zeros((1, 1)), np.ones((1, 1)), np.zeros(3), 0.0)
