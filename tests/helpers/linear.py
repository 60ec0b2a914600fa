"""Linear classifiers and images for them, small enough for the dense Hessian."""

import numpy as np

from advtf.attacks.pgd import fgsm
from advtf.classifiers.classifier import as_classifier
from advtf.landscape.objective import adversarial_examples
from advtf.models import build
from helpers.attack import softmax

SHAPE, CLASSES, EPSILON = (6, 6, 1), 3, 0.1


def classifiers(count=1):
    found = [as_classifier(build("linear", SHAPE, CLASSES, seed=seed), movable=True) for seed in range(count)]
    for classifier in found:
        classifier.parameters.assign(4 * classifier.parameters.value())
    return found


def images(n=20):
    rng = np.random.default_rng(0)
    return rng.random((n, *SHAPE), np.float32), rng.integers(0, CLASSES, n).astype(np.int32)


def dense(classifier):
    """H = 1/N Σ_i (x_i x_iᵀ) ⊗ (diag(p_i) − p_i p_iᵀ) at the adversarial examples, biases last."""
    x, y = images()
    x = adversarial_examples(classifier, x, y, fgsm(), EPSILON, seed=0)
    flat = np.concatenate([x.reshape(len(x), -1), np.ones((len(x), 1))], axis=1).astype(float)
    p = softmax(flat @ classifier.parameters.value().reshape(-1, CLASSES).astype(float))
    curvature = np.einsum("ni,ij->nij", p, np.eye(CLASSES)) - np.einsum("ni,nj->nij", p, p)
    tensor = np.einsum("na,nb,nij->aibj", flat, flat, curvature) / len(x)
    return tensor.reshape(flat.shape[1] * CLASSES, -1)
