"""Scans of curves: the models' own objectives at the ends, BatchNorm, barriers, and interruptions."""

import functools

import numpy as np
import pytest
from helpers.curve import bits, classifiers, foreign, held_out_images, images, norm_net, random_batch

from advtf.attacks.pgd import pgd
from advtf.classifiers.classifier import as_classifier
from advtf.errors import UsageError
from advtf.landscape.batch_statistics import BatchStatistics
from advtf.landscape.curve_scan import CurveScanner, barrier
from advtf.landscape.curves import straight
from advtf.landscape.objective import AdversarialObjective
from advtf.training.curve import CurveSettings, train_curve

ATTACK = pgd("linf", 2, 0.6)
EPSILON = 0.03


@functools.cache
def long_curve():
    settings = CurveSettings(epochs=25, learning_rate=0.02, batch_size=64)
    return train_curve(*classifiers(), *images(1024), ATTACK, EPSILON, settings)


@functools.cache
def shared():
    """One scanner for all tests, as it is compiled once, and its classifier."""
    start = classifiers()[0]
    scanner = CurveScanner(start, images(), held_out_images(), ATTACK, EPSILON, seed=3, batch_size=60)
    return scanner, start


def test_barrier_by_hand():
    t = np.array([0, 0.25, 0.5, 1])
    assert barrier(t, np.array([1.0, 3, 2.5, 2])) == (1.75, 0.25)
    assert barrier(t, np.array([1.0, 0, 0, 2])) == (0, 0)


def test_equal_ends_have_no_barrier():
    start, _ = classifiers()
    settings = CurveSettings(epochs=4, learning_rate=0.01, batch_size=64)
    trained = train_curve(start, classifiers()[0], *images(), ATTACK, EPSILON, settings)
    scan = shared()[0].scan(trained.curve, 5)
    assert barrier(scan.t, scan.train_loss)[0] < 0.01
    assert scan.train_loss[0] == scan.train_loss[-1]


def test_a_trained_curve_goes_around_the_barrier_of_the_straight_line():
    (scanner, start), end = shared(), classifiers()[1]
    line = straight("bezier", start.parameters.value(), end.parameters.value(), 1)
    straight_scan, scan = scanner.scan(line, 9), scanner.scan(long_curve().curve, 9)
    over, around = (barrier(s.t, s.train_loss)[0] for s in (straight_scan, scan))
    assert over > 0.5 and around < 0.1 * over
    assert scan.test_error.max() < straight_scan.test_error.max() - 20
    assert long_curve().curve.length() > line.length()
    assert long_curve().loss[-1] < 0.3 * long_curve().loss[0]


def test_a_killed_scan_continues_with_the_same_bits(tmp_path):
    (scanner, start), end, lines = shared(), classifiers()[1], []
    line = straight("bezier", start.parameters.value(), end.parameters.value(), 1)

    def interrupt(line):
        lines.append(line)
        if len(lines) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scanner.scan(line, 5, state_dir=tmp_path, report=interrupt)
    resumed = scanner.scan(line, 5, state_dir=tmp_path, report=lines.append)
    assert len(lines) == 5
    whole = scanner.scan(line, 5)
    for name, values in whole.arrays().items():
        assert values.tobytes() == resumed.arrays()[name].tobytes(), name
    with pytest.raises(UsageError, match="other images or settings"):
        scanner.scan(line, 6, state_dir=tmp_path)


def test_scan_of_a_network_with_batch_norm():
    """Statistics on clean examples, adversarial examples with these, statistics on them, evaluation."""
    classifier, twin = as_classifier(norm_net(), movable=True), as_classifier(norm_net(), movable=True)
    train, test = random_batch(30), random_batch(20, seed=1)
    scanner = CurveScanner(classifier, train, test, ATTACK, 0.2, seed=3, batch_size=11)
    vector = np.random.default_rng(3).normal(size=classifier.parameters.size)
    before = bits(classifier.model)
    found = scanner.measure(vector)
    assert bits(classifier.model) == before

    twin.parameters.assign(vector)
    settings = {"seed": 3, "batch_size": 11}
    objective = AdversarialObjective(twin, *train, ATTACK, 0.2, **settings)
    BatchStatistics(twin.model, batch_size=30)(train[0])
    BatchStatistics(twin.model, batch_size=30)(objective.examples())
    assert found["train_loss"] == pytest.approx(objective().loss, rel=1e-4)
    assert found["train_clean_loss"] == pytest.approx(objective.clean().loss, rel=1e-4)
    measured = AdversarialObjective(twin, *test, ATTACK, 0.2, **settings)()
    assert found["test_loss"] == pytest.approx(measured.loss, rel=1e-4)
    assert found["test_error"] == measured.error


def test_ends_of_a_scan_are_the_models_own_objectives():
    (scanner, start), end = shared(), classifiers()[1]
    line = straight("bezier", start.parameters.value(), end.parameters.value(), 1)
    before = bits(start.model)
    scan = scanner.scan(line, 3)
    assert bits(start.model) == before
    for place, classifier in ((0, start), (-1, end)):
        for name, (x, y) in (("train", images()), ("test", held_out_images())):
            objective = AdversarialObjective(classifier, x, y, ATTACK, EPSILON, seed=3, batch_size=60)
            robust, clean, found = objective(), objective.clean(), scan.arrays()
            assert found[f"{name}_loss"][place] == robust.loss
            assert found[f"{name}_error"][place] == robust.error
            assert found[f"{name}_clean_loss"][place] == clean.loss
            assert found[f"{name}_clean_error"][place] == clean.error


def test_a_model_of_unknown_architecture_is_refused():
    with pytest.raises(UsageError, match="live Keras model"):
        CurveScanner(foreign(classifiers()[0]), images(), held_out_images(), ATTACK, EPSILON)
