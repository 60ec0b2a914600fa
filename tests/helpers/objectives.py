"""A batch whose clean and attacked logits are given numbers, and divergences in float64 NumPy."""

import functools

import numpy as np
import tensorflow as tf

from advtf.training.objectives import Batch
from helpers.attack import softmax

RNG = np.random.default_rng(0)
CLEAN, ROBUST = RNG.normal(size=(2, 6, 4)) * 2
LABELS = np.array([0, 1, 2, 3, 0, 1])


def log_softmax(z):
    return np.log(softmax(z))


def nll(z):
    """The cross-entropy with `LABELS`."""
    return -log_softmax(z)[np.arange(len(LABELS)), LABELS]


def kl(first, second):
    """KL(softmax(first) ‖ softmax(second)) of each row."""
    p = softmax(first)
    return np.sum(p * (np.log(p) - log_softmax(second)), axis=1)


def js(first, second):
    """The Jensen–Shannon divergence of two softmax distributions, row by row."""
    middle = np.log((softmax(first) + softmax(second)) / 2)
    return (kl(first, middle) + kl(second, middle)) / 2


def identity_batch(strength=1.0, **others):
    """Returns a batch whose images are its logits, for a classifier that is the identity."""
    single = functools.partial(tf.constant, dtype=tf.float32)
    second = {name: single(value) for name, value in others.items()}
    return Batch(single(CLEAN), single(ROBUST), tf.constant(LABELS), 0.1, strength, None, **second)


def losses_of(objective, **settings):
    """Returns the losses of `identity_batch(**settings)`."""
    return objective.losses(lambda x: x, identity_batch(**settings))[0].numpy()
