"""Linear classifiers and images for them, small enough for the dense Hessian."""

import numpy as np

from advtf.classifiers.classifier import as_classifier
from advtf.models import build

SHAPE, CLASSES, EPSILON = (6, 6, 1), 3, 0.1


def classifiers(count=1):
    found = [as_classifier(build("linear", SHAPE, CLASSES, seed=seed), movable=True) for seed in range(count)]
    for classifier in found:
        classifier.parameters.assign(4 * classifier.parameters.value())
    return found


def images(n=20):
    rng = np.random.default_rng(0)
    return rng.random((n, *SHAPE), np.float32), rng.integers(0, CLASSES, n).astype(np.int32)
