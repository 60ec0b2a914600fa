"""Similarity of perturbations: closed forms on linear models, exact identities on a network."""

import numpy as np
import pytest
import tensorflow as tf

from advtf import models
from advtf.attacks.pgd import pgd
from advtf.classifiers.classifier import as_classifier
from advtf.classifiers.parameters import unit_direction
from advtf.data.sets import load
from advtf.errors import UsageError
from advtf.landscape.objective import AdversarialObjective
from advtf.landscape.similarity import PerturbationSimilarity, cosines, mean_cosine

SHAPE, EPSILON = (2, 3, 1), 0.1
# Difference of the two logits' weights, and a direction that turns its signs at a = 1, 2, 4, 8 on one side.
# Small, as float32 softmax has no gradient left for margins above 17.
DIFFERENCE = 0.1 * np.array([1.0, -2.0, 4.0, 8.0, 1.0, -1.0])
MOVE = 0.1 * np.array([-1.0, 1.0, 1.0, 1.0, 0.0, 0.0])


def binary(difference=DIFFERENCE, bias=0.0):
    """logits (0, d·x + b): cross-entropy climbs by −ε sign(d) for class 1 and ε sign(d) for class 0."""
    model = models.build("linear", SHAPE, 2)
    kernel = np.stack([np.zeros(6), difference], axis=1)
    model.set_weights([kernel, np.array([0.0, bias])])
    return as_classifier(model, movable=True)


def direction(move=MOVE):
    """The same for all parameters: kernel (6, 2), then bias (2,)."""
    return np.concatenate([np.stack([np.zeros(6), move], axis=1).ravel(), [0.0, 0.0]])


def images(n=7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.3, 0.7, (n, *SHAPE)).astype(np.float32), np.arange(n, dtype=np.int32) % 2


def robust_margins(x, y, difference, dual):
    """What is left of y·(d·x) after the worst perturbation, ε‖d‖_dual: the loss is log(1 + exp(−margin))."""
    sign = 2 * y - 1
    return sign * (x.reshape(len(x), -1) @ difference) - EPSILON * np.linalg.norm(difference, dual)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_linear_model_by_hand(norm, dual):
    x, y = images()
    offsets = [0, 0.5, 1.5, 3, 6, 10]
    classifier = binary()
    probe = PerturbationSimilarity(classifier, x, y, pgd(norm, steps=60), EPSILON, batch_size=3)
    found = probe.along(direction(), offsets, seed=3)
    plus, minus = ([DIFFERENCE + s * a * MOVE for a in offsets] for s in (1, -1))
    if norm == "linf":  # equal signs minus different ones, of six: one more differs at each of 1, 2, 4, 8
        wanted = [1, 1, 1 - 2 / 6, 1 - 4 / 6, 1 - 6 / 6, 1 - 8 / 6]
    else:
        wanted = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(plus, minus, strict=True)]
    np.testing.assert_allclose(found.similarity, wanted, atol=2e-5)
    assert found.similarity[0] == 1.0
    for row, side in enumerate((plus, minus)):
        margins = np.array([robust_margins(x, y, d, dual) for d in side])
        np.testing.assert_allclose(found.loss[row], np.log1p(np.exp(-margins)).mean(axis=1), rtol=1e-4)
        np.testing.assert_allclose(found.error[row], 100 * (margins < 0).mean(axis=1))
    assert found.left_out.tolist() == [0] * 6
    assert found.examples == 7
    np.testing.assert_array_equal(found.offsets, offsets)


def test_images_without_a_perturbation_are_counted_and_left_out():
    """At θ − ‖θ‖·θ/‖θ‖ = 0 there is no gradient: without a random start nothing is perturbed."""
    x, y = images()
    classifier = binary()
    theta = classifier.parameters.value()
    length = np.linalg.norm(theta.astype(np.float64))
    probe = PerturbationSimilarity(classifier, x, y, pgd(steps=4, random_start="none"), EPSILON)
    found = probe.along(theta / length, [0, length], seed=0)
    assert found.similarity[0] == 1.0
    assert np.isnan(found.similarity[1])
    assert found.left_out.tolist() == [0, 7]
    assert np.isfinite(found.loss).all()
    nothing = PerturbationSimilarity(classifier, x, y, pgd(), 0.0).along(direction(), [0, 1], seed=0)
    assert nothing.left_out.tolist() == [7, 7] and np.isnan(nothing.similarity).all()


def test_cosines_of_single_pairs():
    first = np.array([[1, 0], [3, 4], [1, 1], [0, 0], [1e-5, 0], [0.1, 0.3]], np.float32)
    second = np.array([[0, 2], [6, 8], [-2, -2], [1, 0], [1e-5, 1e-5], [0.1, 0.3]], np.float32)
    found = cosines(first.reshape(-1, 2, 1, 1), second.reshape(-1, 2, 1, 1))
    np.testing.assert_allclose(found, [0, 1, -1, np.nan, 0.5**0.5, 1], rtol=1e-14)
    assert mean_cosine(found) == pytest.approx((0.5**0.5 + 1) / 5)
    assert np.isnan(mean_cosine(np.array([np.nan])))
    noise = np.random.default_rng(0).normal(size=(200, 784)).astype(np.float32)
    assert (cosines(noise, noise.copy()) == 1.0).all()


def test_network_equals_the_objective_and_keeps_its_bits():
    test = load("digits").test
    x, y = test.images[:50], test.labels[:50]
    classifier = as_classifier(models.build("mlp", (8, 8, 1), 10, width=1), movable=True)
    before = classifier.parameters.value()
    attack = pgd(steps=3)
    vector = unit_direction(classifier.parameters, 1).astype(np.float64)
    seen = []
    probe = PerturbationSimilarity(classifier, x, y, attack, EPSILON, batch_size=20)
    found = probe.along(vector, [0, 0.7], seed=9, report=lambda *progress: seen.append(progress))
    objective = AdversarialObjective(classifier, x, y, attack, EPSILON, seed=9, batch_size=20)
    assert found.similarity[0] == 1.0 and found.similarity[1] < 1
    deltas = []
    for row, sign in enumerate((1, -1)):
        with classifier.parameters.at(before + sign * 0.7 * vector):
            measured = objective()
            deltas.append(objective.examples() - x)
        assert (found.loss[row, 1], found.error[row, 1]) == (measured.loss, measured.error)
    assert (found.loss[:, 0] == objective().loss).all()
    assert found.similarity[1] == pytest.approx(np.mean(cosines(*deltas)), abs=1e-12)
    assert seen == [(1, 2), (2, 2)]
    np.testing.assert_array_equal(classifier.parameters.value(), before)


def test_between_starts_is_what_random_starts_alone_do():
    x, y = images(40)
    classifier = binary()
    short = PerturbationSimilarity(classifier, x, y, pgd(steps=1, relative_step=0.1), EPSILON, batch_size=16)
    objective = AdversarialObjective(
        classifier, x, y, pgd(steps=1, relative_step=0.1), EPSILON, batch_size=16
    )
    wanted = np.mean(cosines(objective.examples(seed=1) - x, objective.examples(seed=2) - x))
    assert short.between_starts(1, 2) == pytest.approx(wanted, abs=1e-12)
    assert abs(wanted) < 0.5
    assert short.between_starts(1, 1) == 1.0
    converged = PerturbationSimilarity(classifier, x, y, pgd(steps=20), EPSILON)
    assert converged.between_starts(1, 2) == pytest.approx(1, abs=1e-6)


def test_weights_come_back_when_the_loss_raises():
    classifier = binary()
    before = classifier.parameters.value().tobytes()

    def fragile(logits_fn, x, y, epsilon, seed):
        largest = tf.reduce_max(tf.abs(logits_fn(x)))
        with tf.control_dependencies([tf.debugging.assert_less(largest, 30.0)]):
            return tf.identity(x)

    probe = PerturbationSimilarity(classifier, *images(), fragile, EPSILON)
    with pytest.raises(tf.errors.InvalidArgumentError):
        probe.along(direction(), [0, 1, 1000], seed=0)
    assert classifier.parameters.value().tobytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((direction(), []), "offsets"),
        ((direction(), [0, -1]), r"offsets.*\[0, -1\]"),
        ((direction(), [np.nan]), "offsets"),
        ((np.zeros(3), [0]), r"direction must have shape \(14,\). Received: \(3,\)"),
    ],
)
def test_bad_requests_are_refused(arguments, message):
    probe = PerturbationSimilarity(binary(), *images(), pgd(), EPSILON)
    with pytest.raises(UsageError, match=message):
        probe.along(*arguments, seed=0)
