"""Optimizers against torch.optim (stored values, and live where it is installed) and float64 NumPy."""

import json
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

from advtf.errors import UsageError
from advtf.training.optimizers import SGD, Adam, build_optimizer, reset_slots

START = np.array([0.7, -1.2, 0.05])
RATES = [0.1] * 10 + [0.01] * 10 + [0.1] * 5  # drop and periodic reset

# name: (our optimizer, torch class, torch arguments)
CASES = {
    "sgd": (lambda: SGD(0.1), "SGD", {}),
    "momentum": (lambda: SGD(0.1, momentum=0.9), "SGD", {"momentum": 0.9}),
    "momentum_l2": (lambda: SGD(0.1, momentum=0.9, l2=0.02), "SGD", {"momentum": 0.9, "weight_decay": 0.02}),
    "nesterov_l2": (
        lambda: SGD(0.1, momentum=0.8, nesterov=True, l2=0.02),
        "SGD",
        {"momentum": 0.8, "nesterov": True, "weight_decay": 0.02},
    ),
    "adam": (lambda: Adam(0.1), "Adam", {}),
    "adam_l2": (lambda: Adam(0.1, l2=0.05), "Adam", {"weight_decay": 0.05}),
    "adam_settings": (
        lambda: Adam(0.1, beta_1=0.5, beta_2=0.99, epsilon=0.1, amsgrad=True, l2=0.05),
        "Adam",
        {"betas": (0.5, 0.99), "eps": 0.1, "amsgrad": True, "weight_decay": 0.05},
    ),
    "adamw": (lambda: Adam(0.1, weight_decay=0.05), "AdamW", {"weight_decay": 0.05}),
}

# Weights after len(RATES) steps of torch 2.13's float64 optimizers.
STORED = {
    "sgd": [0.501629009, -0.807212895, 0.112648358],
    "momentum": [-0.123756832, 0.152590544, -0.048395821],
    "momentum_l2": [-0.124269897, 0.18163362, -0.075083294],
    "nesterov_l2": [0.072615475, -0.102519102, 0.081583335],
    "adam": [0.28465539, -0.755276392, 0.201832057],
    "adam_l2": [0.248183978, -0.680952143, 0.179788878],
    "adam_settings": [0.399865309, -0.785067753, 0.150658831],
    "adamw": [0.257488938, -0.688045644, 0.185954568],
}


def gradient(step, weights):
    """A smooth noise sequence plus a quadratic's pull; small at the end, so that Adam's epsilon counts."""
    return (np.cos(1.7 * step + np.arange(3)) + 0.3 * weights) * (1.0 if step < 15 else 1e-3)


def trajectory(optimizer, rates=RATES, start=START, first_step=0):
    """Returns the weights after each step, (len(rates), 3)."""
    weights = keras.Variable(start, dtype="float32")
    optimizer.build([weights])
    path = []
    for step, rate in enumerate(rates, first_step):
        optimizer.learning_rate = rate
        optimizer.apply([tf.constant(gradient(step, weights.numpy()), tf.float32)], [weights])
        path.append(weights.numpy())
    return np.array(path)


def torch_trajectory(name, arguments):
    torch = pytest.importorskip("torch")
    weights = torch.nn.Parameter(torch.tensor(START))
    optimizer = getattr(torch.optim, name)([weights], lr=RATES[0], **arguments)
    path = []
    for step, rate in enumerate(RATES):
        optimizer.param_groups[0]["lr"] = rate
        weights.grad = torch.tensor(gradient(step, weights.detach().numpy()))
        optimizer.step()
        path.append(weights.detach().numpy().copy())
    return np.array(path)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_step_equals_torch(case):
    make, name, arguments = CASES[case]
    np.testing.assert_allclose(trajectory(make()), torch_trajectory(name, arguments), atol=3e-6)


@pytest.mark.parametrize("case", CASES)
def test_last_step_equals_the_stored_torch_values(case):
    np.testing.assert_allclose(trajectory(CASES[case][0]())[-1], STORED[case], atol=3e-6)


def test_rate_change_acts_on_the_whole_step_at_once():
    weights = keras.Variable([1.0])
    optimizer = SGD(1.0, momentum=0.5)
    optimizer.build([weights])
    moves = []
    for rate in (1.0, 1.0, 0.1):
        before = weights.numpy()[0]
        optimizer.learning_rate = rate
        optimizer.apply([tf.constant([2.0])], [weights])
        moves.append(weights.numpy()[0] - before)
    assert moves == pytest.approx([-2.0, -3.0, -0.35])  # buffers 2, 3, 3.5; Keras would move by -1.7


def test_decoupled_decay_with_sgd_shrinks_weights_outside_the_momentum():
    rate, momentum, decay = 0.1, 0.9, 0.05
    path = trajectory(build_optimizer("sgd", rate, momentum=momentum, weight_decay=decay, decoupled=True))
    weights, buffer = START.copy(), 0.0
    for step, rate in enumerate(RATES):
        buffer = momentum * buffer + gradient(step, weights)
        weights = weights - rate * decay * weights - rate * buffer
        np.testing.assert_allclose(path[step], weights, atol=3e-6)


@pytest.mark.parametrize("case", ["momentum_l2", "nesterov_l2", "adam_l2", "adamw"])
def test_reset_equals_a_fresh_optimizer_and_keeps_rate_and_iterations(case):
    make = CASES[case][0]
    used = make()
    weights = trajectory(used)[-1]
    reset_slots(used)
    assert used.iterations.numpy() == len(RATES)
    assert used.learning_rate.numpy() == np.float32(RATES[-1])
    variable = used._trainable_variables[0]
    fresh_path = trajectory(make(), RATES[:6], weights, first_step=3)
    for step in range(6):
        used.learning_rate = RATES[step]
        used.apply([tf.constant(gradient(3 + step, variable.numpy()), tf.float32)], [variable])
        np.testing.assert_array_equal(variable.numpy(), fresh_path[step])


def test_reset_keeps_weight_averages_and_accepts_an_unbuilt_optimizer():
    optimizer = SGD(0.1, momentum=0.9, use_ema=True, ema_momentum=0.5)
    reset_slots(optimizer)
    trajectory(optimizer)
    average = optimizer._model_variables_moving_average[0].numpy()
    assert np.all(optimizer.momentums[0].numpy() != 0) and np.all(average != 0)
    reset_slots(optimizer)
    np.testing.assert_array_equal(optimizer.momentums[0].numpy(), 0)
    np.testing.assert_array_equal(optimizer._model_variables_moving_average[0].numpy(), average)


def test_reset_of_keras_adam_is_refused_and_of_keras_sgd_works():
    with pytest.raises(UsageError, match="Received: AdamW"):
        reset_slots(keras.optimizers.AdamW(0.1))
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    trajectory(optimizer)
    reset_slots(optimizer)
    np.testing.assert_array_equal(optimizer.momentums[0].numpy(), 0)


@pytest.mark.parametrize("case", CASES)
def test_configuration_round_trip(case):
    original = CASES[case][0]()
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(original))
    assert type(copy) is type(original)
    assert copy.get_config() == original.get_config()
    np.testing.assert_array_equal(trajectory(copy), trajectory(original))


@pytest.mark.parametrize("case", ["nesterov_l2", "adam_settings"])
def test_state_saved_in_weights_continues_the_same_path(case, tmp_path):
    keras.utils.set_random_seed(0)
    make = CASES[case][0]
    inputs, labels = np.ones((4, 3), "float32") * START.astype("float32"), np.array([0, 1, 1, 0])

    def model():
        network = keras.Sequential(
            [keras.layers.Input((3,)), keras.layers.Dense(2, "tanh"), keras.layers.Dense(2)]
        )
        network.compile(make(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        network.optimizer.build(network.trainable_variables)
        return network

    first = model()
    first.fit(inputs, labels, epochs=2, verbose=0, shuffle=False)
    reset_slots(first.optimizer)
    first.fit(inputs, labels, epochs=1, verbose=0, shuffle=False)
    first.save_weights(tmp_path / "state.weights.h5")
    second = model()
    second.load_weights(tmp_path / "state.weights.h5")
    for network in (first, second):
        network.fit(inputs, labels, epochs=3, verbose=0, shuffle=False)
    for expected, actual in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["graph", "xla"]
)
@pytest.mark.parametrize("case", ["nesterov_l2", "adam_settings", "adamw"])
def test_graph_and_xla_equal_eager_with_one_trace(case, compiled):
    make = CASES[case][0]
    optimizer, weights = make(), keras.Variable(START, dtype="float32")
    optimizer.build([weights])
    traces = []

    @tf.function(jit_compile=compiled)
    def step(value):
        traces.append(1)
        optimizer.apply([value], [weights])

    expected = trajectory(make())
    for index, rate in enumerate(RATES):
        optimizer.learning_rate = rate
        step(tf.constant(gradient(index, weights.numpy()), tf.float32))
        np.testing.assert_allclose(weights.numpy(), expected[index], atol=2e-6)
    assert len(traces) == 1


def test_bfloat16_policy_keeps_float32_state_without_a_loss_scale():
    dense = keras.layers.Dense(1, dtype="mixed_bfloat16")
    dense.build((None, 3))
    model = keras.Sequential([keras.layers.Input((3,)), dense])
    model.compile(build_optimizer("sgd", 0.1, weight_decay=1e-3), "mse")
    model.fit(np.ones((4, 3), "float32"), np.ones(4, "float32"), verbose=0)
    assert type(model.optimizer) is SGD
    assert {v.dtype for v in model.optimizer.momentums} == {"float32"}


MIRRORED = """
import json, os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras, numpy as np
from advtf.training.optimizers import SGD, Adam, reset_slots

def weights(strategy, make):
    with strategy.scope():
        model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2, kernel_initializer="ones")])
        model.compile(make(), "mse", jit_compile=False)
        model.optimizer.build(model.trainable_variables)
    x = np.linspace(-1, 1, 24).reshape(8, 3).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, np.cos(x[:, :2]))).batch(8)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    data = data.with_options(options)
    for rate in (0.1, 0.01, 0.1):
        model.optimizer.learning_rate = rate
        model.fit(data.repeat(2), verbose=0, shuffle=False)
        reset_slots(model.optimizer)
    return [w.tolist() for w in model.get_weights()]

makers = [lambda: SGD(0.1, momentum=0.9, nesterov=True, l2=0.5), lambda: Adam(0.1, l2=0.5)]
mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert mirrored.num_replicas_in_sync == 2
print(json.dumps([[weights(s, m) for s in (tf.distribute.get_strategy(), mirrored)] for m in makers]))
"""


@pytest.mark.slow
def test_two_replicas_equal_one_device():
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(MIRRORED)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    for single, mirrored in json.loads(run.stdout.splitlines()[-1]):
        for expected, actual in zip(single, mirrored, strict=True):
            np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("sgd", {"momentum": 0.9, "l2": 5e-4}), ("adam", {"beta_1": 0.9, "epsilon": 1e-8, "l2": 5e-4})],
)
def test_build_optimizer_places_the_weight_decay(name, expected):
    config = build_optimizer(name, 0.1, weight_decay=5e-4).get_config()
    assert expected.items() <= config.items() and config["weight_decay"] is None
    config = build_optimizer(name, 0.1, weight_decay=5e-4, decoupled=True).get_config()
    assert (config["l2"], config["weight_decay"]) == (0.0, 5e-4)
    assert build_optimizer(name, 1).learning_rate.numpy() == 1.0


@pytest.mark.parametrize(
    "call",
    [
        lambda: build_optimizer("sdg", 0.1),
        lambda: build_optimizer("sgd", 0.0),
        lambda: build_optimizer("sgd", float("nan")),
        lambda: build_optimizer("sgd", 0.1, weight_decay=-1e-4),
        lambda: build_optimizer("sgd", 0.1, weight_decay=float("nan")),
        lambda: build_optimizer("sgd", 0.1, momentum=1.0),
        lambda: build_optimizer("sgd", 0.1, momentum=0.0, nesterov=True),
        lambda: build_optimizer("adam", 0.1, nesterov=True),
        lambda: SGD(0.1, l2=1e-3, weight_decay=1e-3),
        lambda: Adam(0.1, beta_2=1.0),
    ],
)
def test_invalid_settings_are_refused_in_one_line(call):
    with pytest.raises(UsageError, match="Received: ") as caught:
        call()
    assert "\n" not in str(caught.value)
