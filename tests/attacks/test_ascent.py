"""One run of APGD against a float64 NumPy version of the algorithm; checkpoints and halving by hand."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.attack import Linear, digits_network, losses, norms, seed

from advtf.attacks.apgd import apgd
from advtf.attacks.ascent import checkpoints, climb, should_halve
from advtf.attacks.losses import cross_entropy, is_correct
from advtf.attacks.norms import get_ball
from advtf.attacks.pgd import input_gradient

NORMS = ("linf", "l2")


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
    end, loss, broken = climb(get_ball(norm), recorded, *arguments, steps=steps, rho=rho, alpha=0.75)
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
    np.testing.assert_allclose(losses(network(x_adv).numpy(), y)[~broken], every_loss.max(axis=0), rtol=1e-5)


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
        return climb(get_ball(norm), evaluate, clean, first, untouched, 0.1, steps=6, rho=0.75, alpha=0.75)

    whole = run(slice(0, 12))
    parts = [run(slice(i, i + 4)) for i in (0, 4, 8)]
    for number, name in enumerate(("point", "loss", "broken")):
        alone = np.concatenate([part[number] for part in parts])
        np.testing.assert_allclose(np.float32(whole[number]), np.float32(alone), atol=1e-4, err_msg=name)
