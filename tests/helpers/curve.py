"""Pairs of small classifiers to connect."""

import dataclasses
import functools

import keras
import numpy as np

from advtf import models
from advtf.classifiers.classifier import as_classifier
from advtf.data.sets import load
from advtf.models.layers import Layers


@functools.cache
def digits_pair():
    """Two networks trained on digits from different seeds, without attack; fresh classifiers at each call."""
    data = load("digits")
    weights = []
    for seed in (0, 1):
        model = models.build("mlp", data.input_shape, 10, width=1, seed=seed)
        model.compile(
            keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        )
        model.fit(data.train.images, data.train.labels, batch_size=64, epochs=8, verbose=0, shuffle=False)
        weights.append(model.get_weights())
    return data, weights


def classifiers():
    """Returns the pair as classifiers of their own, so that a test may move their weights."""
    data, weights = digits_pair()
    pair = []
    for number, values in enumerate(weights):
        model = models.build("mlp", data.input_shape, 10, width=1, seed=number)
        model.set_weights(values)
        pair.append(as_classifier(model, movable=True))
    return pair


def images(n=256):
    """Returns (x, y) of the first training examples."""
    train = digits_pair()[0].train
    return train.images[:n], train.labels[:n]


def held_out_images(n=100):
    """Returns (x, y) of the first test examples."""
    test = digits_pair()[0].test
    return test.images[:n], test.labels[:n]


def norm_net(seed=0, activation="softplus", name="norm_net"):
    """A small convolutional network with two BatchNorm layers, for images 6×6×1 of 3 classes."""
    layers = Layers(activation, seed=seed)
    image = layers.image((6, 6, 1))
    hidden = layers.norm_activate(layers.conv(image, 2, 3, "conv1"), "conv1")
    hidden = layers.norm_activate(layers.conv(hidden, 2, 3, "conv2", stride=2), "conv2")
    return keras.Model(image, layers.logits(layers.flatten(hidden), 3), name=name)


def random_batch(n, shape=(6, 6, 1), classes=3, seed=0):
    """Returns x float32 (n, *shape) in [0, 1] and y int32."""
    rng = np.random.default_rng(seed)
    return rng.random((n, *shape), np.float32), rng.integers(0, classes, n).astype(np.int32)


def bits(model):
    """Returns every variable as bytes."""
    return [variable.numpy().tobytes() for variable in model.variables]


def foreign(classifier):
    """Returns a classifier without a live model, as a SavedModel of another program gives it."""
    return dataclasses.replace(classifier, name="foreign", model=None, config={})
