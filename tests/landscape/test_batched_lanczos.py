"""Many small operators at once against spectra that are chosen, and when each of them ends."""

import numpy as np
import pytest
from helpers.spectrum import exact_magnitudes

from advtf.errors import UsageError
from advtf.landscape.batched_lanczos import largest_magnitudes


def matrix(spectrum, dimension, seed=0):
    """A symmetric matrix with these eigenvalues and zeros."""
    values = np.zeros(dimension)
    values[: len(spectrum)] = spectrum
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((dimension, dimension)))[0]
    return (basis * values) @ basis.T


def solved(matrices, k, **settings):
    stacked = np.stack(matrices)

    def operators(rows, vectors):
        return (stacked[rows].astype(vectors.dtype) @ vectors[:, :, None])[:, :, 0]

    given = {"keys": np.arange(len(stacked)), "dtype": np.float64, "tolerance": 1e-6, **settings}
    return largest_magnitudes(operators, stacked.shape[1], k, **given)


SPECTRA = {
    "both signs": np.concatenate([[9, -8, 5, -4, 3], np.linspace(-1, 1, 40)]),
    "decay": 0.5 ** np.arange(40),
    "low rank": [5, -2, 1e-3],
    "repeated": [2, 2, 2, -1],
    "zero": [],
    "identity": np.ones(48),
    "tiny": [3e-12, -1e-12],
}


@pytest.mark.parametrize("name", SPECTRA)
def test_chosen_spectra(name):
    dense = matrix(SPECTRA[name], 48)
    found = solved([dense], 5)
    expected = exact_magnitudes(dense, 5)
    scale = np.abs(expected).max()
    assert np.abs(np.abs(found.eigenvalues[0]) - np.abs(expected)).max() <= 1e-6 * scale
    assert found.converged[0] and found.residuals.max() <= 1e-6
    np.testing.assert_allclose(found.eigenvalues[0].sum(), expected.sum(), atol=1e-5 * scale)


def test_few_products_where_the_rank_is_low():
    found = solved([matrix([4.0, 1.0, -3.0], 200), np.zeros((200, 200))], 20)
    # Three directions, one of the null space, a probe of what is left; of nothing, the probe only.
    assert found.products.tolist() == [5, 1] and found.converged.all()
    np.testing.assert_allclose(found.eigenvalues[0, :3], [4, -3, 1], rtol=1e-10)
    assert np.abs(found.eigenvalues[0, 3:]).max() < 1e-10 and not found.eigenvalues[1].any()


def test_all_eigenvalues_of_small_operators():
    dense = matrix([3, -2, 1, 0.5, 0.25, -0.125], 6)
    found = solved([dense], 6, max_products=50)
    np.testing.assert_allclose(found.eigenvalues[0], exact_magnitudes(dense, 6), rtol=1e-10)
    assert found.products[0] == 6


def test_operators_leave_when_they_are_done_whatever_their_company():
    dense = [matrix(SPECTRA[name], 48, seed) for seed, name in enumerate(("both signs", "low rank", "decay"))]
    together = solved(dense, 4, keys=np.array([7, 8, 9]))
    assert len(set(together.products)) == 3
    for place, single in enumerate(dense):
        alone = solved([single], 4, keys=np.array([7 + place]))
        assert alone.products[0] == together.products[place]
        np.testing.assert_allclose(alone.eigenvalues[0], together.eigenvalues[place], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(together.eigenvalues[place], exact_magnitudes(single, 4), atol=1e-6)


def test_residuals_bound_the_error_when_products_run_out():
    dense = matrix(np.linspace(1, 2, 300), 300)
    found = solved([dense], 6, max_products=12)
    assert found.products[0] == 12 and not found.converged[0]
    distances = np.abs(found.eigenvalues[0][:, None] - np.linalg.eigvalsh(dense)).min(axis=1)
    assert (distances <= found.residuals[0] * np.abs(found.eigenvalues).max()).all()
    assert found.residuals[0].max() > 1e-3


def test_float32_ends_at_its_rounding():
    found = solved([matrix([4.0, 1.0, -3.0], 300)], 20, dtype=np.float32, tolerance=1e-3)
    np.testing.assert_allclose(found.eigenvalues[0, :3], [4, -3, 1], rtol=1e-5)
    assert np.abs(found.eigenvalues[0, 3:]).max() < 1e-4 and found.products[0] <= 6


def test_bad_arguments_and_products():
    for settings, message in (
        ({"k": 9}, "k must"),
        ({"max_products": 3}, "max_products"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"seed": -1}, "seed"),
    ):
        with pytest.raises(UsageError, match=message):
            solved([np.eye(8)], **({"k": 4} | settings))
    with pytest.raises(FloatingPointError, match="not finite"):
        solved([np.full((8, 8), np.nan)], 2)
