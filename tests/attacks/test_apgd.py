"""APGD against closed forms and PGD, and its invariances."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.attack import Linear, digits_network, losses, norms, seed

from advtf.attacks.apgd import apgd, apgd_targeted
from advtf.attacks.pgd import pgd
from advtf.errors import UsageError

NORMS = ("linf", "l2")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_two_class_optimum_in_closed_form(norm, loss):
    model = Linear(classes=2)
    model.bias = np.float32([4, 0])  # so that class 0 is out of reach of every other
    x, _ = model.batch(20, low=0.4, high=0.6)
    y, epsilon = np.zeros(20, np.int32), 0.2
    x_adv = apgd(norm, loss, steps=20)(model, tf.constant(x), y, epsilon, seed()).numpy()
    w = (model.kernel[:, 1] - model.kernel[:, 0]).astype(np.float64)
    dual = np.abs(w).sum() if norm == "linf" else np.linalg.norm(w)
    logits = model.logits(x)
    gap = logits[:, 0] - logits[:, 1] - epsilon * dual
    assert gap.min() > 0
    np.testing.assert_allclose(model.loss(x_adv, y), np.log1p(np.exp(-gap)), rtol=1e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_breaks_exactly_the_breakable_on_a_linear_model(norm):
    model = Linear(shape=(3, 3, 1), classes=5)
    x, _ = model.batch(200, low=0.45, high=0.55)
    logits = model.logits(x)
    y, rows = logits.argmax(axis=1).astype(np.int32), np.arange(200)
    w = model.kernel.T.astype(np.float64)[None] - model.kernel.T.astype(np.float64)[y][:, None]
    dual = np.abs(w).sum(axis=2) if norm == "linf" else np.linalg.norm(w, axis=2)
    dual[rows, y] = np.inf
    distance = ((logits[rows, y][:, None] - logits) / dual + np.where(dual == np.inf, np.inf, 0)).min(axis=1)
    epsilon = float(np.median(distance))
    clear = np.abs(distance / epsilon - 1) > 0.01
    attacks = [apgd_targeted(norm, rank, steps=30) for rank in (1, 2, 3, 4)]
    broken = np.zeros(200, bool)
    for attack in attacks:
        broken |= model.logits(attack(model, tf.constant(x), y, epsilon, seed()).numpy()).argmax(axis=1) != y
    np.testing.assert_array_equal(broken[clear], (distance < epsilon)[clear])
    assert 20 < broken.sum() < 180 and clear.sum() > 150


@pytest.mark.parametrize("norm", NORMS)
def test_at_least_as_strong_as_pgd(norm):
    network, x, y = digits_network()
    epsilon = {"linf": 0.08, "l2": 0.4}[norm]

    def attacked(attack):
        logits = network(
            tf.function(attack)(network, tf.constant(x), y, tf.constant(epsilon), seed())
        ).numpy()
        return (logits.argmax(axis=1) != y), losses(logits, y)

    clean = network(x).numpy().argmax(axis=1) != y
    by_pgd, pgd_loss = attacked(pgd(norm, 20, 0.25))
    by_apgd, apgd_loss = attacked(apgd(norm, steps=20))
    together = by_apgd | attacked(apgd_targeted(norm, 1, steps=20))[0]
    assert clean.sum() + 10 < (by_pgd | clean).sum() <= (together | clean).sum() < 64
    unbroken = ~by_pgd & ~by_apgd
    assert apgd_loss[unbroken].mean() >= pgd_loss[unbroken].mean() - 1e-3


@pytest.mark.parametrize("norm", NORMS)
def test_more_restarts_and_steps_break_no_less(norm):
    network, x, y = digits_network()
    epsilon, before = {"linf": 0.06, "l2": 0.25}[norm], np.zeros(64, bool)
    for restarts in (1, 3):
        attack = tf.function(apgd(norm, "dlr", steps=2, restarts=restarts))
        broken = network(attack(network, tf.constant(x), y, epsilon, seed())).numpy().argmax(axis=1) != y
        assert (broken >= before).all()
        before = broken


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("epsilon", [2e-6, 8 / 255, 0.3, 2.0])
def test_stays_in_the_ball_and_in_the_image_range(norm, epsilon):
    network, x, y = digits_network()

    def unbreakable(images):  # so that no example stops early
        return network(images) + 100.0 * tf.one_hot(y[:16], 10)

    x_adv = apgd(norm, steps=4)(unbreakable, tf.constant(x[:16]), y[:16], epsilon, seed()).numpy()
    assert norms(norm, x_adv - x[:16]).max() <= epsilon + 1e-6
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert np.abs(x_adv - x[:16]).max() > 0 and x_adv.dtype == np.float32


@pytest.mark.parametrize("norm", NORMS)
def test_starts_on_the_surface_of_the_ball(norm):
    starts = []

    def recorded(inputs):
        starts.append(inputs.numpy())
        return Linear(shape=(4, 4, 1))(inputs)

    x = tf.fill((50, 4, 4, 1), 0.5)
    apgd(norm, steps=1)(recorded, x, tf.zeros(50, tf.int32), 0.2, seed())
    np.testing.assert_allclose(norms(norm, starts[0] - 0.5), 0.2, rtol=1e-5)
    assert np.abs((starts[0] - 0.5).mean()) < 0.02


@pytest.mark.parametrize("attack", [apgd(steps=2), apgd("l2", "dlr", 2, 2), apgd_targeted(steps=2)])
def test_negligible_epsilon_and_seeds(attack):
    network, x, y = digits_network()

    def run(epsilon, *values):
        return attack(network, tf.constant(x), y, epsilon, seed(*values)).numpy()

    np.testing.assert_array_equal(run(0.0), x)
    np.testing.assert_array_equal(run(9e-7), x)
    first = run(0.1, 1, 2)
    np.testing.assert_array_equal(first, run(0.1, 1, 2))
    assert np.abs(first - run(0.1, 1, 3)).max() > 0.01


@pytest.mark.parametrize(
    "attack", [apgd(steps=3, restarts=2), apgd("l2", "dlr", 3), apgd_targeted("linf", 2, 3)]
)
def test_eager_graph_and_xla_agree(attack):
    model = Linear(shape=(4, 4, 1), classes=6)
    x, _ = model.batch(8)
    y = model.logits(x).argmax(axis=1).astype(np.int32)

    def run(images, labels):
        return attack(model, images, labels, tf.constant(0.05), seed())

    eager = run(tf.constant(x), tf.constant(y))
    signature = [tf.TensorSpec((None, 4, 4, 1)), tf.TensorSpec((None,), tf.int32)]
    np.testing.assert_allclose(tf.function(run, input_signature=signature)(x, y), eager, atol=1e-5)
    np.testing.assert_allclose(tf.function(run, jit_compile=True)(x, y), eager, atol=1e-5)


def test_one_trace_and_one_copy_of_the_classifier():
    model, traces = Linear(classes=5), []

    def counted(images):
        traces.append(1)
        return model(images)

    @tf.function
    def run(images, labels, epsilon, rank, seed):
        return apgd_targeted("linf", rank, 7)(counted, images, labels, epsilon, seed)

    for number in range(1, 4):
        x, y = model.batch(6, seed=number)
        result = run(x, y, tf.constant(0.1 * number), tf.constant(number), seed(number, 0))
        fixed = apgd_targeted("linf", number, 7)(model, x, y, 0.1 * number, seed(number, 0))
        np.testing.assert_allclose(result, fixed, atol=1e-5)
    assert len(traces) == 2  # one for the clean logits, one in the loop


def test_no_gradient_flows_and_label_types_do_not_matter():
    model = Linear()
    x, y = model.batch(4)
    image = tf.Variable(x)
    with tf.GradientTape() as tape:
        x_adv = apgd(steps=2)(model, image, y, 0.1, seed())
    assert tape.gradient(x_adv, image) is None
    again = apgd(steps=2)(model, tf.constant(x), tf.constant(y, tf.int64), np.float32(0.1), seed())
    np.testing.assert_array_equal(x_adv, again)


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (apgd, {"norm": "l1"}, "norm must be one of linf, l2. Received: norm=l1"),
        (apgd, {"loss": "dlrr"}, "Did you mean 'dlr'?"),
        (apgd, {"steps": 0}, "steps must be a whole number of at least 1. Received: steps=0"),
        (apgd, {"steps": 2.5}, "Received: steps=2.5"),
        (apgd, {"restarts": 0}, "Received: restarts=0"),
        (apgd, {"rho": float("nan")}, "rho must be a number from 0 to 1. Received: rho=nan"),
        (apgd, {"alpha": 0}, "Received: alpha=0"),
        (apgd_targeted, {"target_rank": 0}, "target_rank must be a whole number from 1 to 9"),
        (apgd_targeted, {"target_rank": 10}, "Received: target_rank=10"),
    ],
)
def test_bad_settings(build, settings, message):
    with pytest.raises(UsageError) as error:
        build(**settings)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("attack", "classes", "message"),
    [
        (
            apgd(loss="dlr", steps=1),
            2,
            "dlr loss requires logits of at least 3 classes. Received: 2. Attack the ce",
        ),
        (apgd_targeted(steps=1), 3, "at least 4 classes. Received: 3"),
        (apgd_targeted(target_rank=5, steps=1), 5, "target_rank must be less than the number of classes, 5"),
    ],
)
def test_too_few_classes(attack, classes, message):
    model = Linear(classes=classes)
    x, y = model.batch(3)
    for run in (attack, tf.function(attack, autograph=False)):
        with pytest.raises(UsageError) as error:
            run(model, tf.constant(x), tf.constant(y), tf.constant(0.1), seed())
        assert message in str(error.value)


def test_a_classifier_without_gradient_is_refused():
    def hard(images):
        return tf.one_hot(tf.argmax(tf.reshape(images, [-1, 6]), axis=1), 6)

    with pytest.raises(UsageError, match="Use the square attack"):
        apgd(steps=1)(hard, *Linear().batch(3), 0.1, seed())
