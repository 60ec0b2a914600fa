"""Small classifiers and images for the tests of exporting and loading."""

from pathlib import Path

import keras
import numpy as np

SHAPE = (6, 6, 2)


def network(seed=0, head=None, classes=4):
    image = keras.Input(SHAPE, name="image")
    start = keras.initializers.RandomNormal(stddev=0.4, seed=seed)
    h = keras.layers.Conv2D(3, 3, activation="gelu", kernel_initializer=start)(image)
    h = keras.layers.MaxPooling2D()(keras.layers.BatchNormalization()(h))
    h = keras.layers.Dropout(0.5)(keras.layers.Flatten()(h))
    model = keras.Model(image, keras.layers.Dense(classes, activation=head, kernel_initializer=start)(h))
    model.layers[2].moving_variance.assign([0.5, 2.0, 1.5])
    return model


def batch(n=5, seed=0):
    return np.random.default_rng(seed).random((n, *SHAPE), np.float32)


def names(folder):
    return sorted(entry.name for entry in Path(folder).iterdir())


def two_outputs():
    image = keras.Input(SHAPE)
    flat = keras.layers.Flatten()(image)
    return keras.Model(image, [keras.layers.Dense(3)(flat), keras.layers.Dense(3)(flat)])


def image_to_image():
    image = keras.Input(SHAPE)
    return keras.Model(image, keras.layers.Conv2D(3, 1)(image))
