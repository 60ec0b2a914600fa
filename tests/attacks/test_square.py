"""Square Attack against its own invariants, closed forms of linear models and a network.

Its schedule, starts and moves are compared with values worked out by hand.
"""

import numpy as np
import pytest
import tensorflow as tf
from helpers.attack import Linear, digits_network, losses, norms, seed

from advtf.attacks.losses import margin
from advtf.attacks.pgd import pgd
from advtf.attacks.random import words_by_key
from advtf.attacks.square import (
    SquareSearch,
    SquareState,
    fraction,
    l2_moves,
    l2_start,
    linf_moves,
    linf_start,
    move_mass,
    pattern,
    side,
    square,
)
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


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
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


@pytest.mark.parametrize(
    ("norm", "loss"),
    [
        ("linf", "ce"),
        ("l2", "margin"),
        pytest.param("linf", "margin", marks=pytest.mark.slow),
        pytest.param("l2", "ce", marks=pytest.mark.slow),
    ],
)
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


@pytest.mark.parametrize("norm", ["linf", pytest.param("l2", marks=pytest.mark.slow)])
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


def row_by_row(model):
    """Sums each row by itself: a matrix product may round by the batch size."""
    size = int(np.prod(model.shape))
    return lambda x: tf.reduce_sum(tf.reshape(x, [-1, size, 1]) * model.kernel, axis=1) + model.bias


def asked_one_by_one(logits_fn, x, y, epsilon, sides):
    """The search in lockstep, asking for each move only if it changes the point and was not refused there."""
    draw, height, width = words_by_key(seed(), tf.range(len(x)), 1), *x.shape[1:3]
    propose = tf.function(linf_moves(tf.constant(x), epsilon, sides, draw))
    words_of = tf.function(lambda query: draw(query, 2 + x.shape[-1]))
    state = SquareSearch("linf", len(sides)).start(logits_fn, x, y, epsilon, seed(), tf.range(len(x)))
    point, loss, broken = (np.array(part) for part in state)
    refused, asked = [set() for _ in x], np.zeros(len(x), int)
    for query, length in enumerate(sides):
        words = words_of(tf.constant(query)).numpy().astype(np.int64)
        corner = [(words[:, i] >> 9) * (side - length + 1) >> 23 for i, side in enumerate((height, width))]
        candidates = propose(tf.constant(query), point).numpy()
        logits = logits_fn(candidates)
        losses, fooled = margin(y, logits).numpy(), np.argmax(logits, axis=1) != y
        for i in np.flatnonzero(~broken):
            move = length, corner[0][i], corner[1][i], *(words[i, 2:] >> 31)
            if (candidates[i] == point[i]).all() or move in refused[i]:
                assert not fooled[i] and losses[i] <= loss[i]
                continue
            asked[i] += 1
            refused[i].add(move)
            if fooled[i] or losses[i] > loss[i]:
                point[i], loss[i], broken[i], refused[i] = candidates[i], losses[i], fooled[i], set()
    return point, loss, broken, asked


def test_asking_once_ends_where_all_queries_end():
    model, epsilon, queries = Linear((5, 4, 2), seed=2), tf.constant(0.06), 160
    x, y = borderline(model, 30)
    logits_fn, keys = row_by_row(model), tf.range(30)
    sides = np.array([side(fraction(i, queries, 0.8, False), 5, 4, "linf") for i in range(queries)], np.int32)
    point, loss, broken, needed = asked_one_by_one(logits_fn, x, y, epsilon, sides)
    assert 3 < broken.sum() < 27 and needed[~broken].mean() < 0.75 * queries
    whole = square("linf", queries)(logits_fn, x, y, epsilon, seed())
    search = SquareSearch("linf", queries)
    run = tf.function(search.ask_once, reduce_retracing=True)
    for pieces in ((160,), (30, 50, 80)):
        state, taken = search.start(logits_fn, x, y, epsilon, seed(), keys), tf.fill([30], -1)
        first, asked = 0, 0
        for count in pieces:
            task = logits_fn, tf.constant(x), tf.constant(y), epsilon, seed(), keys
            state, taken, more = run(state, taken, *task, tf.constant(first), tf.constant(count))
            first, asked = first + count, asked + more.numpy()
        for found, expected in zip((*state, asked), (point, loss, broken, needed), strict=True):
            np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(state.x_adv, whole)


def test_pieces_end_with_the_search():
    model = Linear(SHAPE)
    x, y = model.batch(8)
    search, keys, epsilon = SquareSearch("linf", 6), tf.range(8), tf.constant(0.01)
    state = search.start(model, x, y, epsilon, seed(), keys)
    ended = search.advance(state, model, x, y, epsilon, seed(), keys, 0, 50)
    np.testing.assert_array_equal(ended.x_adv, square("linf", 6)(model, x, y, epsilon, seed()))
    beyond = search.advance(ended, model, x, y, epsilon, seed(), keys, 6, 5)
    np.testing.assert_array_equal(beyond.x_adv, ended.x_adv)


@pytest.mark.parametrize(("norm", "share"), [("linf", 1.0), pytest.param("l2", 0.75, marks=pytest.mark.slow)])
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


@pytest.mark.parametrize(
    ("norm", "epsilon"), [("linf", 0.25), pytest.param("l2", 1.5, marks=pytest.mark.slow)]
)
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


def draw_for(n):
    return words_by_key(seed(), tf.range(n), 1)


def test_fraction_halves_after_the_published_queries():
    queries = [0, 10, 11, 50, 51, 200, 201, 500, 501, 1000, 1001, 2000, 2001, 4000, 4001, 6000, 6001, 8000]
    halvings = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8]
    got = [fraction(query, 10000, 0.8, False) for query in [*queries, 8001, 9999]]
    assert got == [0.8 / 2**count for count in [*halvings, 9, 9]]
    # A search of 5000 queries reaches 0.8/128 only, unless rescaled: then it halves after half as many.
    assert fraction(4999, 5000, 0.8, False) == 0.8 / 128
    assert [fraction(query, 5000, 0.8, True) for query in (5, 6, 25, 26, 4000, 4001, 4999)] == [
        0.8 / 2**count for count in (0, 1, 1, 2, 8, 9, 9)
    ]


def test_side_covers_the_fraction():
    # √(0.8·32²) = 28.6, √(0.8·32²/128) = 2.53; l2 squares are odd and at least 3, none outgrows the image.
    assert [side(share, 32, 32, "linf") for share in (0.8, 0.4, 0.8 / 128, 0.8 / 512)] == [29, 20, 3, 1]
    assert [side(share, 32, 32, "l2") for share in (0.8, 0.4, 0.1, 0.8 / 512)] == [29, 21, 11, 3]
    assert side(0.8, 28, 28, "linf") == 25
    assert side(1.0, 4, 9, "linf") == 4 and side(0.1, 2, 9, "l2") == 2


def published_pattern(h):
    """Eq. 2 and 3 of the paper, with its 1-based indices; the longer side of a bump sets n."""

    def bump(rows, columns):
        n = max(rows, columns) // 2
        values = np.zeros((rows, columns))
        for r in range(1, rows + 1):
            for s in range(1, columns + 1):
                reach = n - max(abs(r - rows // 2 - 1), abs(s - columns // 2 - 1))
                values[r - 1, s - 1] = sum(1 / (n + 1 - k) ** 2 for k in range(reach + 1))
        return values / np.linalg.norm(values)

    k = h // 2
    both = np.concatenate([bump(k, h), -bump(h - k, h)])
    return both / np.linalg.norm(both)


@pytest.mark.parametrize("size", [2, 3, 5, 6, 11])
def test_pattern_is_the_published_one(size):
    np.testing.assert_allclose(pattern(size), published_pattern(size), rtol=1e-12)


def test_pattern_of_one_pixel_and_of_two_by_two():
    np.testing.assert_array_equal(np.abs(pattern(1)), [[1.0]])
    # Around the centre (0, 1) of the upper 1×2 bump: distances 1, 0 -> 1/4, 1 + 1/4.
    row = np.array([1.0, 5.0]) / np.sqrt(26 * 2)
    np.testing.assert_allclose(pattern(2), [row, -row], rtol=1e-12)


def test_linf_start_is_vertical_stripes():
    stripes = linf_start(tf.TensorShape([7, 50, 3]), draw_for(40)).numpy()
    assert stripes.shape == (40, 1, 50, 3) and set(np.unique(stripes)) == {-1.0, 1.0}
    flat = stripes.reshape(40, -1)
    assert abs(flat.mean()) < 5 / np.sqrt(flat.size)
    assert np.abs(np.corrcoef(flat) - np.eye(40)).max() < 6 / np.sqrt(150)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (8, 8), (13, 11), (3, 4)])
def test_l2_start_is_a_grid_of_patterns(height, width):
    start = l2_start(tf.TensorShape([height, width, 2]), draw_for(6)).numpy()
    np.testing.assert_allclose(norms("l2", start), 1, rtol=1e-6)
    tile = max(min(height, width) // 5, 1)
    top, left = height % tile // 2, width % tile // 2
    eta, seen = pattern(tile), set()
    scale = np.sqrt((height // tile) * (width // tile) * 2)
    expected_zero = np.ones((height, width), bool)
    for row in range(top, height - tile + 1, tile):
        for column in range(left, width - tile + 1, tile):
            patch = start[:, row : row + tile, column : column + tile] * scale
            expected_zero[row : row + tile, column : column + tile] = False
            for image in patch:
                forms = {"upright": eta[..., None], "turned": eta.T[..., None]}
                # Each channel is ± one of the two forms, the same form in all channels.
                name = min(forms, key=lambda n: np.abs(np.abs(image) - np.abs(forms[n])).max())
                seen.add(name)
                chosen = image.reshape(-1, 2).T @ forms[name].reshape(-1)
                np.testing.assert_allclose(np.abs(chosen), 1, rtol=1e-5)
                seen.update(np.sign(chosen))
    assert not start[:, expected_zero].any()
    assert seen >= ({"upright", "turned", 1.0, -1.0} if tile > 1 else {1.0, -1.0})


def test_an_linf_move_is_one_square_anywhere():
    x = tf.fill((3000, 6, 5, 2), 0.5)
    propose = linf_moves(x, tf.constant(0.25), np.array([5, 2], np.int32), draw_for(3000))
    delta = propose(tf.constant(1), x).numpy() - 0.5
    changed = np.abs(delta[..., 0]) > 0
    assert set(np.unique(np.abs(delta))) == {0.0, 0.25}
    np.testing.assert_array_equal(changed, np.abs(delta[..., 1]) > 0)
    rows, columns = changed.any(axis=2), changed.any(axis=1)
    assert (changed.sum(axis=(1, 2)) == 4).all()
    assert (rows.sum(axis=1) == 2).all() and (columns.sum(axis=1) == 2).all()
    corners = np.bincount(rows.argmax(axis=1) * 4 + columns.argmax(axis=1), minlength=20)
    assert len(corners) == 20 and np.abs(corners - 150).max() < 5 * np.sqrt(150)
    sign = np.sign(delta).sum(axis=(1, 2)) / 4
    assert {tuple(pair) for pair in sign} == {(1, 1), (1, -1), (-1, 1), (-1, -1)}
    # A second move on top replaces what it covers: 2ε, cut back to ±ε.
    again = propose(tf.constant(1), x + 0.25).numpy() - 0.5
    assert set(np.unique(again)) == {-0.25, 0.25}


def numpy_move(delta, shape, gaining, losing, epsilon):
    moved = delta.astype(np.float64).copy()
    moved[losing] = 0
    unused = epsilon**2 - (delta.astype(np.float64) ** 2).sum()
    for channel in range(delta.shape[-1]):
        old = delta[..., channel].astype(np.float64)
        budget = np.sqrt(max(unused, 0) / delta.shape[-1] + (old[gaining | losing] ** 2).sum())
        new = shape[..., channel][gaining] + old[gaining] / max(np.linalg.norm(old[gaining]), 1e-12)
        moved[..., channel][gaining] = budget * new / np.linalg.norm(new)
    return moved


def test_moving_mass_is_algorithm_3():
    rng = np.random.default_rng(0)
    delta = rng.normal(size=(20, 6, 6, 3)).astype(np.float32)
    delta *= 0.8 / norms("l2", delta)[:, None, None, None].astype(np.float32)
    delta[0] = 0
    gaining, losing = np.zeros((2, 20, 6, 6), bool)
    gaining[:, 1:4, 2:5] = True
    losing[:10, 3:6, 3:6] = True
    losing[10:, 1:4, 2:5] = True
    shape = np.zeros((20, 6, 6, 3), np.float32)
    shape[:, 1:4, 2:5] = pattern(3)[..., None] * rng.choice([-1, 1], size=(20, 1, 1, 3))
    windows = gaining[..., None], losing[..., None]
    moved = move_mass(tf.constant(delta), shape, *windows, tf.constant(1.0)).numpy()
    expected = [numpy_move(*rows, 1.0) for rows in zip(delta, shape, gaining, losing, strict=True)]
    np.testing.assert_allclose(moved, expected, atol=2e-6)
    np.testing.assert_allclose(norms("l2", moved), 1, rtol=1e-5)


def test_an_l2_move_puts_the_pattern_where_it_gains():
    x = tf.fill((400, 6, 7, 1), 0.5)
    propose = l2_moves(x, tf.constant(0.3), np.array([5, 3], np.int32), draw_for(400))
    delta = propose(tf.constant(1), x).numpy()[..., 0] - 0.5
    forms = [0.3 * sign * eta for eta in (pattern(3), pattern(3).T) for sign in (1, -1)]
    expected = {}
    for number, form in enumerate(forms):
        for row, column in np.ndindex(4, 5):
            placed = np.pad(form, ((row, 3 - row), (column, 4 - column)))
            expected[number, row, column] = placed.ravel()
    distance = np.abs(delta.reshape(400, 1, -1) - np.stack(list(expected.values()))).max(axis=2)
    assert distance.min(axis=1).max() < 1e-6
    hits = np.bincount(distance.argmin(axis=1), minlength=len(expected))
    assert (hits > 0).sum() > 75 and np.abs(hits.reshape(4, -1).sum(axis=1) - 100).max() < 45
