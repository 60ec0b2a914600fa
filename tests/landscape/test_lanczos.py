"""Lanczos on matrices with a chosen spectrum, against the spectrum, dense algebra and scipy."""

import numpy as np
import pytest
from helpers.spectrum import network_like, operator_of, residuals, symmetric
from scipy import sparse
from scipy.sparse.linalg import eigsh

from advtf.errors import UsageError
from advtf.landscape.eigen import combine, dots, norm, project_out, random_direction
from advtf.landscape.lanczos import lanczos, tridiagonalise

BULK = np.random.default_rng(2).standard_normal(195)
TIGHT = {"tolerance": 1e-11, "dtype": np.float64}
SPECTRA = {
    "network": (network_like(), 20),
    "clustered": (np.concatenate([5 + 1e-3 * np.arange(6), BULK]), 6),
    "tiny gap": (np.concatenate([[5, 5 - 5e-6, 4, 3.5], BULK]), 4),
    "negative": (np.concatenate([[-9, -8, -7.5, -1e-3], BULK / 10 - 4]), 3),
    "few distinct": (np.repeat([5, 3, 1, -2, 0.5], 8), 12),
    "low rank": (np.concatenate([[5, 4, 3, 3, -2], np.zeros(95)]), 6),
    "identity": (np.full(40, 7.0), 3),
    "whole": (BULK[:30], 30),
}


def wanted(spectrum, k, which):
    down = np.sort(spectrum)[::-1]
    if which == "magnitude":
        return np.sort(down[np.argsort(-np.abs(down))][:k])[::-1]
    top = {"largest": k, "smallest": 0, "both": -(-k // 2)}[which]
    return np.concatenate([down[:top], down[len(down) - (k - top) :]])


def check_pairs(matrix, pairs, exact, relative):
    scale = np.abs(np.linalg.eigvalsh(matrix)).max()
    np.testing.assert_allclose(pairs.values, exact, atol=relative * scale)
    np.testing.assert_allclose(pairs.vectors.T @ pairs.vectors, np.eye(len(exact)), atol=1e-6)
    assert pairs.converged.all() and pairs.vectors.shape == (len(matrix), len(exact))


@pytest.mark.parametrize("name", SPECTRA)
def test_eigenvalues_of_a_chosen_spectrum(name):
    spectrum, k = SPECTRA[name]
    matrix = symmetric(spectrum)
    pairs = lanczos(operator_of(matrix), len(matrix), k, **TIGHT)
    check_pairs(matrix, pairs, wanted(spectrum, k, "largest"), 1e-10)
    assert pairs.method == "lanczos" and pairs.products <= len(matrix)


@pytest.mark.parametrize("which", ["largest", "smallest", "both", "magnitude"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [1, 4, 5])
def test_every_end_of_the_spectrum(which, dtype, k):
    spectrum = np.concatenate([np.linspace(-3, 3, 100), [4, 5, 6, 8, 8.5, -4.2, -5, -7, -9, -9.5]])
    matrix = symmetric(spectrum)
    pairs = lanczos(operator_of(matrix, dtype), len(matrix), k, which=which, tolerance=1e-5, dtype=dtype)
    check_pairs(matrix, pairs, wanted(spectrum, k, which), 1e-6)
    assert pairs.vectors.dtype == dtype and pairs.values.dtype == np.float64


@pytest.mark.parametrize("which, scipy_name", [("largest", "LA"), ("smallest", "SA"), ("magnitude", "LM")])
def test_against_scipy(which, scipy_name):
    matrix = sparse.random(600, 600, density=0.01, rng=np.random.default_rng(3))
    matrix = (matrix + matrix.T).tocsr()
    pairs = lanczos(lambda v: matrix @ v, 600, 8, which=which, **TIGHT)
    values, vectors = eigsh(matrix, 8, which=scipy_name)
    down = np.argsort(-values)
    np.testing.assert_allclose(pairs.values, values[down], rtol=1e-9)
    np.testing.assert_allclose(np.abs((pairs.vectors * vectors[:, down]).sum(axis=0)), 1, atol=1e-9)


@pytest.mark.parametrize("dtype, atol", [(np.float64, 1e-12), (np.float32, 2e-6)])
def test_lanczos_relation_and_orthogonality(dtype, atol):
    matrix = symmetric(network_like())
    start = np.random.default_rng(0).standard_normal(len(matrix))
    found = tridiagonalise(operator_of(matrix, dtype), start, 60, dtype=dtype)
    q, t = found.basis.astype(np.float64), found.matrix()
    assert q.shape == (len(matrix), 60) and found.alphas.dtype == found.betas.dtype == np.float64
    last = np.outer(found.remainder, np.eye(60)[59])
    np.testing.assert_allclose(matrix @ q, q @ t + last, atol=atol)
    np.testing.assert_allclose(q.T @ q, np.eye(60), atol=atol)
    np.testing.assert_allclose(q.T @ found.remainder, 0, atol=atol)
    np.testing.assert_allclose(q[:, 0], start / np.linalg.norm(start), atol=atol)
    assert (found.betas > 0).all()


def test_tridiagonalise_stops_at_an_invariant_subspace():
    matrix = symmetric(np.repeat([4, 2, -1], 20))
    found = tridiagonalise(operator_of(matrix), np.ones(60), 50)
    np.testing.assert_allclose(np.linalg.eigvalsh(found.matrix()), [-1, 2, 4], atol=1e-12)
    assert found.basis.shape == (60, 3) and np.linalg.norm(found.remainder) < 1e-11


def test_orthogonality_with_millions_of_float32_numbers():
    n = 1_000_000
    curvature = np.linspace(0, 1, n, dtype=np.float32) ** 8
    signs = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), n)
    found = tridiagonalise(lambda v: curvature * v, signs, 6)
    gram = found.basis.astype(np.float64).T @ found.basis
    np.testing.assert_allclose(gram, np.eye(6), atol=1e-6)
    # Moments of t ** 8 over [0, 1]: the first coefficients are the mean and the standard deviation.
    np.testing.assert_allclose([found.alphas[0], found.betas[0] ** 2], [1 / 9, 1 / 17 - 1 / 81], rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"basis_size": 24}, {"which": "smallest", "basis_size": 45}])
@pytest.mark.parametrize("dtype, atol", [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_residuals_are_those_of_direct_products(options, dtype, atol):
    matrix = symmetric(network_like())
    pairs = lanczos(operator_of(matrix, dtype), len(matrix), 20, dtype=dtype, **options)
    np.testing.assert_allclose(pairs.residuals, residuals(matrix, pairs), atol=atol)
    assert (pairs.converged == (pairs.residuals <= 1e-3 * 10)).all() or options.get("which")


def test_residuals_show_that_an_operator_is_not_symmetric():
    rng = np.random.default_rng(4)
    matrix = symmetric(np.concatenate([[10, 8, 6], BULK])) + 0.3 * rng.standard_normal((198, 198)) / 198**0.5
    for basis_size in (None, 12):
        pairs = lanczos(
            operator_of(matrix), 198, 3, tolerance=1e-6, basis_size=basis_size, max_products=60, dtype=float
        )
        true = residuals(matrix, pairs)
        assert not pairs.converged.any()
        # After restarts the reported number is an upper bound.
        assert (pairs.residuals >= true - 1e-12).all()
        if basis_size is None:
            np.testing.assert_allclose(pairs.residuals, true, rtol=1e-9)


@pytest.mark.parametrize("basis_size", [22, 24, 40, 60])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_thick_restart_equals_the_full_basis(basis_size, dtype):
    matrix = symmetric(network_like())
    request = dict(tolerance=1e-5, dtype=dtype, max_products=800)
    full = lanczos(operator_of(matrix, dtype), len(matrix), 20, **request)
    small = lanczos(operator_of(matrix, dtype), len(matrix), 20, basis_size=basis_size, **request)
    check_pairs(matrix, small, full.values, 2e-7)
    assert full.iterations == 1 and (small.iterations > 1) == (small.products > basis_size)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_residuals_stay_true_over_many_restarts(dtype):
    spectrum = np.linspace(0, 1, 2000, dtype=dtype)  # has no gaps, so that the search is long
    pairs = lanczos(lambda v: spectrum * v, 2000, 20, basis_size=30, max_products=1000, dtype=dtype)
    assert pairs.converged.all() and pairs.iterations > 60
    vectors = pairs.vectors.astype(np.float64)
    true = np.linalg.norm(spectrum[:, None] * vectors - vectors * pairs.values, axis=0)
    np.testing.assert_allclose(pairs.residuals, true, rtol=1e-9, atol=1e-5 if dtype == np.float32 else 1e-12)


def test_thick_restart_finds_copies_of_a_low_rank_operator():
    matrix = symmetric(SPECTRA["low rank"][0])
    pairs = lanczos(operator_of(matrix), 100, 4, basis_size=6, **TIGHT)
    np.testing.assert_allclose(pairs.values, [5, 4, 3, 3], atol=1e-10)


def test_noise_that_hides_the_next_invariant_subspace_does_not_prolong_the_search():
    matrix, products, rng = symmetric(SPECTRA["low rank"][0]), [], np.random.default_rng(10)

    def noisy(vector):
        products.append(0)
        # The first Krylov space ends after 6 products, one for each distinct eigenvalue and zero.
        return matrix @ vector + (1e-6 * rng.standard_normal(100) if len(products) > 6 else 0)

    pairs = lanczos(noisy, 100, 4, dtype=np.float64)
    np.testing.assert_allclose(pairs.values, [5, 4, 3, 3], atol=1e-4)
    assert pairs.converged.all() and pairs.products <= 3 * 6


def test_few_products_for_a_spectrum_like_a_network():
    spectrum = network_like(3000)
    pairs = lanczos(lambda v: spectrum.astype(np.float32) * v, 3000, 20)
    assert pairs.converged.all() and pairs.products <= 60
    # An error of an eigenvalue is at most its residual, and the noise of float32.
    errors = np.abs(pairs.values - np.sort(spectrum)[:-21:-1])
    assert (errors <= pairs.residuals + 1e-7 * 10).all()


def test_zero_operator():
    pairs = lanczos(lambda v: 0 * v, 9, 3)
    assert (pairs.values == 0).all() and (pairs.residuals == 0).all() and pairs.converged.all()


def test_products_run_out():
    matrix, seen = symmetric(network_like()), []
    pairs = lanczos(
        operator_of(matrix), 400, 20, max_products=23, report=lambda *state: seen.append(state), **TIGHT
    )
    assert pairs.products == 23 and not pairs.converged.all()
    assert [products for products, _ in seen] == list(range(1, 24))
    assert seen[-1][1] == pairs.converged.sum()
    np.testing.assert_allclose(pairs.residuals, residuals(matrix, pairs), atol=1e-12)
    assert (np.diff(pairs.values) <= 0).all()


def test_same_seed_same_bits_and_other_seed_same_spectrum():
    operator = operator_of(symmetric(network_like()), np.float32)
    one, two, other = (lanczos(operator, 400, 5, seed=seed, tolerance=1e-5) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.vectors, two.vectors)
    np.testing.assert_array_equal(one.values, two.values)
    assert (one.vectors != other.vectors).any()
    np.testing.assert_allclose(one.values, other.values, rtol=1e-6)


def test_an_operator_may_keep_or_change_its_vector():
    matrix, buffer, returned = symmetric(network_like()), np.zeros(400), [np.zeros(400)]

    def careless(vector):
        np.testing.assert_array_equal(buffer, returned[-1])  # nobody has written into it
        np.matmul(matrix, vector, out=buffer)
        vector[:] = np.nan
        returned.append(buffer.copy())
        return buffer

    pairs = lanczos(careless, 400, 4, **TIGHT)
    np.testing.assert_allclose(pairs.values, np.sort(network_like())[:-5:-1], rtol=1e-9)


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"k": 11}, "k must not exceed the operator's dimension 10"),
        ({"k": 0}, "k must be a whole number"),
        ({"dimension": 0}, "dimension must be"),
        ({"which": "largst"}, "Did you mean 'largest'"),
        ({"tolerance": 1e-7}, "tolerance must be at least 6e-06 in float32"),
        ({"tolerance": 1e-13, "dtype": np.float64}, "in float64"),
        ({"max_products": 2}, "max_products must be"),
        ({"basis_size": 4}, "basis_size must be"),
        ({"seed": -1}, "seed must be"),
        ({"dtype": np.float16}, "dtype must be one of float32, float64"),
    ],
)
def test_bad_requests_are_refused_before_any_product(options, reason):
    def untouched(vector):
        raise AssertionError("a product was made")

    with pytest.raises(UsageError, match=reason):
        lanczos(untouched, **({"dimension": 10, "k": 3} | options))


def test_bad_operators():
    with pytest.raises(UsageError, match=r"must return shape \(10,\)\. Received: shape=\(10, 1\)"):
        lanczos(lambda v: v[:, None], 10, 3)
    calls = []
    with pytest.raises(FloatingPointError, match="product 3 of the operator is not finite"):
        lanczos(lambda v: calls.append(0) or v * np.where(len(calls) < 3, np.arange(10), np.nan), 10, 3)
    with pytest.raises(FloatingPointError, match="not finite in float32"):
        lanczos(lambda v: v.astype(np.float64) * 1e60, 10, 3)


@pytest.mark.parametrize("start", [np.zeros(5), np.array([1.0, np.nan]), np.ones((2, 2))])
def test_bad_starts(start):
    with pytest.raises(UsageError, match="start must be a finite nonzero vector"):
        tridiagonalise(lambda v: v, start, 2)
    with pytest.raises(UsageError, match="dtype must be"):
        tridiagonalise(lambda v: v, np.ones(3, int), 2)


@pytest.mark.parametrize("n", [1, 4095, 4096, 10_000])
def test_products_by_blocks_equal_whole_ones(n):
    rng = np.random.default_rng(5)
    rows, vector, weights = rng.standard_normal((3, n)), rng.standard_normal(n), rng.standard_normal((3, 2))
    np.testing.assert_allclose(dots(rows, vector), rows @ vector, atol=1e-10)
    np.testing.assert_allclose(norm(vector), np.linalg.norm(vector), rtol=1e-13)
    np.testing.assert_allclose(combine(rows, weights), weights.T @ rows, atol=1e-12)
    expected = weights.T @ rows
    combine(rows, weights, out=rows[:2])
    np.testing.assert_allclose(rows[:2], expected, atol=1e-12)


def test_project_out_of_a_nearly_dependent_vector():
    rows = np.linalg.qr(np.random.default_rng(6).standard_normal((50, 10)))[0].T.copy()
    outside = random_direction(rows, 50, np.random.default_rng(7))
    vector = rows.sum(axis=0) + 1e-6 * outside
    coefficients = project_out(rows, vector)
    np.testing.assert_allclose(coefficients, np.ones(10), atol=1e-12)
    np.testing.assert_allclose(vector, 1e-6 * outside, atol=1e-14)
    np.testing.assert_allclose(rows @ vector / np.linalg.norm(vector), 0, atol=1e-14)


def test_random_direction_where_one_is_left():
    q = np.linalg.qr(np.random.default_rng(8).standard_normal((300, 300)))[0].T.copy()
    found = random_direction(q[:299].astype(np.float32), 300, np.random.default_rng(9))
    np.testing.assert_allclose(abs(found @ q[299]), 1, atol=1e-5)
