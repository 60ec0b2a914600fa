"""Batches of images whose order and augmentation are functions of the seed and of the step number."""

from dataclasses import dataclass

import tensorflow as tf

from advtf.data import augmentation
from advtf.data.arrays import to_unit_float
from advtf.data.pipelines import untuned
from advtf.data.registry import require_batch_size
from advtf.data.sets import Split
from advtf.data.stored import StoredImages
from advtf.errors import UsageError

# One number for each view is folded into (seed, step), so that the views draw different numbers.
_AUGMENTATION_STREAMS = (1, 2)
STORED_AHEAD = 2  # batches from the disk that are made at a time, and kept; a free choice fills the memory


@dataclass(frozen=True)
class Share:
    """What one process of several delivers of every batch: the rows of its replicas, replica by replica.

    Attributes:
        first: the number of its first replica among those of all processes.
        count: the number of its replicas.
        replicas: the number of all replicas.
    """

    first: int = 0
    count: int = 1
    replicas: int = 1

    def rows(self, number: tf.Tensor, batch_size: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the batch and the first row in it of the `number`-th element that the process delivers."""
        replica = self.first + number % self.count
        return number // self.count, replica * (batch_size // self.replicas)


WHOLE = Share()


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
    share: Share = WHOLE,
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
        share: the part of a process of several, whose number of replicas must divide `batch_size`.

    Returns:
        A dataset of (x float32 (B, H, W, C) in [0, 1], y int32 (B,)). With two views its elements are
        ((x, x'), y), and x is the same as with one view. With a share its elements are the rows of one
        replica after another: together they are the batches without one, augmentation included.

    Raises:
        UsageError: a batch larger than the data, or more steps per epoch than there are.
    """
    steps = steps_per_epoch_of(split, batch_size, steps_per_epoch)
    with tf.device("CPU:0"):  # the pipeline runs there; a copy on a GPU would travel back at every step
        batch_at = _batch_function(split, batch_size, seed, steps, augment, views, share)
        batches = tf.data.Dataset.counter(start=start_step * share.count)
        if total_steps is not None:
            batches = batches.take(max(0, total_steps - start_step) * share.count)
        batches = batches.map(_as_written(batch_at), num_parallel_calls=_parallel(split), deterministic=True)
    return _ready(batches, split)


def evaluation_batches(
    split: Split, batch_size: int, limit: int | None = None, share: Share = WHOLE
) -> tf.data.Dataset:
    """Batches of (x float32 in [0, 1], y int32) in the order of the data; the last one may be smaller.

    Args:
        split: the examples.
        batch_size: examples per batch, at least 1.
        limit: the number of examples taken, the first ones; None takes all.
        share: the part of a process of several, as in `training_batches`; of the last batch some replicas may
            get nothing.

    Raises:
        UsageError: a number below 1.
    """
    for what, value in (("batch_size", batch_size), ("limit", limit)):
        if value is not None and value < 1:
            raise UsageError(f"{what} must be at least 1. Received: {what}={value}.")
    chosen = split.select(slice(limit))
    with tf.device("CPU:0"):
        if share == WHOLE and not isinstance(chosen.images, StoredImages):
            batches = tf.data.Dataset.from_tensor_slices((chosen.images, chosen.labels)).batch(batch_size)
        else:
            images_of, labels = _images_function(chosen), tf.constant(chosen.labels)
            batches = _rows(len(chosen), batch_size, share).map(
                _as_written(lambda rows: (images_of(rows), tf.gather(labels, rows))),
                num_parallel_calls=_parallel(chosen),
                deterministic=True,
            )
        batches = batches.map(_as_written(lambda x, y: (to_unit_float(x), y)))
    return _ready(batches, chosen)


def _as_written(function):
    """Returns a function that AutoGraph does not rewrite, which takes longer than to build its graph."""
    return tf.autograph.experimental.do_not_convert(function)


def _parallel(split: Split) -> int:
    """Returns how many batches are made at a time; images on the disk are decoded in parallel within one."""
    return STORED_AHEAD if isinstance(split.images, StoredImages) else tf.data.AUTOTUNE


def _images_function(split):
    """Returns the function rows (B,) -> images (B, H, W, C)."""
    if isinstance(split.images, StoredImages):
        return split.images.batch
    images = tf.constant(split.images)
    return lambda rows: tf.gather(images, rows)


def _rows(examples, batch_size, share):
    """Returns a dataset of the rows that an element of an evaluation has, in the order of the examples."""

    def rows_of(number):
        batch, row = share.rows(number, batch_size)
        first = tf.minimum(batch * batch_size + row, examples)
        return tf.range(first, tf.minimum(first + batch_size // share.replicas, examples))

    elements = -(-examples // batch_size) * share.count
    return tf.data.Dataset.range(elements).map(_as_written(rows_of))


def _ready(batches: tf.data.Dataset, split: Split) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # There are no files to share out among workers, and batches are split by the strategy.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return untuned(batches.prefetch(_parallel(split)).with_options(options))


def _batch_function(split, batch_size, seed, steps_per_epoch, augment, views, share):
    """Returns the function step -> (x, y), or step -> ((x, x'), y); with a share, of its element's number."""
    images_of, labels = _images_function(split), tf.constant(split.labels)
    last = tf.constant(len(split) - 1, tf.int64)
    seed = tf.constant(seed, tf.int64)
    padding = max(1, round(min(split.images.shape[1:3]) / 8))
    count = batch_size // share.replicas

    def batch_at(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        step, row = share.rows(number, batch_size)
        epoch, batch = step // steps_per_epoch, step % steps_per_epoch
        positions = batch * batch_size + row + tf.range(count, dtype=tf.int64)
        chosen = tf.random.experimental.index_shuffle(positions, tf.stack([seed, epoch]), last)
        x = images_of(chosen)
        seen = [x] * views
        if augment:
            pair = tf.stack([seed, step])
            keys = [tf.random.fold_in(pair, stream) for stream in _AUGMENTATION_STREAMS[:views]]
            seen = [augmented(x, key, row) for key in keys]
        seen = tuple(to_unit_float(view) for view in seen)
        return seen[0] if views == 1 else seen, tf.gather(labels, chosen)

    def augmented(x, key, row):
        windows = augmentation.draw_windows(batch_size, key, padding)  # of the whole batch
        return augmentation.crop_and_flip(x, *(drawn[row : row + count] for drawn in windows), padding)

    return batch_at
