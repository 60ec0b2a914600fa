"""Training curves: finite differences, a NumPy loop, exact ends, and interruptions."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.attack import softmax
from helpers.curve import bits, classifiers, foreign, images, norm_net, random_batch

from advtf import models
from advtf.attacks.pgd import pgd
from advtf.classifiers.classifier import as_classifier
from advtf.classifiers.parameters import unchanged
from advtf.data.batches import training_batches
from advtf.data.sets import Split
from advtf.errors import UsageError
from advtf.landscape.curves import Curve
from advtf.landscape.hessian import softmax_cross_entropy
from advtf.training.checks import NonFiniteLoss
from advtf.training.curve import CurveSettings, CurveTrainer, require_connectable, train_curve
from advtf.training.optimizers import SGD

ATTACK = pgd("linf", 2, 0.6)
EPSILON = 0.03
SHORT = CurveSettings(epochs=3, learning_rate=0.01, batch_size=64, seed=4)


def no_attack(logits_fn, x, y, epsilon, seed):
    return x


def short_curve(state_dir=None, report=lambda line: None, settings=SHORT):
    return train_curve(
        *classifiers(), *images(), ATTACK, EPSILON, settings, state_dir=state_dir, report=report
    )


@functools.cache
def undisturbed():
    return short_curve()


@pytest.fixture
def float64():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


def test_gradient_by_finite_differences_in_float64(float64):
    """Through BatchNorm in training mode, for every inner point, at several t and both kinds."""
    model = norm_net()
    classifier = as_classifier(model, movable=True)
    x, y = random_batch(10)
    rng = np.random.default_rng(1)
    for kind in ("bezier", "chain"):
        control = rng.normal(size=(4, classifier.parameters.size))
        trainer = CurveTrainer(
            classifier, Curve(kind, control), no_attack, 0.0, SGD(0.1), loss=softmax_cross_entropy
        )
        for t in (0.15, 0.5, 0.8):
            _, gradient = trainer.gradient(x, y, t, (0, 0))
            assert gradient.shape == (2, classifier.parameters.size) and gradient.dtype == np.float64
            for _ in range(4):
                direction, values = rng.normal(size=gradient.shape), []
                for sign in (1, -1):
                    trainer.inner.assign(control[1:-1] + sign * 1e-5 * direction)
                    values.append(trainer.gradient(x, y, t, (0, 0))[0])
                trainer.inner.assign(control[1:-1])
                slope = (values[0] - values[1]) / 2e-5
                assert np.sum(gradient * direction) == pytest.approx(slope, rel=1e-6, abs=1e-9)


def test_loss_is_that_of_examples_made_at_the_point_of_the_curve():
    start, end = classifiers()
    x, y = images(50)
    control = np.stack([start.parameters.value(), start.parameters.value() * 0.5, end.parameters.value()])
    curve = Curve("bezier", control)
    loss, _ = CurveTrainer(start, curve, ATTACK, 0.1, SGD(0.1)).gradient(x, y, 0.3, (7, 8))
    end.parameters.assign(0.49 * control[0] + 0.42 * control[1] + 0.09 * control[2])
    x_adv = ATTACK(end.logits_fn, tf.constant(x), y, 0.1, tf.constant([7, 8], tf.int64))
    wanted = np.mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, end.logits_fn(x_adv)))
    assert loss == pytest.approx(wanted, rel=1e-5)
    assert loss > np.mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, end.logits_fn(x))) + 0.01


def test_attack_sees_the_statistics_of_its_batch_at_the_point_of_the_curve():
    """Whatever points of the curve were visited before."""
    classifier, twin = as_classifier(norm_net(), movable=True), as_classifier(norm_net(), movable=True)
    x, y = random_batch(40)
    control = np.random.default_rng(2).normal(size=(3, classifier.parameters.size)).astype(np.float32)

    def shifted(logits_fn, x, y, epsilon, seed):
        return x + 0.1 * tf.reduce_mean(logits_fn(x))

    trainer = CurveTrainer(classifier, Curve("bezier", control), shifted, 0.0, SGD(0.1))
    trainer.gradient(*random_batch(40, seed=9), 0.9, (0, 0))
    loss, _ = trainer.gradient(x, y, 0.5, (0, 0))
    twin.parameters.assign(control.T @ [0.25, 0.5, 0.25])
    for layer in (twin.model.get_layer(name) for name in ("conv1_bn", "conv2_bn")):
        layer.momentum = 0.0
    twin.model(x, training=True)
    moved = x + 0.1 * np.mean(twin.logits_fn(x))
    logits = twin.model(moved, training=True)
    assert loss == pytest.approx(np.mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)), rel=1e-4)


@pytest.mark.slow
def test_a_step_under_xla_is_that_of_the_graph():
    control = np.random.default_rng(2).normal(size=(3, 119)).astype(np.float32) / 5
    x, y = random_batch(20)
    found = []
    for jit_compile in (False, True):
        classifier = as_classifier(norm_net(), movable=True)
        trainer = CurveTrainer(
            classifier, Curve("bezier", control), ATTACK, 0.1, SGD(0.1, momentum=0.9), jit_compile=jit_compile
        )
        losses = [trainer.step(x, y, t, (0, number))[0] for number, t in enumerate((0.2, 0.7, 0.5))]
        found.append((losses, trainer.curve().points))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-4)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-4)
    assert np.abs(found[0][1][1] - control[1]).max() > 0.01


def test_training_equals_a_numpy_loop():
    """A linear classifier, no attack, SGD with momentum: B(t), chain rule, rate, order of the examples."""
    shape, classes = (3, 2, 1), 3
    x, y = random_batch(24, shape)
    ends = [as_classifier(models.build("linear", shape, classes, seed=seed), movable=True) for seed in (0, 1)]
    settings = CurveSettings(
        kind="chain", order=3, epochs=2, learning_rate=0.5, optimizer="sgd", batch_size=8, seed=5
    )
    trained = train_curve(*ends, x, y, no_attack, 0.0, settings)

    first, last = (end.parameters.value().astype(np.float64) for end in ends)
    points = np.array([(1 - s) * first + s * last for s in (0, 1 / 3, 2 / 3, 1)])
    buffer, losses = np.zeros((2, 21)), []
    for step, (batch, labels) in enumerate(training_batches(Split(x, y), 8, seed=5, total_steps=6)):
        t = np.random.default_rng([5, step]).random()
        weights = np.array([max(0, 1 - abs(3 * t - i)) for i in range(4)])
        point, flat = weights @ points, batch.numpy().reshape(8, -1)
        error = softmax(flat @ point[:18].reshape(6, 3) + point[18:])
        losses.append(-np.log(error[np.arange(8), labels.numpy()]).mean())
        error[np.arange(8), labels.numpy()] -= 1
        gradient = np.concatenate([(flat.T @ error / 8).ravel(), error.mean(axis=0)])
        buffer = 0.9 * buffer + np.outer(weights[1:-1], gradient)
        points[1:-1] -= 0.25 * (1 + np.cos(np.pi * step / 6)) * buffer
    np.testing.assert_allclose(trained.curve.points, points, atol=2e-6)
    np.testing.assert_allclose(trained.loss, [np.mean(losses[:3]), np.mean(losses[3:])], rtol=1e-5)


def test_ends_are_the_models_and_the_models_are_left_alone():
    start, end = classifiers()
    before = bits(start.model), bits(end.model)
    trained = train_curve(start, end, *images(), ATTACK, EPSILON, SHORT)
    assert (bits(start.model), bits(end.model)) == before
    assert trained.curve.points[0].tobytes() == start.parameters.value().tobytes()
    assert trained.curve.points[-1].tobytes() == end.parameters.value().tobytes()
    assert trained.loss.shape == trained.error.shape == (3,)


def test_same_seed_same_bits():
    again, other = short_curve(), short_curve(settings=CurveSettings(**{**vars(SHORT), "seed": 5}))
    assert again.curve.points.tobytes() == undisturbed().curve.points.tobytes()
    assert again.loss.tobytes() == undisturbed().loss.tobytes()
    assert other.curve.points.tobytes() != undisturbed().curve.points.tobytes()


@pytest.mark.slow  # the study with a curve is killed in tests/studies/test_connectivity.py
@pytest.mark.parametrize("finished", [1, 2])
def test_a_killed_training_continues_with_the_same_bits(tmp_path, finished):
    lines = []

    def interrupt(line):
        lines.append(line)
        if len(lines) == finished:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        short_curve(tmp_path / "state", interrupt)
    resumed = short_curve(tmp_path / "state", lines.append)
    assert [line.split(":")[0] for line in lines] == [f"curve epoch {i}/3" for i in (1, 2, 3)]
    assert resumed.curve.points.tobytes() == undisturbed().curve.points.tobytes()
    assert resumed.loss.tobytes() == undisturbed().loss.tobytes()
    assert resumed.error.tobytes() == undisturbed().error.tobytes()


def test_the_state_of_another_curve_is_refused(tmp_path):
    short_curve(tmp_path, settings=CurveSettings(epochs=1, batch_size=64))
    with pytest.raises(UsageError, match="other images or settings"):
        short_curve(tmp_path)


def test_weights_are_back_when_the_attack_raises():
    start, end = classifiers()
    before = bits(start.model)

    def broken(*_):
        raise KeyError("attack")

    with pytest.raises(KeyError):
        train_curve(start, end, *images(), broken, EPSILON, SHORT)
    with pytest.raises(KeyError), unchanged(start.model):
        start.parameters.assign(end.parameters.value())
        raise KeyError
    assert bits(start.model) == before


def test_a_straight_line_is_not_trained():
    start, end = classifiers()
    for settings in (CurveSettings(order=1), CurveSettings(epochs=0)):
        trained = train_curve(start, end, *images(), ATTACK, EPSILON, settings)
        assert len(trained.loss) == 0
        middle = (start.parameters.value() + end.parameters.value()) / 2
        np.testing.assert_allclose(trained.curve.at(0.5), middle, atol=1e-6)


def test_what_cannot_be_connected():
    start, end = classifiers()
    require_connectable(start, end)
    with pytest.raises(UsageError, match=r"foreign, a SavedModel of unknown architecture\. Use exports"):
        require_connectable(start, foreign(end))
    wider = as_classifier(models.build("mlp", (8, 8, 1), 10, width=2), movable=True)
    with pytest.raises(UsageError, match=r"one architecture.*parameters.*--width"):
        require_connectable(start, wider)
    softer = as_classifier(models.build("mlp", (8, 8, 1), 10, width=1, activation="softplus"), movable=True)
    before = bits(start.model)
    with pytest.raises(UsageError, match=r"logits differ by .*--activation"):
        require_connectable(start, softer)
    assert bits(start.model) == before


def test_networks_that_differ_in_their_statistics_are_connectable():
    one, other = as_classifier(norm_net(0), movable=True), as_classifier(norm_net(1), movable=True)
    other.model.get_layer("conv1_bn").moving_mean.assign([3.0, -2.0])
    require_connectable(one, other)


def test_a_diverging_curve_is_an_error():
    settings = CurveSettings(epochs=3, learning_rate=1e30, batch_size=64, optimizer="sgd")
    with pytest.raises(NonFiniteLoss, match="--curve_lr"):
        train_curve(*classifiers(), *images(), ATTACK, EPSILON, settings)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"kind": "line"}, "bezier, chain"),
        ({"order": 0}, "order=0"),
        ({"epochs": -1}, "curve_epochs=-1"),
        ({"learning_rate": 0.0}, "learning_rate=0"),
        ({"optimizer": "adamw"}, "optimizer=adamw"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_bad_settings(setting, message):
    with pytest.raises(UsageError, match=message):
        CurveSettings(**setting)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(UsageError, match="batch_size=64"):
        train_curve(*classifiers(), *images(40), ATTACK, EPSILON, SHORT)
