"""Degraded attacks: closed forms on a linear model, counts of flips, invariances."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.attack import Linear, norms, seed

from advtf.attacks.degraded import flipped, scaled
from advtf.attacks.pgd import pgd
from advtf.attacks.random import example_seeds
from advtf.errors import UsageError

EPSILON = 0.1
SHAPE = (4, 5, 3)


def attack(norm="linf", start="none"):
    return pgd(norm, 3, 0.5, start)


def batch(n=12, low=0.3, high=0.7, shape=SHAPE):
    model = Linear(shape=shape, classes=2)
    return (model, *model.batch(n, low=low, high=high))


def run(made, model, x, y, which=None):
    return made(model, tf.constant(x), tf.constant(y), EPSILON, seed() if which is None else which).numpy()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0])
def test_scaled_multiplies_the_perturbation(norm, factor):
    model, x, y = batch()
    whole = run(attack(norm), model, x, y) - x
    made = run(scaled(attack(norm), factor), model, x, y) - x
    np.testing.assert_allclose(made, factor * whole, atol=1e-7)
    np.testing.assert_allclose(norms(norm, made), factor * EPSILON, atol=1e-6)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.77, 1.0])
def test_flipped_reverses_so_many_entries_of_each_image(fraction):
    model, x, y = batch()
    whole, made = run(attack(), model, x, y) - x, run(flipped(attack(), fraction), model, x, y) - x
    turned = (np.sign(whole) != np.sign(made)).reshape(len(x), -1)
    assert turned.sum(axis=1).tolist() == [round(fraction * 60)] * len(x)
    np.testing.assert_allclose(np.abs(made), np.abs(whole), atol=1e-7)
    if 0 < fraction < 1:
        assert len({row.tobytes() for row in turned}) == len(x)


def test_effectiveness_on_a_linear_model_is_one_minus_twice_the_weight_turned():
    # With two classes L rises with wᵀδ, and |δ| = ε everywhere: wᵀδ' = ε(Σ|w| − 2 Σ_turned |w|).
    model, x, y = batch(n=40)
    margin = model.kernel[:, 1].astype(np.float64) - model.kernel[:, 0]
    slope = np.where(y == 0, 1.0, -1.0)[:, None] * margin
    whole, made = run(attack(), model, x, y) - x, run(flipped(attack(), 0.25), model, x, y) - x
    turned = (np.sign(whole) != np.sign(made)).reshape(len(x), -1)
    gained = (slope * made.reshape(len(x), -1)).sum(axis=1)
    weight = np.abs(slope)
    expected = EPSILON * (weight.sum(axis=1) - 2 * (weight * turned).sum(axis=1))
    np.testing.assert_allclose(gained, expected, rtol=1e-4, atol=1e-5)
    ratio = gained.sum() / (EPSILON * weight.sum())
    assert abs(ratio - 0.5) < 0.05  # a quarter turned takes away a half


def test_every_entry_is_turned_as_often_as_any_other():
    model, x, y = batch(n=2000, shape=(2, 3, 1))
    whole, made = run(attack(), model, x, y) - x, run(flipped(attack(), 0.5), model, x, y) - x
    share = (np.sign(whole) != np.sign(made)).reshape(len(x), -1).mean(axis=0)
    assert np.abs(share - 0.5).max() < 0.05  # 4.5 standard deviations


@pytest.mark.parametrize(
    "made", [scaled(attack("linf", "uniform"), 0.5), flipped(attack("linf", "uniform"), 0.4)]
)
def test_results_stay_in_the_ball_and_the_box_and_carry_no_gradient(made):
    model, x, y = batch(n=50, low=0.0, high=1.0)
    x[:10] = np.round(x[:10])
    with tf.GradientTape() as tape:
        images = tf.constant(x)
        tape.watch(images)
        x_adv = made(model, images, tf.constant(y), EPSILON, seed())
        total = tf.reduce_sum(x_adv)
    assert tape.gradient(total, images) is None
    x_adv = x_adv.numpy()
    assert x_adv.min() >= 0 and x_adv.max() <= 1 and np.abs(x_adv - x).max() <= EPSILON + 1e-6
    assert (x_adv != x).any(axis=(1, 2, 3)).all()


def test_an_image_with_its_own_seed_is_treated_alike_in_any_batch():
    model, x, y = batch(n=9)
    made = flipped(attack("linf", "uniform"), 0.3)
    keys = example_seeds(seed(), tf.range(9))
    together = run(made, model, x, y, keys)
    order = np.array([7, 2, 5])
    np.testing.assert_array_equal(
        run(made, model, x[order], y[order], tf.gather(keys, order)), together[order]
    )
    assert (run(made, model, x, y, example_seeds(seed(9, 9), tf.range(9))) != together).any()


def test_the_flips_are_the_same_in_graphs_and_leave_the_start_alone():
    model, x, y = batch()
    made = flipped(attack("linf", "uniform"), 0.3)
    eager = run(made, model, x, y)
    graph = tf.function(lambda x, y, s: made(model, x, y, EPSILON, s), autograph=False)
    np.testing.assert_array_equal(graph(tf.constant(x), tf.constant(y), seed()), eager)
    none = flipped(attack("linf", "uniform"), 0.0)
    np.testing.assert_allclose(run(none, model, x, y), run(attack("linf", "uniform"), model, x, y), atol=1e-7)


def test_no_radius_no_perturbation():
    model, x, y = batch()
    for made in (scaled(attack(), 0.5), flipped(attack(), 0.5)):
        np.testing.assert_array_equal(made(model, tf.constant(x), tf.constant(y), 0.0, seed()), x)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "half"])
def test_parts_outside_the_unit_interval_are_refused(value):
    with pytest.raises(UsageError, match="factor must be a number from 0 to 1"):
        scaled(attack(), value)
    with pytest.raises(UsageError, match="fraction must be"):
        flipped(attack(), value)
