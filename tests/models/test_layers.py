"""Layers against their definitions: initialiser, padding, and BatchNorm's statistics and derivatives."""

import os
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

from advtf.errors import UsageError
from advtf.models import build
from advtf.models.layers import BatchNormalization, FanInUniform, Layers


def images(shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


@pytest.fixture
def policy():
    """Sets a global dtype policy for one test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("shape", [(1, 4, 4, 1), (2, 5, 8, 3), (1, 13, 17, 2)])
def test_strided_shortcuts_are_those_of_a_strided_convolution(shape, policy):
    policy("float64")
    image = Layers().image(shape[1:])
    model = keras.Model(image, Layers().conv(image, 4, 1, "conv", stride=2))
    x, kernel = np.random.default_rng(0).random(shape), model.get_layer("conv").kernel
    strided = keras.layers.Conv2D(4, 1, strides=2, use_bias=False)
    strided.build(shape)
    strided.kernel.assign(kernel)

    def derivatives(layer, kernel):
        with tf.GradientTape() as second:
            second.watch(inputs := tf.constant(x))
            with tf.GradientTape() as first:
                first.watch(inputs)
                value = tf.reduce_sum(layer(inputs) ** 3)
            gradients = first.gradient(value, [inputs, kernel.value])
            norm = sum(tf.reduce_sum(gradient**2) for gradient in gradients)
        return [layer(inputs), *gradients, *second.gradient(norm, [inputs, kernel.value])]

    for ours, theirs in zip(derivatives(model, kernel), derivatives(strided, strided.kernel), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


# A strided 1×1 convolution ends the process at these sizes, or returns what oneDNN found beyond its memory.
GRADIENTS = """
    import os, sys
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras, numpy as np, tensorflow as tf
    from advtf.models import build

    keras.config.set_floatx(sys.argv[2])
    keras.config.set_dtype_policy(sys.argv[2])
    x = np.random.default_rng(0).random((4, 64, 64, 3), np.float32).astype(sys.argv[2])
    found = {}
    for name in ("resnet18", "preact_resnet18"):
        for width in (1, 2):
            model = build(name, (64, 64, 3), 10, width=width)

            @tf.function
            def gradients():
                with tf.GradientTape() as tape:
                    logits = model(x, training=True)
                    loss = tf.reduce_mean(
                        tf.nn.sparse_softmax_cross_entropy_with_logits(tf.range(4), logits))
                return tape.gradient(loss, [weight.value for weight in model.trainable_weights])

            for weight, gradient in zip(model.trainable_weights, gradients(), strict=True):
                found[f"{name}{width}/{weight.path}"] = gradient.numpy()
                weight.assign_sub(0.1 * gradient)
            found[f"{name}{width}/logits"] = model(x, training=True).numpy()
    np.savez(sys.argv[1], **found)
"""


@pytest.mark.slow
def test_narrow_networks_on_large_images_train_with_the_right_gradients(tmp_path):
    found = {}
    for switch, dtype in (("1", "float32"), ("0", "float64")):  # oneDNN and, as the reference, Eigen
        file = tmp_path / f"{switch}.npz"
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(GRADIENTS), str(file), dtype],
            env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": switch},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        with np.load(file) as stored:
            found[switch] = dict(stored)
    assert sum("shortcut/kernel" in name for name in found["1"]) == 4 * 3
    for name, wanted in found["0"].items():
        error = np.abs(found["1"][name] - wanted).max()
        assert error <= 1e-4 * np.abs(wanted).max(), (name, error)


def test_strided_convolution_pads_both_sides():
    image = keras.Input((6, 6, 1))
    model = keras.Model(image, Layers().conv(image, 1, 3, "conv", stride=2))
    x, kernel = images((1, 6, 6, 1)), model.get_layer("conv").kernel.numpy()[:, :, 0, 0]
    padded = np.pad(x[0, :, :, 0], 1)
    expected = [[np.sum(padded[i : i + 3, j : j + 3] * kernel) for j in (0, 2, 4)] for i in (0, 2, 4)]
    np.testing.assert_allclose(model(x)[0, :, :, 0], expected, atol=1e-6)


def test_batch_norm_statistics_and_modes():
    layer = BatchNormalization()
    x = images((4, 3, 3, 2)) * 5 + 100
    out = layer(x, training=True).numpy()
    wide = x.astype(np.float64).reshape(-1, 2)
    mean, biased, unbiased = wide.mean(0), wide.var(0), wide.var(0, ddof=1)
    np.testing.assert_allclose(out.reshape(-1, 2), (wide - mean) / np.sqrt(biased + 1e-5), atol=1e-4)
    np.testing.assert_allclose(layer.moving_mean.numpy(), 0.1 * mean, rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance.numpy(), 0.9 + 0.1 * unbiased, rtol=1e-5)

    statistics = [layer.moving_mean.numpy(), layer.moving_variance.numpy()]
    layer.gamma.assign([2.0, 3.0])
    layer.beta.assign([-1.0, 1.0])
    out = layer(x, training=False).numpy().reshape(-1, 2)
    expected = (wide - statistics[0]) / np.sqrt(statistics[1] + 1e-5) * [2, 3] + [-1, 1]
    np.testing.assert_allclose(out, expected, rtol=1e-5)
    layer.trainable = False
    layer(x, training=True)  # frozen: inference mode
    assert np.array_equal(layer.moving_mean.numpy(), statistics[0])
    assert np.array_equal(layer.moving_variance.numpy(), statistics[1])


def test_batch_norm_of_one_value_per_channel_is_finite():
    layer = BatchNormalization()
    assert np.all(layer(np.full((1, 2), 3.0, np.float32), training=True).numpy() == 0)
    np.testing.assert_allclose(layer.moving_variance.numpy(), 0.9, rtol=1e-6)


def small_normalised():
    layers = Layers(activation="softplus")
    image = layers.image((8, 8, 2))
    x = layers.norm_activate(layers.conv(image, 3, 3, "conv", stride=2), "conv")
    return keras.Model(image, layers.logits(layers.batch_norm(layers.flatten(x), "flat_bn"), 10))


@pytest.mark.parametrize("jit", [False, True])
def test_second_derivatives_are_exact_in_training_mode(policy, jit):
    policy("float64")
    model = small_normalised()
    rng = np.random.default_rng(0)
    x = tf.constant(rng.random((6, 8, 8, 2)))
    y = tf.constant(rng.integers(0, 10, 6), tf.int32)
    variables = [weight.value for weight in model.trainable_weights]
    direction = [tf.constant(rng.standard_normal(v.shape)) for v in variables]

    def gradient():
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        return tape.gradient(loss, variables)

    @tf.function(jit_compile=jit)
    def hessian_vector_product():
        with tf.GradientTape() as tape:
            product = tf.add_n([tf.reduce_sum(g * d) for g, d in zip(gradient(), direction, strict=True)])
        return tape.gradient(product, variables)

    def shifted_gradient(step):
        for variable, part in zip(variables, direction, strict=True):
            variable.assign_add(step * part)
        values = gradient()
        for variable, part in zip(variables, direction, strict=True):
            variable.assign_sub(step * part)
        return values

    analytic, step = hessian_vector_product(), 1e-6
    pairs = zip(shifted_gradient(step), shifted_gradient(-step), strict=True)
    numeric = [(up - down) / (2 * step) for up, down in pairs]
    error = sum(np.sum((a - n) ** 2) for a, n in zip(analytic, numeric, strict=True)) ** 0.5
    assert error <= 1e-6 * sum(np.sum(np.square(n)) for n in numeric) ** 0.5


def test_compiled_step_updates_statistics_as_eager_does():
    x = images((8, 4, 4, 3))
    eager, compiled = BatchNormalization(), BatchNormalization()
    expected = eager(x, training=True)
    actual = tf.function(lambda z: compiled(z, training=True), jit_compile=True)(x)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    for a, b in zip(eager.weights, compiled.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6)


@pytest.mark.slow
def test_synchronized_moments_span_the_replicas():
    """Two replicas with 5 and 3 examples give the outputs, statistics and gradients of one batch of 8."""
    code = """
        import os
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        import numpy as np, tensorflow as tf
        from advtf.models.layers import BatchNormalization
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        x = tf.constant(np.random.default_rng(0).random((8, 2, 2, 3)), tf.float32)
        parts = strategy.experimental_distribute_values_from_function(
            lambda ctx: x[:5] if ctx.replica_id_in_sync_group == 0 else x[5:])

        def step(layer, z):
            with tf.GradientTape() as tape:
                tape.watch(z)
                out = layer(z, training=True)
                loss = tf.reduce_sum(out ** 3)
            return out, tape.gradient(loss, z)

        single = BatchNormalization()
        expected = step(single, x)
        with strategy.scope():
            layer = BatchNormalization(synchronized=True)
            layer.build((None, 2, 2, 3))
        results = tf.function(lambda: strategy.run(step, (layer, parts)))()
        for actual, wanted in zip(results, expected):
            actual = np.concatenate(strategy.experimental_local_results(actual))
            np.testing.assert_allclose(actual, wanted, atol=2e-4)
        for a, b in zip(single.weights, layer.weights):
            for copy in strategy.experimental_local_results(b.value):
                np.testing.assert_allclose(a.numpy(), copy.numpy(), rtol=1e-5, atol=1e-6)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.parametrize(("name", "first"), [("lenet", "conv1"), ("resnet18", "stem")])
def test_bfloat16_policy_keeps_float32_weights_and_logits(policy, name, first):
    x = images((8, 8, 8, 1))
    reference = build(name, (8, 8, 1), 10, width=1)
    policy("mixed_bfloat16")
    model = build(name, (8, 8, 1), 10, width=1)
    assert all(np.array_equal(a, b) for a, b in zip(reference.weights, model.weights, strict=True))
    logits = model(x, training=True)
    assert model.get_layer(first).compute_dtype == "bfloat16"
    assert logits.dtype == tf.float32 and {weight.dtype for weight in model.weights} == {"float32"}
    expected = reference(x, training=True).numpy()
    assert 0 < np.sqrt(np.mean((logits - expected) ** 2)) < 0.1 * np.sqrt(np.mean(expected**2))


def test_batch_norm_takes_moments_in_float32_under_bfloat16(policy):
    policy("mixed_bfloat16")
    layer = BatchNormalization()
    far = tf.cast(256 + 2 * images((64, 4)), tf.bfloat16)  # a bfloat16 sum would lose this variance
    layer(far, training=True)
    expected = np.asarray(far, np.float64).var(0, ddof=1)
    np.testing.assert_allclose(layer.moving_variance.numpy(), 0.9 + 0.1 * expected, rtol=1e-5)
    assert layer(far, training=True).dtype == layer(far, training=False).dtype == tf.bfloat16


@pytest.mark.parametrize("settings", [{"axis": 1}, {"renorm": True}, {"scale": False}])
def test_batch_norm_refuses_what_it_does_not_do(settings):
    with pytest.raises(UsageError, match="axis=-1"):
        BatchNormalization(**settings)


def test_initializer_needs_no_global_generator():
    initializer = FanInUniform(fan_in=4, seed=(1, 2))
    copy = FanInUniform.from_config(initializer.get_config())
    assert np.array_equal(initializer((50, 3)), copy((50, 3)))
    assert np.array_equal(initializer((3,), "float64"), tf.cast(initializer((3,)), tf.float64))
