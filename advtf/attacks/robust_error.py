"""Clean and robust error of one classifier under one attack, measured over examples."""

from collections.abc import Iterable
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


@true_float32()
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
    """Attacks every batch and counts what survives.

    Args:
        logits_fn: float32 (B, H, W, C) in [0, 1] -> (B, K) logits, in inference mode.
        batches: pairs of images and integer labels (B,); the last batch may be smaller.
        attack: ``attack(logits_fn, x, y, epsilon, seed) -> x_adv``.
        epsilon: radius ε in units of the image range.
        seed: with the batch number, the source of the attack's random starts.
        jit_compile: compile with XLA.
        label: text beside a progress bar; None shows no bar.

    Returns:
        The errors, and which examples were classified correctly.

    Raises:
        UsageError: there are no batches, or `epsilon` is no radius.
    """
    radius = read_radius("epsilon", epsilon, None)

    @tf.function(reduce_retracing=True, jit_compile=jit_compile)
    def measure(x, y, batch_seed):
        x_adv = attack(logits_fn, x, y, tf.constant(radius, tf.float32), batch_seed)
        clean = is_correct(y, logits_fn(x))
        return clean, clean * is_correct(y, logits_fn(x_adv))

    clean, robust = [], []
    bar = progress(batches, shown=label is not None, desc=label, unit="batch")
    for number, (x, y) in enumerate(bar):
        batch_seed = tf.constant([seed, number], tf.int64)
        clean_batch, robust_batch = measure(tf.cast(x, tf.float32), tf.cast(y, tf.int32), batch_seed)
        clean.append(clean_batch.numpy() > 0)
        robust.append(robust_batch.numpy() > 0)
    if not clean:
        raise UsageError("robust_error requires at least one batch. Received: batches=no batches.")
    return RobustError(np.concatenate(clean), np.concatenate(robust))
