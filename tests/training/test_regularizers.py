"""Regularisers against literal formulas in float64 NumPy."""

import functools
import math

import numpy as np
import pytest
import tensorflow as tf
from helpers.objectives import CLEAN, ROBUST, js, kl, log_softmax, losses_of, nll
from helpers.trainer import batch

from advtf.attacks.losses import cross_entropy
from advtf.attacks.pgd import noisy
from advtf.errors import UsageError
from advtf.training import objectives, regularizers
from advtf.training.objectives import Batch


def top(fraction):
    difference = np.abs(ROBUST - CLEAN)
    kept = np.sort(difference.ravel())[::-1][: max(1, math.floor(fraction * difference.size))]
    return np.where(difference >= kept[-1], difference, 0).sum(axis=1)


@pytest.mark.parametrize(
    "distance, penalty",
    [
        ("top", top(0.3)),
        ("l1", np.abs(ROBUST - CLEAN).sum(axis=1)),
        ("l2", np.square(ROBUST - CLEAN).sum(axis=1)),
        ("kl", kl(CLEAN, ROBUST)),
        ("js", js(CLEAN, ROBUST)),
        ("nuclear", np.full(6, np.linalg.norm(ROBUST - CLEAN, "nuc") / 6)),
    ],
)
def test_advlc_and_its_distances(distance, penalty):
    found = losses_of(regularizers.advlc(0.7, 0.3, distance), strength=0.5)
    np.testing.assert_allclose(found, nll(ROBUST) + 0.35 * penalty, rtol=2e-5)


def test_advlc_of_everything_is_l1():
    whole, absolute = regularizers.advlc(0.4, 1.0), regularizers.advlc(0.4, distance="l1")
    np.testing.assert_allclose(losses_of(whole), losses_of(absolute), rtol=1e-6)


def test_advlc_keeps_exactly_n_of_equal_differences():
    ones = tf.ones((2, 4))
    penalty = regularizers.DISTANCES["top"](tf.zeros((2, 4)), ones, 0.375)
    np.testing.assert_array_equal(penalty, [3, 0])


@pytest.mark.parametrize(
    ("examples", "classes", "fraction", "kept"),
    [
        (100, 10, 0.1, 100),  # the published batch
        (128, 10, 0.1, 128),
        (7, 11, 0.1, 7),  # of 7.7
        (64, 3, 0.1, 19),  # of 19.2
        (9, 3, 0.5, 13),  # of 13.5
        (10, 1, 0.7, 7),  # in float32 0.7·10 is less than 7
        (100, 1, 0.29, 29),  # in float64 0.29·100 is less than 29
        (3, 3, 0.1, 1),  # at least one
    ],
)
def test_advlc_counts_whole_entries_of_the_batch(examples, classes, fraction, kept):
    logits = tf.ones((examples, classes))
    for jit_compile in (False, True):
        distance = tf.function(regularizers.DISTANCES["top"], jit_compile=jit_compile)
        assert float(tf.reduce_sum(distance(tf.zeros_like(logits), logits, fraction))) == kept


def test_losses_with_a_second_view_or_teachers():
    beside = CLEAN[::-1]
    second = {"second_view": beside, "second_view_adv": beside}
    np.testing.assert_allclose(
        losses_of(regularizers.logitalign(50.0), **second), nll(ROBUST) + 50 * kl(ROBUST, beside), rtol=2e-5
    )
    np.testing.assert_allclose(
        losses_of(regularizers.consistency(50.0, 2.0), **second),
        (nll(ROBUST) + nll(beside)) / 2 + 50 * js(ROBUST / 2, beside / 2),
        rtol=2e-5,
    )
    teachers = (lambda x: 2 * x, lambda x: -x)
    np.testing.assert_allclose(
        losses_of(regularizers.kdsa(teachers)),
        0.3 * nll(ROBUST) + 4 * (0.1 * kl(ROBUST, ROBUST / 2) + 0.6 * kl(-ROBUST / 2, ROBUST / 2)),
        rtol=2e-5,
    )


def quadratic(x):
    """Smooth logits of (B, 2, 3, 1) images; their input gradients are taken by differences below."""
    flat = tf.reshape(x, [tf.shape(x)[0], 6])
    weights = tf.constant(np.random.default_rng(1).normal(size=(6, 4)), x.dtype)
    return tf.tanh(flat) @ weights + tf.square(flat) @ tf.reverse(weights, [1])


def input_gradients(x, y, step=1e-5):
    def total(points):
        z = quadratic(tf.constant(points, tf.float64)).numpy()
        return -log_softmax(z)[np.arange(len(y)), y]

    gradient = np.zeros_like(x)
    for pixel in np.ndindex(x.shape[1:]):
        move = np.zeros(x.shape[1:])
        move[pixel] = step
        gradient[(slice(None), *pixel)] = (total(x + move) - total(x - move)) / (2 * step)
    return gradient


@pytest.mark.parametrize("name", ["igr", "cure", "gradalign"])
def test_gradient_penalties(name):
    x, y = batch(5)
    epsilon, seed = 0.1, tf.constant([3, 4], tf.int64)
    given = Batch(tf.constant(x), tf.constant(x), tf.constant(y), epsilon, 1.0, seed)
    found = getattr(regularizers, name)(2.0).losses(quadratic, given)[0].numpy()
    x = x.astype(np.float64)
    here = input_gradients(x, y)
    squares = functools.partial(np.sum, axis=(1, 2, 3))
    if name == "igr":
        penalty = squares(here**2)
    elif name == "cure":
        penalty = squares((input_gradients(x + epsilon * np.sign(here), y) - here) ** 2)
    else:
        other = tf.random.experimental.stateless_fold_in(seed, tf.constant(2, tf.int64), alg="philox")
        there = input_gradients(noisy()(given.x, epsilon, other).numpy().astype(np.float64), y)
        penalty = 1 - squares(here * there) / np.sqrt(squares(here**2) * squares(there**2))
    plain = cross_entropy(y, quadratic(given.x)).numpy()
    np.testing.assert_allclose(found, plain + 2 * penalty, rtol=2e-3, atol=2e-5)


def test_settings_out_of_range_are_named():
    for make in (regularizers.advlc, regularizers.igr, objectives.trades):
        with pytest.raises(UsageError, match="of at least 0"):
            make(-1.0)
