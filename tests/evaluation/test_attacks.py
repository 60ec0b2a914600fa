"""The registry of evaluation attacks, and their stages on linear models against the closed form."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.attack import Linear, norms

from advtf.attacks.square import square
from advtf.errors import UsageError
from advtf.evaluation.attacks import (
    ATTACKS,
    SUITES,
    Batch,
    StageBuilder,
    Suite,
    line_up,
    pgd100_step,
    square_pieces,
)
from advtf.evaluation.settings import AttackSettings

DUAL = {"linf": 1, "l2": 2}
EPSILON = {"linf": 0.06, "l2": 0.12}


def test_too_few_classes_name_what_works():
    assert line_up(tuple(ATTACKS), 4).components == tuple(ATTACKS)
    with pytest.raises(UsageError, match=r"apgd_t requires at least 4 classes. Received: 3. .*apgd_dlr"):
        line_up(("autoattack", "apgd_t"), 3)
    with pytest.raises(UsageError, match="--attacks=pgd,pgd100,apgd_ce,fab,fab_t,square"):
        line_up(("apgd_dlr",), 2)


FOUR, THREE = ("apgd_ce", "apgd_t", "fab_t", "square"), ("apgd_ce", "apgd_dlr", "fab_t", "square")
FEWER = "which requires at least 4 classes, and there are"


@pytest.mark.parametrize(
    ("name", "classes", "runs", "said"),
    [
        ("autoattack", 4, FOUR, []),
        (
            "autoattack",
            3,
            ("apgd_ce", "apgd_dlr", *FOUR[2:]),
            [f"with apgd_dlr in place of apgd_t, {FEWER} 3"],
        ),
        ("autoattack", 2, ("apgd_ce", *FOUR[2:]), [f"without apgd_t, {FEWER} 2"]),
        ("screen", 2, ("apgd_ce",), [f"without apgd_t, {FEWER} 2"]),
    ],
)
def test_a_suite_on_few_classes_runs_what_is_defined_and_says_so(name, classes, runs, said):
    found = line_up((name, "pgd"), classes)
    assert found.suites == {name: runs, "pgd": ("pgd",)} and found.components == (*runs, "pgd")
    assert len(found.left_out) == len(said)
    for change, words in zip(found.left_out, said, strict=True):
        assert str(change).startswith(f"{SUITES[name].label} {words}: targeted DLR is divided by")


def test_a_suite_of_which_nothing_is_defined_is_refused(monkeypatch):
    monkeypatch.setitem(SUITES, "mine", Suite("Mine", ("apgd_t", "apgd_dlr")))
    assert line_up(("mine",), 3).suites["mine"] == ("apgd_dlr",)  # once
    with pytest.raises(UsageError, match="apgd_t requires at least 4 classes"):
        line_up(("mine",), 2)


def test_steps_of_pgd100_are_the_published_ones():
    # Liu et al. 2020: 0.01 on MNIST (ε 0.4), 1/255 on CIFAR-10 (8/255)
    assert pgd100_step("linf", 0.4) == pytest.approx(1 / 40)
    assert pgd100_step("linf", 8 / 255) == pytest.approx(1 / 8)
    assert pgd100_step("linf", 0.0) == 1
    assert pgd100_step("l2", 0.5) * 100 == 2.5


@pytest.mark.parametrize(("size", "relative"), [("2/255", 20 / 255), ("0.25eps", 0.25)])
def test_the_step_of_pgd_is_the_one_that_was_set(size, relative):
    model = Linear(classes=2)
    x, _ = model.batch(20, low=0.4, high=0.6)
    y = np.zeros(20, np.int32)
    settings = AttackSettings(attacks=["pgd"], eps=0.1, pgd_steps=1, pgd_step_size=size)
    (stage,) = stages_of("pgd", model, settings)
    found = stage.run(batch_of(x, y), 0.1, np.array([1, 2])).x_adv
    # One step from a uniform start: no pixel is further behind the image than ε less the step.
    uphill = np.sign(model.kernel[:, 1] - model.kernel[:, 0]).reshape(model.shape)
    behind = (uphill * (x - found)).max()
    assert 0.1 * (1 - relative) - 0.01 < behind <= 0.1 * (1 - relative) + 1e-6


@pytest.mark.parametrize("queries", [1, 50, 51, 730, 5000])
def test_square_pieces_cover_every_query_once(queries):
    covered = [query for first, count in square_pieces(queries) for query in range(first, first + count)]
    assert covered == list(range(queries))
    assert max(count for _, count in square_pieces(queries)) <= 500


def breakable(model, x, y, norm, epsilon):
    """Whether some class can overtake y within the ball, for points whose ball is inside the box."""
    logits = model.logits(x)
    kernel = model.kernel.astype(np.float64)
    others = [k for k in range(kernel.shape[1])]
    lead = [logits[:, k] - logits[np.arange(len(y)), y] for k in others]
    slope = [np.linalg.norm(kernel[:, k][:, None] - kernel[:, y], ord=DUAL[norm], axis=0) for k in others]
    reached = np.stack(lead) + epsilon * np.stack(slope)
    reached[y, np.arange(len(y))] = -np.inf
    return reached.max(axis=0)


def stages_of(name, model, settings):
    builder = StageBuilder(model, model.shape, model.kernel.shape[1], settings)
    return ATTACKS[name].stages(builder)


def batch_of(x, y, carried=()):
    return Batch(x, y, np.arange(len(y), dtype=np.int32), carried)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["pgd", "pgd100", "apgd_ce", "apgd_t", "fab", "fab_t"])
def test_breaks_exactly_what_can_be_broken_on_a_linear_model(norm, name):
    model, epsilon = Linear(shape=(2, 2, 1), classes=4, seed=3), EPSILON[norm]
    x, _ = model.batch(120, low=0.3, high=0.7)
    y = model.logits(x).argmax(axis=1).astype(np.int32)
    settings = AttackSettings(attacks=[name], norm=norm, eps=epsilon, steps=20, pgd_steps=20)
    broken, outside = np.zeros(len(x), bool), 0.0
    for stage in stages_of(name, model, settings):
        result = stage.run(batch_of(x, y), epsilon, np.array([1, 2]))
        broken |= result.broken
        outside = max(outside, norms(norm, result.x_adv - x).max() - epsilon)
        predicted = model.logits(result.x_adv).argmax(axis=1)
        np.testing.assert_array_equal(result.broken, predicted != y)
        np.testing.assert_allclose(result.loss, model.loss(result.x_adv, y), atol=1e-5)
    value = breakable(model, x, y, norm, epsilon)
    clear = np.abs(value) > 1e-3
    # The cross-entropy of several classes need not lead over the nearest boundary, the targets do.
    assert not (broken & ~(value > 0))[clear].any()
    missed = ((value > 0) & ~broken)[clear].mean()
    assert missed == 0 if name in ("apgd_t", "fab", "fab_t") else missed < 0.05
    assert 0.2 < broken.mean() < 0.8
    assert outside <= 1e-6


def test_square_carries_its_state_from_stage_to_stage():
    model = Linear(shape=(4, 4, 1), classes=3, seed=1)
    x, _ = model.batch(20, low=0.3, high=0.7)
    y = model.logits(x).argmax(axis=1).astype(np.int32)
    settings = AttackSettings(attacks=["square"], eps=0.05, queries=130)
    stages, seed = stages_of("square", model, settings), np.array([1, 2])
    carried, broken = (), []
    for stage in stages:
        result = stage.run(batch_of(x, y, carried), 0.05, seed)
        carried = result.carried
        broken.append(result.broken)
    assert len(stages) == 4  # the start, queries 0-49, 50-99, 100-129
    assert sum(stage.forward for stage in stages) == 1 + 130 + 4  # one check each
    whole = tf.function(square(queries=130), autograph=False)(model, x, y, 0.05, tf.constant(seed)).numpy()
    found = np.any(broken, axis=0)
    np.testing.assert_array_equal(found, model.logits(whole).argmax(axis=1) != y)
    assert 0.1 < found.mean() < 0.9
    np.testing.assert_allclose(carried[0][~found], whole[~found], atol=1e-6)


def test_targets_and_restarts_are_stages_of_one_trace():
    calls = []
    model = Linear(classes=4)

    def spy(x):
        calls.append(1)
        return model(x)

    settings = AttackSettings(attacks=["apgd_t"], steps=2, restarts=2)
    stages = ATTACKS["apgd_t"].stages(StageBuilder(spy, model.shape, 4, settings))
    assert len(stages) == 6  # three wrong classes, twice
    x, y = model.batch(5)
    stages[0].run(batch_of(x, y), 0.1, np.array([0, 0]))
    traced = len(calls)
    for stage in stages:
        stage.run(batch_of(x, y), 0.2, np.array([3, 4]))
    assert len(calls) == traced


@pytest.mark.slow
def test_counted_passes_are_those_that_happen():
    model, counts = Linear(classes=4), {"forward": 0, "backward": 0}

    def count(name):
        counts[name] += 1
        return np.float32(0)

    @tf.custom_gradient
    def counted(x):
        seen = tf.numpy_function(lambda: count("forward"), [], tf.float32)

        def gradient(upstream):
            return upstream + tf.ensure_shape(
                tf.numpy_function(lambda: count("backward"), [], tf.float32), []
            )

        return x + tf.ensure_shape(seen, []), gradient

    settings = AttackSettings(attacks=["pgd"], steps=5, pgd_steps=4, queries=7)
    x, y = model.batch(3)
    y = model.logits(x).argmax(axis=1).astype(np.int32)
    builder = StageBuilder(lambda x: model(counted(x)), model.shape, 4, settings)
    # So small a radius breaks nothing, and nothing ends early.
    for name in ("pgd", "apgd_ce", "apgd_dlr", "apgd_t", "fab", "fab_t"):
        counts.update(forward=0, backward=0)
        stage = ATTACKS[name].stages(builder)[0]
        stage.run(batch_of(x, y), 2e-6, np.array([0, 0]))
        assert (name, counts) == (name, {"forward": stage.forward, "backward": stage.backward})
    carried = ()
    for stage in ATTACKS["square"].stages(builder):
        counts.update(forward=0, backward=0)
        result = stage.run(batch_of(x, y, carried), 2e-6, np.array([0, 0]))
        carried = result.carried
        said = stage.forward if result.forward is None else result.forward.max()
        assert said <= counts["forward"] <= stage.forward and counts["backward"] == 0
