"""Random numbers that belong to an example, whatever its row in a batch.

TensorFlow's stateless generators take one seed for a whole tensor, so an example's numbers change when others
leave the batch. Here they are computed from a seed, the example's key and a counter by Threefry, which is
made of integer operations only: eager execution, graphs and XLA give the same bits.

`uniform`, `fold_in` and `split` take a seed of any of three kinds: two integers for a whole tensor, as
TensorFlow does; five integers from `seed_of_rows`, with which the rows of a batch that several devices share
draw what they would draw in the whole batch; or (B, 2), two integers for each example.
"""

import zlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from advtf.errors import UsageError

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA
DRAWN, FOLDED, SPLIT = 0, 1, 2  # second words of the counter, so that no two uses see the same words


def image_keys(x: np.ndarray) -> np.ndarray:
    """Computes a key of each image from its pixels alone, so that it does not depend on the other images.

    Args:
        x: (N, ...).

    Returns:
        (N,) int64, a checksum of 32 bits.
    """
    return np.array([zlib.crc32(image.tobytes()) for image in np.ascontiguousarray(x)], np.int64)


def threefry(key: tf.Tensor, first: tf.Tensor, second: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes Threefry-2x32-20 of Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".

    Args:
        key: its two words, uint32 that broadcast against the counter's.
        first, second: the two words of the counter, uint32 of one shape.

    Returns:
        Two uint32 tensors of that shape, uniform over all words.
    """
    parity = tf.bitwise.bitwise_xor(tf.constant(PARITY, tf.uint32), tf.bitwise.bitwise_xor(key[0], key[1]))
    keys = key[0], key[1], parity
    first, second = first + keys[0], second + keys[1]
    for group in range(5):
        for distance in ROTATIONS[group % 2]:
            first = first + second
            second = tf.bitwise.bitwise_xor(_rotate(second, distance), first)
        injected = tf.constant(group + 1, tf.uint32)
        first, second = first + keys[(group + 1) % 3], second + keys[(group + 2) % 3] + injected
    return first, second


def _rotate(words, distance):
    left = tf.bitwise.left_shift(words, tf.constant(distance, tf.uint32))
    return tf.bitwise.bitwise_or(left, tf.bitwise.right_shift(words, tf.constant(32 - distance, tf.uint32)))


def words_by_key(seed: tf.Tensor, keys: tf.Tensor, stream: int) -> Callable:
    """Builds ``draw(number, count) -> (B, count)`` uint32 words, uniform and independent.

    ``draw(numbers, count) -> (B, Q, count)`` for numbers (Q,) are the words of all of them.

    Args:
        seed: two integers.
        keys: (B,) integers; equal keys draw equal words.
        stream: draws of different streams are independent.

    Returns:
        `draw`. Different values of `number` (0, 1, ...; it may be a tensor) give independent words as long as
        `count` is the same each time.

    Raises:
        UsageError: `seed` has two integers for each example.
    """
    if _of_examples(seed):
        raise UsageError("seed must be two integers; the examples draw by their keys. Received: (B, 2).")
    key = _key(tf.random.experimental.stateless_fold_in(tf.cast(seed[:2], tf.int64), stream, alg="philox"))
    example = tf.cast(keys, tf.uint32)[:, None]

    def draw(number, count):
        pairs = (count + 1) // 2
        number = tf.convert_to_tensor(number)
        counters = number[..., None] * pairs + tf.range(pairs)
        flat = tf.cast(tf.reshape(counters, [1, -1]), tf.uint32)
        both = threefry(key, example + tf.zeros_like(flat), flat + tf.zeros_like(example))
        shape = tf.concat([tf.shape(example)[:1], tf.shape(counters)], axis=0)
        words = tf.concat([tf.reshape(half, shape) for half in both], axis=-1)[..., :count]
        return tf.ensure_shape(words, [None, *number.shape, count])

    return draw


def example_seeds(seed: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """Derives a seed for each example.

    Args:
        seed: two integers.
        keys: (B,) integers; equal keys give equal seeds.

    Returns:
        (B, 2) int64.
    """
    examples = tf.cast(keys, tf.uint32)
    return _pair(threefry(_key(seed), examples, tf.zeros_like(examples)))


def seed_of_rows(seed: tf.Tensor, first: tf.Tensor, count: tf.Tensor, total: tf.Tensor) -> tf.Tensor:
    """Makes the seed of some rows of a batch, such as those of one device, which draw as in the whole batch.

    A tensor of a multiple of `count` rows is taken for that many batches behind each other, of each of which
    it has these rows: two views of the same images are attacked in one loop.

    Args:
        seed: two integers, the seed of the whole batch.
        first: the number of the first row, from 0.
        count: the number of rows.
        total: the number of rows of the whole batch, at least 1.

    Returns:
        (5,) int64.
    """
    rows = tf.stack([tf.cast(number, tf.int64) for number in (first, count, total)])
    return tf.concat([tf.cast(seed, tf.int64), rows], axis=0)


def uniform(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns float32 of `shape`, uniform in (0, 1), the same eagerly, in graphs and under XLA."""
    if _of_examples(seed):
        bits = _bits_by_example(shape, seed)
    else:
        bits = _bits_of_rows(shape, seed) if _of_rows(seed) else _bits(shape, seed)
    # From integers: TensorFlow's own float generators draw other numbers under XLA.
    return (tf.cast(tf.bitwise.right_shift(bits, 9), tf.float32) + 0.5) * 2.0**-23


def fold_in(seed: tf.Tensor, number: int | tf.Tensor) -> tf.Tensor:
    """Returns a seed of the kind of `seed` that also depends on `number`, a scalar."""
    if _of_examples(seed):
        return _derived(seed, number, FOLDED)
    if _of_rows(seed):
        return tf.concat([fold_in(seed[:2], number), seed[2:]], axis=0)
    return tf.random.experimental.stateless_fold_in(seed, tf.cast(number, tf.int64), alg="philox")


def split(seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns two independent seeds of the kind of `seed`."""
    if _of_examples(seed):
        return _derived(seed, 0, SPLIT), _derived(seed, 1, SPLIT)
    if _of_rows(seed):
        return tuple(tf.concat([half, seed[2:]], axis=0) for half in split(seed[:2]))
    return tuple(tf.unstack(tf.random.split(seed, 2, alg="philox")))


def _of_examples(seed):
    shape = tf.convert_to_tensor(seed).shape
    known = (shape.rank == 1 and shape[0] in (None, 2, 5)) or (shape.rank == 2 and shape[1] in (None, 2))
    if shape.rank is not None and not known:
        raise UsageError(
            "seed must be two integers, five from seed_of_rows, or two for each example, (B, 2). "
            f"Received: seed of shape {shape}."
        )
    return shape.rank == 2


def _of_rows(seed):
    return tf.convert_to_tensor(seed).shape[-1] == 5


def _bits(shape, seed):
    return tf.random.stateless_uniform(shape, seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox")


def _key(seed):
    return _bits([2], seed)


def _bits_of_rows(shape, seed):
    # The whole batch is drawn on every device: that costs far less than one pass of a network.
    first, count, total = tf.unstack(tf.cast(seed[2:], tf.int32))
    count, rows = tf.maximum(count, 1), tf.range(shape[0])  # no rows count as one, which stands for none
    batches = (shape[0] + count - 1) // count
    drawn = _bits(tf.concat([[batches * total], shape[1:]], axis=0), seed[:2])
    return tf.gather(drawn, rows // count * total + tf.minimum(first + rows % count, total - 1))


def _bits_by_example(shape, seeds):
    count = tf.reduce_prod(shape[1:])
    counter = tf.cast(tf.range((count + 1) // 2), tf.uint32)[None]
    both = threefry(_words(seeds[:, None]), counter, tf.constant([[DRAWN]], tf.uint32))
    return tf.reshape(tf.concat(both, axis=1)[:, :count], shape)


def _derived(seeds, number, use):
    return _pair(threefry(_words(seeds), tf.cast(number, tf.uint32), tf.constant(use, tf.uint32)))


def _words(seeds):
    return tuple(tf.unstack(tf.cast(seeds, tf.uint32), axis=-1))


def _pair(words):
    return tf.cast(tf.stack(words, axis=-1), tf.int64)


def below(words: tf.Tensor, bound: tf.Tensor) -> tf.Tensor:
    """Maps uint32 words to int32 uniform over 0, ..., `bound` − 1."""
    share = tf.cast(tf.bitwise.right_shift(words, tf.constant(9, tf.uint32)), tf.float32) * 2.0**-23
    return tf.cast(share * tf.cast(bound, tf.float32), tf.int32)


def signs(words: tf.Tensor) -> tf.Tensor:
    """Maps uint32 words to float32 uniform over −1 and 1."""
    return 1.0 - 2.0 * tf.cast(tf.bitwise.right_shift(words, tf.constant(31, tf.uint32)), tf.float32)
