"""Image data by name or from arrays, and batches whose order depends only on the seed and the step."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from advtf.data import arrays, augmentation, tiny_imagenet
from advtf.data import tfds as tfds_images
from advtf.data.names import TINY_IMAGENET, tiny_imagenet_folder
from advtf.errors import UsageError

_AUGMENTATION_STREAMS = (1, 2)  # folded into (seed, step), one a view: other users draw other numbers


@dataclass(frozen=True, eq=False)
class Split:
    """Images uint8 (0..255) or float32 in [0, 1], (N, H, W, C), with their labels int32 (N,)."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, which: np.ndarray | slice) -> "Split":
        """Returns the examples at these positions, as indices, a mask or a slice."""
        return Split(self.images[which], self.labels[which])


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set. `validation` is held out from the training examples, or None; `test` chooses nothing."""

    name: str
    train: Split
    validation: Split | None
    test: Split
    num_classes: int

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.train.images.shape[1:]


def load(
    name: str, data_dir: str | None = None, val_fraction: float = 0.0, image_size: int | None = None
) -> ImageData:
    """Loads a data set by name.

    Args:
        name: ``digits`` (1,797 images 8x8 of scikit-learn, no download), ``tiny_imagenet`` (also unpacked as
            it comes, in `data_dir`) or a TFDS image-classification set.
        data_dir: the folder of prepared TFDS data; default TFDS_DATA_DIR, else ``~/tensorflow_datasets``.
        val_fraction: share of the training examples held out for validation, by a fixed rule, in [0, 1).
        image_size: resize the images to this square.

    Raises:
        UsageError: unknown name, no data and no network, damaged or unsuitable data, bad fraction or size.
    """
    if image_size is not None and image_size < 1:
        raise UsageError(f"image_size must be at least 1. Received: image_size={image_size}.")
    _require_fraction(val_fraction)
    if name == "digits":
        parts = _digits(image_size)
    elif name == TINY_IMAGENET and (folder := tiny_imagenet_folder(data_dir)):
        parts = tiny_imagenet.read(folder, image_size)
    else:
        parts = tfds_images.read(name, data_dir, image_size)
    return from_arrays(**parts, val_fraction=val_fraction, name=name)


def from_arrays(
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray,
    y_test: np.ndarray,
    *,
    val_fraction: float = 0.0,
    num_classes: int | None = None,
    name: str = "arrays",
) -> ImageData:
    """Makes a data set of arrays, after checking them.

    Args:
        x_train: images (N, H, W, C), uint8 in 0..255 or float in [0, 1].
        y_train: integer labels (N,) or (N, 1) in [0, num_classes).
        x_test: test images, likewise.
        y_test: test labels, likewise.
        val_fraction: share of the training examples held out for validation, in [0, 1).
        num_classes: number of classes K; default the largest label + 1.
        name: what messages and files call it.

    Raises:
        UsageError: wrong shapes, types, ranges or lengths; the message says which and how to mend it.
    """
    _require_fraction(val_fraction)
    train = Split(*arrays.checked("train", x_train, y_train))
    test = Split(*arrays.checked("test", x_test, y_test))
    if train.images.shape[1:] != test.images.shape[1:]:
        raise UsageError(
            "x_train and x_test must have the same image shape. "
            f"Received: {train.images.shape[1:]} and {test.images.shape[1:]}."
        )
    classes = arrays.class_count([train.labels, test.labels], num_classes)
    train, validation = _hold_out(train, val_fraction)
    return ImageData(name, train, validation, test, classes)


def steps_per_epoch_of(split: Split, batch_size: int) -> int:
    """Returns the number of full batches in `split`.

    Raises:
        UsageError: there is not even one.
    """
    if not 1 <= batch_size <= len(split):
        raise UsageError(
            f"batch_size must be between 1 and the {len(split)} examples there are. "
            f"Received: batch_size={batch_size}."
        )
    return len(split) // batch_size


def training_batches(
    split: Split,
    batch_size: int,
    *,
    seed: int,
    steps_per_epoch: int | None = None,
    start_step: int = 0,
    total_steps: int | None = None,
    augment: bool = False,
    views: int = 1,
) -> tf.data.Dataset:
    """Batches for training; batch s (counted over all epochs) is a function of `seed` and s alone.

    Epoch e = s // steps_per_epoch goes through the examples in a pseudo-random permutation keyed by
    (seed, e); the rest of the last batch is left out of that epoch. So a stream that starts at step k is
    exactly the tail of the one that starts at 0, at no cost.

    Args:
        split: the examples.
        batch_size: examples per step B, all replicas together.
        seed: non-negative integer.
        steps_per_epoch: default all full batches; fewer cut every epoch short.
        start_step: the first step to deliver.
        total_steps: where the stream ends, counted from step 0; default never.
        augment: random crop (zero padding of one eighth of the size) and horizontal flip.
        views: 2 for two augmentations of the same images.

    Returns:
        A dataset of (x float32 (B, H, W, C) in [0, 1], y int32 (B,)); of ((x, x'), y) with two views,
        of which the first is that of a stream with one.

    Raises:
        UsageError: a batch larger than the data, or more steps per epoch than there are.
    """
    available = steps_per_epoch_of(split, batch_size)
    steps = available if steps_per_epoch is None else steps_per_epoch
    if not 1 <= steps <= available:
        raise UsageError(
            f"steps_per_epoch must be between 1 and {available}, the full batches of {batch_size} in "
            f"{len(split)} examples. Received: steps_per_epoch={steps}."
        )
    with tf.device("CPU:0"):  # the pipeline runs there; a copy on a GPU would travel back at every step
        batch_at = _batch_function(split, batch_size, seed, steps, augment, views)
        batches = tf.data.Dataset.counter(start=start_step)
        if total_steps is not None:
            batches = batches.take(max(0, total_steps - start_step))
        batches = batches.map(batch_at, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return _ready(batches)


def evaluation_batches(split: Split, batch_size: int, limit: int | None = None) -> tf.data.Dataset:
    """Batches of (x float32 in [0, 1], y int32) in the order of the data; the last one may be smaller.

    Args:
        split: the examples.
        batch_size: examples per batch, at least 1.
        limit: only the first `limit` examples; default all.
    """
    for what, value in (("batch_size", batch_size), ("limit", limit)):
        if value is not None and value < 1:
            raise UsageError(f"{what} must be at least 1. Received: {what}={value}.")
    chosen = split.select(slice(limit))
    with tf.device("CPU:0"):
        batches = tf.data.Dataset.from_tensor_slices((chosen.images, chosen.labels)).batch(batch_size)
        batches = batches.map(lambda x, y: (augmentation.to_unit_float(x), y))
    return _ready(batches)


def _ready(batches: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # There are no files to share out among workers, and batches are split by the strategy.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)


def _batch_function(split, batch_size, seed, steps_per_epoch, augment, views):
    """The function step -> (x, y), or ((x, x'), y)."""
    images, labels = tf.constant(split.images), tf.constant(split.labels)
    last = tf.constant(len(split) - 1, tf.int64)
    seed = tf.constant(seed, tf.int64)
    padding = max(1, round(min(split.images.shape[1:3]) / 8))

    def batch_at(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        epoch, position = step // steps_per_epoch, step % steps_per_epoch
        places = position * batch_size + tf.range(batch_size, dtype=tf.int64)
        chosen = tf.random.experimental.index_shuffle(places, tf.stack([seed, epoch]), last)
        x = tf.gather(images, chosen)
        seen = [x] * views
        if augment:
            pair = tf.stack([seed, step])
            keys = [tf.random.fold_in(pair, stream) for stream in _AUGMENTATION_STREAMS[:views]]
            seen = [augmentation.augment_batch(x, key, padding) for key in keys]
        seen = tuple(augmentation.to_unit_float(view) for view in seen)
        return seen[0] if views == 1 else seen, tf.gather(labels, chosen)

    return batch_at


def _digits(image_size: int | None) -> dict:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32)  # 17 grey levels, 0..16
    if image_size is not None:
        images = np.clip(augmentation.resize(tf.constant(images), image_size).numpy(), 0, 1)
    held = arrays.held_out(labels, 0.2)
    train = {"x_train": images[~held], "y_train": labels[~held]}
    return {**train, "x_test": images[held], "y_test": labels[held], "num_classes": 10}


def _hold_out(train: Split, fraction: float) -> tuple[Split, Split | None]:
    if fraction == 0:
        return train, None
    held = arrays.held_out(train.labels, fraction)
    if not held.any():
        raise UsageError(
            f"val_fraction must hold out at least one of the {len(train)} training examples. "
            f"Received: val_fraction={fraction}. Use 0 for no validation."
        )
    return train.select(~held), train.select(held)


def _require_fraction(value: float) -> None:
    if not 0 <= value < 1:
        raise UsageError(f"val_fraction must be in [0, 1). Received: val_fraction={value}.")
