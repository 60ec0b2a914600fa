"""The mean loss of random initialisations: drawn anew, of the right law, of the right loss."""

import keras
import numpy as np
import pytest

from advtf import models
from advtf.attacks.pgd import pgd
from advtf.classifiers.classifier import Classifier, as_classifier
from advtf.data import sets as data
from advtf.errors import UsageError
from advtf.landscape.objective import AdversarialObjective
from advtf.landscape.random_loss import RandomLoss, random_loss, reinitialised

ATTACK = pgd("linf", steps=2)


def digits(n=50):
    test = data.load("digits").test
    return test.images[:n], test.labels[:n]


def lenet(**settings):
    return models.build("lenet", (8, 8, 1), 10, width=1, **settings)


@pytest.mark.slow
def test_losses_are_those_of_the_reinitialised_models():
    x, y = digits()
    model = lenet()
    before = model.get_weights()
    seen = []
    found = random_loss(
        as_classifier(model, movable=True), x, y, ATTACK, 0.1, draws=3, seed=5, batch_size=32,
        report=lambda *progress: seen.append(progress),
    )  # fmt: skip
    wanted = [
        AdversarialObjective(
            as_classifier(reinitialised(model, (5, k)), movable=True),
            x,
            y,
            ATTACK,
            0.1,
            seed=5,
            batch_size=32,
        )().loss
        for k in range(3)
    ]
    assert found.losses.tolist() == wanted
    assert len(set(wanted)) == 3
    assert found.examples == 50
    assert seen == [(1, 3), (2, 3), (3, 3)]
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_mean_and_standard_error():
    found = RandomLoss(np.array([2.0, 3.0, 4.0, 7.0]), 10)
    assert found.estimate.mean == 4.0 and found.estimate.count == 4
    assert found.estimate.standard_error == pytest.approx(np.sqrt((4 + 1 + 0 + 9) / 3) / 2)
    assert np.isnan(RandomLoss(np.array([2.0]), 10).estimate.standard_error)


@pytest.mark.slow
def test_scale_is_that_of_a_classifier_that_knows_nothing():
    """Near log 10 without attack, as the paper's 2.303, and higher under attack."""
    x, y = digits(200)
    classifier = as_classifier(lenet(), movable=True)
    clean = random_loss(classifier, x, y, ATTACK, 0.0, draws=4)
    attacked = random_loss(classifier, x, y, ATTACK, 0.3, draws=4)
    assert clean.estimate.mean == pytest.approx(np.log(10), abs=0.05)
    assert (attacked.losses > clean.losses).all()


def test_weights_follow_their_initialisers():
    """U(±1/√fan_in) for kernels and biases of each layer, BatchNorm at its start."""
    model = models.build("preact_resnet18", (8, 8, 1), 4, width=1)
    for variable in model.weights:
        variable.assign(np.full(variable.shape, 7.0))
    fresh, other = reinitialised(model, (0, 1)), reinitialised(model, (0, 2))
    assert [v.path for v in fresh.weights] == [v.path for v in model.weights]
    for one, two in zip(fresh.weights, other.weights, strict=True):
        values = one.numpy()
        if one.path.endswith("kernel"):
            bound = 1 / np.sqrt(np.prod(values.shape[:-1]))
            assert np.abs(values).max() <= bound
            assert abs(values.std() / (bound / np.sqrt(3)) - 1) < 6 / np.sqrt(values.size)
            assert not np.array_equal(values, two.numpy())
        elif "moving_variance" in one.path or "gamma" in one.path:
            np.testing.assert_array_equal(values, 1)
        elif "moving_mean" in one.path or "beta" in one.path:
            np.testing.assert_array_equal(values, 0)
    for one, two in zip(fresh.weights, reinitialised(model, (0, 1)).weights, strict=True):
        np.testing.assert_array_equal(one, two)
    kernels = [v.numpy().ravel() for v in fresh.weights if v.shape == (3, 3, 4, 4)]
    assert len({kernel[0] for kernel in kernels}) == len(kernels) > 1  # no two layers share a seed


def test_foreign_models_with_seeds_of_their_own_are_drawn_anew():
    fixed = keras.initializers.GlorotUniform(seed=3)
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, kernel_initializer=fixed)])
    image = keras.Input((2, 2, 1))
    outputs = keras.layers.Dense(2)(keras.layers.Dropout(0.5)(inner(keras.layers.Flatten()(image))))
    model = keras.Model(image, outputs)
    first, again, second = (reinitialised(model, seed).get_weights() for seed in ((0, 0), (0, 0), (0, 1)))
    kernels = [i for i, weights in enumerate(model.get_weights()) if weights.ndim == 2]
    assert len(kernels) == 2
    for i in kernels:
        np.testing.assert_array_equal(first[i], again[i])
        assert not np.array_equal(first[i], second[i])
        assert not np.array_equal(first[i], model.get_weights()[i])


class Subclassed(keras.Model):
    def __init__(self, units):
        super().__init__()
        self.dense = keras.layers.Dense(units)

    def call(self, x):
        return self.dense(keras.ops.reshape(x, (-1, 64)))


def constant_start():
    layers = [keras.layers.Flatten(), keras.layers.Dense(10, kernel_initializer="ones")]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers])


def subclassed():
    model = Subclassed(10)
    model(np.zeros((1, 8, 8, 1), np.float32))
    return model


@pytest.mark.parametrize(
    ("build", "message"),
    [(subclassed, "functional or sequential model.*Subclassed"), (constant_start, "same weights every time")],
)
def test_models_that_cannot_be_drawn_are_refused(build, message):
    x, y = digits(4)
    model = build()
    classifier = Classifier(model, 10, "it", model=model)
    with pytest.raises(UsageError, match=message):
        random_loss(classifier, x, y, ATTACK, 0.1, draws=2)


def test_saved_models_without_configuration_are_refused():
    x, y = digits(4)
    classifier = Classifier(lambda x: x, 10, "elsewhere/last")
    with pytest.raises(UsageError, match=r"elsewhere/last.*normalise_draws=0"):
        random_loss(classifier, x, y, ATTACK, 0.1)
    with pytest.raises(UsageError, match="draws=0"):
        random_loss(as_classifier(lenet(), movable=True), x, y, ATTACK, 0.1, draws=0)
