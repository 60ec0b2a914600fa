"""Clean and robust error of one classifier under one attack, measured over examples."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from advtf.attacks.attack import Attack, LogitsFn
from advtf.attacks.losses import is_correct
from advtf.errors import UsageError
from advtf.runtime import progress, true_float32
from advtf.settings.threat import read_radius


@dataclass(frozen=True)
class RobustError:
    """Errors in percent over `examples` images; `clean_correct` and `robust_correct` are (examples,) bool.

    An example counts as robust only when it is classified correctly clean and attacked: an attack that
    happens to mend a wrong prediction does not make it robust.
    """

    clean_correct: np.ndarray
    robust_correct: np.ndarray

    @property
    def examples(self) -> int:
        """Number of images measured."""
        return len(self.clean_correct)

    @property
    def clean_error(self) -> float:
        """Percent misclassified without attack."""
        return 100.0 * float(1.0 - self.clean_correct.mean())

    @property
    def robust_error(self) -> float:
        """Percent misclassified clean or attacked."""
        return 100.0 * float(1.0 - self.robust_correct.mean())


class RobustErrorMeter:
    """Measures clean and robust errors under one attack, as often as wanted, with a graph that is built once.

    The weights of the classifier may be assigned between two measurements, because the graph reads them at
    each call. Several sets of weights of one architecture are measured so for the price of one trace.

    Args:
        logits_fn: float32 (B, H, W, C) in [0, 1] -> (B, K) logits, in inference mode.
        attack: ``attack(logits_fn, x, y, epsilon, seed) -> x_adv``.
        epsilon: radius ε in units of the image range.
        jit_compile: compile with XLA.
        view: returns what the attack sees in place of `logits_fn`, the same up to rounding; called in the
            graph of the attack.

    Raises:
        UsageError: `epsilon` is no radius.
    """

    def __init__(
        self,
        logits_fn: LogitsFn,
        attack: Attack,
        epsilon: float,
        *,
        jit_compile: bool = False,
        view: Callable[[], LogitsFn] | None = None,
    ) -> None:
        radius = read_radius("epsilon", epsilon, None)

        @tf.function(jit_compile=jit_compile, autograph=False)
        def measure(x, y, seed):
            x_adv = attack(view() if view else logits_fn, x, y, tf.constant(radius, tf.float32), seed)
            clean = is_correct(y, logits_fn(x))
            return clean, clean * is_correct(y, logits_fn(x_adv))

        self._measure = measure
        self._traced = {}

    @true_float32()
    def __call__(self, batches: Iterable, *, seed: int = 0, label: str | None = None) -> RobustError:
        """Attacks every batch and counts what survives.

        Args:
            batches: pairs of images and integer labels (B,); the last batch may be smaller.
            seed: with the batch number, the source of the attack's random starts.
            label: text beside a progress bar; None shows no bar.

        Returns:
            The errors, and which examples were classified correctly.

        Raises:
            UsageError: there are no batches.
        """
        clean, robust = [], []
        bar = progress(batches, shown=label is not None, desc=label, unit="batch")
        for number, (x, y) in enumerate(bar):
            x, y = tf.cast(x, tf.float32), tf.cast(y, tf.int32)
            measure = self._for_images_of(x.shape[1:])
            clean_batch, robust_batch = measure(x, y, tf.constant([seed, number], tf.int64))
            clean.append(clean_batch.numpy() > 0)
            robust.append(robust_batch.numpy() > 0)
        if not clean:
            raise UsageError("robust_error requires at least one batch. Received: batches=no batches.")
        return RobustError(np.concatenate(clean), np.concatenate(robust))

    def _for_images_of(self, shape):
        # Any number of images in one trace: a last, smaller batch would be traced a second time.
        if shape not in self._traced:
            images = tf.TensorSpec((None, *shape), tf.float32)
            labels, seed = tf.TensorSpec((None,), tf.int32), tf.TensorSpec((2,), tf.int64)
            self._traced[shape] = self._measure.get_concrete_function(images, labels, seed)
        return self._traced[shape]


def robust_error(
    logits_fn: LogitsFn,
    batches: Iterable,
    attack: Attack,
    epsilon: float,
    *,
    seed: int = 0,
    jit_compile: bool = False,
    label: str | None = None,
) -> RobustError:
    """Attacks every batch and counts what survives, once.

    Args:
        logits_fn, attack, epsilon, jit_compile: as for `RobustErrorMeter`.
        batches, seed, label: as for a call of it.

    Returns:
        The errors, and which examples were classified correctly.

    Raises:
        UsageError: there are no batches, or `epsilon` is no radius.
    """
    meter = RobustErrorMeter(logits_fn, attack, epsilon, jit_compile=jit_compile)
    return meter(batches, seed=seed, label=label)
