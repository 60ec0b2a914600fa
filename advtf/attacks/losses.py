"""Per-example losses an attack climbs: ``loss(y, logits) -> (B,)``, larger is more adversarial."""

from collections.abc import Callable

import keras
import tensorflow as tf

from advtf.errors import UsageError, one_of

TINY = 1e-12  # keeps equal logits from becoming NaN; the published constant


@keras.saving.register_keras_serializable("advtf")
def cross_entropy(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Computes the softmax cross-entropy, g(x, θ) of Liu et al. 2020.

    Args:
        y: (B,) integer classes.
        logits: (B, K); the log-probabilities of an ensemble are logits too: −log of the mean probability.

    Returns:
        (B,) float32 nats.
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(y, tf.cast(logits, tf.float32))


@keras.saving.register_keras_serializable("advtf")
def kl_divergence(p: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Computes KL(p ‖ softmax(logits)), which TRADES climbs; `p` stands where other losses have the classes.

    Args:
        p: (B, K) probabilities; gradients flow through them as well.
        logits: (B, K).

    Returns:
        (B,) float32 nats, at least 0.
    """
    logits = tf.cast(logits, tf.float32)
    return tf.reduce_sum(tf.math.xlogy(p, p) - p * tf.nn.log_softmax(logits), axis=-1)


@keras.saving.register_keras_serializable("advtf")
def margin(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Computes how far the strongest wrong class leads: max_{i≠y} z_i − z_y, positive when misclassified.

    Args:
        y: (B,) integer classes.
        logits: (B, K) with K >= 2.

    Returns:
        (B,) float32, in units of the logits.

    Raises:
        UsageError: fewer than 2 classes.
    """
    _require_classes(logits, 2, "margin")
    logits = tf.cast(logits, tf.float32)
    strongest = tf.math.top_k(logits, 2)
    y_is_first = tf.equal(tf.cast(y, tf.int32), strongest.indices[:, 0])
    return tf.where(y_is_first, strongest.values[:, 1], strongest.values[:, 0]) - _logit_of(y, logits)


@keras.saving.register_keras_serializable("advtf")
def dlr(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Computes the difference of logits ratio (Croce & Hein 2020, eq. 6).

    It is (max_{i≠y} z_i − z_y) / (z_π1 − z_π3), where π sorts the logits in decreasing order. It does not
    change when logits are shifted or scaled, so a classifier cannot hide its gradients by being confident. It
    lies in [−1, 1] and is positive when misclassified.

    Args:
        y: (B,) integer classes.
        logits: (B, K) with K >= 3.

    Returns:
        (B,) float32, without unit.

    Raises:
        UsageError: fewer than 3 classes.
    """
    _require_classes(logits, 3, "dlr")
    largest = tf.math.top_k(tf.cast(logits, tf.float32), 3).values
    return margin(y, logits) / (largest[:, 0] - largest[:, 2] + TINY)


def targeted_dlr(y: tf.Tensor, target: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Computes the DLR towards one class (Croce & Hein 2020, eq. 7).

    It is (z_t − z_y) / (z_π1 − (z_π3 + z_π4)/2), where π sorts the logits as for `dlr`.

    Args:
        y: (B,) integer classes.
        target: (B,) integer classes t to be reached.
        logits: (B, K) with K >= 4.

    Returns:
        (B,) float32, without unit; positive only when misclassified.

    Raises:
        UsageError: fewer than 4 classes.
    """
    _require_classes(logits, 4, "targeted dlr")
    logits = tf.cast(logits, tf.float32)
    largest = tf.math.top_k(logits, 4).values
    scale = largest[:, 0] - 0.5 * (largest[:, 2] + largest[:, 3])
    return (_logit_of(target, logits) - _logit_of(y, logits)) / (scale + TINY)


def is_correct(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns (B,) float32: 1 where the largest logit is the true class, else 0; NaN is never correct."""
    hit = tf.equal(tf.cast(y, tf.int64), tf.argmax(logits, axis=-1))
    return tf.cast(hit & ~tf.reduce_any(tf.math.is_nan(logits), axis=-1), tf.float32)


def target_class(y: tf.Tensor, logits: tf.Tensor, rank: int | tf.Tensor) -> tf.Tensor:
    """Returns (B,) int32: the class with the `rank`-th largest logit (1 is the largest) other than `y`.

    Raises:
        UsageError: there are fewer than `rank` other classes (not checked when `rank` is a tensor).
    """
    classes = logits.shape[-1]
    if not tf.is_tensor(rank) and classes is not None and rank >= classes:
        raise UsageError(
            f"target_rank must be less than the number of classes, {classes}. Received: target_rank={rank}."
        )
    is_true = tf.one_hot(tf.cast(y, tf.int32), tf.shape(logits)[-1], on_value=True, off_value=False)
    others = tf.where(is_true, -float("inf"), tf.cast(logits, tf.float32))
    return tf.gather(tf.argsort(others, direction="DESCENDING", stable=True), rank - 1, axis=1)


LOSSES = {"ce": cross_entropy, "dlr": dlr, "margin": margin}


def get_loss(name: str) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Returns the loss called "ce", "dlr" or "margin".

    Raises:
        UsageError: another name.
    """
    return LOSSES[one_of("loss", name, LOSSES)]


def _logit_of(label, logits):
    return tf.gather(logits, tf.cast(label, tf.int32), batch_dims=1)


def _require_classes(logits, count, loss):
    classes = logits.shape[-1]
    if classes is not None and classes < count:
        remedy = (
            "Attack the ce loss instead." if loss != "margin" else "A classifier has one logit per class."
        )
        raise UsageError(
            f"The {loss} loss requires logits of at least {count} classes. Received: {classes}. {remedy}"
        )
