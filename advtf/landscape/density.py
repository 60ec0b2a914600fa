"""A whole spectrum, estimated: density and moments by stochastic Lanczos quadrature.

A random vector v of entries ±1 (Rademacher) has E[vᵀ f(H) v] = tr f(H). Lanczos from v/√n gives a Gauss
quadrature: nodes θ_l, the eigenvalues of T, and weights ω_l, the squared first components of its unit
eigenvectors, with (1/n) vᵀ f(H) v = Σ_l ω_l f(θ_l), exact for polynomials f of degree < 2·steps
(Golub & Meurant 1993; for Hessians Ghorbani et al. 2019).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from advtf.errors import UsageError, require_real, require_whole
from advtf.landscape.eigen import CheckedOperator, Operator, Report
from advtf.landscape.lanczos import tridiagonalise
from advtf.landscape.statistics import Estimate, estimate

POINTS_PER_WIDTH = 5


@dataclass(frozen=True, eq=False)
class Quadrature:
    """One probe's view of a spectrum: nodes (m,) ascending and weights (m,) of sum 1, float64."""

    nodes: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    """A spectrum by quadrature, averaged over probes.

    Attributes:
        nodes: (probes, steps) float64, ascending; the extreme ones approach the extreme eigenvalues.
        weights: (probes, steps) float64, each row of sum 1. Where Lanczos ended early in an invariant
            subspace, the row is filled with its last node at weight 0.
        dimension: n.
        products: operator calls spent.
        trace: of H, the sum of the eigenvalues; its standard error is over probes.
        square_trace: of H², the sum of their squares.
    """

    nodes: np.ndarray
    weights: np.ndarray
    dimension: int
    products: int
    trace: Estimate
    square_trace: Estimate


def spectral_density(
    operator: Operator,
    dimension: int,
    *,
    probes: int = 4,
    steps: int = 80,
    seed: int = 0,
    dtype: type = np.float32,
    report: Report | None = None,
) -> SpectralDensity:
    """Estimates the spectrum of a symmetric operator from `probes` random vectors, `steps` products each.

    Args:
        operator: (n,) -> (n,); called with vectors of `dtype`.
        dimension: n.
        probes: random vectors; errors fall with their square root.
        steps: of Lanczos, at most n are taken; the resolution is about π/2·(λmax − λmin)/steps in the middle
            of the spectrum and finer at its ends. Memory: (steps + 2)·n numbers.
        seed: probe i is drawn from (seed, i).
        dtype: of the vectors, np.float32 or np.float64.
        report: called after every product as ``report(products, probes finished)``.

    Raises:
        UsageError: a setting out of range, or an operator of another shape.
        FloatingPointError: a product is not finite.
    """
    require_whole("probes", probes)
    checked = CheckedOperator(operator, dimension, dtype)
    quadratures = []

    def counted(vector):
        image = checked(vector)
        if report is not None:
            report(checked.products, len(quadratures))
        return image

    for probe in range(probes):
        quadratures.append(quadrature(counted, dimension, steps, seed=seed, probe=probe, dtype=dtype))
    return average(quadratures, dimension)


def quadrature(
    operator: Operator, dimension: int, steps: int, *, seed: int, probe: int, dtype: type = np.float32
) -> Quadrature:
    """Computes the Gauss quadrature of one probe; the arguments are those of `spectral_density`."""
    require_whole("seed", seed, 0)
    signs = np.random.default_rng([seed, probe]).integers(0, 2, dimension, dtype=np.int8)
    lanczos = tridiagonalise(operator, 2 * signs - 1, steps, dtype=dtype)
    nodes, vectors = np.linalg.eigh(lanczos.matrix())
    return Quadrature(nodes, vectors[0] ** 2)


def average(quadratures: Sequence[Quadrature], dimension: int) -> SpectralDensity:
    """Puts the quadratures of several probes together."""
    nodes, weights = stacked(quadratures)
    products = sum(len(each.nodes) for each in quadratures)
    traces, square_traces = (dimension * (weights * nodes**power).sum(axis=1) for power in (1, 2))
    return SpectralDensity(nodes, weights, dimension, products, estimate(traces), estimate(square_traces))


def stacked(parts: Sequence[Quadrature | SpectralDensity]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the nodes and the weights of several parts, each (parts, ..., steps) for the largest `steps`.

    Where Lanczos ended early, a row is filled with its last node at weight 0.
    """
    steps = max(part.nodes.shape[-1] for part in parts)

    def filled(values, **how):
        missing = [(0, 0)] * (values.ndim - 1) + [(0, steps - values.shape[-1])]
        return np.pad(values, missing, **how)

    nodes = np.stack([filled(part.nodes, mode="edge") for part in parts])
    return nodes, np.stack([filled(part.weights) for part in parts])


def smooth(nodes: np.ndarray, weights: np.ndarray, grid: np.ndarray, width: float) -> Estimate:
    """Evaluates the density φ(t) = mean over probes of Σ_l ω_l N(t; θ_l, width²), of integral 1.

    Args:
        nodes, weights: (probes, steps), of a `SpectralDensity`.
        grid: (g,) eigenvalues t.
        width: standard deviation of the Gaussian kernel, in units of the eigenvalues; positive.

    Returns:
        φ (g,) per unit of eigenvalue, with its standard error over probes (g,).

    Raises:
        UsageError: a width that is not positive.
    """
    require_real("width", width, 0)
    if not width > 0:
        raise UsageError(f"width must be positive. Received: width={width}.")
    offsets = (np.asarray(grid, np.float64)[:, None, None] - nodes) / width
    kernel = np.exp(-(offsets**2) / 2) / (width * np.sqrt(2 * np.pi))
    return estimate((kernel * weights).sum(axis=2).T)


def kernel_width(nodes: np.ndarray) -> float:
    """Returns a width for `smooth`: 1/200 of the range of the nodes, of their size if all are equal."""
    low, high = float(nodes.min()), float(nodes.max())
    size = max(abs(low), abs(high))
    return (high - low if high - low > 1e-6 * size else size or 1.0) / 200


def covering_grid(nodes: np.ndarray, width: float) -> np.ndarray:
    """Returns eigenvalues (g,) float64 that cover the nodes and 6 widths beyond, 5 of them to a width."""
    low, high = float(nodes.min()), float(nodes.max())
    points = int(np.ceil(((high - low) / width + 12) * POINTS_PER_WIDTH)) + 1
    return np.linspace(low - 6 * width, high + 6 * width, points)
