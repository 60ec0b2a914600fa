"""FAB against the exact distances of linear models, PGD, and its own invariances.

Its projections onto hyperplane and box are compared with scipy, bisection and numbers by hand.
"""

import numpy as np
import pytest
import tensorflow as tf
from helpers.attack import Linear, digits_network, norms, seed

from advtf.attacks.fab import fab, fab_distances, project_l2, project_linf
from advtf.attacks.pgd import pgd
from advtf.errors import UsageError

NORMS = ("linf", "l2")
PROJECTIONS = {"linf": project_linf, "l2": project_l2}


def reach(x, normal):
    return np.maximum(normal * (1 - x), -normal * x).sum(axis=1)


def bisected(norm, x, normal, change):
    """The projection of float64 rows by bisection of the level λ in δ = ±min(λ·speed, room)."""
    x, normal = x.astype(np.float64), normal.astype(np.float64)
    weight, needed = np.abs(normal), np.abs(change.astype(np.float64))[:, None]
    uphill = np.sign(normal) * np.sign(change)[:, None]
    room = np.where(uphill > 0, 1 - x, x) * (weight > 0)
    speed = weight if norm == "l2" else np.ones_like(weight)
    low, high = np.zeros((len(x), 1)), np.full((len(x), 1), 1e6)
    for _ in range(100):
        level = (low + high) / 2
        short = (weight * np.minimum(level * speed, room)).sum(axis=1, keepdims=True) < needed
        low, high = np.where(short, level, low), np.where(short, high, level)
    return uphill * np.minimum(level * speed, room)


def nearest_boundary(model, x, y, norm):
    """Per example of a linear model the smallest δ that ties another class with class y within the box."""
    logits, flat = model.logits(x), x.reshape(len(x), -1)
    rows, best, best_norms = np.arange(len(x)), np.zeros_like(flat, np.float64), np.full(len(x), np.inf)
    for k in range(logits.shape[1]):
        normal = (model.kernel[:, [k]] - model.kernel[:, y]).T
        gap = logits[rows, y] - logits[:, k]
        reachable = (y != k) & (gap < reach(flat, normal))
        delta = bisected(norm, flat, normal, gap)
        nearer = reachable & (norms(norm, delta) < best_norms)
        best[nearer], best_norms[nearer] = delta[nearer], norms(norm, delta)[nearer]
    best[logits.argmax(axis=1) != y] = 0
    return best


def curved(x):
    return tf.tanh(2.0 * Linear()(x)) @ np.linspace(-1, 1, 9, dtype=np.float32).reshape(3, 3) ** 3 + Linear()(
        x
    )


def run(builder, model, x, y, epsilon=0.1, jit_compile=None, **settings):
    """The attack's results as arrays: eager, or as a graph with jit_compile False, or with XLA when True."""
    attack = builder(**settings)

    def call(x, y):
        return attack(model, x, y, tf.constant(epsilon), seed())

    if jit_compile is not None:
        call = tf.function(call, jit_compile=jit_compile)
    return [part.numpy() for part in tf.nest.flatten(call(tf.constant(x), tf.constant(y)))]


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


@pytest.mark.parametrize(
    ("norm", "rank"),
    [
        ("linf", None),
        ("l2", 1),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("linf", 1), ("l2", None))),
    ],
)
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
@pytest.mark.slow
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
@pytest.mark.slow
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


@pytest.mark.slow
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


def hyperplanes(n=24, dimension=7, seed=0):
    """Points, normals (some entries 0) and reachable changes of both signs, many with active box bounds."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(n, dimension)).astype(np.float32)
    x[::3, 0], x[1::3, 1] = 0, 1
    normal = rng.normal(size=(n, dimension)).astype(np.float32)
    normal[::4, 2] = 0
    furthest = np.where(np.arange(n) % 2, reach(x, normal), -reach(x, -normal))
    return x, normal, (furthest * rng.uniform(0.02, 0.98, n)).astype(np.float32)


def test_linf_projection_equals_a_linear_programme():
    optimize = pytest.importorskip("scipy.optimize")
    x, normal, change = hyperplanes()
    delta = project_linf(*map(tf.constant, (x, normal, change))).numpy().astype(np.float64)
    dimension = x.shape[1]
    for i in range(len(x)):
        # Variables δ and t: min t subject to −t <= δ_j <= t, ⟨normal, δ⟩ = change, −x <= δ <= 1 − x.
        eye, ones = np.eye(dimension), np.ones((dimension, 1))
        best = optimize.linprog(
            np.append(np.zeros(dimension), 1),
            A_ub=np.block([[eye, -ones], [-eye, -ones]]),
            b_ub=np.zeros(2 * dimension),
            A_eq=np.append(normal[i], 0)[None],
            b_eq=[change[i]],
            bounds=[(-v, 1 - v) for v in x[i].astype(np.float64)] + [(0, None)],
        )
        np.testing.assert_allclose(np.abs(delta[i]).max(), best.fun, atol=2e-6)
    check_feasible(x, normal, change, delta)


def test_l2_projection_equals_a_quadratic_programme():
    optimize = pytest.importorskip("scipy.optimize")
    x, normal, change = hyperplanes()
    delta = project_l2(*map(tf.constant, (x, normal, change))).numpy().astype(np.float64)
    for i in range(len(x)):
        row, needed = normal[i].astype(np.float64), float(change[i])
        best = optimize.minimize(
            lambda d: (d @ d, 2 * d),
            np.zeros(x.shape[1]),
            jac=True,
            method="SLSQP",
            bounds=[(-v, 1 - v) for v in x[i].astype(np.float64)],
            constraints={
                "type": "eq",
                "fun": lambda d, w=row, c=needed: w @ d - c,
                "jac": lambda d, w=row: w,
            },
            options={"ftol": 1e-14, "maxiter": 300},
        )
        np.testing.assert_allclose(delta[i] @ delta[i], best.fun, rtol=1e-4, atol=1e-7)
    check_feasible(x, normal, change, delta)


def check_feasible(x, normal, change, delta):
    np.testing.assert_allclose((normal * delta).sum(axis=1), change, atol=3e-6)
    assert (x + delta).min() >= -1e-6 and (x + delta).max() <= 1 + 1e-6
    assert (delta[normal == 0] == 0).all()
    # The oracle problems are worth solving only if the box matters.
    assert (np.isclose(x + delta, 0) | np.isclose(x + delta, 1)).any(axis=1).mean() > 0.5


@pytest.mark.parametrize("norm", NORMS)
def test_projection_in_many_dimensions_equals_bisection(norm):
    x, normal, change = hyperplanes(n=8, dimension=3072, seed=1)
    delta = PROJECTIONS[norm](*map(tf.constant, (x, normal, change))).numpy()
    np.testing.assert_allclose(delta, bisected(norm, x, normal, change), atol=3e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_projection_by_hand(norm):
    # Of the needed 0.5 the first pixel, at 0.9, can give 0.1; two others share the rest; the last is idle.
    x, normal = tf.constant([[0.9, 0.5, 0.5, 0.3]]), tf.constant([[1.0, -1.0, 1.0, 0.0]])
    delta = PROJECTIONS[norm](x, normal, tf.constant([0.5]))
    np.testing.assert_allclose(delta, [[0.1, -0.2, 0.2, 0.0]], atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_projection_of_special_hyperplanes(norm):
    x = tf.fill((4, 3), 0.25)
    normal = tf.constant([[1.0, -2.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [2e-30, -1e-30, 1e-30]])
    delta = PROJECTIONS[norm](x, normal, tf.constant([100.0, 0.0, 1.0, 1e-30])).numpy()
    # Out of reach: as far as the image range lets it.
    np.testing.assert_allclose(delta[0], [0.75, -0.25, 0.0], atol=1e-6)
    np.testing.assert_array_equal(delta[1:3], np.zeros((2, 3)))
    np.testing.assert_allclose(
        delta[3], np.array([1, -1, 1]) / 4 if norm == "linf" else [1 / 3, -1 / 6, 1 / 6]
    )
