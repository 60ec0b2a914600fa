"""Random numbers by key: published known answers, uniformity, and independence of rows and of each other."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.attack import norms, seed
from scipy.stats import kstest

from advtf.attacks.norms import get_norm
from advtf.attacks.random import (
    below,
    example_seeds,
    fold_in,
    seed_of_rows,
    signs,
    split,
    threefry,
    uniform,
    words_by_key,
)
from advtf.errors import UsageError

SHAPE = tf.constant([6, 3, 1, 5])  # 15 numbers an example: the last pair of words is half used


def draw_for(n, *seeds, stream=1):
    return words_by_key(seed(*seeds), tf.range(n), stream)


# The published known answers of Threefry-2x32 with 20 rounds: counter, key, output.
@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_known_answers(counter, key, answer):
    words = threefry(tf.constant(key, tf.uint32), *tf.unstack(tf.constant(counter, tf.uint32)))
    assert tuple(int(word) for word in words) == answer


def test_words_follow_the_key_and_not_the_row():
    keys = tf.constant([5, 0, 7, 5])
    words = words_by_key(seed(), keys, 1)(3, 5).numpy()
    np.testing.assert_array_equal(words[0], words[3])
    np.testing.assert_array_equal(words[2:3], words_by_key(seed(), tf.constant([7]), 1)(3, 5))
    others = [draw_for(8)(4, 5), draw_for(8, 1, 3)(3, 5), draw_for(8, stream=0)(3, 5), draw_for(8)(3, 5)]
    everything = np.concatenate([np.ravel(other) for other in others])
    assert len(np.unique(everything)) == 160  # 4 × 8 × 5 words of 32 bits: none by chance the same


def test_words_of_many_numbers_are_those_of_each():
    numbers = [0, 3, 4, 1000]
    together = draw_for(6)(tf.constant(numbers), 5)
    alone = [draw_for(6)(number, 5) for number in numbers]
    np.testing.assert_array_equal(together, np.stack(alone, axis=1))


def test_words_are_uniform():
    words = np.concatenate([draw_for(2000)(number, 6) for number in range(2)])
    integers = below(tf.constant(words), tf.constant(7)).numpy()
    counts = np.stack([np.bincount(column, minlength=7) for column in integers.T])
    assert counts.shape == (6, 7)
    assert np.abs(counts - 4000 / 7).max() < 5 * np.sqrt(4000 / 7)
    both = signs(tf.constant(words)).numpy()
    assert set(np.unique(both)) == {-1.0, 1.0}
    assert np.abs(np.corrcoef(both.T) - np.eye(6)).max() < 5 / np.sqrt(4000)
    assert np.abs(both.mean(axis=0)).max() < 5 / np.sqrt(4000)


def test_below_reaches_its_last_value_and_no_further():
    extremes = tf.constant([0, 2**32 - 1], tf.uint32)
    for bound in (1, 2, 3, 7, 29, 225):
        np.testing.assert_array_equal(below(extremes, tf.constant(bound)), [0, bound - 1])


def test_uniform_of_an_example_by_hand():
    # Key (0, 0) and counters (0, 0), (1, 0), (2, 0): first the first words, then the second.
    words = [
        threefry(tf.zeros(2, tf.uint32), tf.constant(i, tf.uint32), tf.constant(0, tf.uint32))
        for i in range(3)
    ]
    first, second = zip(*words, strict=True)
    assert int(first[0]) == 0x6B200159
    expected = [((int(word) >> 9) + 0.5) * 2.0**-23 for word in (*first, *second[:2])]
    drawn = uniform(tf.constant([1, 5]), tf.zeros((1, 2), tf.int64))
    np.testing.assert_array_equal(drawn[0], np.array(expected, np.float32))


def test_a_seed_of_each_example_makes_rows_irrelevant():
    keys = tf.constant([3, -7, 2**31 - 1, 0, 5, -(2**31)])
    seeds = example_seeds(seed(4, 9), keys)
    assert len(np.unique(seeds)) == 12 and seeds.dtype == tf.int64
    rows = np.array([5, 0, 3])
    np.testing.assert_array_equal(example_seeds(seed(4, 9), tf.gather(keys, rows)), tf.gather(seeds, rows))
    for draw in (
        lambda s: uniform(tf.concat([tf.shape(s)[:1], SHAPE[1:]], 0), s),
        lambda s: fold_in(s, 3),
        lambda s: split(s)[1],
        lambda s: get_norm("l2").random_point(tf.constant([len(s), 2, 2, 1]), 1.0, s),
    ):
        np.testing.assert_array_equal(draw(tf.gather(seeds, rows)), tf.gather(draw(seeds), rows))


def test_derived_seeds_of_examples_share_no_numbers():
    seeds = example_seeds(seed(), tf.range(6))
    others = example_seeds(seed(1, 3), tf.range(6))
    derived = [
        seeds,
        others,
        fold_in(seeds, 0),
        fold_in(seeds, 1),
        fold_in(seeds, tf.constant(2)),
        *split(seeds),
    ]
    bits = np.concatenate([np.ravel(uniform(SHAPE, one)) for one in derived])
    # 23 bits each: of 630 numbers 0.02 pairs agree by chance.
    assert len(np.unique(bits)) == bits.size == 7 * 6 * 15


@pytest.mark.parametrize("wrong", [0, [1], [1, 2, 3], [[1, 2, 3]], [[[1, 2]]]])
def test_a_seed_is_two_integers(wrong):
    draws = [lambda: uniform(SHAPE, wrong), lambda: fold_in(wrong, 1), lambda: words_by_key(wrong, [0], 1)]
    for draw in draws:
        with pytest.raises(UsageError, match="seed must be two integers"):
            draw()
    with pytest.raises(UsageError, match="by their keys"):
        words_by_key([[1, 2]], [0], 1)


@pytest.mark.parametrize("seeds", [seed(5, 6), example_seeds(seed(5, 6), tf.range(6))], ids=["one", "each"])
def test_eager_graph_and_xla_draw_the_same_bits(seeds):
    def draws():
        first, second = split(fold_in(seeds, 2))
        return uniform(SHAPE, first), uniform(SHAPE, second)

    for jit_compile in (False, True):
        for eager, graph in zip(draws(), tf.function(draws, jit_compile=jit_compile)(), strict=True):
            np.testing.assert_array_equal(eager, graph)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_points_of_examples_are_uniform_in_the_ball(norm):
    seeds = example_seeds(seed(), tf.range(4000))
    points = get_norm(norm).random_point(tf.constant([4000, 3, 1, 1]), 0.5, seeds).numpy().reshape(4000, 3)
    size = norms(norm, points)
    assert size.max() <= 0.5 * (1 + 1e-6)
    # ‖x‖³/0.125 is uniform; 1.63/√n is the 1 % level of the Kolmogorov-Smirnov test.
    assert kstest((size / 0.5) ** 3, "uniform").statistic < 1.63 / np.sqrt(4000)
    assert np.abs(points.mean(axis=0)).max() < 0.5 * 5 / np.sqrt(4000)
    assert np.abs(np.corrcoef(points.T) - np.eye(3)).max() < 0.06


@pytest.mark.parametrize(("first", "count"), [(0, 3), (3, 2), (4, 1), (5, 0)])
@pytest.mark.parametrize("derived", ["itself", "folded", "split"])
def test_rows_draw_what_they_draw_in_the_whole_batch(first, count, derived):
    def derive(seed):
        return {"itself": seed, "folded": fold_in(seed, 3), "split": split(seed)[1]}[derived]

    whole = tf.constant([7, 1], tf.int64)
    drawn = uniform([5, 3, 2], derive(whole)).numpy()
    seed = derive(seed_of_rows(whole, first, count, total=5))
    np.testing.assert_array_equal(uniform([count, 3, 2], seed), drawn[first : first + count])
    # Without rows of its own a device has one row of padding, which draws something.
    assert uniform([max(count, 1), 3, 2], seed).shape == (max(count, 1), 3, 2)


def test_rows_of_two_stacked_views():
    # A device has rows 2 and 3 of each view; the whole batch of views is the first one and then the second.
    whole = tf.constant([7, 1], tf.int64)
    drawn = uniform([10, 4], whole).numpy()
    np.testing.assert_array_equal(uniform([4, 4], seed_of_rows(whole, 2, 2, 5)), drawn[[2, 3, 7, 8]])
