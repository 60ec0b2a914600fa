"""Symmetric matrices with a chosen spectrum, and operators made of them."""

import numpy as np


def symmetric(eigenvalues, seed=0) -> np.ndarray:
    """Returns Q diag(eigenvalues) Qᵀ in float64, Q a random orthogonal matrix."""
    values = np.asarray(eigenvalues, np.float64)
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))
    matrix = (q * values) @ q.T
    return (matrix + matrix.T) / 2


def operator_of(matrix, dtype=np.float64):
    """Returns v ↦ matrix·v in `dtype`."""
    stored = matrix.astype(dtype)
    return lambda vector: stored @ vector


def network_like(n=400, seed=1) -> np.ndarray:
    """A bulk near zero, twenty outliers over two decades, a few negative eigenvalues."""
    bulk = 0.01 * np.random.default_rng(seed).standard_normal(n - 25)
    return np.concatenate([bulk, np.geomspace(0.1, 10, 20), -np.geomspace(0.05, 0.8, 5)])


def residuals(matrix, pairs) -> np.ndarray:
    """Returns ‖Av − λv‖₂ of each pair in float64."""
    vectors = pairs.vectors.astype(np.float64)
    return np.linalg.norm(matrix @ vectors - vectors * pairs.values, axis=0)


def exact_magnitudes(matrix, k) -> np.ndarray:
    """Returns the k eigenvalues of largest absolute value of a symmetric matrix, by LAPACK."""
    values = np.linalg.eigvalsh(matrix)
    return values[np.argsort(-np.abs(values), kind="stable")][:k]


def relative_error(found, expected) -> float:
    """Returns the largest deviation relative to the largest expected value."""
    return np.abs(found - expected).max() / np.abs(expected).max()
