"""The trainer's evaluation and metrics against NumPy; evaluation in float32; refusals."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.attack import losses, numpy_pgd
from helpers.trainer import SHAPE, STILL, NumpyNet, batch, compiled, convolutional_net, dense_net, still

from advtf.attacks.pgd import pgd
from advtf.attacks.robust_error import robust_error
from advtf.errors import UsageError
from advtf.runtime import bfloat16_rewrite
from advtf.training.trainer import AdversarialTrainer, full_precision

CPU_INFO = Path("/proc/cpuinfo")
BFLOAT16_CPU = CPU_INFO.exists() and re.search(r"\b(avx512_bf16|amx_bf16)\b", CPU_INFO.read_text())


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


@pytest.mark.skipif(not BFLOAT16_CPU, reason="oneDNN rewrites only where the CPU multiplies bfloat16")
def test_bfloat16_rewrite_changes_training_and_not_evaluation():
    x, y = batch(64, shape=(6, 6, 2))
    data = still(x, y, 32)

    def run(rewritten):
        trainer = compiled(convolutional_net(), rate=0.05)
        with bfloat16_rewrite(rewritten):
            trainer.fit(data, epochs=2, verbose=0, shuffle=False)
            with bfloat16_rewrite(False):
                inner = trainer.evaluate(data, verbose=0, return_dict=True)
        assert inner == trainer.evaluate(data, verbose=0, return_dict=True)
        twin = compiled(convolutional_net())
        twin.classifier.set_weights(trainer.classifier.get_weights())
        assert inner == twin.evaluate(data, verbose=0, return_dict=True)
        return trainer.classifier.get_weights()

    difference = max(np.abs(a - b).max() for a, b in zip(run(False), run(True), strict=True))
    assert 1e-6 < difference < 0.05


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
    with pytest.raises(UsageError, match=r"images must be .* Received: dtype uint8"):
        compiled().evaluate(still((255 * x).astype(np.uint8), y, 6), verbose=0)
