"""A Krylov space with its whole Lanczos relation: a step, Ritz pairs with residuals, a thick restart."""

import numpy as np

from advtf.landscape.eigen import CheckedOperator, combine, norm, project_out, rounding


class Krylov:
    """Orthonormal rows V (size, n), the next row v, and the relation A Vᵀ = [Vᵀ, vᵀ] C with C in float64.

    Symmetry makes C tridiagonal, after a restart diagonal with one full row and column; all of it is kept,
    so that the relation is exact to rounding whatever the operator's asymmetry.
    """

    def __init__(self, operator: CheckedOperator, capacity: int, start: np.ndarray):
        self.operator, self.capacity, self.size = operator, capacity, 0
        self.rows = np.empty((capacity + 1, operator.dimension), operator.dtype)  # touched as it fills
        self.coefficients = np.zeros((capacity + 1, capacity))
        self.dropped = np.zeros(capacity)  # norm of what column j of the relation leaves out
        self.begin(start / norm(start))

    def begin(self, direction: np.ndarray) -> None:
        """Makes a unit vector orthogonal to the basis the next row."""
        self.rows[self.size] = direction
        self.exhausted = False

    def grow(self) -> np.ndarray:
        """Takes one step, which is one product; sets `exhausted` if the space is now invariant to rounding.

        Returns:
            The remainder (n,), not normalised.
        """
        last = self.size
        image = self.operator(self.rows[last])
        self.coefficients[: last + 1, last] = project_out(self.rows[: last + 1], image)
        length = norm(image)
        self.size = last + 1
        full = self.size == self.operator.dimension
        self.exhausted = full or length <= rounding(self.operator.dtype) * self.operator.scale
        if self.exhausted:
            self.dropped[last] = length
        else:
            self.coefficients[last + 1, last] = length
            self.rows[last + 1] = image / length
        return image

    def rayleigh_ritz(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Computes all Ritz pairs.

        Returns:
            Values (size,) ascending; weights (size, size), one Ritz vector a column; residuals (size,).
        """
        size = self.size
        projected = self.coefficients[:size, :size]
        values, weights = np.linalg.eigh((projected + projected.T) / 2)
        defect = self.coefficients[: size + 1, :size] @ weights
        defect[:size] -= weights * values
        return values, weights, np.linalg.norm(defect, axis=0) + np.abs(weights.T) @ self.dropped[:size]

    def restart(self, weights: np.ndarray, kept: np.ndarray) -> None:
        """Shrinks the basis to the Ritz vectors `kept`, followed by the same next row."""
        size, count = self.size, len(kept)
        chosen, rest = weights[:, kept], np.delete(weights, kept, axis=1)
        image = self.coefficients[:size, :size] @ chosen
        dropped = np.abs(chosen.T) @ self.dropped[:size] + np.linalg.norm(rest.T @ image, axis=0)
        coupling = self.coefficients[size, :size] @ chosen
        combine(self.rows[:size], chosen, out=self.rows[:count])
        self.rows[count] = self.rows[size]
        self.coefficients[:], self.dropped[:] = 0, 0
        self.coefficients[:count, :count] = chosen.T @ image
        self.coefficients[count, :count] = coupling
        self.dropped[:count] = dropped
        self.size = count
