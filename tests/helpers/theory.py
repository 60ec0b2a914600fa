"""Small problems on which the tests of the theory can afford exact answers."""

import itertools

import numpy as np

from advtf.theory import multiclass


def three_classes(seed=0, examples=9, dimension=3, spread=1.0):
    """Three classes of unequal sizes around their own centres."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([[0, 1, 2], rng.integers(0, 3, examples - 3)])
    centres = rng.uniform(-1, 1, (3, dimension))
    return centres[y] + spread * rng.uniform(-0.5, 0.5, (examples, dimension)), y


def exact_linf_loss(weights, x, y, epsilon):
    """L_ε for l∞, over all corners."""
    corners = itertools.product((-epsilon, epsilon), repeat=x.shape[1])
    losses = [multiclass.losses(weights, x + np.array(corner), y) for corner in corners]
    return np.max(losses, axis=0).mean()


def separable(seed=0, examples=30, dimension=5):
    """Weights w, and the examples farthest from their plane with the labels that w gives them."""
    rng = np.random.default_rng(seed)
    w, x = rng.normal(size=dimension), rng.normal(size=(3 * examples, dimension))
    x = x[np.argsort(-np.abs(x @ w))][:examples]
    return w, x, np.sign(x @ w)
