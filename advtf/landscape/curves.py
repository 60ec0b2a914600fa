"""Curves in weight space between two classifiers, and the loss along them (Liu et al. 2020, appendix C.2.5).

A `Curve` is a Bezier curve or a polygonal chain over control points. A `CurveScanner` measures a network at
points of it, with statistics of BatchNorm estimated anew. `advtf.training.curve` trains the inner points.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from advtf.attacks.attack import Attack
from advtf.classifiers.classifier import Classifier
from advtf.classifiers.parameters import unchanged
from advtf.errors import UsageError, one_of, require_real, require_whole
from advtf.landscape.batch_statistics import BatchStatistics
from advtf.landscape.objective import AdversarialObjective
from advtf.runtime import progress
from advtf.storage.cache import ResultCache, fingerprint

PANELS, NODES = 32, 16  # of the quadrature of a Bezier curve's length: exact to rounding for a smooth speed


def bernstein(order: int, t: float) -> np.ndarray:
    """Returns the Bernstein coefficients C(n, i) (1 − t)^(n−i) t^i, i = 0..n (Liu et al. 2020, eq. 30).

    Args:
        order: n.
        t: in [0, 1].

    Returns:
        (n + 1,) float64, non-negative, with sum 1.
    """
    i = np.arange(order + 1)
    binomials = np.array([math.comb(order, k) for k in i], np.float64)
    return binomials * (1.0 - t) ** (order - i) * float(t) ** i


def hat(order: int, t: float) -> np.ndarray:
    """Returns the coefficients max(0, 1 − |n t − i|), i = 0..n, of a chain through its control points.

    Args, Returns: as for `bernstein`; point i is reached at t = i/n (Garipov et al. 2018).
    """
    return np.maximum(0.0, 1.0 - np.abs(order * float(t) - np.arange(order + 1)))


COEFFICIENTS: dict[str, Callable[[int, float], np.ndarray]] = {"bezier": bernstein, "chain": hat}


@dataclass(frozen=True, eq=False)
class Curve:
    """B(t) = Σ_i c_i(t) θ_i: linear in its control points, whose coefficients depend on the kind.

    Attributes:
        kind: "bezier" (order n: n + 1 points, eq. 30) or "chain" (straight pieces from point to point).
        points: (n + 1, P) control points in a float dtype; the first and the last are the ends.

    Raises:
        UsageError: an unknown kind, or points that are not two or more vectors of finite numbers.
    """

    kind: str
    points: np.ndarray

    def __post_init__(self) -> None:
        one_of("kind", self.kind, COEFFICIENTS)
        points = np.asarray(self.points)
        if points.ndim != 2 or len(points) < 2 or not np.issubdtype(points.dtype, np.floating):
            raise UsageError(
                "a curve's points must be floats (n + 1, P), with n at least 1. "
                f"Received: points of {points.dtype} {points.shape}."
            )
        if not np.isfinite(points).all():
            raise UsageError("a curve's points must be finite. Received: NaN or infinity.")
        object.__setattr__(self, "points", points)

    @property
    def order(self) -> int:
        """n, the number of control points less one."""
        return len(self.points) - 1

    def coefficients(self, t: float) -> np.ndarray:
        """Returns c(t), (n + 1,) float64.

        Raises:
            UsageError: t outside [0, 1].
        """
        require_real("t", t, 0, 1)
        return COEFFICIENTS[self.kind](self.order, t)

    def at(self, t: float) -> np.ndarray:
        """Returns B(t), (P,) in the points' dtype; a control point that is met exactly keeps its bits.

        Raises:
            UsageError: t outside [0, 1].
        """
        coefficients = self.coefficients(t)
        met = np.flatnonzero(coefficients == 1.0)
        if len(met):  # a sum would turn −0 into +0
            return self.points[met[0]].copy()
        total = np.zeros(self.points.shape[1])
        for coefficient, point in zip(coefficients, self.points, strict=True):
            total += coefficient * point.astype(np.float64)
        return total.astype(self.points.dtype)

    def length(self) -> float:
        """Returns the l2 length ∫₀¹ ‖B'(t)‖₂ dt.

        A chain's is the sum of its pieces. A Bezier curve's velocity is n Σ_i b_i(t) (θ_{i+1} − θ_i), b of
        order n − 1; its norm is integrated by Gauss-Legendre quadrature, panel by panel.
        """
        sides = np.diff(self.points.astype(np.float64), axis=0)
        if self.kind == "chain":
            return float(np.linalg.norm(sides, axis=1).sum())
        nodes, weights = np.polynomial.legendre.leggauss(NODES)
        positions = (np.arange(PANELS)[:, None] + (1 + nodes) / 2).ravel() / PANELS
        velocities = np.array([self.order * bernstein(self.order - 1, t) for t in positions])
        squares = np.einsum("ti,ij,tj->t", velocities, sides @ sides.T, velocities)
        return float(np.tile(weights, PANELS) @ np.sqrt(np.maximum(squares, 0.0)) / (2 * PANELS))


def straight(kind: str, start: np.ndarray, end: np.ndarray, order: int) -> Curve:
    """Returns the straight line between two ends as a curve with evenly spaced control points.

    Its points are B(t) = (1 − t) θ_0 + t θ_n for either kind, which is where training begins.

    Args:
        kind: "bezier" or "chain".
        start, end: (P,), of one float dtype; their bits are kept.
        order: n; 1 has no inner point and stays the straight line.

    Raises:
        UsageError: a bad kind or order, or ends of different shapes.
    """
    require_whole("order", order)
    start, end = np.asarray(start), np.asarray(end)
    if start.shape != end.shape or start.dtype != end.dtype:
        raise UsageError(
            "the ends of a curve must have equal shapes and dtypes. "
            f"Received: {start.dtype} {start.shape} and {end.dtype} {end.shape}."
        )
    line = Curve(one_of("kind", kind, COEFFICIENTS), np.stack([start, end]))
    return Curve(kind, np.stack([line.at(i / order) for i in range(order + 1)]))


def even_parameters(points: int) -> np.ndarray:
    """Returns t = 0, ..., 1 in equal steps, (points,) float64.

    Raises:
        UsageError: fewer than 2 points.
    """
    require_whole("curve_points", points, least=2)
    return np.arange(points) / (points - 1)


@dataclass(frozen=True, eq=False)
class CurveScan:
    """Measurements along a curve, each (T,) float64: losses in nats, errors in percent.

    Attributes:
        t: positions in [0, 1], the ends first and last.
        train_loss, train_error: L_ε and robust error on the training examples.
        train_clean_loss, train_clean_error: without attack.
        test_loss, test_error, test_clean_loss, test_clean_error: on the test examples.
    """

    t: np.ndarray
    train_loss: np.ndarray
    train_error: np.ndarray
    train_clean_loss: np.ndarray
    train_clean_error: np.ndarray
    test_loss: np.ndarray
    test_error: np.ndarray
    test_clean_loss: np.ndarray
    test_clean_error: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the measurements by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def barrier(t: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Returns max_t [v(t) − (1 − t) v(0) − t v(1)], at least 0, and the t where it is.

    The height by which a curve rises above the straight line between the values at its ends.

    Args:
        t: (T,) from 0 to 1.
        values: (T,).
    """
    rise = values - (1 - t) * values[0] - t * values[-1]
    rise[[0, -1]] = 0.0
    top = int(np.argmax(rise))
    return float(rise[top]), float(t[top])


class CurveScanner:
    """Measures one network at any weights; the attack is made anew at each.

    BatchNorm's statistics are estimated on the clean training examples, adversarial examples are made with
    these, and the statistics are estimated on them. The network is then evaluated in inference mode.

    Args:
        classifier: has a live model, whose weights are moved and restored.
        train: images float32 (N, H, W, C) in [0, 1] and labels (N,).
        test: likewise.
        attack: ``attack(logits_fn, x, y, epsilon, seed) -> x_adv``.
        epsilon: radius ε in units of the image range.
        seed: of the attack's random starts, the same at every point.
        batch_size: examples at a time.
        jit_compile: compile with XLA.

    Raises:
        UsageError: no live model, or BatchNorm in one that is not functional.
    """

    def __init__(
        self,
        classifier: Classifier,
        train: tuple[np.ndarray, np.ndarray],
        test: tuple[np.ndarray, np.ndarray],
        attack: Attack,
        epsilon: float,
        *,
        seed: int = 0,
        batch_size: int = 250,
        jit_compile: bool = False,
    ):
        if classifier.model is None:
            raise UsageError(f"a curve is scanned in a live Keras model. Received: {classifier.name}.")
        settings = {"batch_size": batch_size, "jit_compile": jit_compile}
        self._classifier, self._images = classifier, train[0]
        self._objectives = {
            name: AdversarialObjective(classifier, x, y, attack, epsilon, seed=seed, **settings)
            for name, (x, y) in {"train": train, "test": test}.items()
        }
        self._statistics = BatchStatistics(classifier.model, **settings)
        self._identity = fingerprint(*train, *test, float(epsilon), seed, batch_size)

    def measure(self, vector: np.ndarray) -> dict[str, float]:
        """Returns the measurements of `CurveScan`, without t, at weights `vector` (P,)."""
        with unchanged(self._classifier.model):
            self._classifier.parameters.assign(vector)
            if self._statistics.layers:
                self._statistics(self._images)
                self._statistics(self._objectives["train"].examples())
            found = {}
            for name, objective in self._objectives.items():
                robust, clean = objective(), objective.clean()
                found |= {f"{name}_loss": robust.loss, f"{name}_error": robust.error}
                found |= {f"{name}_clean_loss": clean.loss, f"{name}_clean_error": clean.error}
            return found

    def scan(
        self,
        curve: Curve,
        points: int = 51,
        *,
        state_dir: str | Path | None = None,
        identity: object = None,
        label: str | None = None,
        report: Callable[[str], None] = lambda line: None,
    ) -> CurveScan:
        """Measures at `points` evenly spaced t.

        Args:
            curve: of the classifier's parameters.
            points: T, at least 2.
            state_dir: folder that gets each point as it is done; a later call with the same arguments
                continues from there and ends with the same bits.
            identity: JSON values that tell this attack from others, which `state_dir` then refuses.
            label: shown with a progress bar when stdout is a terminal; None shows nothing.
            report: is told about each point measured now.

        Raises:
            UsageError: too few points, or a state of another scan.
        """
        positions = even_parameters(points)
        state = ResultCache(
            state_dir, fingerprint(self._identity, curve.kind, curve.points, points, identity)
        )
        rows = []
        shown = progress(positions, shown=label is not None, desc=label, unit="point")
        for i, t in enumerate(shown):
            row = state.get(f"point-{i:04d}")
            if row is None:
                row = self.measure(curve.at(t))
                state.put(f"point-{i:04d}", row)
                report(f"t = {t:.3f}: L_ε {row['train_loss']:.4f}, test error {row['test_error']:.2f} %")
            rows.append(row)
        columns = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
        return CurveScan(positions, **columns)
