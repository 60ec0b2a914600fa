"""FAB against the exact distances of linear models, PGD, and its own invariances."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.attack import Linear, digits_network, norms, seed
from helpers.fab import curved, nearest_boundary, run

from advtf.attacks.fab import fab, fab_distances
from advtf.attacks.pgd import pgd
from advtf.errors import UsageError

NORMS = ("linf", "l2")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 5])
def test_distance_to_the_boundary_of_a_linear_model(norm, classes):
    model = Linear((3, 4, 1), classes)
    x, y = model.batch(40, low=0.2, high=0.8)
    y[10:] = model.logits(x).argmax(axis=1)[10:]
    x_adv, distances = run(fab_distances, model, x, y, norm=norm, steps=20)
    delta = nearest_boundary(model, x, y, norm)
    expected, moved = norms(norm, delta), x.reshape(40, -1) + delta
    inside = (moved > 0.02).all(axis=1) & (moved < 0.98).all(axis=1)
    assert (expected == 0).any() and (expected[inside] > 0).sum() >= 5 and not inside.all()
    np.testing.assert_allclose(distances[inside], expected[inside], atol=5e-5)
    # Where the image range is in the way, the overshot points are not multiples of the projection.
    assert (distances >= expected - 1e-6).all() and (distances <= 1.01 * expected).mean() >= 0.9
    np.testing.assert_allclose(norms(norm, x_adv - x), distances, atol=1e-6)
    assert (model.logits(x_adv).argmax(axis=1) != y).all()
    np.testing.assert_array_equal(x_adv[expected == 0], x[expected == 0])


@pytest.mark.parametrize("norm", NORMS)
def test_without_the_search_the_overshoot_stays(norm):
    model = Linear((3, 4, 1), 2)
    x, y = model.batch(30, low=0.4, high=0.6)
    expected = norms(norm, nearest_boundary(model, x, y, norm))
    found = expected > 0
    distances = run(fab_distances, model, x, y, norm=norm, steps=20, search_steps=0)[1]
    ratio = distances[found] / expected[found]
    # By hand: a point at 1 − p of the way goes to 1 + 0.05p, mixed with 1.05 by alpha = p / (1 + p); with
    # beta = 0.9 the first iterate 1.05 is followed by 1.00522, the smallest.
    p = 1 - 0.9 * 1.05
    alpha = p / (1 + p)
    np.testing.assert_allclose(ratio, (1 + 0.05 * p) * (1 - alpha) + 1.05 * alpha, atol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_the_target_is_the_class_of_that_rank(norm):
    # Classes 1, 2, 3 are reached along pixels of their own; class 0 is the true one.
    kernel = np.eye(3, 4, k=1, dtype=np.float32)
    bias = np.array([0.8, 0.2, 0.35, 0.3], np.float32)
    x, y = np.full((1, 1, 3, 1), 0.2, np.float32), np.array([0], np.int32)

    def model(x):
        return tf.reshape(x, [-1, 3]) @ kernel + bias

    for rank, target in ((1, 2), (2, 3), (3, 1)):
        x_adv, distances = run(fab_distances, model, x, y, norm=norm, steps=5, target_rank=rank)
        assert model(x_adv).numpy().argmax() == target
        np.testing.assert_allclose(distances, 0.8 - bias[target] - 0.2, atol=5e-5)
    assert run(fab_distances, model, x, y, norm=norm, steps=5)[1] == pytest.approx(0.25, abs=5e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("rank", [None, 1])
def test_breaks_exactly_what_lies_within_epsilon(norm, rank):
    network, x, y = digits_network()
    epsilon = {"linf": 0.05, "l2": 0.25}[norm]
    settings = {"norm": norm, "steps": 8, "target_rank": rank}
    x_adv = run(fab, network, x, y, epsilon, **settings)[0]
    nearest, distances = run(fab_distances, network, x, y, epsilon, search_steps=0, **settings)
    within = (distances <= epsilon).reshape(-1, 1, 1, 1)
    assert 0 < (distances == 0).sum() < within.sum() < len(y)
    np.testing.assert_array_equal(x_adv, np.where(within, nearest, x))
    fooled = network(x_adv).numpy().argmax(axis=1) != y
    np.testing.assert_array_equal(fooled, within.ravel())
    assert norms(norm, x_adv - x).max() <= epsilon + 1e-6 and x_adv.min() >= 0 and x_adv.max() <= 1


@pytest.mark.parametrize("norm", NORMS)
def test_at_least_as_strong_as_pgd_and_the_search_only_shrinks(norm):
    network, x, y = digits_network()
    epsilon = {"linf": 0.06, "l2": 0.25}[norm]
    _, distances = run(fab_distances, network, x, y, norm=norm, steps=20)
    _, unsearched = run(fab_distances, network, x, y, norm=norm, steps=20, search_steps=0)
    x_pgd = run(pgd, network, x, y, epsilon, norm=norm, steps=10, random_start="none")[0]
    fooled = network(x_pgd).numpy().argmax(axis=1) != y
    assert (distances <= epsilon).sum() >= fooled.sum() > 10
    assert (distances <= unsearched).all() and (distances < unsearched).any()


@pytest.mark.parametrize("norm", NORMS)
def test_more_steps_and_restarts_never_lengthen(norm):
    x, y = Linear().batch(40)
    y[:] = curved(x).numpy().argmax(axis=1)
    before = np.full(40, np.inf)
    for steps, restarts in ((1, 1), (8, 1), (8, 4)):
        settings = {"steps": steps, "restarts": restarts, "search_steps": 0}
        distances = run(fab_distances, curved, x, y, 0.6, norm=norm, **settings)[1]
        assert (distances <= before + 1e-6).all() and (distances < before - 1e-4).any()
        before = distances


@pytest.mark.parametrize("norm", NORMS)
def test_restarts_begin_at_half_epsilon_and_follow_the_seed(norm):
    model, starts = Linear((2, 2, 1), 3), []

    def recorded(x):
        starts.append(np.array(x))
        return model(x)

    x = np.full((5, 2, 2, 1), 0.5, np.float32)
    y = model.logits(x).argmax(axis=1).astype(np.int32)
    attack = fab_distances(norm, steps=1, restarts=3, target_rank=1, search_steps=0)
    for values in ((1, 2), (1, 2), (3, 2)):
        attack(recorded, tf.constant(x), y, 0.2, seed(*values))
    # One clean pass, then per restart one at its start and one at its end.
    first, again, other = starts[:7], starts[7:14], starts[14:]
    np.testing.assert_array_equal(first[1], x)
    for number in (3, 5):
        np.testing.assert_allclose(norms(norm, first[number] - x), np.full(5, 0.1), atol=1e-6)
        np.testing.assert_array_equal(first[number], again[number])
        assert np.abs(first[number] - other[number]).max() > 0.01
    assert np.abs(first[3] - first[5]).max() > 0.01


@pytest.mark.parametrize("epsilon", [0.0, 9e-7])
def test_negligible_epsilon_returns_the_images(epsilon):
    network, x, y = digits_network()
    np.testing.assert_array_equal(run(fab, network, x, y, epsilon, steps=2, target_rank=1)[0], x)


def test_nothing_found_is_an_infinite_distance():
    def constant(x):
        return tf.stack([1.0 + 0.0 * tf.reduce_sum(x, axis=[1, 2, 3]), tf.zeros(tf.shape(x)[0])], axis=1)

    x, y = np.full((3, 2, 2, 1), 0.5, np.float32), np.array([0, 0, 1], np.int32)
    for norm in NORMS:
        x_adv, distances = run(fab_distances, constant, x, y, norm=norm, steps=3)
        np.testing.assert_array_equal(distances, [np.inf, np.inf, 0])
        np.testing.assert_array_equal(x_adv, x)


@pytest.mark.parametrize("norm", NORMS)
def test_an_example_does_not_depend_on_its_batch(norm):
    x = Linear().batch(12)[0]
    y = curved(x).numpy().argmax(axis=1).astype(np.int32)
    settings = {"norm": norm, "steps": 4, "target_rank": 1}
    whole = run(fab_distances, curved, x, y, **settings)[1]
    parts = [run(fab_distances, curved, x[i : i + 4], y[i : i + 4], **settings)[1] for i in (0, 4, 8)]
    assert (np.isfinite(whole) & (whole > 0)).sum() >= 3
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)


@pytest.mark.parametrize(("norm", "rank", "restarts"), [("linf", None, 1), ("l2", 2, 2)])
def test_eager_graph_and_xla_agree(norm, rank, restarts):
    x = Linear().batch(8)[0]
    y = curved(x).numpy().argmax(axis=1).astype(np.int32)
    settings = {"norm": norm, "steps": 4, "target_rank": rank, "restarts": restarts}
    eager = run(fab_distances, curved, x, y, **settings)[1]
    assert np.isfinite(eager).sum() >= 4 and np.max(eager) > 0
    for jit_compile in (False, True):
        compiled = run(fab_distances, curved, x, y, jit_compile=jit_compile, **settings)[1]
        np.testing.assert_allclose(compiled, eager, atol=1e-5)


def test_batch_size_epsilon_seed_and_labels_do_not_retrace():
    model, traces, attack = Linear(), [], fab(steps=2)

    @tf.function(input_signature=[tf.TensorSpec((None, 2, 3, 1)), tf.TensorSpec((None,), tf.int64)])
    def attack_batch(x, y):
        traces.append(1)
        return attack(model, x, y, tf.reduce_mean(x), tf.stack([y[0], 1]))

    for size in (3, 6):
        x, y = model.batch(size)
        assert attack_batch(x, y.astype(np.int64)).shape == x.shape
    assert len(traces) == 1


def test_no_gradient_flows_through_the_result():
    x, y = Linear().batch(4)
    kernel, image = tf.Variable(Linear().kernel), tf.Variable(x)

    def model(inputs):
        return tf.reshape(inputs, [4, -1]) @ kernel

    with tf.GradientTape(persistent=True) as tape:
        total = tf.reduce_sum(fab(steps=2)(model, image, y, 0.3, seed()))
        total += tf.reduce_sum(fab_distances(steps=2)(model, image, y, 0.3, seed())[1])
    assert tape.gradient(total, kernel) is None
    assert tape.gradient(total, image) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "l1"}, "norm must be one of linf, l2. Received: norm=l1"),
        ({"steps": 0}, "Received: steps=0"),
        ({"restarts": 1.5}, "Received: restarts=1.5"),
        ({"alpha_max": 1.5}, "alpha_max must be a number from 0 to 1. Received: alpha_max=1.5"),
        ({"eta": 0.9}, "Received: eta=0.9"),
        ({"beta": float("nan")}, "Received: beta=nan"),
        ({"beta": "0.9"}, "Received: beta=0.9"),
        ({"target_rank": 0}, "Received: target_rank=0"),
    ],
)
def test_bad_settings(settings, message):
    for builder in (fab, fab_distances):
        with pytest.raises(UsageError) as error:
            builder(**settings)
        assert message in str(error.value) and "\n" not in str(error.value)


def test_more_ranks_than_classes():
    x, y = Linear().batch(2)
    with pytest.raises(UsageError, match="less than the number of classes, 3"):
        fab(target_rank=3)(Linear(), tf.constant(x), y, 0.1, seed())
    with pytest.raises(UsageError, match="Received: search_steps=-1"):
        fab_distances(search_steps=-1)
