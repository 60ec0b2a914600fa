"""Square Attack against its own invariants, closed forms of linear models and a network."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.attack import Linear, digits_network, losses, norms, seed

from advtf.attacks.losses import margin
from advtf.attacks.pgd import pgd
from advtf.attacks.square import SquareSearch, SquareState, square
from advtf.errors import UsageError

NORMS = ("linf", "l2")
SHAPE = (7, 6, 2)


def borderline(model, n):
    """Images of one class each, from barely to far on its side."""
    x, _ = model.batch(n)
    return x, model.logits(x).argmax(axis=1).astype(np.int32)


@pytest.mark.parametrize("norm", NORMS)
def test_stays_in_the_ball_and_in_the_image_range(norm):
    model = Linear(SHAPE)
    x, y = borderline(model, 24)
    attack = tf.function(square(norm, 40, rescale_schedule=True))
    for epsilon in (2e-6, 0.1, 0.7):
        x_adv = attack(model, tf.constant(x), y, tf.constant(epsilon), seed()).numpy()
        assert norms(norm, x_adv - x).max() <= epsilon + 1e-6
        assert x_adv.min() >= 0 and x_adv.max() <= 1
        assert np.abs(x_adv - x).max() > 0 and x_adv.dtype == np.float32


@pytest.mark.parametrize("epsilon", [0.0, 9e-7])
@pytest.mark.parametrize("norm", NORMS)
def test_negligible_epsilon_returns_the_images(norm, epsilon):
    model = Linear(SHAPE)
    x, y = model.batch(5)
    np.testing.assert_array_equal(square(norm, 5)(model, x, y, epsilon, seed()), x)


@pytest.mark.parametrize("norm", NORMS)
def test_eager_graph_and_xla_agree(norm):
    model = Linear(SHAPE)
    x, y = model.batch(6, low=0.3, high=0.7)
    attack = square(norm, 20, rescale_schedule=True)
    epsilon = tf.constant(0.02)
    results = [
        run(model, tf.constant(x), y, epsilon, seed()).numpy()
        for run in (attack, tf.function(attack), tf.function(attack, jit_compile=True))
    ]
    assert norms(norm, results[0] - x).min() > 0.019
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], atol=1e-6)


def test_the_seed_decides_the_bits_and_rows_differ():
    model = Linear(SHAPE)
    image, label = model.batch(1)
    x, y = np.repeat(image, 3, axis=0), np.repeat(label, 3)
    attack = tf.function(square("linf", 8, rescale_schedule=True))

    def run(*values):
        return attack(model, tf.constant(x), y, tf.constant(0.1), seed(*values)).numpy()

    first = run(1, 2)
    np.testing.assert_array_equal(first, run(1, 2))
    assert all(np.abs(first - run(*other)).max() > 0.01 for other in [(1, 3), (2, 2), (2, 1)])
    assert np.abs(first[0] - first[1]).max() > 0.01


@pytest.mark.parametrize("loss", ["margin", "ce"])
@pytest.mark.parametrize("norm", NORMS)
def test_the_loss_only_grows_and_broken_examples_stay(norm, loss):
    model = Linear(SHAPE)
    x, y = borderline(model, 40)
    search = SquareSearch(norm, 40, rescale_schedule=True, loss=loss)
    keys, epsilon = tf.range(40), tf.constant({"linf": 0.1, "l2": 0.8}[norm])
    advance = tf.function(search.advance)
    state = search.start(model, x, y, epsilon, seed(), keys)
    broken_at_first = state.broken.numpy().sum()
    for query in range(0, 40, 4):
        before, state = state, advance(state, model, x, y, epsilon, seed(), keys, tf.constant(query), 4)
        kept = before.broken.numpy()
        assert (state.broken.numpy() >= kept).all()
        np.testing.assert_array_equal(state.x_adv[kept], before.x_adv[kept])
        held = kept | ~state.broken.numpy()
        assert (state.loss.numpy()[held] >= before.loss.numpy()[held]).all()
        logits = model.logits(state.x_adv.numpy())
        np.testing.assert_array_equal(state.broken, logits.argmax(axis=1) != y)
        expected = losses(logits, y) if loss == "ce" else margin(y, tf.constant(logits)).numpy()
        np.testing.assert_allclose(state.loss, expected, atol=1e-5)
    assert broken_at_first + 5 < state.broken.numpy().sum() < 40
    whole = square(norm, 40, rescale_schedule=True, loss=loss)(model, x, y, epsilon, seed())
    np.testing.assert_allclose(whole, state.x_adv, atol=2e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_leaving_out_broken_examples_changes_no_outcome(norm):
    model = Linear(SHAPE)
    x, y = borderline(model, 60)
    epsilon = tf.constant({"linf": 0.1, "l2": 0.8}[norm])
    search = SquareSearch(norm, 40, rescale_schedule=True)

    def logits_fn(images):  # sums each row by itself: a matrix product may round by batch size
        return tf.reduce_sum(tf.reshape(images, [-1, 84, 1]) * model.kernel, axis=1) + model.bias

    attack = tf.function(square(norm, 40, rescale_schedule=True))
    whole = attack(logits_fn, tf.constant(x), y, epsilon, seed()).numpy()
    advance = tf.function(search.advance, reduce_retracing=True)
    rows = np.random.default_rng(0).permutation(60)
    state = search.start(logits_fn, x[rows], y[rows], epsilon, seed(), tf.constant(rows, tf.int32))
    pieced, sizes = x.copy(), []
    for query in range(0, 40, 8):
        pieces = (tf.constant(x[rows]), tf.constant(y[rows]), epsilon, seed(), tf.constant(rows, tf.int32))
        state = advance(state, logits_fn, *pieces, tf.constant(query), tf.constant(8))
        pieced[rows] = state.x_adv
        left = ~state.broken.numpy()
        rows, state = rows[left], SquareState(*(part[left] for part in state))
        sizes.append(len(rows))
    assert 60 > sizes[0] > sizes[-1] > 0
    np.testing.assert_array_equal(pieced, whole)
    assert advance.experimental_get_tracing_count() <= 2


def test_pieces_end_with_the_search():
    model = Linear(SHAPE)
    x, y = model.batch(8)
    search, keys, epsilon = SquareSearch("linf", 6), tf.range(8), tf.constant(0.01)
    state = search.start(model, x, y, epsilon, seed(), keys)
    ended = search.advance(state, model, x, y, epsilon, seed(), keys, 0, 50)
    np.testing.assert_array_equal(ended.x_adv, square("linf", 6)(model, x, y, epsilon, seed()))
    beyond = search.advance(ended, model, x, y, epsilon, seed(), keys, 6, 5)
    np.testing.assert_array_equal(beyond.x_adv, ended.x_adv)


@pytest.mark.parametrize(("norm", "share"), [("linf", 1.0), ("l2", 0.75)])
def test_comes_close_to_the_optimum_of_a_linear_model(norm, share):
    # The margin of two classes moves by ε‖w‖* at most. Single pixels reach that corner of the linf ball; l2
    # moves are patterns of 3×3 or more, which cannot follow random weights all the way.
    model = Linear((6, 6, 1), classes=2)
    x, _ = model.batch(10, low=0.4, high=0.6)
    y = model.logits(x).argmax(axis=1).astype(np.int32)
    w = model.kernel[:, 1].astype(np.float64) - model.kernel[:, 0]
    dual = np.abs(w).sum() if norm == "linf" else np.linalg.norm(w)
    logits = model.logits(x)
    gap = np.abs(logits[:, 1] - logits[:, 0])
    epsilon = 0.9 * min(gap.min() / dual, 0.4)  # no example breaks, so none stops early
    attack = tf.function(square(norm, 1500, rescale_schedule=True))
    x_adv = attack(model, tf.constant(x), y, tf.constant(epsilon, tf.float32), seed()).numpy()
    adversarial = model.logits(x_adv)
    gained = gap - np.abs(adversarial[:, 1] - adversarial[:, 0])
    assert (adversarial.argmax(axis=1) == y).all()
    assert (gained <= epsilon * dual * 1.0001).all()
    assert (gained >= share * epsilon * dual * 0.9999).all(), gained / (epsilon * dual)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.25), ("l2", 1.5)])
def test_breaks_an_undefended_network(norm, epsilon):
    network, x, y = digits_network()
    epsilon = tf.constant(epsilon)
    clean = (network(x).numpy().argmax(axis=1) != y).mean()
    attacked = tf.function(square(norm, 200, rescale_schedule=True))(
        network, tf.constant(x), y, epsilon, seed()
    )
    error = (network(attacked).numpy().argmax(axis=1) != y).mean()
    gradient = tf.function(pgd(norm, 20))(network, tf.constant(x), y, epsilon, seed())
    white_box = (network(gradient).numpy().argmax(axis=1) != y).mean()
    assert error >= clean + 0.3 and error >= 0.7 * white_box


def test_works_with_an_unknown_batch_and_carries_no_gradient():
    model = Linear(SHAPE)
    x, y = model.batch(5)
    attack = tf.function(square("l2", 4))
    spec = tf.TensorSpec((None, *SHAPE)), tf.TensorSpec((None,), tf.int64)
    concrete = attack.get_concrete_function(model, *spec, tf.TensorSpec(()), tf.TensorSpec((2,), tf.int64))
    assert concrete.structured_outputs.shape.as_list() == [None, *SHAPE]
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(square("linf", 3)(model, x, tf.cast(y, tf.int64), 0.1, seed()))
    assert tape.gradient(total, x) is None


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("norm", "l1"),
        ("queries", 0),
        ("queries", 2.5),
        ("p_init", 0.0),
        ("p_init", 1.5),
        ("p_init", "big"),
        ("p_init", float("nan")),
        ("loss", "hinge"),
    ],
)
def test_bad_settings(setting, value):
    with pytest.raises(UsageError, match=f"{setting}.*Received: {setting}={value}"):
        square(**{setting: value})


def test_needs_images():
    with pytest.raises(UsageError, match="requires images"):
        square(queries=2)(Linear(), tf.zeros((3, 6)), tf.zeros(3, tf.int32), 0.1, seed())
