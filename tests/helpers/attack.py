"""Small classifiers whose attacks are known in closed form, and one trained on digits."""

import functools

import keras
import numpy as np
import tensorflow as tf

from advtf import models
from advtf.data.sets import load


class Linear:
    """logits = flat(x)·W + b, with its input gradient and a PGD loop in float64 NumPy."""

    def __init__(self, shape=(2, 3, 1), classes=3, seed=0):
        rng = np.random.default_rng(seed)
        self.shape = shape
        self.kernel = rng.normal(size=(int(np.prod(shape)), classes)).astype(np.float32)
        self.bias = rng.normal(size=classes).astype(np.float32)

    def __call__(self, x):
        return tf.reshape(x, [-1, self.kernel.shape[0]]) @ self.kernel + self.bias

    def logits(self, x):
        return x.reshape(len(x), -1).astype(np.float64) @ self.kernel.astype(np.float64) + self.bias

    def loss(self, x, y):
        return losses(self.logits(x), y)

    def gradient(self, x, y):
        error = softmax(self.logits(x))
        error[np.arange(len(y)), y] -= 1
        return (error @ self.kernel.T.astype(np.float64)).reshape(x.shape)

    def batch(self, n, seed=1, low=0.0, high=1.0):
        rng = np.random.default_rng(seed)
        images = rng.uniform(low, high, size=(n, *self.shape)).astype(np.float32)
        return images, rng.integers(0, self.kernel.shape[1], n).astype(np.int32)


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def losses(logits, y):
    return -np.log(softmax(np.asarray(logits, np.float64))[np.arange(len(y)), y])


def norms(norm, delta):
    flat = np.asarray(delta, np.float64).reshape(len(delta), -1)
    return np.abs(flat).max(axis=1) if norm == "linf" else np.sqrt((flat**2).sum(axis=1))


def numpy_pgd(gradient, x, y, norm, epsilon, steps, step):
    """PGD without a random start in float64; `gradient(x, y)` is the per-example input gradient."""
    column = (len(x),) + (1,) * (x.ndim - 1)
    x_adv = x.astype(np.float64)
    for _ in range(steps):
        g = gradient(x_adv, y)
        unit = np.sign(g) if norm == "linf" else g / norms("l2", g).reshape(column)
        delta = x_adv + step * unit - x
        if norm == "linf":
            delta = np.clip(delta, -epsilon, epsilon)
        else:
            delta = delta * np.minimum(1, epsilon / norms("l2", delta).reshape(column))
        x_adv = np.clip(x + delta, 0, 1)
    return x_adv


def seed(*values):
    return tf.constant(values or (1, 2), tf.int64)


@functools.cache
def digits_network():
    """A small smooth network trained on digits, and 64 test images with their labels."""
    data = load("digits")
    model = models.build("lenet", data.input_shape, 10, width=2, activation="softplus")
    model.compile(
        keras.optimizers.Adam(1e-2), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.fit(data.train.images, data.train.labels, batch_size=64, epochs=8, verbose=0, shuffle=False)
    images, labels = data.test.images[:64], data.test.labels[:64]
    assert (model.predict_on_batch(images).argmax(axis=1) == labels).mean() > 0.7
    return functools.partial(model, training=False), images, labels
