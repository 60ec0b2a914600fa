"""Checks of in-memory images and labels, and the fixed rules that hold examples out and choose a subset."""

import math

import numpy as np
import tensorflow as tf

from advtf.data.registry import require_train_examples
from advtf.data.stored import StoredImages, UnreadImages
from advtf.errors import UsageError, quantity


def checked(part: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns images (N, H, W, C), uint8 or float32 in [0, 1], and labels int32 (N,).

    Args:
        part: ``train`` or ``test``; errors call the arrays ``x_<part>`` and ``y_<part>``.
        x: images (N, H, W, C), uint8 or float in [0, 1].
        y: integers (N,) or (N, 1).

    Raises:
        UsageError: wrong shapes or types, unequal lengths, no examples, values outside [0, 1].
    """
    images, labels = _images(f"x_{part}", x), _labels(f"y_{part}", y)
    if len(images) != len(labels):
        raise UsageError(
            f"x_{part} and y_{part} must have equal lengths. "
            f"Received: {quantity(len(images), 'image')} and {quantity(len(labels), 'label')}."
        )
    return images, labels


def class_count(labels: list[np.ndarray], num_classes: int | None = None) -> int:
    """Returns `num_classes`, or the largest label + 1.

    Raises:
        UsageError: a label is negative or not below the number of classes.
    """
    lowest = min(int(part.min()) for part in labels)
    highest = max(int(part.max()) for part in labels)
    classes = highest + 1 if num_classes is None else num_classes
    require_classes(lowest, highest, classes)
    return classes


def require_classes(lowest: int, highest: int, classes: int) -> None:
    """Raises UsageError unless labels from `lowest` to `highest` number some of `classes` classes from 0."""
    if lowest < 0 or highest >= classes:
        raise UsageError(
            f"labels must be in [0, {classes}). Received: labels in [{lowest}, {highest}]. "
            "Number the classes from 0 and drop unlabelled examples (-1)."
        )


def require_unit_range(name: str, low: float, high: float, hint: str = "") -> None:
    """Raises UsageError unless `low` and `high`, the extremes of the images `name`, are within [0, 1].

    Args:
        name: what the message calls the images.
        low, high: their smallest and largest value; NaN where a value is NaN.
        hint: what the message adds to the advice where the values are above 1.
    """
    if not (low >= 0 and high <= 1):  # a NaN fails this, too
        advice = f" Divide by 255{hint}." if low >= 0 and high > 1 else ""
        if math.isnan(low) or math.isnan(high):
            advice = " Leave out the images that hold NaN, or mend them."
        raise UsageError(
            f"{name} must be finite and in [0, 1]. Received: values in [{low:g}, {high:g}].{advice}"
        )


def held_out(labels: np.ndarray, fraction: float) -> np.ndarray:
    """Returns a mask of floor(N * fraction) evenly spaced examples, in the order of their classes.

    Counting class by class keeps the classes in proportion whatever the order of the data: every
    fifth example of the digits as they come would hold 21 ones but 52 threes.
    """
    rank = np.empty(len(labels), np.int64)
    rank[np.argsort(labels, kind="stable")] = np.arange(len(labels))
    return np.floor((rank + 1) * fraction) > np.floor(rank * fraction)


def stratified(labels: np.ndarray, count: int) -> np.ndarray:
    """Returns the positions, increasing, of `count` examples, of all classes alike; no seed is involved.

    The first example of every class comes first, then the second of every class, and so on until there are
    `count`. So the numbers of two classes differ by at most one as long as neither has run out of examples,
    and the examples of a smaller count are among those of a larger one.

    Args:
        labels: of all examples, integers (N,).
        count: how many are wanted, from 1 to N.

    Raises:
        UsageError: there are not so many.
    """
    require_train_examples(count, len(labels))
    by_class = np.argsort(labels, kind="stable")
    _, begins, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    turn = np.arange(len(labels)) - np.repeat(begins, sizes)  # the how-manyth of its class each is
    return np.sort(by_class[np.argsort(turn, kind="stable")[:count]])


def _images(name: str, values: np.ndarray) -> np.ndarray:
    """Returns images (N, H, W, C), uint8 or float32 in [0, 1]; errors call them `name`."""
    if isinstance(values, StoredImages | UnreadImages) and len(values) and values.dtype == np.uint8:
        return values
    images = np.asarray(values)
    if images.ndim != 4 or images.size == 0:
        hint = f" Use {name}[..., None] for grey images." if images.ndim == 3 else ""
        raise UsageError(
            f"{name} must be images of shape (N, H, W, C), not empty. Received: shape={images.shape}.{hint}"
        )
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise UsageError(
            f"{name} must be uint8 (0..255) or float in [0, 1]. Received: dtype={images.dtype}. "
            f"If the values are 0..255, use {name}.astype('uint8')."
        )
    require_unit_range(name, float(images.min()), float(images.max()), ", or pass uint8")
    return images.astype(np.float32, copy=False)


def _labels(name: str, values: np.ndarray) -> np.ndarray:
    """Returns labels int32 (N,); errors call them `name`."""
    labels = np.asarray(values)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        hint = f" Use {name}.argmax(-1) for one-hot labels." if labels.ndim == 2 else ""
        raise UsageError(
            f"{name} must be integer class numbers of shape (N,) or (N, 1). "
            f"Received: shape={labels.shape}, dtype={labels.dtype}.{hint}"
        )
    return labels.astype(np.int32, copy=False)


def to_unit_float(images: tf.Tensor) -> tf.Tensor:
    """Returns float32 images in [0, 1]; uint8 values are divided by 255, float values are kept."""
    if images.dtype == tf.uint8:
        return tf.cast(images, tf.float32) / 255.0
    return tf.cast(images, tf.float32)
