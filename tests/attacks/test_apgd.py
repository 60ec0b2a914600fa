"""APGD against closed forms, PGD and a float64 NumPy version of the algorithm.

Its checkpoints and halving decisions are compared with values worked out by hand.
"""

import numpy as np
import pytest
import tensorflow as tf
from helpers.attack import Linear, digits_network, losses, norms, seed

from advtf.attacks.apgd import apgd, apgd_targeted, checkpoints, climb, should_halve
from advtf.attacks.attack import input_gradient
from advtf.attacks.losses import cross_entropy, is_correct
from advtf.attacks.norms import get_norm
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

    @tf.function(autograph=False)
    def attack(rank):
        return apgd_targeted(norm, rank, steps=30)(model, tf.constant(x), y, epsilon, seed())

    broken = np.zeros(200, bool)
    for rank in (1, 2, 3, 4):
        broken |= model.logits(attack(tf.constant(rank)).numpy()).argmax(axis=1) != y
    np.testing.assert_array_equal(broken[clear], (distance < epsilon)[clear])
    assert 20 < broken.sum() < 180 and clear.sum() > 150


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.slow
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
@pytest.mark.slow
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
    "attack",
    [
        apgd("l2", "dlr", 3, restarts=2),
        pytest.param(apgd(steps=3), marks=pytest.mark.slow),
        pytest.param(apgd_targeted("linf", 2, 3), marks=pytest.mark.slow),
    ],
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


class Bowls:
    """Logits −scale·‖x − centre‖² per class: smooth, curved, with a float64 cross-entropy gradient."""

    def __init__(self, dimension=6, classes=4, seed=3):
        rng = np.random.default_rng(seed)
        self.centres = rng.uniform(0.2, 0.8, (classes, dimension)).astype(np.float32)
        self.scales = rng.uniform(3, 30, classes).astype(np.float32)

    def __call__(self, x):
        flat = tf.reshape(x, [-1, 1, self.centres.shape[1]])
        return -self.scales * tf.reduce_sum(tf.square(flat - self.centres), axis=2)

    def evaluate(self, x, y):
        away = x.reshape(len(x), 1, -1).astype(np.float64) - self.centres
        logits = -self.scales * (away**2).sum(axis=2)
        error = np.exp(logits - logits.max(axis=1, keepdims=True))
        error /= error.sum(axis=1, keepdims=True)
        error[np.arange(len(y)), y] -= 1
        gradient = np.einsum("bk,bkd->bd", error, -2 * self.scales[:, None] * away).reshape(x.shape)
        return losses(logits, y), logits.argmax(axis=1) != y, gradient

    def batch(self, n):
        x = np.random.default_rng(5).uniform(size=(n, 2, 3, 1)).astype(np.float32)
        return x, self(x).numpy().argmax(axis=1).astype(np.int32)


def inside(norm, x, point, epsilon):
    delta = point - x
    if norm == "linf":
        return np.clip(x + np.clip(delta, -epsilon, epsilon), 0, 1)
    return np.clip(x + delta * min(1, epsilon / max(norms("l2", delta[None])[0], 1e-12)), 0, 1)


def numpy_apgd(evaluate, x, start, norm, epsilon, steps, rho=0.75, alpha=0.75):
    """Algorithm 1 of Croce & Hein for one image. Returns every iterate evaluated and the final step size."""
    loss, _, gradient = evaluate(start)
    best, best_loss, best_gradient = start, loss, gradient
    now, before, step, trail, evaluated = start, start, 2 * epsilon, [loss], [start]
    last_check, checked_loss, just_halved = 0, loss, True
    for k in range(steps):
        unit = np.sign(gradient) if norm == "linf" else gradient / norms("l2", gradient[None])[0]
        target = inside(norm, x, now + step * unit, epsilon)
        a = alpha if k > 0 else 1.0
        before, now = now, inside(norm, x, now + a * (target - now) + (1 - a) * (now - before), epsilon)
        loss, _, gradient = evaluate(now)
        trail.append(loss)
        evaluated.append(now)
        if loss > best_loss:
            best, best_loss, best_gradient = now, loss, gradient
        if k + 1 in checkpoints(steps):
            rises = sum(trail[i + 1] > trail[i] for i in range(last_check, k + 1))
            stalled = not just_halved and best_loss == checked_loss
            just_halved = rises <= rho * (k + 1 - last_check) or stalled
            if just_halved:
                step, now, gradient = step / 2, best, best_gradient
            last_check, checked_loss = k + 1, best_loss
    return np.array(evaluated), step


def fixed_start(norm, x, epsilon):
    direction = np.random.default_rng(9).uniform(-1, 1, x.shape)
    length = norms(norm, direction).reshape(-1, 1, 1, 1)
    return np.clip(x + epsilon * direction / length, 0, 1).astype(np.float32)


def gradient_of(model, y):
    def evaluate(x):
        logits = model(x)
        return cross_entropy(y, logits), is_correct(y, logits) < 1, input_gradient(model, x, y)

    return evaluate


def test_checkpoints_are_the_published_ones():
    assert checkpoints(100) == (22, 41, 57, 70, 80, 87, 93, 99)
    assert checkpoints(50) == (11, 21, 30, 38, 45)
    assert checkpoints(10) == (2, 3, 4, 5, 6, 7, 8, 9, 10)
    assert checkpoints(1) == (1,)


def test_halving_decisions_by_hand():
    # Of 16 iterations 12 are three quarters: 12 rises halve, 13 do not. Then condition 2 decides.
    rises = tf.constant([12.0, 13.0, 16.0, 16.0, 16.0])
    best = tf.constant([2.0, 2.0, 1.0, 1.0, 1.5])
    before = tf.constant([1.0, 1.0, 1.0, 1.0, 1.0])
    halved = tf.constant([True, True, True, False, False])
    assert should_halve(rises, 16.0, best, before, halved).numpy().tolist() == [
        True,
        False,
        False,
        True,
        False,
    ]
    assert should_halve(rises, 16.0, best, before, halved, 0.7).numpy().tolist() == [False] * 3 + [
        True,
        False,
    ]


@pytest.mark.parametrize("rho", [0.75, 0.2])  # with a low ρ condition 2 decides
@pytest.mark.parametrize("norm", NORMS)
def test_follows_the_algorithm_in_float64(norm, rho):
    model, epsilon, steps = Bowls(), {"linf": 0.05, "l2": 0.1}[norm], 40
    x, y = model.batch(24)
    start, seen = fixed_start(norm, x, epsilon), []

    def recorded(inputs):
        seen.append(inputs.numpy())
        return gradient_of(model, y)(inputs)

    arguments = tf.constant(x), tf.constant(start), tf.zeros(24, tf.bool), tf.constant(epsilon)
    end, loss, broken = climb(get_norm(norm), recorded, *arguments, steps=steps, rho=rho, alpha=0.75)
    assert len(seen) == steps + 1 and not broken.numpy().all()
    same, final_steps = [], set()
    for i in range(24):

        def evaluate(point, label=y[i : i + 1]):
            return tuple(value[0] for value in model.evaluate(point[None], label))

        iterates, step = numpy_apgd(evaluate, x[i].astype(np.float64), start[i], norm, epsilon, steps, rho)
        every_loss, fooled, _ = model.evaluate(iterates, np.repeat(y[i], steps + 1))
        expected = iterates[fooled.argmax() if fooled.any() else every_loss.argmax()]
        same.append(np.abs(np.stack(seen)[:, i] - iterates).max() < 1e-3 or bool(fooled.any()))
        final_steps.add(step)
        assert bool(broken[i]) == fooled.any()
        np.testing.assert_allclose(
            loss[i], model.evaluate(expected[None], y[i : i + 1])[0][0], rtol=1e-3, atol=1e-5
        )
    # Where the loss hits a tie, rounding decides; such paths part but end equally high.
    assert np.mean(same) > {"linf": 0.8, "l2": 0.9}[norm] and len(final_steps) > 2
    np.testing.assert_allclose(loss, model.evaluate(end.numpy(), y)[0], rtol=1e-4, atol=1e-6)


def test_returns_the_first_misclassified_point():
    network, x, y = digits_network()
    seen = []

    def recorded(inputs):
        seen.append(inputs.numpy())
        return network(inputs)

    x_adv = apgd("linf", steps=6)(recorded, tf.constant(x), y, 0.08, seed()).numpy()
    fooled = np.stack([network(point).numpy().argmax(axis=1) != y for point in seen])
    broken, first = fooled.any(axis=0), fooled.argmax(axis=0)
    assert len(seen) == 7 and len(set(first[broken])) > 2
    np.testing.assert_array_equal(x_adv[broken], np.stack(seen)[first, np.arange(64)][broken])
    every_loss = np.stack([losses(network(point).numpy(), y) for point in seen])[:, ~broken]
    found = losses(network(x_adv).numpy(), y)[~broken]
    np.testing.assert_allclose(found, every_loss.max(axis=0), rtol=1e-5, atol=1e-6)


def test_what_was_broken_on_the_way_is_returned():
    model, seen = Linear(), []
    x, _ = model.batch(10)
    y = model.logits(x).argmax(axis=1).astype(np.int32)
    lapse = tf.reshape(tf.range(10) < 4, [10, 1])

    def forgetful(inputs):
        seen.append(inputs.numpy())
        logits = model(inputs)
        return tf.where(lapse, -logits, logits) if len(seen) == 1 else logits

    x_adv = apgd("linf", steps=8)(forgetful, tf.constant(x), y, 0.001, seed()).numpy()
    assert len(seen) == 9
    np.testing.assert_array_equal(x_adv[:4], seen[0][:4])
    assert (norms("linf", x_adv - seen[0])[4:] > 0).all()


def test_ends_when_all_are_broken():
    calls = []

    def wrong(inputs):
        calls.append(1)
        return tf.one_hot(tf.ones(4, tf.int32), 3) + 0.0 * tf.reduce_sum(inputs)

    x = tf.fill((4, 2, 2, 1), 0.5)
    apgd(steps=50, restarts=3)(wrong, x, tf.zeros(4, tf.int32), 0.1, seed())
    assert len(calls) == 1


@pytest.mark.parametrize("norm", NORMS)
def test_an_example_does_not_depend_on_its_batch(norm):
    network, x, y = digits_network()
    start = fixed_start(norm, x, 0.1)

    def run(part):
        evaluate = gradient_of(network, y[part])
        clean, first = tf.constant(x[part]), tf.constant(start[part])
        untouched = tf.zeros(len(x[part]), tf.bool)
        return climb(get_norm(norm), evaluate, clean, first, untouched, 0.1, steps=6, rho=0.75, alpha=0.75)

    whole = run(slice(0, 12))
    parts = [run(slice(i, i + 4)) for i in (0, 4, 8)]
    for number, name in enumerate(("point", "loss", "broken")):
        alone = np.concatenate([part[number] for part in parts])
        np.testing.assert_allclose(np.float32(whole[number]), np.float32(alone), atol=1e-4, err_msg=name)
