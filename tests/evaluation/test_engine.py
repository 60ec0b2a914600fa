"""The engine: survivors, worst points, seeds, state on disk, and what it refuses to count."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from helpers.attack import Linear, digits_network, norms

from advtf import runtime
from advtf.evaluation.engine import Engine, Points, Stored
from advtf.evaluation.report import Spent
from advtf.evaluation.settings import AttackSettings
from advtf.storage.cache import ResultCache

EPSILON = 0.08
SMALL = {"steps": 8, "targets": 2, "queries": 120, "batch_size": 16}


@functools.cache
def digits():
    network, x, y = digits_network()
    return network, x, y.astype(np.int32)


def engine_of(**settings):
    network, x, y = digits()
    chosen = AttackSettings(**{"eps": EPSILON, **SMALL, **settings})
    return Engine(lambda x: network(x), x, y, 10, chosen)


@functools.cache
def autoattack():
    engine = engine_of(attacks=["autoattack"])
    points, runs = engine.attack("autoattack", engine.line_up.components, EPSILON)
    return engine, points, runs


def points_of(values, broken, losses):
    return Points(np.array(values, np.float32)[:, None], np.array(broken), np.array(losses, np.float32))


def test_worst_points_by_hand():
    points = points_of([0, 1, 2, 3], [False, False, True, False], [0.1, 0.9, 0.2, 0.3])
    found = points_of([10, 11, 12], [False, True, True], [0.5, 0.4, 9.0])
    points.update(np.array([0, 1, 2]), found)
    # larger loss; broken although the loss is smaller; already broken, so kept; not asked
    np.testing.assert_array_equal(points.x_adv[:, 0], [10, 11, 2, 3])
    np.testing.assert_array_equal(points.broken, [False, True, True, False])
    np.testing.assert_allclose(points.loss, [0.5, 0.4, 0.2, 0.3])


def test_each_component_gets_what_those_before_left():
    engine, points, runs = autoattack()
    left = engine.clean_correct.copy()
    for run in runs:
        np.testing.assert_array_equal(run.rows, np.flatnonzero(left))
        left[run.rows[run.points.broken]] = False
        assert run.withdrawn == 0
    np.testing.assert_array_equal(points.broken, engine.clean_correct & ~left)
    assert 0 < left.sum() < engine.clean_correct.sum()
    assert [run.name for run in runs] == ["apgd_ce", "apgd_t", "fab_t", "square"]
    # Passes fall with the survivors: the first attack costs every example N + 2 passes, the second fewer.
    assert runs[0].spent.forward == engine.clean_correct.sum() * (SMALL["steps"] + 2)
    first_target = len(runs[1].rows) * (SMALL["steps"] + 3)
    assert first_target <= runs[1].spent.forward <= 2 * first_target


def test_the_points_are_what_they_are_said_to_be():
    engine, points, _ = autoattack()
    network, x, y = digits()
    predicted = np.asarray(network(points.x_adv)).argmax(axis=1)
    np.testing.assert_array_equal(predicted != y, points.broken | ~engine.clean_correct)
    assert norms("linf", points.x_adv - x).max() <= EPSILON + 1e-6
    assert points.x_adv.min() >= 0 and points.x_adv.max() <= 1
    np.testing.assert_array_equal(points.x_adv[~engine.clean_correct], x[~engine.clean_correct])


def row_by_row(x):
    """A curved classifier that computes each row by itself: a matrix product may round by the batch size."""
    model = Linear((4, 4, 1), 4)
    return tf.reduce_sum(tf.tanh(tf.reshape(x, [-1, 16, 1]) - 0.5) * model.kernel, axis=1) + model.bias


# Each of these compiles an attack twice.
IN_ANY_ORDER = [("apgd_t", "linf")]
IN_ANY_ORDER_SLOWLY = [
    ("pgd", "linf"),
    ("pgd", "l2"),
    ("apgd_ce", "linf"),
    ("apgd_ce", "l2"),
    ("apgd_t", "l2"),
    ("square", "linf"),
    ("square", "l2"),
]


@pytest.mark.parametrize(
    ("name", "norm"),
    [*IN_ANY_ORDER, *(pytest.param(*case, marks=pytest.mark.slow) for case in IN_ANY_ORDER_SLOWLY)],
)
def test_batch_size_order_and_cores_change_no_outcome(name, norm, monkeypatch):
    x, _ = Linear((4, 4, 1), 4).batch(40)
    y = np.asarray(row_by_row(x)).argmax(axis=1).astype(np.int32)
    epsilon = {"linf": 0.08, "l2": 0.3}[norm]
    found = []
    for order, size, cores in ((np.arange(40), 40, 3), (np.random.default_rng(0).permutation(40), 7, 1)):
        monkeypatch.setattr(runtime, "cores", lambda cores=cores: cores)
        settings = AttackSettings(
            attacks=[name], norm=norm, eps=epsilon, restarts=2, **SMALL | {"batch_size": size}
        )
        engine = Engine(row_by_row, x[order], y[order], 4, settings)
        points, _ = engine.attack(name, [name], epsilon)
        found.append(points.select(np.argsort(order)))
    assert 5 < found[0].broken.sum() < 35
    np.testing.assert_array_equal(found[0].broken, found[1].broken)
    # Vectorised functions may round by the place in memory: steps of l2 take that over, signs do not.
    np.testing.assert_allclose(found[0].x_adv, found[1].x_adv, atol=0 if norm == "linf" else 1e-5)


@pytest.mark.slow
def test_outcomes_of_a_network_do_not_depend_on_batches():
    for name in ("apgd_ce", "fab", "square"):
        found = []
        for size in (7, 64):
            engine = engine_of(attacks=[name], batch_size=size)
            found.append(engine.attack(name, [name], EPSILON)[0])
        np.testing.assert_array_equal(found[0].broken, found[1].broken)


@pytest.mark.slow
def test_order_of_the_attacks_makes_the_error():
    def error(name, **settings):
        engine = engine_of(attacks=[name], **settings)
        return engine.attack(name, engine.line_up.components, EPSILON)[0].broken

    once, thrice = error("pgd"), error("pgd", restarts=3)
    assert not (once & ~thrice).any()  # the first start is the same
    _, points, runs = autoattack()
    alone = error("apgd_ce")
    np.testing.assert_array_equal(np.flatnonzero(alone), runs[0].rows[runs[0].points.broken])
    assert once.sum() <= thrice.sum() <= points.broken.sum()
    assert not (alone & ~points.broken).any()


def test_no_radius_no_attack():
    engine = engine_of(attacks=["apgd_ce"], eps=0.0)
    points, runs = engine.attack("apgd_ce", ["apgd_ce"], 0.0)
    assert not points.broken.any()
    np.testing.assert_array_equal(points.x_adv, engine.x)
    assert runs[0].spent == Spent()


def test_a_suite_repeats_no_attack_that_ran_on_its_own():
    engine = engine_of(attacks=["apgd_ce", "screen"])
    _, alone = engine.attack("apgd_ce", ["apgd_ce"], EPSILON)
    _, runs = engine.attack("screen", ["apgd_ce", "apgd_t"], EPSILON)
    assert runs[0] is alone[0]


class Broken(Exception):
    """The process is killed."""


class Counting(ResultCache):
    """Dies after so many writes."""

    def __init__(self, folder, limit):
        super().__init__(folder, "same")
        self.left = limit

    def put(self, name, arrays):
        super().put(name, arrays)
        self.left -= 1
        if self.left == 0:
            raise Broken


@pytest.mark.slow
def test_an_evaluation_killed_twice_ends_with_the_same_bits(tmp_path):
    components = ["pgd", "square"]
    expected = engine_of(attacks=components)
    whole, runs = expected.attack("entry", components, EPSILON)
    for writes in (2, 5):  # among the batches of PGD, then among those of Square
        killed = engine_of(attacks=components)
        killed.cache = Counting(tmp_path, writes)
        with pytest.raises(Broken):
            killed.attack("entry", components, EPSILON)
        assert list(tmp_path.glob("entry-pgd*.npz"))
    assert list(tmp_path.glob("entry-square-*.npz"))
    again = engine_of(attacks=components)
    again.cache = ResultCache(tmp_path, "same")
    resumed, resumed_runs = again.attack("entry", components, EPSILON)
    for name in ("x_adv", "broken", "loss"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))
    for run, other in zip(runs, resumed_runs, strict=True):
        assert (run.spent.forward, run.spent.backward) == (other.spent.forward, other.spent.backward)


def test_finished_batches_are_not_attacked_again(tmp_path):
    first = engine_of(attacks=["pgd"])
    first.cache = ResultCache(tmp_path, "same")
    first.attack("pgd", ["pgd"], EPSILON)
    second = engine_of(attacks=["pgd"])
    second.cache = ResultCache(tmp_path, "same")
    second._attacked = None  # calling it would fail
    points, _ = second.attack("pgd", ["pgd"], EPSILON)
    assert points.broken.any()


def test_a_damaged_file_counts_as_none(tmp_path):
    cache = ResultCache(tmp_path, "x")
    stored = Stored(points_of([1], [True], [0.5]), (np.array([3.0]),), Spent(4, 5, 0.5, 0.25), 2)
    cache.put("a", stored.arrays())
    read = Stored.from_arrays(cache.get("a"))
    assert (read.spent, read.stages, read.carried[0].tolist()) == (Spent(4, 5, 0.5, 0.25), 2, [3.0])
    earlier = {name: array for name, array in cache.get("a").items() if name != "tracing"}
    assert Stored.from_arrays(earlier).spent == Spent(4, 5, 0.5)  # earlier versions have not measured it
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:40])
    assert cache.get("a") is None and cache.get("b") is None


def test_what_the_classifier_does_not_confirm_is_not_counted():
    model, state = Linear(), tf.Variable(0.0)

    def moody(x):
        return model(x) + state * tf.constant([9.0, 0.0, 0.0])

    x, _ = model.batch(40)
    y = model.logits(x).argmax(axis=1).astype(np.int32)
    engine = Engine(moody, x, y, 3, AttackSettings(attacks=["pgd"], eps=1e-5))
    state.assign(1.0)  # every other class now becomes 0, at first ...
    judge = engine._judge

    def later(x, y):
        state.assign(0.0)  # ... but no longer when asked again
        return judge(x, y)

    engine._judge = later
    points, (run,) = engine.attack("pgd", ["pgd"], 1e-5)
    assert run.withdrawn > 10
    assert not points.broken.any()
    np.testing.assert_array_equal(points.x_adv, x)


def test_attacks_see_the_view_and_the_classifier_decides():
    model = Linear((4, 4, 1), 4)
    x, _ = model.batch(24, low=0.3, high=0.7)
    y = model.logits(x).argmax(axis=1).astype(np.int32)
    settings, found = AttackSettings(attacks=["apgd_ce", "square"], eps=0.08, **SMALL), []
    # A shift of all logits changes the rounding only; a wrong sign calls everything broken from the start.
    for view in (None, lambda: lambda x: model(x) + 0.25, lambda: lambda x: -model(x)):
        engine = Engine(model, x, y, 4, settings, view)
        points, runs = engine.attack("entry", ["apgd_ce", "square"], 0.08)
        predicted = model.logits(points.x_adv).argmax(axis=1)
        np.testing.assert_array_equal(points.broken, predicted != y)
        assert not any(run.withdrawn for run in runs) and runs[0].spent.tracing > 0
        found.append(points.broken)
    np.testing.assert_array_equal(found[0], found[1])
    assert found[2].sum() < found[0].sum() and 0.2 < found[0].mean() < 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_inside_means_ball_and_box(norm):
    x = np.full((5, 2, 2, 1), 0.5, np.float32)
    x[4] = 1.0
    model = Linear(shape=(2, 2, 1))
    settings = AttackSettings(attacks=["pgd"], norm=norm, eps=0.1)
    engine = Engine(model, x, np.zeros(5, np.int32), 3, settings)
    moved = x.copy()
    moved[0, 0, 0, 0] += 0.1
    moved[1, 0, 0, 0] += 0.1001
    moved[2] += 0.06  # 0.12 in l2
    moved[4, 0, 0, 0] += 0.01
    expected = [True, False, norm == "linf", True, False]
    np.testing.assert_array_equal(engine.inside(np.arange(5), moved, 0.1), expected)


@pytest.mark.slow
def test_xla_and_padding_change_no_outcome():
    compare_with_xla("apgd_ce", "linf", steps=5)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["fab", "fab_t"])
def test_fab_under_xla_finds_the_same_points(name, norm):
    points, compiled = compare_with_xla(name, norm, steps=4, targets=1)
    np.testing.assert_allclose(compiled.x_adv, points.x_adv, atol=1e-5)


def compare_with_xla(name, norm, **few):
    network, x, y = digits()
    # As in an exported classifier, the gradient does not tell its batch size. 20 is no multiple of 12: XLA
    # gets its last batch filled up.
    exported = tf.function(lambda x: network(x), input_signature=[tf.TensorSpec((None, 8, 8, 1))])
    epsilon, found = {"linf": EPSILON, "l2": 0.4}[norm], []
    for jit in ("off", "on"):
        settings = AttackSettings(attacks=[name], norm=norm, eps=epsilon, jit=jit, batch_size=12, **few)
        engine = Engine(exported, x[:20], y[:20], 10, settings)
        found.append(engine.attack(name, [name], epsilon)[0])
    np.testing.assert_array_equal(found[0].broken, found[1].broken)
    assert 0 < found[0].broken.sum() < engine.clean_correct.sum()
    return found
