"""PGD against closed forms, a NumPy loop, and its own invariances."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.attack import Linear, digits_network, losses, norms, numpy_pgd, seed

from advtf.attacks.pgd import fgsm, fgsm_n, noisy, pgd
from advtf.errors import UsageError

NORMS = ("linf", "l2")
STARTS = ("uniform", "step", "none")


def flat_gradient(x):
    """Logits without any slope: the attack stays at its random start."""
    return tf.stack([0.0 * tf.reduce_sum(x, axis=[1, 2, 3])] * 2, axis=1)


def grey(n=200, shape=(2, 2, 1)):
    return tf.fill((n, *shape), 0.5), tf.zeros(n, tf.int32)


@pytest.mark.parametrize("start", STARTS)
def test_linf_on_two_classes_is_epsilon_times_sign(start):
    model = Linear(classes=2)
    x, y = model.batch(40)
    x_adv = pgd("linf", 10, 0.25, start)(model, tf.constant(x), tf.constant(y), 0.1, seed()).numpy()
    uphill = np.stack([model.kernel[:, 1] - model.kernel[:, 0], model.kernel[:, 0] - model.kernel[:, 1]])[y]
    np.testing.assert_allclose(x_adv, np.clip(x + 0.1 * np.sign(uphill).reshape(x.shape), 0, 1), atol=1e-6)
    assert ((x_adv == 0) | (x_adv == 1)).any() and (np.abs(x_adv - x) > 0.0999).any()


@pytest.mark.parametrize("norm", NORMS)
def test_two_class_adversarial_loss_in_closed_form(norm):
    # max loss over the ball = log(1 + exp(−margin + ε‖w‖*)), the box out of reach.
    model = Linear(classes=2)
    x, y = model.batch(20, low=0.4, high=0.6)
    x_adv = pgd(norm, 10, 0.25, "none")(model, tf.constant(x), tf.constant(y), 0.3, seed()).numpy()
    w = model.kernel[:, 1].astype(np.float64) - model.kernel[:, 0]
    dual = np.abs(w).sum() if norm == "linf" else np.linalg.norm(w)
    logits = model.logits(x)
    margin = logits[np.arange(20), y] - logits[np.arange(20), 1 - y]
    np.testing.assert_allclose(
        model.loss(x_adv, y), np.log1p(np.exp(0.3 * dual - margin)), rtol=1e-5, atol=1e-6
    )
    if norm == "l2":
        step = 0.3 * w / dual * np.where(y == 0, 1, -1)[:, None]
        np.testing.assert_allclose((x_adv - x).reshape(20, -1), step, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("steps", "relative_step"), [(1, 1.0), (5, 0.3), (4, 1.5)])
def test_equals_a_numpy_loop_on_three_classes(norm, steps, relative_step):
    model = Linear()
    x, y = model.batch(30)
    epsilon = {"linf": 0.2, "l2": 0.6}[norm]
    x_adv = pgd(norm, steps, relative_step, "none")(model, tf.constant(x), tf.constant(y), epsilon, seed())
    expected = numpy_pgd(model.gradient, x, y, norm, epsilon, steps, relative_step * epsilon)
    np.testing.assert_allclose(x_adv, expected, atol=2e-6)


def test_fgsm_is_one_signed_step():
    model = Linear()
    x, y = model.batch(30)
    x_adv = fgsm()(model, tf.constant(x), tf.constant(y), 0.1, seed())
    np.testing.assert_allclose(x_adv, np.clip(x + 0.1 * np.sign(model.gradient(x, y)), 0, 1), atol=1e-7)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("epsilon", [2e-6, 8 / 255, 0.3, 2.0])
def test_stays_in_the_ball_and_in_the_image_range(norm, start, epsilon):
    network, x, y = digits_network()
    x_adv = pgd(norm, 3, 0.5, start)(network, tf.constant(x[:16]), y[:16], epsilon, seed()).numpy()
    assert norms(norm, x_adv - x[:16]).max() <= epsilon + 1e-6
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert np.abs(x_adv - x[:16]).max() > 0 and x_adv.dtype == np.float32


@pytest.mark.parametrize("norm", NORMS)
def test_error_and_loss_grow_with_epsilon(norm):
    network, x, y = digits_network()
    attack = tf.function(pgd(norm, 10, 0.25, "none"))
    radii = np.array([0, 0.02, 0.05, 0.1, 0.2, 0.4]) * (4 if norm == "l2" else 1)
    errors, mean_losses = [], []
    for radius in radii:
        logits = network(attack(network, tf.constant(x), y, tf.constant(radius, tf.float32), seed())).numpy()
        errors.append((logits.argmax(axis=1) != y).sum())
        mean_losses.append(losses(logits, y).mean())
    assert (np.diff(errors) >= 0).all() and errors[-1] >= errors[0] + 30
    assert (np.diff(mean_losses) > 0).all()


@pytest.mark.parametrize("epsilon", [0.0, 9e-7])
@pytest.mark.parametrize("norm", NORMS)
def test_negligible_epsilon_returns_the_images(norm, epsilon):
    network, x, y = digits_network()
    for restarts in (1, 2):
        attack = pgd(norm, 2, restarts=restarts)
        np.testing.assert_array_equal(attack(network, tf.constant(x), y, epsilon, seed()), x)


@pytest.mark.parametrize("norm", NORMS)
def test_the_seed_decides_the_bits(norm):
    network, x, y = digits_network()
    attack = pgd(norm, 2)

    def run(*values):
        return attack(network, tf.constant(x), y, 0.1, seed(*values)).numpy()

    first = run(1, 2)
    np.testing.assert_array_equal(first, run(1, 2))
    assert all(np.abs(first - run(*other)).max() > 0.01 for other in [(1, 3), (2, 2), (2, 1)])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("start", "relative_step", "reach"),
    [("none", 0.25, 0.0), ("step", 0.25, 0.05), ("uniform", 0.25, 0.2), ("step", 1.5, 0.2)],
)
def test_reach_of_the_random_start(norm, start, relative_step, reach):
    x, y = grey()
    x_adv = pgd(norm, 1, relative_step, start)(flat_gradient, x, y, 0.2, seed())
    noise = norms(norm, x_adv - x)
    assert noise.max() <= reach + 1e-6
    assert noise.max() >= 0.97 * reach


def test_restarts_keep_the_worst_candidate_of_each_example():
    model = Linear(classes=3)
    x, y = model.batch(30)
    seen = []

    def recorded(inputs):
        seen.append(inputs.numpy())
        return model(inputs)

    # One step of eager PGD per restart: every second input is the end point of a restart.
    x_adv = pgd("linf", 1, 0.05, restarts=6)(recorded, tf.constant(x), y, 0.15, seed()).numpy()
    ends = np.stack(seen[1::2])
    assert len(seen) == 12
    loss = np.stack([model.loss(end, y) for end in ends])
    fooled = np.stack([model.logits(end).argmax(axis=1) != y for end in ends])
    best = np.where(fooled.any(axis=0), np.where(fooled, loss, -1).argmax(axis=0), loss.argmax(axis=0))
    assert len(set(best)) == 6
    assert (fooled.any(axis=0) & ~fooled.all(axis=0)).any() and fooled.all(axis=0).any()
    np.testing.assert_array_equal(x_adv, ends[best, np.arange(30)])


@pytest.mark.parametrize("norm", NORMS)
def test_more_restarts_are_never_weaker(norm):
    network, x, y = digits_network()
    epsilon = {"linf": 0.06, "l2": 0.25}[norm]
    before = np.full(len(y), -np.inf)
    for restarts in (1, 2, 5):
        attack = tf.function(pgd(norm, 1, 0.25, restarts=restarts))
        logits = network(attack(network, tf.constant(x), y, epsilon, seed())).numpy()
        score = losses(logits, y) + 100 * (logits.argmax(axis=1) != y)
        assert (score >= before - 1e-6).all()
        assert score.sum() > before.sum()
        before = score


@pytest.mark.parametrize("norm", NORMS)
def test_an_example_does_not_depend_on_its_batch(norm):
    network, x, y = digits_network()
    attack = tf.function(pgd(norm, 4, 0.4, "none"))
    whole = attack(network, tf.constant(x[:12]), y[:12], 0.1, seed())
    parts = [attack(network, x[i : i + 5], y[i : i + 5], 0.1, seed()) for i in range(0, 10, 5)]
    np.testing.assert_allclose(whole[:10], np.concatenate(parts), atol=1e-5)


@pytest.mark.slow  # each time, PGD is compared in the trainer
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("restarts", [1, 3])
def test_eager_graph_and_xla_agree(norm, restarts):
    network, x, y = digits_network()
    attack = pgd(norm, 2, 0.25, restarts=restarts)

    def run(x, y):
        return attack(network, x, y, tf.constant(0.1), seed())

    inputs = tf.constant(x[:8]), tf.constant(y[:8])
    eager = run(*inputs)
    np.testing.assert_allclose(tf.function(run)(*inputs), eager, atol=1e-5)
    np.testing.assert_allclose(tf.function(run, jit_compile=True)(*inputs), eager, atol=1e-5)


def test_epsilon_seed_and_labels_do_not_retrace():
    model = Linear()
    traces = []
    attack = pgd()

    @tf.function
    def run(x, y, epsilon, seed):
        traces.append(1)
        return attack(model, x, y, epsilon, seed)

    for number in range(4):
        x, y = model.batch(6, seed=number)
        run(x, y, tf.constant(0.1 * number), seed(number, 0))
    assert len(traces) == 1


@pytest.mark.parametrize("restarts", [1, 2])
def test_no_gradient_flows_through_the_result(restarts):
    x, y = Linear().batch(4)
    kernel, image = tf.Variable(Linear().kernel), tf.Variable(x)
    with tf.GradientTape(persistent=True) as tape:
        x_adv = pgd(restarts=restarts)(lambda v: tf.reshape(v, [4, -1]) @ kernel, image, y, 0.1, seed())
        total = tf.reduce_sum(x_adv)
    assert tape.gradient(total, kernel) is None
    assert tape.gradient(total, image) is None


@pytest.mark.parametrize("restarts", [1, 2])
def test_label_and_epsilon_types_do_not_matter(restarts):
    model = Linear()
    x, y = model.batch(6)
    attack = pgd(restarts=restarts)
    first = attack(model, tf.constant(x), tf.constant(y, tf.int32), 0.1, seed())
    for label_type, epsilon in [(tf.int64, np.float32(0.1)), (tf.int32, tf.constant(0.1)), (tf.int64, 0.1)]:
        again = attack(model, tf.constant(x), tf.constant(y, label_type), epsilon, seed())
        np.testing.assert_array_equal(first, again)


def test_the_loss_is_the_one_that_is_climbed():
    model = Linear()
    x, y = model.batch(8)

    def reversed_loss(labels, logits):
        return -tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)

    for restarts, start in ((1, "none"), (3, "uniform")):
        attack = pgd("linf", 10, 0.25, start, restarts, reversed_loss)
        x_adv = attack(model, tf.constant(x), tf.constant(y), 0.1, seed()).numpy()
        assert (model.loss(x_adv, y) < model.loss(x, y)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "l1"}, "norm must be one of linf, l2. Received: norm=l1"),
        ({"steps": 0}, "Received: steps=0"),
        ({"steps": 2.5}, "Received: steps=2.5"),
        ({"steps": "10"}, "Received: steps=10"),
        ({"relative_step": 0}, "Received: relative_step=0"),
        ({"relative_step": -0.1}, "Received: relative_step=-0.1"),
        ({"relative_step": float("nan")}, "Received: relative_step=nan"),
        ({"relative_step": float("inf")}, "Received: relative_step=inf"),
        ({"relative_step": "0.25"}, "Received: relative_step=0.25"),
        ({"random_start": "unifrom"}, "Did you mean 'uniform'?"),
        ({"restarts": 0}, "Received: restarts=0"),
        ({"restarts": 1.5}, "Received: restarts=1.5"),
        ({"restarts": 2, "random_start": "none"}, "Use random_start=uniform, or restarts=1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UsageError) as error:
        pgd(**settings)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_fgsm_n_stays_within_twice_epsilon_and_fgsm_r_within_epsilon():
    model, epsilon = Linear(), 0.2
    x, y = model.batch(40)
    far = fgsm_n()(model, x, y, epsilon, seed()).numpy()
    near = fgsm(random_start="uniform")(model, x, y, epsilon, seed()).numpy()
    start = noisy()(tf.constant(x), epsilon, seed()).numpy()
    assert epsilon < np.abs(far - x).max() <= 2 * epsilon + 1e-6
    assert np.abs(far - start).max() <= epsilon + 1e-6
    assert np.abs(near - x).max() <= epsilon + 1e-6
    assert min(far.min(), near.min()) >= 0 and max(far.max(), near.max()) <= 1
