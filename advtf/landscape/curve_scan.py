"""Loss and error along a curve in weight space, BatchNorm's statistics estimated anew at every point."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from tqdm import tqdm

from advtf.attacks.attack import Attack
from advtf.classifiers.classifier import Classifier
from advtf.classifiers.parameters import unchanged
from advtf.errors import UsageError
from advtf.landscape.batch_statistics import BatchStatistics
from advtf.landscape.curves import Curve, even_parameters
from advtf.landscape.objective import AdversarialObjective
from advtf.storage.cache import ResultCache, fingerprint


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
        hidden = label is None or not sys.stdout.isatty()
        for i, t in enumerate(tqdm(positions, desc=label, unit="point", leave=False, disable=hidden)):
            row = state.get(f"point-{i:04d}")
            if row is None:
                row = self.measure(curve.at(t))
                state.put(f"point-{i:04d}", row)
                report(f"t = {t:.3f}: L_ε {row['train_loss']:.4f}, test error {row['test_error']:.2f} %")
            rows.append(row)
        columns = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
        return CurveScan(positions, **columns)
