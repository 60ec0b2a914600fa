"""Small trainers, and their classifier in float64 NumPy with hand-written gradients."""

import functools

import keras
import numpy as np
import tensorflow as tf

from advtf.attacks.pgd import pgd
from advtf.models.layers import Layers
from advtf.training.optimizers import SGD
from advtf.training.trainer import AdversarialTrainer
from helpers.attack import softmax

SHAPE = (2, 3, 1)
STILL = pgd("linf", 3, 0.5, "none")


def dense_net(hidden=5, regularizer=None, **dense):
    start = functools.partial(keras.initializers.RandomNormal, stddev=0.8)
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(
                hidden, "tanh", kernel_initializer=start(seed=1), kernel_regularizer=regularizer
            ),
            keras.layers.Dense(3, kernel_initializer=start(seed=2), **dense),
        ]
    )


def batch(n=12, seed=0, shape=SHAPE, classes=3):
    rng = np.random.default_rng(seed)
    return rng.random((n, *shape), np.float32), rng.integers(0, classes, n).astype(np.int32)


def still(x, y, size):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(size)


def compiled(
    classifier=None, attack=STILL, epsilon=0.1, rate=0.1, jit_compile=False, eager=False, **settings
):
    trainer = AdversarialTrainer(classifier or dense_net(), attack, epsilon, **settings)
    trainer.compile(SGD(rate, momentum=0.9, l2=0.01), jit_compile=jit_compile, run_eagerly=eager)
    return trainer


class NumpyNet:
    """`dense_net` in float64, with the gradients of its weights and of its input."""

    def __init__(self, weights):
        self.weights = [np.asarray(w, np.float64) for w in weights]

    def forward(self, x):
        w1, b1, w2, b2 = self.weights
        hidden = np.tanh(x.reshape(len(x), -1) @ w1 + b1)
        return hidden, hidden @ w2 + b2

    def backward(self, x, y, per_example):
        hidden, logits = self.forward(x)
        error = softmax(logits)
        error[np.arange(len(y)), y] -= 1
        error *= per_example[:, None]
        inner = (error @ self.weights[2].T) * (1 - hidden**2)
        flat = x.reshape(len(x), -1)
        gradients = [flat.T @ inner, inner.sum(axis=0), hidden.T @ error, error.sum(axis=0)]
        return gradients, (inner @ self.weights[0].T).reshape(x.shape)

    def input_gradient(self, x, y):
        return self.backward(x, y, np.ones(len(y)))[1]


def convolutional_net():
    layers = Layers("softplus", seed=0)
    image = keras.Input((6, 6, 2))
    hidden = layers.norm_activate(layers.conv(image, 3, 3, "stem"), "stem")
    return keras.Model(image, layers.logits(layers.flatten(layers.max_pool(hidden, "pool")), 3))
