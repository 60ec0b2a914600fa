"""Slices of the loss surface: closed forms, exact origin and ends, interrupted scans."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from advtf import models
from advtf.attacks.pgd import pgd
from advtf.classifiers.classifier import as_classifier
from advtf.classifiers.parameters import Parameters, unit_direction
from advtf.data.sets import load
from advtf.errors import UsageError
from advtf.landscape.objective import AdversarialObjective
from advtf.landscape.surface import (
    QUANTITIES,
    around,
    between,
    segment_axis,
    surface,
    symmetric_axis,
)
from advtf.models.layers import BatchNormalization
from advtf.storage.cache import ResultCache

EPSILON = 0.1


def digits(n=30):
    test = load("digits").test
    return test.images[:n], test.labels[:n]


def network():
    classifier = as_classifier(models.build("mlp", (8, 8, 1), 10, width=1), movable=True)
    return classifier, AdversarialObjective(
        classifier, *digits(), pgd(steps=3), EPSILON, seed=4, batch_size=20
    )


def test_origin_and_other_points_equal_the_objective_exactly():
    classifier, objective = network()
    before = classifier.parameters.value()
    first, second = (unit_direction(classifier.parameters, k).astype(np.float64) for k in (1, 2))
    axis = symmetric_axis(0.6, 3)
    found = surface(objective, classifier.parameters, around(before, [first, second]), (axis, axis[:2]))
    assert found.adversarial_loss.shape == (3, 2)
    assert classifier.parameters.value().tobytes() == before.tobytes()
    attacked, clean = objective(), objective.clean()
    wanted = (attacked.loss, attacked.error, clean.loss, clean.error)
    assert found.at(0, 0) == dict(zip(QUANTITIES, wanted, strict=True))
    with classifier.parameters.at(before + 0.6 * first - 0.6 * second):
        assert found.adversarial_loss[2, 0] == objective().loss
        assert found.clean_loss[2, 0] == objective.clean().loss
    assert found.at(0.3, 0) is None
    assert found.examples == 30


def test_linear_model_has_its_closed_form():
    """L_ε = mean log(1 + exp(−y d·x + ε‖d‖₁)) at every point of the slice."""
    model = models.build("linear", (2, 2, 1), 2)
    difference = np.array([1.0, -2.0, 0.5, 3.0])
    model.set_weights([np.stack([np.zeros(4), difference], 1), np.zeros(2)])
    classifier = as_classifier(model, movable=True)
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0.3, 0.7, (11, 2, 2, 1)).astype(np.float32), np.arange(11) % 2
    objective = AdversarialObjective(classifier, x, y, pgd(steps=40), EPSILON, batch_size=4)
    move = np.array([1.0, 1.0, -1.0, 0.0])
    vector = np.concatenate([np.stack([np.zeros(4), move], 1).ravel(), [0, 0]])
    axis = symmetric_axis(2.0, 5)
    found = surface(
        objective, classifier.parameters, around(classifier.parameters.value(), [vector]), (axis,)
    )
    for index, a in enumerate(axis):
        d = difference + a * move
        margins = (2 * y - 1) * (x.reshape(11, -1) @ d)
        attacked = margins - EPSILON * np.abs(d).sum()
        assert found.clean_loss[index] == pytest.approx(np.log1p(np.exp(-margins)).mean(), rel=1e-5)
        assert found.adversarial_loss[index] == pytest.approx(np.log1p(np.exp(-attacked)).mean(), rel=1e-5)
        assert found.clean_error[index] == pytest.approx(100 * (margins < 0).mean())
        assert found.robust_error[index] == pytest.approx(100 * (attacked < 0).mean())


def test_ends_towards_other_models_are_exact():
    """Also where the difference of two weights rounds: θ₀ + (θ₁ − θ₀) would lose the small one."""
    vectors = np.float32([[1.0, 1e8, -3.0], [1e-12, 3.3, 7.1], [0.1, 0.2, 0.3]])
    place = between(vectors)
    for k, coordinates in enumerate([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)]):
        assert place(*coordinates).astype(np.float32).tobytes() == vectors[k].tobytes()
    np.testing.assert_allclose(place(0.25, 0.5), 0.25 * vectors[0] + 0.25 * vectors[1] + 0.5 * vectors[2])


def normalised(seed):
    layers = [keras.layers.Conv2D(4, 3), BatchNormalization(), keras.layers.ReLU(), keras.layers.Flatten()]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Dense(10)])
    rng = np.random.default_rng(seed)
    for variable in model.variables:  # a variance is above 0
        variable.assign(rng.uniform(0.2, 1.2, variable.shape) - 0.5 * ("variance" not in variable.path))
    return model


def test_network_with_batch_norm_becomes_the_other_at_the_end():
    """Weights and running statistics move together; every loss at t = 1 is the other model's."""
    built = [normalised(seed) for seed in (0, 1)]
    parameters = [Parameters(model.variables) for model in built]
    objectives = [
        AdversarialObjective(as_classifier(m, movable=True), *digits(), pgd(steps=2), EPSILON) for m in built
    ]
    place = between([part.value() for part in parameters])
    found = surface(objectives[0], parameters[0], place, (np.array([0.0, 1.0]),))
    for index, objective in enumerate(objectives):
        attacked, clean = objective(), objective.clean()
        assert found.adversarial_loss[index] == attacked.loss
        assert found.clean_loss[index] == clean.loss
        assert found.robust_error[index] == attacked.error


def test_killed_scan_goes_on_with_the_same_numbers(tmp_path):
    classifier, objective = network()
    before = classifier.parameters.value()
    place = around(before, [unit_direction(classifier.parameters, k) for k in (1, 2)])
    axes = symmetric_axis(0.5, 3), symmetric_axis(0.5, 3)
    whole = surface(objective, classifier.parameters, place, axes)

    def killed(done, total):
        if done == 5:  # in the middle of the second row
            raise KeyboardInterrupt

    cache = ResultCache(tmp_path / "state", "this")
    with pytest.raises(KeyboardInterrupt):
        surface(objective, classifier.parameters, place, axes, cache=cache, report=killed)
    assert sorted(file.name for file in (tmp_path / "state").glob("*.npz")) == ["row0.npz"]
    seen = []
    again = surface(
        objective, classifier.parameters, place, axes, cache=ResultCache(tmp_path / "state", "this"),
        report=lambda *progress: seen.append(progress),
    )  # fmt: skip
    assert seen == [(done, 9) for done in range(4, 10)]
    for name in QUANTITIES:
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    assert again.examples == 30
    assert classifier.parameters.value().tobytes() == before.tobytes()


def test_weights_come_back_when_the_loss_raises():
    classifier, _ = network()
    before = classifier.parameters.value().tobytes()

    def fragile(logits_fn, images, labels, epsilon, seed):
        largest = tf.reduce_max(tf.abs(logits_fn(images)))
        with tf.control_dependencies([tf.debugging.assert_less(largest, 1e3)]):
            return tf.identity(images)

    objective = AdversarialObjective(classifier, *digits(), fragile, EPSILON)
    place = around(classifier.parameters.value(), [np.ones(classifier.parameters.size)])
    with pytest.raises(tf.errors.InvalidArgumentError):
        surface(objective, classifier.parameters, place, (np.array([0.0, 0.01, 50.0]),))
    assert classifier.parameters.value().tobytes() == before


@pytest.mark.parametrize("radius", [0.1, 1.0, 0.3, 7.7])
@pytest.mark.parametrize("points", [3, 7, 21, 51])
def test_axes_hold_the_models(radius, points):
    axis = symmetric_axis(radius, points)
    assert len(axis) == points and axis[points // 2] == 0.0
    assert (axis[0], axis[-1]) == (-radius, radius)
    np.testing.assert_allclose(axis, np.linspace(-radius, radius, points), atol=1e-15 * radius)
    line = segment_axis(radius, points)
    assert 0.0 in line and 1.0 in line and (np.diff(line) > 0).all()
    assert line[0] == min(0, (1 - radius) / 2) and line[-1] == max(1, (1 + radius) / 2)


def test_bad_requests_are_refused():
    classifier, objective = network()
    with pytest.raises(UsageError, match=r"points must be odd.*points=4. Use 5"):
        symmetric_axis(1.0, 4)
    for radius in (0, -1):
        with pytest.raises(UsageError, match="radius"):
            symmetric_axis(radius, 3)
        with pytest.raises(UsageError, match="radius"):
            segment_axis(radius, 3)
    for axes in ((), ([0, 1],) * 3, ([1, 0],), ([[0, 1]],)):
        with pytest.raises(UsageError, match="axes must be"):
            surface(objective, classifier.parameters, around(classifier.parameters.value(), []), axes)
