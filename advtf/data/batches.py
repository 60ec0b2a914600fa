"""Batches of images whose order and augmentation are functions of the seed and of the step number."""

import tensorflow as tf

from advtf.data import augmentation
from advtf.data.arrays import to_unit_float
from advtf.data.registry import require_batch_size
from advtf.data.sets import Split
from advtf.data.stored import StoredImages
from advtf.errors import UsageError

# One number for each view is folded into (seed, step), so that the views draw different numbers.
_AUGMENTATION_STREAMS = (1, 2)
STORED_AHEAD = (
    2  # batches of images on the disk that are made at a time, and kept; a free choice fills the memory
)


def steps_per_epoch_of(split: Split, batch_size: int, wanted: int | None = None) -> int:
    """Returns the number of steps in an epoch.

    Args:
        split: the examples.
        batch_size: examples per step B, all replicas together.
        wanted: how many steps an epoch shall have; None takes all the full batches.

    Raises:
        UsageError: there is not even one full batch, or more steps are wanted than there are.
    """
    require_batch_size(batch_size, len(split))
    available = len(split) // batch_size
    if wanted is not None and not 1 <= wanted <= available:
        raise UsageError(
            f"steps_per_epoch must be between 1 and {available}, the full batches of {batch_size} in "
            f"{len(split)} examples. Received: steps_per_epoch={wanted}."
        )
    return wanted or available


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
    (seed, e); examples that fill no batch are left out of that epoch. So a stream that starts at step k is
    exactly the tail of the one that starts at 0, and skipping costs nothing.

    Args:
        split: the examples.
        batch_size: examples per step B, all replicas together.
        seed: non-negative integer.
        steps_per_epoch: None takes all the full batches; a smaller number cuts every epoch short.
        start_step: the first step to deliver.
        total_steps: where the stream ends, counted from step 0; None for a stream without an end.
        augment: whether images are cropped at random (after zero padding by an eighth) and flipped.
        views: 2 for two augmentations of the same images.

    Returns:
        A dataset of (x float32 (B, H, W, C) in [0, 1], y int32 (B,)). With two views its elements are
        ((x, x'), y), and x is the same as with one view.

    Raises:
        UsageError: a batch larger than the data, or more steps per epoch than there are.
    """
    steps = steps_per_epoch_of(split, batch_size, steps_per_epoch)
    with tf.device("CPU:0"):  # the pipeline runs there; a copy on a GPU would travel back at every step
        batch_at = _batch_function(split, batch_size, seed, steps, augment, views)
        batches = tf.data.Dataset.counter(start=start_step)
        if total_steps is not None:
            batches = batches.take(max(0, total_steps - start_step))
        batches = batches.map(_as_written(batch_at), num_parallel_calls=_parallel(split), deterministic=True)
    return _ready(batches, split)


def evaluation_batches(split: Split, batch_size: int, limit: int | None = None) -> tf.data.Dataset:
    """Batches of (x float32 in [0, 1], y int32) in the order of the data; the last one may be smaller.

    Args:
        split: the examples.
        batch_size: examples per batch, at least 1.
        limit: the number of examples taken, the first ones; None takes all.

    Raises:
        UsageError: a number below 1.
    """
    for what, value in (("batch_size", batch_size), ("limit", limit)):
        if value is not None and value < 1:
            raise UsageError(f"{what} must be at least 1. Received: {what}={value}.")
    chosen = split.select(slice(limit))
    with tf.device("CPU:0"):
        if isinstance(chosen.images, StoredImages):
            batches = tf.data.Dataset.range(len(chosen)).batch(batch_size)
            labels = tf.constant(chosen.labels)
            batches = batches.map(
                _as_written(lambda rows: (chosen.images.batch(rows), tf.gather(labels, rows))),
                num_parallel_calls=_parallel(chosen),
                deterministic=True,
            )
        else:
            batches = tf.data.Dataset.from_tensor_slices((chosen.images, chosen.labels)).batch(batch_size)
        batches = batches.map(_as_written(lambda x, y: (to_unit_float(x), y)))
    return _ready(batches, chosen)


def _as_written(function):
    """Returns a function that AutoGraph does not rewrite, which takes longer than to build its graph."""
    return tf.autograph.experimental.do_not_convert(function)


def _parallel(split: Split) -> int:
    """Returns how many batches are made at a time; images on the disk are decoded in parallel within one."""
    return STORED_AHEAD if isinstance(split.images, StoredImages) else tf.data.AUTOTUNE


def _ready(batches: tf.data.Dataset, split: Split) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # There are no files to share out among workers, and batches are split by the strategy.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.prefetch(_parallel(split)).with_options(options)


def _batch_function(split, batch_size, seed, steps_per_epoch, augment, views):
    """Returns the function step -> (x, y), or step -> ((x, x'), y)."""
    stored = isinstance(split.images, StoredImages)
    images = split.images if stored else tf.constant(split.images)
    labels = tf.constant(split.labels)
    last = tf.constant(len(split) - 1, tf.int64)
    seed = tf.constant(seed, tf.int64)
    padding = max(1, round(min(split.images.shape[1:3]) / 8))

    def batch_at(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        epoch, batch = step // steps_per_epoch, step % steps_per_epoch
        positions = batch * batch_size + tf.range(batch_size, dtype=tf.int64)
        chosen = tf.random.experimental.index_shuffle(positions, tf.stack([seed, epoch]), last)
        x = images.batch(chosen) if stored else tf.gather(images, chosen)
        seen = [x] * views
        if augment:
            pair = tf.stack([seed, step])
            keys = [tf.random.fold_in(pair, stream) for stream in _AUGMENTATION_STREAMS[:views]]
            seen = [augmentation.augment_batch(x, key, padding) for key in keys]
        seen = tuple(to_unit_float(view) for view in seen)
        return seen[0] if views == 1 else seen, tf.gather(labels, chosen)

    return batch_at
