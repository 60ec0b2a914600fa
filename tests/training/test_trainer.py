"""The trainer's steps against hand-written ones in NumPy; their traces, modes, precision and seeds."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.attack import losses, norms, numpy_pgd
from helpers.trainer import SHAPE, STILL, NumpyNet, batch, compiled, convolutional_net, dense_net, still

from advtf.attacks.losses import kl_divergence
from advtf.attacks.pgd import fgsm, fgsm_n, noisy, pgd, pgd_from_gradient
from advtf.attacks.robust_error import robust_error
from advtf.errors import UsageError
from advtf.models.layers import BatchNormalization
from advtf.training import objectives, regularizers
from advtf.training import trainer as trainer_module
from advtf.training.trainer import AdversarialTrainer, full_precision


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
        trainer = compiled(epsilon=epsilon, objective=objectives.standard)
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


@pytest.mark.parametrize("norm", [pytest.param("linf", marks=pytest.mark.slow), "l2"])
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


def test_attacking_both_halves_at_once_changes_no_step(monkeypatch):
    x, y = batch(14, shape=(6, 6, 2))

    def trained(halves):
        monkeypatch.setattr(trainer_module, "gains_from_halves", lambda classifier: halves)
        trainer = compiled(convolutional_net(), pgd(steps=3), rate=0.05)
        trainer.fit(still(x, y, 7), verbose=0, shuffle=False)
        return trainer

    weights, expected = (trained(halves).classifier.get_weights() for halves in (True, False))
    for one, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_clean_accuracy_of_a_training_batch_is_that_of_its_first_images():
    x, y = batch(40, shape=(6, 6, 2))
    trainer = compiled(convolutional_net(), pgd(steps=1), rate=0.05)
    logs = trainer.train_on_batch(x, y, return_dict=True)
    hits = np.argmax(trainer.classifier(x, training=False), -1) == y
    assert logs["clean_accuracy"] == pytest.approx(hits[:32].mean()) != pytest.approx(hits.mean())
    assert trainer.evaluate(x, y, verbose=0, return_dict=True)["clean_accuracy"] == pytest.approx(hits.mean())


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


@pytest.mark.slow
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


# The attack, the same attack from its first gradient, what the objective sees as clean images, the objective.
SHARED_PASSES = {
    "fgsm": (
        fgsm(),
        pgd_from_gradient(steps=1, relative_step=1.0),
        None,
        objectives.adversarial_minus_standard(),
    ),
    "fgsm_n": (
        fgsm_n(),
        pgd_from_gradient(steps=1, relative_step=1.0),
        noisy(),
        regularizers.advlc(2.0, 0.3),
    ),
    "pgd": (
        pgd(steps=3, relative_step=0.5, random_start="none"),
        pgd_from_gradient("linf", 3, 0.5),
        None,
        objectives.mart(),
    ),
}


@keras.saving.register_keras_serializable("tests")
class CountPasses(keras.layers.Layer):
    """Passes images on and counts the forward passes in training mode."""

    passes = 0

    def call(self, x, training=False):
        self.passes += bool(training)
        return x


@pytest.mark.parametrize("adversary", SHARED_PASSES)
def test_sharing_the_first_pass_saves_one_and_changes_no_weight(adversary):
    attack, from_gradient, view, objective = SHARED_PASSES[adversary]
    x, y = batch(12, shape=(6, 6, 2))
    weights, passes = [], []
    for attack_from_gradient in (None, from_gradient):
        image, counter = keras.Input((6, 6, 2)), CountPasses()
        trainer = compiled(
            keras.Model(image, convolutional_net()(counter(image))),
            attack,
            objective=objective,
            clean_view=view,
            attack_mode="training",
            attack_from_gradient=attack_from_gradient,
            eager=True,
        )
        trainer.fit(still(x, y, 6), shuffle=False, verbose=0)
        weights.append([weight.numpy() for weight in trainer.classifier.trainable_variables])
        passes.append(counter.passes)
    steps = 2
    assert passes[0] - passes[1] == steps
    for apart, together in zip(*weights, strict=True):
        np.testing.assert_allclose(together, apart, atol=2e-6)


@pytest.mark.parametrize(
    "arguments, named",
    [
        ({"attack_mode": "training", "awp": 0.01}, "awp"),
        ({"attack_mode": "training", "objective": regularizers.igr()}, "a second-order objective"),
        ({"clean_view": noisy()}, "clean_view with attack_mode=inference"),
        ({"objective": regularizers.logitalign()}, "an objective with a second view"),
        (
            {"objective": objectives.trades(), "attack": pgd(loss=kl_divergence), "eval_attack": pgd()},
            "a target of its own",
        ),
    ],
)
def test_a_first_gradient_is_given_only_where_it_is_at_the_clean_images(arguments, named):
    with pytest.raises(UsageError, match=f"attack_from_gradient needs.*{named}"):
        compiled(attack_from_gradient=pgd_from_gradient(), **arguments)


def test_fgsm_gives_the_clean_accuracy_of_all_images_and_changes_no_weight():
    x, y = batch(100, shape=(6, 6, 2))  # more than are measured where the accuracy takes a pass of its own
    results = []
    for attack_from_gradient in (None, pgd_from_gradient(steps=1, relative_step=1.0)):
        trainer = compiled(convolutional_net(), fgsm(), attack_from_gradient=attack_from_gradient)
        correct = np.argmax(trainer.classifier.predict(x, verbose=0), -1) == y
        logs = trainer.fit(still(x, y, 100), shuffle=False, verbose=0).history
        results.append([weight.numpy() for weight in trainer.classifier.trainable_variables])
    assert logs["clean_accuracy"] == [pytest.approx(np.mean(correct))]
    assert np.mean(correct) != np.mean(correct[:32])
    for apart, together in zip(*results, strict=True):
        np.testing.assert_array_equal(together, apart)


def test_trades_in_training_mode_makes_its_clean_pass_once(monkeypatch):
    x, y = batch(12, shape=(6, 6, 2))
    weights = []
    for shared in (True, False):
        if not shared:
            monkeypatch.setattr(AdversarialTrainer, "_shares_pass", False)
        image, counter = keras.Input((6, 6, 2)), CountPasses()
        trainer = compiled(
            keras.Model(image, convolutional_net()(counter(image))),
            pgd(steps=3, loss=kl_divergence),
            objective=objectives.trades(),
            eval_attack=pgd(),
            attack_mode="training",
            eager=True,
        )
        trainer.fit(still(x, y, 6), shuffle=False, verbose=0)
        weights.append([weight.numpy() for weight in trainer.classifier.trainable_variables])
        # In each of two steps three gradients of the attack, the adversarial pass, and the clean one or two.
        assert counter.passes == 2 * (3 + 1 + (1 if shared else 2))
    for together, apart in zip(*weights, strict=True):
        np.testing.assert_allclose(together, apart, atol=2e-6)


def test_sample_weights_count_in_the_evaluation_loss():
    trainer = compiled()
    x, y = batch(6)
    weight = np.array([0, 1, 2, 0.5, 3, 1], np.float32)
    data = tf.data.Dataset.from_tensor_slices((x, y, weight)).batch(4)
    net = NumpyNet(trainer.classifier.get_weights())
    x_adv = numpy_pgd(net.input_gradient, x, y, "linf", 0.1, 3, 0.05)
    expected = (weight * losses(net.forward(x_adv)[1], y)).mean()
    assert trainer.evaluate(data, verbose=0, return_dict=True)["loss"] == pytest.approx(expected, rel=1e-5)


def test_evaluation_is_at_its_own_epsilon():
    trainer = compiled(attack=pgd("linf", 1, 1.0, "none"), eval_attack=STILL, epsilon=0.2, eval_epsilon=0.3)
    x, y = batch(30)
    measured = []
    for scheduled in (0.0, 0.5):
        trainer.epsilon.assign(scheduled)
        measured.append(trainer.evaluate(still(x, y, 30), verbose=0, return_dict=True))
    net = NumpyNet(trainer.classifier.get_weights())
    x_adv = numpy_pgd(net.input_gradient, x, y, "linf", 0.3, 3, 0.15)
    logits = net.forward(x_adv)[1]
    assert measured[0] == measured[1]
    assert measured[0]["loss"] == pytest.approx(losses(logits, y).mean(), rel=1e-5)
    assert measured[0]["robust_accuracy"] == pytest.approx((logits.argmax(axis=1) == y).mean())
    assert measured[0]["clean_accuracy"] == pytest.approx((net.forward(x)[1].argmax(axis=1) == y).mean())
    outside = robust_error(trainer.classifier, still(x, y, 7), STILL, 0.3)
    assert outside.clean_error == pytest.approx(100 - 100 * measured[0]["clean_accuracy"])


def test_evaluation_epsilon_defaults_to_the_target():
    trainer = compiled(epsilon=0.2)
    trainer.epsilon.assign(0.01)
    assert float(trainer.eval_epsilon) == np.float32(0.2)


def test_metrics_are_means_over_examples():
    # Batches of 4, 4 and 2: a mean over batches would weigh the last two examples double.
    trainer = compiled(rate=0.0)
    x, y = batch(10, seed=3)
    history = trainer.fit(still(x, y, 4), verbose=0, shuffle=False).history
    measured = trainer.evaluate(still(x, y, 4), verbose=0, return_dict=True)
    net = NumpyNet(trainer.classifier.get_weights())
    x_adv = numpy_pgd(net.input_gradient, x, y, "linf", 0.1, 3, 0.05)
    clean, attacked = net.forward(x)[1], net.forward(x_adv)[1]
    expected = {
        "loss": losses(attacked, y).mean(),
        "clean_accuracy": (clean.argmax(axis=1) == y).mean(),
        "robust_accuracy": (attacked.argmax(axis=1) == y).mean(),
    }
    assert {k: v[0] for k, v in history.items()} == pytest.approx(expected, rel=1e-5)
    assert measured == pytest.approx(expected, rel=1e-5)
    by_batch = np.mean([losses(attacked, y)[i : i + 4].mean() for i in (0, 4, 8)])
    assert abs(by_batch - expected["loss"]) > 1e-3


def test_evaluation_repeats_its_bits_and_training_its_run():
    x, y = batch(20)

    def run(seed):
        trainer = compiled(attack=pgd("linf", 2, 0.2), epsilon=0.3, seed=seed)
        first = trainer.evaluate(still(x, y, 8), verbose=0, return_dict=True)
        assert first == trainer.evaluate(still(x, y, 8), verbose=0, return_dict=True)
        trainer.fit(still(x, y, 4), epochs=2, verbose=0, shuffle=False)
        return first["loss"], trainer.classifier.get_weights()[0]

    (loss, weights), (again, repeated), (other_loss, other) = run(3), run(3), run(4)
    assert loss == again and loss != other_loss
    np.testing.assert_array_equal(weights, repeated)
    assert np.abs(weights - other).max() > 1e-6


def test_bfloat16_model_is_evaluated_in_float32():
    policy = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        mixed = convolutional_net()
    finally:
        keras.config.set_dtype_policy(policy)
    plain = convolutional_net()
    x, y = batch(8, shape=(6, 6, 2))
    mixed_trainer, plain_trainer = compiled(mixed, rate=0.01), compiled(plain, rate=0.01)
    mixed_trainer.fit(still(x, y, 4), verbose=0, shuffle=False)
    plain_trainer.fit(still(x, y, 4), verbose=0, shuffle=False)
    assert np.abs(mixed.get_weights()[0] - plain.get_weights()[0]).max() > 1e-7  # trained in bfloat16
    plain.set_weights(mixed.get_weights())
    data = still(x, y, 3)
    measured = [t.evaluate(data, verbose=0, return_dict=True) for t in (mixed_trainer, plain_trainer)]
    assert measured[0] == measured[1]
    assert mixed.get_layer("stem").compute_dtype == "bfloat16"


def test_full_precision_restores_the_policies_after_an_error():
    layer = keras.layers.Dense(2, dtype="mixed_bfloat16")
    model = keras.Sequential([keras.Input((3,)), layer])
    with pytest.raises(RuntimeError), full_precision(model):
        assert layer.compute_dtype == "float32" and model(np.ones((1, 3))).dtype == tf.float32
        raise RuntimeError
    assert layer.dtype_policy.name == "mixed_bfloat16"


def functional(head):
    image = keras.Input(SHAPE)
    return keras.Model(image, head(keras.layers.Flatten()(image)))


BAD_CLASSIFIERS = {
    "softmax": lambda: functional(keras.layers.Dense(3, "softmax")),
    "softmax layer": lambda: functional(lambda h: keras.layers.Softmax()(keras.layers.Dense(3)(h))),
    "softmax activation": lambda: functional(lambda h: keras.layers.Activation("softmax")(h)),
    "nested softmax": lambda: functional(keras.Sequential([keras.layers.Dense(3, "softmax")])),
    "two outputs": lambda: functional(lambda h: [keras.layers.Dense(3)(h), keras.layers.Dense(3)(h)]),
    "image output": lambda: functional(keras.layers.Reshape((3, 2))),
    "unbuilt": lambda: keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)]),
    "function": lambda: lambda x: x,
}


@pytest.mark.parametrize("name", BAD_CLASSIFIERS)
def test_refused_classifiers(name):
    with pytest.raises(UsageError, match="Received: ") as error:
        AdversarialTrainer(BAD_CLASSIFIERS[name](), STILL, 0.1)
    assert "\n" not in str(error.value) and str(error.value).startswith("classifier must")


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_refused_radii(value):
    for name, settings in {"epsilon": {"epsilon": value}, "eval_epsilon": {"eval_epsilon": value}}.items():
        with pytest.raises(UsageError, match=f"Received: {name}={value}"):
            AdversarialTrainer(dense_net(), STILL, **({"epsilon": 0.1} | settings))


def test_refused_batches():
    x, y = batch(6)
    with pytest.raises(UsageError, match=r"labels must be .* Received: y of shape \(6, 3\)"):
        compiled().train_on_batch(x, np.eye(3, dtype=np.float32)[y])
    with pytest.raises(UsageError, match=r"images must be .* Received: dtype int32"):
        compiled().evaluate(still((255 * x).astype(np.int32), y, 6), verbose=0)
