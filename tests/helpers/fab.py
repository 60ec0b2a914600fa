"""Float64 projections and boundary distances by brute force, and one way to call FAB."""

import numpy as np
import tensorflow as tf

from helpers.attack import Linear, norms, seed


def reach(x, normal):
    return np.maximum(normal * (1 - x), -normal * x).sum(axis=1)


def bisected(norm, x, normal, change):
    """The projection of float64 rows by bisection of the level λ in δ = ±min(λ·speed, room)."""
    x, normal = x.astype(np.float64), normal.astype(np.float64)
    weight, needed = np.abs(normal), np.abs(change.astype(np.float64))[:, None]
    uphill = np.sign(normal) * np.sign(change)[:, None]
    room = np.where(uphill > 0, 1 - x, x) * (weight > 0)
    speed = weight if norm == "l2" else np.ones_like(weight)
    low, high = np.zeros((len(x), 1)), np.full((len(x), 1), 1e6)
    for _ in range(100):
        level = (low + high) / 2
        short = (weight * np.minimum(level * speed, room)).sum(axis=1, keepdims=True) < needed
        low, high = np.where(short, level, low), np.where(short, high, level)
    return uphill * np.minimum(level * speed, room)


def nearest_boundary(model, x, y, norm):
    """Per example of a linear model the smallest δ that ties another class with class y within the box."""
    logits, flat = model.logits(x), x.reshape(len(x), -1)
    rows, best, best_norms = np.arange(len(x)), np.zeros_like(flat, np.float64), np.full(len(x), np.inf)
    for k in range(logits.shape[1]):
        normal = (model.kernel[:, [k]] - model.kernel[:, y]).T
        gap = logits[rows, y] - logits[:, k]
        reachable = (y != k) & (gap < reach(flat, normal))
        delta = bisected(norm, flat, normal, gap)
        nearer = reachable & (norms(norm, delta) < best_norms)
        best[nearer], best_norms[nearer] = delta[nearer], norms(norm, delta)[nearer]
    best[logits.argmax(axis=1) != y] = 0
    return best


def curved(x):
    return tf.tanh(2.0 * Linear()(x)) @ np.linspace(-1, 1, 9, dtype=np.float32).reshape(3, 3) ** 3 + Linear()(
        x
    )


def run(builder, model, x, y, epsilon=0.1, jit_compile=None, **settings):
    """The attack's results as arrays: eager, or as a graph with jit_compile False, or with XLA when True."""
    attack = builder(**settings)

    def call(x, y):
        return attack(model, x, y, tf.constant(epsilon), seed())

    if jit_compile is not None:
        call = tf.function(call, jit_compile=jit_compile)
    return [part.numpy() for part in tf.nest.flatten(call(tf.constant(x), tf.constant(y)))]
