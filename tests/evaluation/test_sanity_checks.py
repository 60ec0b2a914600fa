"""Classifiers that flatter themselves, each in one way, and one that does not."""

import numpy as np
import tensorflow as tf
from helpers.attack import Linear

from advtf.evaluation import sanity_checks as checks


def test_zero_gradients_are_reported():
    model = Linear()
    x, _ = model.batch(50)
    y = model.logits(x).argmax(axis=1).astype(np.int32)

    def confident(x):
        return 1e4 * model(x)

    def warnings(classifier):
        return checks.warnings_before(classifier, x, y, "linf")

    assert any("gradients are zero" in line for line in warnings(confident))
    assert not any("gradients are zero" in line for line in warnings(model))


def test_random_outputs_are_reported():
    model, generator = Linear(), tf.random.Generator.from_seed(1)

    def noisy(x):
        logits = model(x)
        return logits + 0.1 * generator.normal(tf.shape(logits))

    x = tf.constant(model.batch(5)[0])
    assert "randomised" in checks.random_outputs(noisy, x)
    assert checks.random_outputs(model, x) is None


def test_a_ball_that_holds_everything_must_break_everything():
    model = Linear(shape=(4, 4, 1))
    x, _ = model.batch(60, low=0.4, high=0.6)
    y = model.logits(x).argmax(axis=1).astype(np.int32)

    def stepped(x):
        """The gradient points away from where the logits change."""
        return model(2.0 * tf.stop_gradient(x) - x)

    for norm in ("linf", "l2"):
        assert checks.large_ball(model, tf.constant(x), tf.constant(y), norm) is None
        assert "mislead" in checks.large_ball(stepped, tf.constant(x), tf.constant(y), norm)


def test_square_beyond_the_white_box_is_reported():
    white, black = np.array([True, False, False]), np.array([True, True, False])
    assert "square broke 1 example that pgd did not" in checks.black_box_stronger(
        {"pgd": white, "square": black}
    )
    assert checks.black_box_stronger({"pgd": black, "square": white}) is None
    assert checks.black_box_stronger({"square": black}) is None


def test_gradients_that_do_not_exist_are_told_from_zero_ones():
    model = Linear()
    x = tf.constant(model.batch(2)[0])
    assert checks.is_differentiable(lambda x: model(0.0 * x), x)
    assert not checks.is_differentiable(lambda x: model(tf.stop_gradient(x)), x)
