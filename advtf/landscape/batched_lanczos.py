"""Lanczos on many small symmetric operators side by side, for their eigenvalues of largest absolute value.

The solver of `advtf.landscape.lanczos` is for one operator of many dimensions; here one call multiplies a
vector of every operator, all bases have the same size at any time, and nothing restarts for want of room.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from advtf.errors import require_real, require_whole
from advtf.landscape.eigen import require_count, rounding

Operators = Callable[[np.ndarray, np.ndarray], np.ndarray]  # rows (b,), vectors (b, n) -> products (b, n)

CHECK = 4  # steps from one look at the Ritz pairs to the next: it costs as much as a small network's product


@dataclass(frozen=True, eq=False)
class Spectra:
    """The k eigenvalues of largest absolute value of each of N symmetric operators H.

    Attributes:
        eigenvalues: (N, k) float64, by descending absolute value.
        residuals: (N, k) float64, ‖Hv − λv‖₂ of each, divided by the operator's max|λ|. Of a 0 that stands
            for a remainder of H found to vanish, an estimate of that remainder's norm.
        products: (N,) int, products spent.
        converged: (N,) bool, whether every residual is within the tolerance.
    """

    eigenvalues: np.ndarray
    residuals: np.ndarray
    products: np.ndarray
    converged: np.ndarray

    @classmethod
    def joined(cls, parts: "list[Spectra]") -> "Spectra":
        """Returns the spectra of all parts as one, in their order."""
        names = cls.__dataclass_fields__
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def largest_magnitudes(
    operators: Operators,
    dimension: int,
    k: int,
    *,
    keys: np.ndarray,
    tolerance: float = 1e-3,
    max_products: int = 200,
    seed: int = 0,
    dtype: type = np.float32,
) -> Spectra:
    """Finds the k eigenvalues of largest |λ| of every operator, with full reorthogonalisation.

    All bases grow by one vector at a time; an operator leaves as soon as its k Ritz pairs are within the
    tolerance. Where its Krylov space ends, as it does after K steps for the input Hessian of a network of
    piecewise linear units (its rank is K − 1 at most), a random unit vector v orthogonal to it begins the
    next one: n‖Hv‖² estimates the squared Frobenius norm of what is left of H. Is that within the tolerance,
    the other eigenvalues are 0; else the search for repeated ones goes on, to `max_products` at most.

    Args:
        operators: called with the rows (b,) of those that still search, ascending, and a vector for each.
        dimension: n.
        k: 1 to n.
        keys: (N,) integers of at least 0; with `seed` they make the random vectors of each operator.
        tolerance: of residuals, relative to the operator's max|λ|.
        max_products: of each operator, at least k.
        seed: at least 0.
        dtype: of the vectors, np.float32 or np.float64.

    Raises:
        UsageError: a number out of range.
        FloatingPointError: a product is not finite.
    """
    require_count(k, dimension)
    require_real("tolerance", tolerance, 0, 1)
    require_whole("max_products", max_products, k)
    require_whole("seed", seed, 0)
    capacity, count = min(max_products, dimension), len(keys)
    spaces = _Spaces(operators, dimension, capacity, keys, seed, tolerance, np.dtype(dtype))
    found = Spectra(*np.zeros((2, count, k)), np.zeros(count, int), np.zeros(count, bool))
    while len(spaces.rows):
        spaces.grow()
        leaving = _leaving(spaces, k, tolerance)
        if leaving.any():
            rows = spaces.rows[leaving]
            found.eigenvalues[rows], found.residuals[rows] = spaces.ritz(leaving, k)
            found.products[rows] = spaces.size
            spaces.keep(~leaving)
    found.converged[:] = (found.residuals <= tolerance).all(axis=1)
    return found


def _leaving(spaces: "_Spaces", k: int, tolerance: float) -> np.ndarray:
    if spaces.size == spaces.capacity:
        return np.ones(len(spaces.rows), bool)
    leaving = spaces.complete.copy()
    if spaces.size >= k and (spaces.size - k) % CHECK == 0:
        first = spaces.starts == 1  # a second space is there for what the first one may have missed
        _, residuals = spaces.ritz(first, k)
        leaving[first] |= (residuals <= tolerance).all(axis=1)
    return leaving


class _Spaces:
    """Orthonormal bases Q (b, size, n) of b operators, with all of C in H Q = [Q, q] C in float64.

    Attributes:
        rows: (b,) which operators these are.
        starts: (b,) how many Krylov spaces each has begun.
        complete: (b,) whether H vanishes, to rounding or the tolerance, on what its basis does not span.
    """

    def __init__(self, operators, dimension, capacity, keys, seed, tolerance, dtype):
        count = len(keys)
        self._operators, self._keys, self._seed, self._dtype = operators, keys, seed, dtype
        self._room = tolerance / np.sqrt(dimension)
        self.capacity, self.size, self.rows = capacity, 0, np.arange(count)
        self.starts, self.complete = np.zeros(count, int), np.zeros(count, bool)
        self._basis = np.empty((count, capacity + 1, dimension), dtype)
        self._coefficients = np.zeros((count, capacity + 1, capacity))
        self._dropped = np.zeros((count, capacity))  # norm of what a column of the relation leaves out
        self._rest = np.zeros(count)  # estimated norm of H outside a complete basis
        self._scale = np.zeros(count)  # largest norm of a product: at most ‖H‖, as the vectors are units
        self._fresh = np.ones(count, bool)  # the next vector begins a Krylov space
        self._begin(self._fresh)

    def grow(self) -> None:
        """Takes one step with every operator, which is one product each."""
        last, self.size = self.size, self.size + 1
        images = self._products(self._basis[:, last])
        lengths = _norms(images)
        self._scale = np.maximum(self._scale, lengths)
        negligible = rounding(self._dtype) * self._scale
        self.complete = self._fresh & (lengths <= np.maximum(negligible, self._room * self._scale))
        self._rest = np.where(self.complete, lengths * np.sqrt(images.shape[1]), 0.0)
        self._coefficients[:, : self.size, last] = _project_out(self._basis[:, : self.size], images)
        remainders = _norms(images)
        self._fresh = remainders <= negligible
        self._dropped[self._fresh, last] = remainders[self._fresh]
        going = ~self._fresh
        self._coefficients[going, self.size, last] = remainders[going]
        self._basis[going, self.size] = images[going] / remainders[going, None]
        if self.size < self.capacity:
            self._begin(self._fresh & ~self.complete)

    def ritz(self, chosen: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the k Ritz values of largest magnitude and their relative residuals, of some operators.

        Where there are fewer, zeros with the norm of the rest of H follow.
        """
        size, shown = self.size, min(k, self.size)
        square = self._coefficients[chosen, :size, :size]
        values, weights = np.linalg.eigh((square + square.transpose(0, 2, 1)) / 2)
        defects = self._coefficients[chosen, : size + 1, :size] @ weights
        defects[:, :size] -= weights * values[:, None]
        dropped = self._dropped[chosen, None, :size] @ np.abs(weights)
        residuals = np.linalg.norm(defects, axis=1) + dropped[:, 0]
        order = np.argsort(-np.abs(values), axis=1, kind="stable")[:, :shown]
        best, bounds = np.zeros((len(values), k)), np.tile(self._rest[chosen, None], (1, k))
        best[:, :shown] = np.take_along_axis(values, order, axis=1)
        bounds[:, :shown] = np.take_along_axis(residuals, order, axis=1)
        largest = np.abs(best[:, :1])
        return best, np.divide(bounds, largest, out=np.zeros_like(bounds), where=largest > 0)

    def keep(self, chosen: np.ndarray) -> None:
        """Goes on with these operators only."""
        used = self._basis[chosen, : self.size + 1]
        self._basis = np.empty((len(used), *self._basis.shape[1:]), self._dtype)
        self._basis[:, : self.size + 1] = used
        for name in ("rows", "starts", "complete"):
            setattr(self, name, getattr(self, name)[chosen])
        for name in ("_coefficients", "_dropped", "_rest", "_scale", "_fresh", "_keys"):
            setattr(self, name, getattr(self, name)[chosen])

    def _begin(self, chosen):
        """Makes a random unit vector orthogonal to the basis the next one."""
        indices = np.flatnonzero(chosen)
        if not len(indices):
            return
        streams = [[self._seed, int(self._keys[index]), int(self.starts[index])] for index in indices]
        vectors = np.stack(
            [
                np.random.default_rng(stream).standard_normal(self._basis.shape[2], self._dtype)
                for stream in streams
            ]
        )
        for _ in range(2):  # where the basis leaves little room, the first pass leaves mostly rounding
            vectors /= _norms(vectors)[:, None]
            _project_out(self._basis[indices, : self.size], vectors)
        self._basis[indices, self.size] = vectors / _norms(vectors)[:, None]
        self.starts[indices] += 1

    def _products(self, vectors):
        images = np.array(self._operators(self.rows, vectors), self._dtype)
        if not np.isfinite(images).all():
            raise FloatingPointError(
                f"product {self.size} of an operator is not finite in {self._dtype}: "
                "the weights or the data hold NaN, or the loss overflows."
            )
        return images


def _norms(vectors: np.ndarray) -> np.ndarray:
    """Returns ‖v‖₂ of each row, in float64."""
    return np.sqrt(np.einsum("bn,bn->b", vectors, vectors, dtype=np.float64))


def _project_out(bases: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Makes each vector orthogonal to its basis, in place; twice, see `advtf.landscape.eigen.project_out`.

    Returns:
        The coefficients taken away, float64 (b, size).
    """
    taken = np.zeros(bases.shape[:2])
    for _ in range(2):
        change = bases @ vectors[:, :, None]
        vectors -= (change.transpose(0, 2, 1) @ bases)[:, 0]
        taken += change[:, :, 0]
    return taken
