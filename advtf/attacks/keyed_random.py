"""Random numbers from a seed, an example's key and a counter, whatever the example's row in its batch.

TensorFlow's stateless generators take one seed for a whole tensor, so an example's numbers change when others
leave the batch. Threefry is made of integer operations only: eager, graph and XLA give the same bits.
"""

from collections.abc import Callable

import tensorflow as tf

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA


def threefry(key: tf.Tensor, first: tf.Tensor, second: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Threefry-2x32-20 of Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".

    Args:
        key: (2,) uint32.
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

    Args:
        seed: two integers.
        keys: (B,) integers; equal keys draw equal words.
        stream: draws of different streams are independent.

    Returns:
        `draw`; different `number` (0, 1, ...; can be a tensor) give independent words as long as the same
        `count` is asked for each time.
    """
    seed = tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int64), stream, alg="philox")
    key = tf.random.stateless_uniform([2], seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox")
    example = tf.cast(keys, tf.uint32)[:, None]

    def draw(number, count):
        pairs = (count + 1) // 2
        counter = tf.cast(number * pairs + tf.range(pairs), tf.uint32)[None]
        both = threefry(key, example + tf.zeros_like(counter), counter + tf.zeros_like(example))
        return tf.concat(both, axis=1)[:, :count]

    return draw


def below(words: tf.Tensor, bound: tf.Tensor) -> tf.Tensor:
    """Maps uint32 words to int32 uniform over 0, ..., `bound` − 1."""
    share = tf.cast(tf.bitwise.right_shift(words, tf.constant(9, tf.uint32)), tf.float32) * 2.0**-23
    return tf.cast(share * tf.cast(bound, tf.float32), tf.int32)


def signs(words: tf.Tensor) -> tf.Tensor:
    """Maps uint32 words to float32 uniform over −1 and 1."""
    return 1.0 - 2.0 * tf.cast(tf.bitwise.right_shift(words, tf.constant(31, tf.uint32)), tf.float32)
