"""The adversarial objective L_ε(θ) of one set of images: its value, robust error and worst-case images."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from advtf.attacks.attack import Attack, LogitsFn
from advtf.attacks.losses import cross_entropy, is_correct
from advtf.classifiers.classifier import Classifier
from advtf.errors import UsageError, require_real, require_whole
from advtf.runtime import progress, true_float32


@dataclass(frozen=True)
class Measured:
    """Means over `examples` images.

    Attributes:
        loss: mean cross-entropy, nats.
        error: percent misclassified; under attack, misclassified clean or attacked, as in an evaluation.
        examples: how many.
    """

    loss: float
    error: float
    examples: int


class AdversarialObjective:
    """L_ε(θ) = 1/N Σ_i max_{x' ∈ S_ε(x_i)} g(x', θ) of Liu et al. 2020, the attack standing for the maximum.

    Each call attacks anew at the weights that the classifier has then. The random starts depend on the seed
    and the number of the batch, so calls with one seed at one θ give the same bits.

    Args:
        classifier: a classifier, or a function float32 (B, H, W, C) in [0, 1] -> (B, K) logits.
        x: images float32 (N, H, W, C) in [0, 1].
        y: labels (N,), integers.
        attack: ``attack(logits_fn, x, y, epsilon, seed) -> x_adv``.
        epsilon: radius ε in units of the image range.
        seed: of the random starts, unless a call names another.
        batch_size: images at a time; the last batch may have fewer.
        jit_compile: compile with XLA.

    Raises:
        UsageError: no images, unequal lengths, or a number out of range.
    """

    def __init__(
        self,
        classifier: Classifier | LogitsFn,
        x: np.ndarray,
        y: np.ndarray,
        attack: Attack,
        epsilon: float,
        *,
        seed: int = 0,
        batch_size: int = 250,
        jit_compile: bool = False,
    ):
        require_pairs(x, y)
        require_real("epsilon", epsilon, 0)
        require_whole("batch_size", batch_size)
        self._x, self._y, self._seed, self._batch_size = x, y, seed, batch_size
        logits_fn, view = classifier, None
        if isinstance(classifier, Classifier):
            logits_fn, view = classifier.logits_fn, classifier.attack_view()
        radius = tf.constant(epsilon, tf.float32)
        compiled = tf.function(reduce_retracing=True, jit_compile=jit_compile, autograph=False)

        def perturb(images, labels, batch_seed):
            return attack(view() if view else logits_fn, images, labels, radius, batch_seed)

        def measure(images, labels):
            logits = logits_fn(images)
            return cross_entropy(labels, logits), is_correct(labels, logits) < 1

        def measure_attacked(images, labels, batch_seed):
            losses, wrong = measure(perturb(images, labels, batch_seed), labels)
            return losses, wrong | measure(images, labels)[1]

        self._perturb, self._measure = compiled(perturb), compiled(measure)
        self._measure_attacked = compiled(measure_attacked)

    @true_float32()
    def __call__(self, seed: int | None = None) -> Measured:
        """Returns L_ε(θ) and the robust error at the present weights."""
        return _mean(self._measure_attacked(*batch) for batch in self._batches(seed))

    @true_float32()
    def clean(self) -> Measured:
        """Returns the mean loss and the error without attack at the present weights."""
        return _mean(self._measure(images, labels) for images, labels, _ in self._batches(None))

    @true_float32()
    def examples(self, seed: int | None = None, label: str | None = None) -> np.ndarray:
        """Returns the adversarial images at the present weights, float32 (N, H, W, C).

        Args:
            seed: another one than the objective's.
            label: shown with a progress bar when stdout is a terminal; None shows nothing.
        """
        total = -(-len(self._x) // self._batch_size)
        settings = {"desc": label, "total": total, "unit": "batch"}
        shown = progress(self._batches(seed), shown=label is not None, **settings)
        return np.concatenate([self._perturb(*batch).numpy() for batch in shown])

    def _batches(self, seed: int | None) -> Iterator[tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
        seed = self._seed if seed is None else seed
        for number, (images, labels) in enumerate(batches(self._x, self._y, self._batch_size)):
            yield images, labels, tf.constant([seed, number], tf.int64)


def adversarial_examples(
    classifier: Classifier | LogitsFn,
    x: np.ndarray,
    y: np.ndarray,
    attack: Attack,
    epsilon: float,
    *,
    seed: int,
    batch_size: int = 250,
    jit_compile: bool = False,
    label: str | None = None,
) -> np.ndarray:
    """Returns the adversarial images of `AdversarialObjective` once; the arguments are its own."""
    objective = AdversarialObjective(
        classifier, x, y, attack, epsilon, seed=seed, batch_size=batch_size, jit_compile=jit_compile
    )
    return objective.examples(label=label)


def batches(
    x: np.ndarray, y: np.ndarray, size: int, dtype: tf.DType = tf.float32
) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """Yields images in `dtype` and int32 labels, `size` at a time and the rest last."""
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        yield tf.constant(x[part], dtype), tf.constant(y[part], tf.int32)


def require_pairs(x: np.ndarray, y: np.ndarray) -> None:
    """Checks that there are images (N, H, W, C), each with a label.

    Raises:
        UsageError: images or labels of another shape, of unequal lengths, or none.
    """
    if np.ndim(x) != 4 or np.ndim(y) != 1 or len(x) != len(y) or not len(x):
        raise UsageError(
            "x and y must be images (N, H, W, C) and labels (N,), at least one. "
            f"Received: x of shape {np.shape(x)}, y of shape {np.shape(y)}."
        )


def _mean(parts):
    losses, wrong = zip(*((losses.numpy(), wrong.numpy()) for losses, wrong in parts), strict=True)
    losses, wrong = np.concatenate(losses).astype(np.float64), np.concatenate(wrong)
    return Measured(float(losses.mean()), 100.0 * float(wrong.mean()), len(losses))
