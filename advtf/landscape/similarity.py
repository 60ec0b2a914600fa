"""How alike the adversarial perturbations of neighbouring weights are (Liu et al. 2020, section 4.2)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from advtf.attacks.attack import Attack
from advtf.attacks.losses import cross_entropy, is_correct
from advtf.classifiers.classifier import Classifier
from advtf.errors import UsageError, require_real, require_whole
from advtf.landscape.objective import batches, require_pairs
from advtf.runtime import true_float32


@dataclass(frozen=True, eq=False)
class Similarity:
    """What the attack finds at θ + a·v and at θ − a·v, for A lengths a, on `examples` images.

    Attributes:
        offsets: (A,) lengths a.
        similarity: (A,) mean cosine of the two perturbations of an image, in [−1, 1]; NaN where no image
            has two that are not zero.
        left_out: (A,) images without a cosine, as one of their perturbations is zero.
        loss: (2, A) L_ε at θ + a·v and at θ − a·v, nats.
        error: (2, A) robust error at these weights, percent misclassified clean or attacked.
        examples: number of images.
    """

    offsets: np.ndarray
    similarity: np.ndarray
    left_out: np.ndarray
    loss: np.ndarray
    error: np.ndarray
    examples: int


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the cosine ⟨a_i, b_i⟩ / (‖a_i‖₂ ‖b_i‖₂) of each pair, in float64; NaN where either is zero.

    Args:
        first, second: (N, ...) of one shape. Equal ones have cosine 1 exactly.

    Returns:
        (N,) float64 in [−1, 1].
    """
    products, squares = _inner(first, second), _inner(first, first) * _inner(second, second)
    # √(s·s) is s in IEEE arithmetic, where √s·√s need not be.
    ratios = np.divide(products, np.sqrt(squares), out=np.full(len(first), np.nan), where=squares > 0)
    return np.clip(ratios, -1.0, 1.0)


def mean_cosine(values: np.ndarray) -> float:
    """Returns the mean of the cosines that are defined; NaN if none is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


class PerturbationSimilarity:
    """Compares x'_{+av} − x with x'_{−av} − x, the perturbations found at the weights θ + a·v and θ − a·v.

    Both attacks of a pair start from the same random points, so that only the weights tell them apart and the
    cosine at a = 0 is 1. What random starts alone do to it is `between_starts`. An image without a gradient
    at both weights keeps its random start as perturbation, so its cosine is 1, too. θ is what the weights are
    when a method is called, and they have their old bits back when it ends.

    Args:
        classifier: its weights are moved.
        x: images float32 (N, H, W, C) in [0, 1].
        y: labels (N,), integers.
        attack: ``attack(logits_fn, x, y, epsilon, seed) -> x_adv``.
        epsilon: radius ε in units of the image range.
        batch_size: images at a time; the last batch may have fewer.
        jit_compile: compile with XLA.

    Raises:
        UsageError: no images, unequal lengths, or a number out of range.
    """

    def __init__(
        self,
        classifier: Classifier,
        x: np.ndarray,
        y: np.ndarray,
        attack: Attack,
        epsilon: float,
        *,
        batch_size: int = 250,
        jit_compile: bool = False,
    ):
        require_pairs(x, y)
        require_real("epsilon", epsilon, 0)
        require_whole("batch_size", batch_size)
        self._parameters, self._x, self._y, self._batch_size = classifier.parameters, x, y, batch_size
        radius, logits_fn = tf.constant(epsilon, tf.float32), classifier.logits_fn
        view = classifier.attack_view()

        def perturb(images, labels, seed):
            x_adv = attack(view() if view else logits_fn, images, labels, radius, seed)
            logits = logits_fn(x_adv)
            wrong = (is_correct(labels, logits) < 1) | (is_correct(labels, logits_fn(images)) < 1)
            return x_adv - images, cross_entropy(labels, logits), wrong

        self._perturb = tf.function(perturb, reduce_retracing=True, jit_compile=jit_compile, autograph=False)

    def along(
        self,
        direction: np.ndarray,
        offsets: Sequence[float],
        *,
        seed: int,
        report: Callable[[int, int], None] | None = None,
    ) -> Similarity:
        """Measures at θ ± a·v for every length a.

        Args:
            direction: v (P,); the paper's are unit vectors.
            offsets: lengths a of at least 0.
            seed: of the random starts; one seed is one run of the paper's four.
            report: called as ``report(done, total)`` after each length.

        Raises:
            UsageError: no or negative lengths, or a direction of another size.
        """
        lengths = np.asarray(offsets, np.float64)
        if lengths.ndim != 1 or not lengths.size or not (lengths >= 0).all():
            raise UsageError(f"offsets must be one or more numbers of at least 0. Received: {offsets}.")
        origin = self._parameters.value().astype(np.float64)
        move = np.asarray(direction, np.float64)
        if move.shape != origin.shape:
            raise UsageError(f"direction must have shape {origin.shape}. Received: {move.shape}.")
        rows = []
        for length in lengths:
            plus, minus = (self._at(origin + sign * length * move, seed) for sign in (1, -1))
            rows.append((cosines(plus[0], minus[0]), *zip(plus[1:], minus[1:], strict=True)))
            if report:
                report(len(rows), len(lengths))
        pairs, losses, errors = zip(*rows, strict=True)
        return Similarity(
            lengths,
            np.array([mean_cosine(pair) for pair in pairs]),
            np.array([np.isnan(pair).sum() for pair in pairs]),
            np.array(losses).T,
            np.array(errors).T,
            len(self._x),
        )

    def between_starts(self, seed: int, other_seed: int) -> float:
        """Returns the mean cosine at θ itself between attacks from two random starts; NaN if all are zero."""
        first, second = (self._perturbations(number)[0] for number in (seed, other_seed))
        return mean_cosine(cosines(first, second))

    def _at(self, vector, seed):
        with self._parameters.at(vector):
            return self._perturbations(seed)

    @true_float32()
    def _perturbations(self, seed):
        """Returns x' − x (N, H, W, C), mean loss, and error in percent at the present weights."""
        parts = [
            self._perturb(images, labels, tf.constant([seed, number], tf.int64))
            for number, (images, labels) in enumerate(batches(self._x, self._y, self._batch_size))
        ]
        deltas, losses, wrong = (np.concatenate(part) for part in zip(*parts, strict=True))
        return deltas, float(losses.mean(dtype=np.float64)), 100.0 * float(wrong.mean())


def _inner(first, second):
    flat = (part.reshape(len(part), -1) for part in (first, second))
    return np.einsum("ij,ij->i", *flat, dtype=np.float64)  # without copies in float64
