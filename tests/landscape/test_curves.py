"""Curves against de Casteljau's construction and closed forms, and scans of them.

Scans: the models' own objectives at the ends, BatchNorm, barriers, and interruptions.
"""

import functools

import numpy as np
import pytest
from helpers.curve import bits, classifiers, foreign, held_out_images, images, norm_net, random_batch

from advtf.attacks.pgd import pgd
from advtf.classifiers.classifier import as_classifier
from advtf.errors import UsageError
from advtf.landscape.batch_statistics import BatchStatistics
from advtf.landscape.curves import (
    COEFFICIENTS,
    Curve,
    CurveScanner,
    barrier,
    bernstein,
    even_parameters,
    hat,
    straight,
)
from advtf.landscape.objective import AdversarialObjective
from advtf.training.curve import CurveSettings, train_curve

KINDS = tuple(COEFFICIENTS)


def points(order, size=5, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=(order + 1, size)).astype(dtype)


def de_casteljau(control, t):
    while len(control) > 1:
        control = (1 - t) * control[:-1] + t * control[1:]
    return control[0]


def test_coefficients_of_equation_30_by_hand():
    np.testing.assert_allclose(bernstein(2, 0.25), [0.5625, 0.375, 0.0625], rtol=1e-15)
    np.testing.assert_allclose(bernstein(3, 0.5), [1 / 8, 3 / 8, 3 / 8, 1 / 8], rtol=1e-15)
    np.testing.assert_allclose(hat(2, 0.25), [0.5, 0.5, 0])
    np.testing.assert_allclose(hat(4, 0.9), [0, 0, 0, 0.4, 0.6], atol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [1, 2, 4, 7])
def test_coefficients_are_a_partition_of_one(kind, order):
    for t in np.linspace(0, 1, 23):
        coefficients = COEFFICIENTS[kind](order, t)
        assert coefficients.shape == (order + 1,) and (coefficients >= 0).all()
        assert coefficients.sum() == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_bezier_is_de_casteljaus_construction(order):
    control = points(order)
    for t in (0.0, 0.1, 0.5, 0.77, 1.0):
        np.testing.assert_allclose(Curve("bezier", control).at(t), de_casteljau(control, t), atol=1e-13)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_chain_is_linear_interpolation(order):
    control = points(order)
    knots = np.arange(order + 1) / order
    for t in np.linspace(0, 1, 17):
        wanted = [np.interp(t, knots, column) for column in control.T]
        np.testing.assert_allclose(Curve("chain", control).at(t), wanted, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_ends_have_the_models_bits(kind):
    control = points(3, dtype=np.float32)
    control[0, 0], control[-1, 1] = -0.0, -0.0  # a sum of products would give +0
    curve = Curve(kind, control)
    assert curve.at(0).tobytes() == control[0].tobytes() and curve.at(1).tobytes() == control[-1].tobytes()
    assert curve.at(0.3).dtype == np.float32
    curve.at(0)[:] = 7
    assert control[0, 0] == 0  # a copy


def test_chain_meets_its_inner_points_exactly():
    control = points(4, dtype=np.float32)
    for i in range(5):
        assert Curve("chain", control).at(i / 4).tobytes() == control[i].tobytes()


def test_first_order_is_the_straight_line_for_both_kinds():
    start, end = points(1, dtype=np.float32)
    for t in np.linspace(0, 1, 9):
        bezier, chain = (Curve(kind, np.stack([start, end])).at(t) for kind in KINDS)
        assert bezier.tobytes() == chain.tobytes()
        np.testing.assert_allclose(bezier, (1 - t) * start + t * end, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [1, 2, 5])
def test_straight_curve_of_any_order(kind, order):
    start, end = points(1)
    curve = straight(kind, start, end, order)
    assert curve.order == order
    assert curve.points[0].tobytes() == start.tobytes() and curve.points[-1].tobytes() == end.tobytes()
    for t in np.linspace(0, 1, 11):
        np.testing.assert_allclose(curve.at(t), (1 - t) * start + t * end, atol=1e-14)
    assert curve.length() == pytest.approx(np.linalg.norm(end - start), rel=1e-13)


def test_equal_ends_give_a_point():
    start = points(1)[0]
    for kind in KINDS:
        curve = straight(kind, start, start, 3)
        assert curve.length() < 1e-14
        np.testing.assert_allclose(curve.at(0.4), start, rtol=1e-14)


def test_length_of_a_parabola_in_closed_form():
    # Control points (0, 0), (1/2, 0), (1, 1): the parabola y = x², whose length from 0 to 1 is known.
    curve = Curve("bezier", np.array([[0, 0], [0.5, 0], [1, 1]], float))
    assert curve.length() == pytest.approx(np.sqrt(5) / 2 + np.arcsinh(2) / 4, rel=1e-12)


def test_length_is_that_of_many_chords():
    curve = Curve("bezier", points(4, size=6))
    chords = np.linalg.norm(np.diff([curve.at(t) for t in np.linspace(0, 1, 2001)], axis=0), axis=1)
    assert curve.length() == pytest.approx(chords.sum(), rel=1e-6)


def test_length_of_a_chain_is_that_of_its_pieces():
    curve = Curve("chain", np.array([[0, 0], [3, 4], [3, 0], [0, 0]], np.float32))
    assert curve.length() == 12


def test_even_parameters():
    np.testing.assert_array_equal(even_parameters(5), [0, 0.25, 0.5, 0.75, 1])
    assert even_parameters(51)[[0, -1]].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Curve("spline", points(2)), "bezier, chain"),
        (lambda: Curve("bezier", points(0)), r"\(1, 5\)"),
        (lambda: Curve("bezier", points(2).astype(int)), "int64"),
        (lambda: Curve("bezier", points(2) * np.nan), "NaN"),
        (lambda: Curve("bezier", points(2)).at(1.01), "t=1.01"),
        (lambda: Curve("chain", points(2)).at(-0.1), "t=-0.1"),
        (lambda: straight("bezier", np.zeros(3), np.zeros(4), 2), r"\(3,\) and float64 \(4,\)"),
        (lambda: straight("bezier", np.zeros(3), np.zeros(3), 0), "order=0"),
        (lambda: even_parameters(1), "curve_points=1"),
    ],
)
def test_what_is_refused(build, message):
    with pytest.raises(UsageError, match=message):
        build()


# Scans

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


@pytest.mark.slow
def test_equal_ends_have_no_barrier():
    start, _ = classifiers()
    settings = CurveSettings(epochs=4, learning_rate=0.01, batch_size=64)
    trained = train_curve(start, classifiers()[0], *images(), ATTACK, EPSILON, settings)
    scan = shared()[0].scan(trained.curve, 5)
    assert barrier(scan.t, scan.train_loss)[0] < 0.01
    assert scan.train_loss[0] == scan.train_loss[-1]


@pytest.mark.slow
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


@pytest.mark.slow
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
    for place, classifier, name, part in (
        (0, start, "train", images()),
        (-1, end, "test", held_out_images()),
    ):
        objective = AdversarialObjective(classifier, *part, ATTACK, EPSILON, seed=3, batch_size=60)
        robust, clean, found = objective(), objective.clean(), scan.arrays()
        assert found[f"{name}_loss"][place] == robust.loss
        assert found[f"{name}_error"][place] == robust.error
        assert found[f"{name}_clean_loss"][place] == clean.loss
        assert found[f"{name}_clean_error"][place] == clean.error


def test_a_model_of_unknown_architecture_is_refused():
    with pytest.raises(UsageError, match="live Keras model"):
        CurveScanner(foreign(classifiers()[0]), images(), held_out_images(), ATTACK, EPSILON)
