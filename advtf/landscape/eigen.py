"""What the eigenvalue solvers share: their result, a checked operator, and products with a tall basis.

A basis is stored as rows (m, n), one contiguous vector each. Its products run over blocks of columns that
fit the cache; sums over blocks are float64, so that a scalar product of millions of float32 numbers keeps
six digits or more.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from advtf.errors import UsageError, one_of, require_whole

Operator = Callable[[np.ndarray], np.ndarray]
Report = Callable[[int, int], None]  # products so far, units finished: eigenpairs within tolerance or probes

# 100 rows of float32 make blocks of 1.6 MB. Whole rows took 7 times as long in `combine`, 1024 columns
# twice as long in `project_out`.
COLUMNS = 4096


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """Eigenpairs of a symmetric operator H.

    Attributes:
        values: (k,) float64, descending.
        vectors: (n, k), unit columns in the order of `values`, each contiguous in memory.
        residuals: (k,) float64, ‖Hv − λv‖₂ of each pair.
        products: operator calls spent.
        iterations: Lanczos: cycles between restarts, 1 without a restart; power: steps of all pairs together.
        converged: (k,) bool, by the solver's own criterion.
        method: "lanczos" or "power".
    """

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray
    products: int
    iterations: int
    converged: np.ndarray
    method: str


class CheckedOperator:
    """Counts an operator's products, checks them, and keeps them apart from the solver's arrays.

    `scale` is the largest norm of a product so far: the vectors given are units, so it is at most ‖H‖.

    Args:
        operator: (n,) -> (n,), linear and symmetric.
        dimension: n.
        dtype: np.float32 or np.float64, of the vectors given and returned.
        report: called as ``report(products, finished)`` by `tell`.

    Raises:
        UsageError: a dimension below 1, or another dtype.
    """

    def __init__(self, operator: Operator, dimension: int, dtype: type, report: Report | None = None):
        require_whole("dimension", dimension)
        one_of("dtype", np.dtype(dtype).name, ("float32", "float64"))
        self.dimension, self.dtype, self.products, self.scale = dimension, np.dtype(dtype), 0, 0.0
        self._operator, self._report = operator, report

    def __call__(self, vector: np.ndarray) -> np.ndarray:
        """Returns H·vector as a new (n,) array.

        Raises:
            UsageError: the operator returned another shape.
            FloatingPointError: its product is not finite.
        """
        self.products += 1
        image = np.asarray(self._operator(vector.copy()))
        if image.shape != (self.dimension,):
            raise UsageError(
                f"the operator must return shape ({self.dimension},). Received: shape={image.shape}."
            )
        with np.errstate(over="ignore"):
            image = image.astype(self.dtype)  # a copy even if nothing is converted
        if not np.isfinite(image).all():
            raise FloatingPointError(
                f"product {self.products} of the operator is not finite in {self.dtype}: "
                "the weights or the data hold NaN, or the loss overflows."
            )
        self.scale = max(self.scale, norm(image))
        return image

    def tell(self, finished: int) -> None:
        """Reports the products so far and how many units of work are finished."""
        if self._report is not None:
            self._report(self.products, finished)


def require_count(k: int, dimension: int) -> None:
    """Checks the number of eigenpairs.

    Raises:
        UsageError: k is not a whole number from 1 to the dimension.
    """
    require_whole("k", k)
    if k > dimension:
        raise UsageError(
            f"k must not exceed the operator's dimension {dimension}. Received: k={k}. Ask for fewer."
        )


def rounding(dtype: type) -> float:
    """Returns the size below which a remainder counts as rounding, relative to the largest product.

    It is u^¾ of the unit u, 6e-6 in float32 and 2e-12 in float64: one product errs by some hundred u, which
    the steps before an invariant subspace amplify.
    """
    return float(np.finfo(dtype).eps) ** 0.75


def dots(rows: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Returns rows·vector, float64 (m,), for `rows` (m, n) and `vector` (n,)."""
    total = np.zeros(len(rows))
    for block in blocks(vector.shape[0]):
        total += rows[:, block] @ vector[block]
    return total


def norm(vector: np.ndarray) -> float:
    """Returns ‖vector‖₂, summed in float64 over blocks."""
    return float(np.sqrt(dots(vector[None], vector)[0]))


def combine(rows: np.ndarray, weights: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Returns weightsᵀ·rows (p, n) for `rows` (m, n), `weights` (m, p); `out` may be the first p rows."""
    out = np.empty((weights.shape[1], rows.shape[1]), rows.dtype) if out is None else out
    weights = weights.T.astype(rows.dtype)
    for block in blocks(rows.shape[1]):
        out[:, block] = weights @ rows[:, block]
    return out


def project_out(rows: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Makes `vector` orthogonal to orthonormal `rows`, in place, by classical Gram–Schmidt done twice.

    Once leaves an error relative to what was subtracted; twice, relative to what is left, which is as
    orthogonal as the dtype allows unless what is left is rounding itself (Parlett 1998, section 6.9).

    Returns:
        The coefficients taken away, float64 (m,).
    """
    coefficients = np.zeros(len(rows))
    if len(rows) == 0:
        return coefficients
    for _ in range(2):
        change = dots(rows, vector)
        low = change.astype(rows.dtype)
        for block in blocks(vector.shape[0]):
            vector[block] -= low @ rows[:, block]
        coefficients += change
    return coefficients


def random_direction(rows: np.ndarray, dimension: int, generator: np.random.Generator) -> np.ndarray:
    """Draws a unit vector (n,), uniform among those orthogonal to the orthonormal `rows` (m, n), m < n."""
    vector = generator.standard_normal(dimension, dtype=rows.dtype)
    for _ in range(2):  # where the rows leave little room, the first pass leaves mostly rounding
        vector /= norm(vector)
        project_out(rows, vector)
    return vector / norm(vector)


def blocks(dimension: int) -> list[slice]:
    """Returns the column blocks of a basis of n = `dimension`."""
    return [slice(start, start + COLUMNS) for start in range(0, dimension, COLUMNS)]
