"""Power iteration with deflation: how Liu et al. 2020, section 4.2, compute Hessian spectra."""

from dataclasses import dataclass

import numpy as np

from advtf.errors import one_of, require_real, require_whole
from advtf.landscape.eigen import (
    CheckedOperator,
    Eigenpairs,
    Operator,
    Report,
    dots,
    norm,
    project_out,
    random_direction,
    require_count,
    rounding,
)

CRITERIA = ("change", "residual")


def power_iteration(
    operator: Operator,
    dimension: int,
    k: int,
    *,
    tolerance: float = 1e-3,
    max_iterations: int = 50,
    criterion: str = "change",
    seed: int = 0,
    dtype: type = np.float32,
    report: Report | None = None,
) -> Eigenpairs:
    """Finds the k eigenpairs of largest |λ| of a symmetric operator, one after the other.

    v ← P H v / ‖P H v‖ with P the projection off the vectors found before, λ = vᵀHv, until λ changes by at
    most tolerance·|λ| from one step to the next. That is the paper's criterion: it bounds a change, not an
    error, so that `converged` pairs can have large residuals, and the next pairs inherit the error. The
    defaults are the paper's.

    Args:
        operator: (n,) -> (n,); called with vectors of `dtype`.
        dimension: n.
        k: number of pairs, 1 to n.
        tolerance: relative change of λ at which a pair is accepted.
        criterion: "change" as above; or "residual", with which ‖P H v − λv‖ must be at most tolerance·max|λ|
            over the pairs so far, too, as in `advtf.landscape.lanczos`. By itself that would accept a random
            start of many dimensions, on which H nearly vanishes. What the errors of earlier pairs add to
            ‖Hv − λv‖ is left out: no iteration on this pair makes it smaller.
        seed: of the random starts.
        dtype: of the vectors, np.float32 or np.float64.
        report: called after every product as ``report(products, pairs finished)``.

    Returns:
        The pairs, sorted by signed value. A residual is ‖Hv − λv‖ of the last product, at no extra cost.

    Raises:
        UsageError: a setting out of range, or an operator of another shape.
        FloatingPointError: a product is not finite.
    """
    checked = CheckedOperator(operator, dimension, dtype, report)
    require_count(k, dimension)
    require_real("tolerance", tolerance, 0)
    require_whole("max_iterations", max_iterations, 2)
    one_of("criterion", criterion, CRITERIA)
    require_whole("seed", seed, 0)
    generator = np.random.default_rng(seed)
    rows, pairs = np.empty((k, dimension), dtype), []
    for found in range(k):
        rows[found] = random_direction(rows[:found], dimension, generator)
        scale = max((abs(pair.value) for pair in pairs), default=0.0)
        within = _criterion(criterion, tolerance, scale)
        pairs.append(_climb(checked, rows, found, within, max_iterations))
        checked.tell(found + 1)
    down = np.argsort([-pair.value for pair in pairs], kind="stable")
    values, residuals, converged = (
        np.array([getattr(pairs[i], name) for i in down]) for name in ("value", "residual", "converged")
    )
    products = checked.products
    return Eigenpairs(values, rows[down].T, residuals, products, products, converged, "power")


@dataclass(frozen=True)
class _Pair:
    value: float
    residual: float
    converged: bool


def _criterion(name, tolerance, scale):
    """Returns the function (λ, λ before, v, P H v) -> whether the pair is accepted."""

    def steady(value, before, vector, image):
        return before is not None and abs(value - before) <= tolerance * abs(before)

    def small(value, before, vector, image):
        left = image - image.dtype.type(value) * vector
        return steady(value, before, vector, image) and norm(left) <= tolerance * max(scale, abs(value))

    return {"change": steady, "residual": small}[name]


def _climb(checked, rows, found, accepted, max_iterations):
    """Iterates on ``rows[found]``, in place, until it is accepted."""
    before = None
    for step in range(max_iterations):
        vector = rows[found]
        image = checked(vector)
        value = float(dots(vector[None], image)[0])
        residual = norm(image - image.dtype.type(value) * vector)
        project_out(rows[:found], image)
        length = norm(image)
        # All that is left of the operator may be its null space, where there is nothing to climb.
        if accepted(value, before, vector, image) or length <= rounding(checked.dtype) * checked.scale:
            return _Pair(value, residual, True)
        if step + 1 < max_iterations:  # else keep the vector that value and residual belong to
            rows[found], before = image / length, value
            checked.tell(found)
    return _Pair(value, residual, False)
