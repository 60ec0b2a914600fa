"""The training step against a hand-written one in NumPy; its traces, modes and random streams."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.attack import losses, norms, numpy_pgd
from helpers.trainer import SHAPE, STILL, NumpyNet, batch, compiled, convolutional_net, dense_net, still

from advtf.attacks.pgd import pgd
from advtf.models.layers import BatchNormalization
from advtf.training.objectives import standard


def hand_steps(weights, batches, norm, epsilon, rate, sample_weights=None, penalty=0.0):
    """Adversarial SGD with momentum 0.9 and L2 0.01 in PyTorch's order; returns weights, losses, norms."""
    net, buffers, seen, lengths = NumpyNet(weights), [0.0] * 4, [], []
    for x, y in batches:
        weight = np.ones(len(y)) if sample_weights is None else sample_weights
        x_adv = numpy_pgd(net.input_gradient, x, y, norm, epsilon, 3, 0.5 * epsilon)
        seen.append(weight * losses(net.forward(x_adv)[1], y))
        gradients, _ = net.backward(x_adv, y, weight / len(y))
        gradients[0] = gradients[0] + 2 * penalty * net.weights[0]
        lengths.append(np.sqrt(sum((g**2).sum() for g in gradients)))
        buffers = [0.9 * b + g + 0.01 * w for b, g, w in zip(buffers, gradients, net.weights, strict=True)]
        net.weights = [w - rate * b for w, b in zip(net.weights, buffers, strict=True)]
    return net.weights, np.concatenate(seen), lengths


def assert_weights(trainer, expected, **tolerance):
    for got, want in zip(trainer.classifier.get_weights(), expected, strict=True):
        np.testing.assert_allclose(got, want, **(tolerance or {"atol": 2e-6}))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_three_steps_equal_hand_written_ones(norm):
    trainer = compiled(attack=pgd(norm, 3, 0.5, "none"), epsilon=0.2)
    x, y = batch(12)
    batches = [(x[i : i + 4], y[i : i + 4]) for i in (0, 4, 8)]
    expected, seen, lengths = hand_steps(trainer.classifier.get_weights(), batches, norm, 0.2, 0.1)
    history = trainer.fit(still(x, y, 4), verbose=0, shuffle=False).history
    assert_weights(trainer, expected)
    assert history["loss"][0] == pytest.approx(seen.mean(), rel=1e-5)
    assert float(trainer.gradient_norm) == pytest.approx(lengths[-1], rel=1e-5)


@pytest.mark.parametrize("column", [False, True])
def test_sample_weights_scale_the_losses(column):
    trainer = compiled()
    x, y = batch(6)
    weight = np.array([0, 1, 2, 0.5, 3, 1], np.float32)
    expected, seen, _ = hand_steps(trainer.classifier.get_weights(), [(x, y)], "linf", 0.1, 0.1, weight)
    given = weight[:, None] if column else weight
    result = trainer.train_on_batch(x, y, sample_weight=given, return_dict=True)
    assert_weights(trainer, expected)
    assert float(result["loss"]) == pytest.approx(seen.mean(), rel=1e-5)


def test_kernel_regularizer_is_part_of_the_step():
    trainer = compiled(dense_net(regularizer=keras.regularizers.L2(0.05)))
    x, y = batch(6)
    weights = trainer.classifier.get_weights()
    expected = hand_steps(weights, [(x, y)] * 2, "linf", 0.1, 0.1, penalty=0.05)[0]
    for _ in range(2):
        trainer.train_on_batch(x, y)
    assert_weights(trainer, expected)


def test_activity_regularizer_sees_the_training_pass_only():
    def weights_after(scale):
        net = dense_net(activity_regularizer=keras.regularizers.L2(scale))
        trainer = compiled(net)
        trainer.train_on_batch(*batch(6))
        return np.concatenate([w.ravel() for w in trainer.classifier.get_weights()])

    none, one, two = weights_after(0.0), weights_after(0.1), weights_after(0.2)
    assert np.abs(one - none).max() > 1e-4
    np.testing.assert_allclose(two - none, 2 * (one - none), atol=1e-6)


def test_standard_objective_ignores_the_attack():
    trained = []
    for epsilon in (0.0, 0.4):
        trainer = compiled(epsilon=epsilon, objective=standard)
        trainer.train_on_batch(*batch(6))
        trained.append(trainer.classifier.get_weights())
    for first, second in zip(*trained, strict=True):
        np.testing.assert_array_equal(first, second)


def normalised_net():
    image = keras.Input(SHAPE)
    hidden = BatchNormalization(name="norm")(image)
    return keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(hidden)))


def test_attack_leaves_the_moving_statistics_alone():
    net = normalised_net()
    layer = net.get_layer("norm")
    layer.moving_mean.assign([0.3])
    layer.moving_variance.assign([0.04])
    x, y = batch(8)
    x_adv = STILL(functools.partial(net, training=False), tf.constant(x), y, 0.2, tf.constant([0, 0])).numpy()
    trainer = compiled(net, epsilon=0.2)
    trainer.train_on_batch(x, y)
    # One update, by the adversarial batch: neither the clean batch nor an attack iterate entered.
    np.testing.assert_allclose(layer.moving_mean, [0.9 * 0.3 + 0.1 * x_adv.mean()], rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, [0.9 * 0.04 + 0.1 * x_adv.var(ddof=1)], rtol=1e-5)
    before = [w.copy() for w in net.get_weights()]
    trainer.evaluate(still(x, y, 4), verbose=0)
    for kept, now in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, now)


def test_one_trace_while_epsilon_and_rate_change():
    calls = []

    def counted(name, attack):
        return lambda *batch: calls.append(name) or attack(*batch)

    trainer = compiled(attack=counted("train", STILL), eval_attack=counted("test", STILL))
    x, y = batch(12)
    for epoch in range(4):
        trainer.epsilon.assign(0.05 * epoch)
        trainer.optimizer.learning_rate.assign(0.1 / (1 + epoch))
        trainer.fit(still(x, y, 4), validation_data=still(x, y, 6), verbose=0, shuffle=False)
    assert sorted(calls) == ["test", "train"]


def test_the_scheduled_epsilon_reaches_the_step():
    radii = []

    def spy(logits_fn, x, y, epsilon, seed):
        radii.append(float(epsilon))
        return x

    trainer = compiled(attack=spy, eager=True)
    for value in (0.0, 0.25):
        trainer.epsilon.assign(value)
        trainer.train_on_batch(*batch(4))
    assert radii == [0.0, 0.25]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_eager_graph_and_xla_give_the_same_weights(norm):
    trained = []
    for settings in ({"eager": True}, {}, {"jit_compile": True}):
        trainer = compiled(convolutional_net(), attack=pgd(norm, 2, 0.5), rate=0.01, **settings)
        x, y = batch(8, shape=(6, 6, 2))
        trainer.fit(still(x, y, 4), epochs=1, verbose=0, shuffle=False)
        trained.append(trainer.classifier.get_weights())
    for eager, graph, xla in zip(*trained, strict=True):
        np.testing.assert_allclose(graph, eager, atol=2e-5)
        np.testing.assert_allclose(xla, eager, atol=2e-5)


def test_random_streams():
    seeds = []

    def spy(logits_fn, x, y, epsilon, seed):
        seeds.append(tuple(seed.numpy()))
        return x

    x, y = batch(12)
    for run_seed in (0, 1):
        trainer = compiled(attack=spy, eager=True, seed=run_seed)
        trainer.fit(still(x, y, 4), epochs=2, verbose=0, shuffle=False)
        trainer.evaluate(still(x, y, 4), verbose=0)
        trainer.evaluate(still(x, y, 4), verbose=0)
    first, second = seeds[:12], seeds[12:]
    for one in (first, second):
        assert len(set(one[:6])) == 6 and len(set(one[6:9])) == 3
        assert one[6:9] == one[9:]
    assert len(set(first) | set(second)) == 18


def test_own_classifier_with_dropout():
    def build(rate):
        keras.utils.set_random_seed(0)
        return keras.Sequential(
            [keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(32, "relu"),
             keras.layers.Dropout(rate, seed=1), keras.layers.Dense(2)]
        )  # fmt: skip

    x, _ = batch(200)
    y = (x.reshape(200, -1)[:, 0] > 0.5).astype(np.int64)
    trained = []
    for rate in (0.0, 0.5):
        trainer = compiled(build(rate), attack=pgd("linf", 3, 0.5), epsilon=0.03)
        before = trainer.evaluate(still(x, y, 64), verbose=0, return_dict=True)
        trainer.fit(x, y[:, None], batch_size=20, epochs=8, verbose=0, shuffle=False)
        after = trainer.evaluate(still(x, y, 64), verbose=0, return_dict=True)
        assert after == trainer.evaluate(still(x, y, 64), verbose=0, return_dict=True)
        assert after["robust_accuracy"] > max(0.75, before["robust_accuracy"])
        trained.append(trainer.classifier.get_weights()[0])
    assert np.abs(trained[0] - trained[1]).max() > 1e-3


def test_adversarial_examples_of_the_step_are_legal():
    made = []

    def spy(*arguments):
        made.append((arguments[1], pgd("linf", 3, 0.5)(*arguments)))
        return made[-1][1]

    compiled(attack=spy, epsilon=0.2, eager=True).train_on_batch(*batch(8))
    clean, attacked = (tensor.numpy() for tensor in made[0])
    assert 0.1 < norms("linf", attacked - clean).max() <= 0.2 + 1e-6
    assert attacked.min() >= 0 and attacked.max() <= 1
