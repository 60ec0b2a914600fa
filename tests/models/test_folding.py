"""An attack's view equals the classifier: float64 and float32, our networks and any order of layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from advtf import models
from advtf.classifiers.ensemble import build_ensemble
from advtf.models.folding import folded, gains_from_halves, in_halves, multiplications
from advtf.models.layers import BatchNormalization

NETWORKS = [
    ("lenet", {"width": 2}),
    ("vgg", {"width": 1}),
    ("resnet18", {"width": 2}),
    ("resnet50", {"width": 1}),
    ("preact_resnet18", {"width": 1}),
    ("preact_resnet18", {"width": 1, "shortcut": "activated"}),
    ("wide_resnet", {"width": 1, "depth": 10}),
    ("linear", {}),
    ("mlp", {"width": 2}),
]
LARGEST_ERROR = {"float64": 1e-13, "float32": 5e-6}  # of the largest entry; measured: 3e-15 and 1.5e-6


@pytest.fixture
def policy():
    before = keras.config.dtype_policy(), keras.config.floatx()

    def use(name):
        keras.config.set_dtype_policy(name)
        keras.config.set_floatx("float64" if name == "float64" else "float32")

    yield use
    keras.config.set_dtype_policy(before[0])
    keras.config.set_floatx(before[1])


def with_random_weights(model):
    """Gives every weight, and the statistics of BatchNorm, values far from those of a new model."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if "variance" in weight.path:
            weight.assign(rng.uniform(0.5, 2.0, weight.shape))
        elif np.issubdtype(keras.backend.standardize_dtype(weight.dtype), np.floating):
            weight.assign(weight + 0.3 * rng.standard_normal(weight.shape))
    return model


def batch(model, count=5):
    rng = np.random.default_rng(1)
    x = rng.random((count, *model.input_shape[1:]))
    return tf.constant(x, model.inputs[0].dtype), tf.constant(rng.integers(0, model.output_shape[-1], count))


def logits_and_gradient(logits_fn, x, y):
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = tf.cast(logits_fn(x), x.dtype)
        loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
    return logits, tape.gradient(loss, x)


def assert_same(model, count=5, largest_error=None):
    x, y = batch(model, count)
    expected = logits_and_gradient(lambda x: model(x, training=False), x, y)
    eager = logits_and_gradient(folded(model), x, y)
    graph = tf.function(lambda x: logits_and_gradient(folded(model), x, y), autograph=False)(x)
    limit = largest_error or LARGEST_ERROR[x.dtype.name]
    for wanted, *found in zip(expected, eager, graph, strict=True):
        for one in found:
            assert one.dtype == wanted.dtype and one.shape == wanted.shape
            assert np.abs(one - wanted).max() <= limit * np.abs(wanted).max()


def network_in(dtype, name, settings):
    """The graphs of ResNet50 take as long as those of all others together."""
    return pytest.param(name, settings, dtype, marks=[pytest.mark.slow] * (name == "resnet50"))


@pytest.mark.parametrize(
    ("name", "settings", "dtype"),
    [network_in(dtype, *network) for dtype in ("float64", "float32") for network in NETWORKS],
)
def test_our_networks(policy, name, settings, dtype):
    policy(dtype)
    shape = {"lenet": (12, 12, 1), "linear": (4, 4, 1), "mlp": (4, 4, 1)}.get(name, (32, 32, 3))
    assert_same(with_random_weights(models.build(name, shape, 10, **settings)))


def test_an_ensemble(policy):
    policy("float64")
    members = [models.build("resnet18", (32, 32, 3), 10, width=1, seed=seed) for seed in (0, 1)]
    assert_same(with_random_weights(build_ensemble(members)), largest_error=1e-6)  # it averages in float32


class Doubled(layers.Layer):
    """A layer of the user's own."""

    def call(self, x, training=None):
        return x if training else 2 * x


class Shifted(layers.Conv2D):
    """A convolution that does something else as well."""

    def call(self, x):
        return super().call(x) + 1


def image():
    return keras.Input((8, 8, 3), dtype=keras.config.floatx())


def ended(start, x):
    return keras.Model(start, layers.Dense(4)(layers.Flatten()(x)))


def every_order():
    """conv-bn-relu, bn-conv, conv-relu-bn, depthwise-bn, separable-bn, dilated, strided, dense-bn."""
    start = image()
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(6, 3, padding="same")(start)))
    x = layers.Conv2D(6, 3, use_bias=False, dilation_rate=2, padding="same")(layers.BatchNormalization()(x))
    x = BatchNormalization()(layers.Conv2D(4, 3, activation="gelu", strides=2)(x))
    x = BatchNormalization()(layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same")(x))
    x = layers.BatchNormalization(scale=False)(layers.SeparableConv2D(5, 2)(x))
    x = layers.BatchNormalization(center=False)(layers.Dense(7)(layers.Dropout(0.5)(x)))
    x = layers.BatchNormalization()(layers.Dense(6, use_bias=False)(layers.Flatten()(x)))
    return keras.Model(start, layers.Dense(4)(layers.LeakyReLU()(x)))


def read_twice():
    start = image()
    x = layers.Conv2D(3, 3, padding="same")(start)
    return ended(start, layers.Add()([layers.BatchNormalization()(x), x]))


def used_twice():
    start = image()
    convolution, norm = layers.Conv2D(3, 3, padding="same"), layers.BatchNormalization()
    return ended(start, norm(convolution(norm(convolution(start)))))


def one_norm_behind_two_layers():
    start, norm = image(), layers.BatchNormalization()
    branches = [norm(layers.Conv2D(3, 3)(start)) for _ in range(2)]
    return ended(start, layers.Concatenate()(branches))


def of_other_axes():
    start = image()
    x = layers.BatchNormalization(axis=1)(layers.Conv2D(3, 3)(start))
    x = layers.BatchNormalization(axis=3)(layers.Conv2D(3, 3)(x))
    return ended(start, layers.BatchNormalization(axis=2)(x))


def of_unknown_layers():
    start = image()
    x = layers.Rescaling(2.0, -1.0)(layers.RandomFlip()(start))
    x = layers.BatchNormalization()(Shifted(4, 3)(x))
    x = layers.GroupNormalization(2)(Doubled()(layers.GaussianNoise(0.1)(x)))
    x = layers.AveragePooling2D(2)(layers.PReLU()(keras.ops.abs(x) + 0.1 * x))
    x = layers.LayerNormalization()(layers.UpSampling2D(2)(x))
    return ended(start, x[:, :2] * keras.ops.sigmoid(x[:, 2:4]))


def nested():
    inner_start = keras.Input((8, 8, 4), dtype=keras.config.floatx())
    inner_end = layers.BatchNormalization()(layers.Conv2D(4, 3)(inner_start))
    inner = keras.Model(inner_start, inner_end)
    sequence = keras.Sequential([image(), layers.Conv2D(4, 1), layers.BatchNormalization(), layers.ReLU()])
    start = image()
    return ended(start, layers.BatchNormalization()(inner(sequence(start))))


def sequential():
    return keras.Sequential(
        [image(), layers.Conv2D(3, 3, groups=3), layers.BatchNormalization(), layers.MaxPooling2D()]
        + [layers.GlobalAveragePooling2D(), layers.Dense(4)]
    )


def ends_in_a_folded_norm():
    start = image()
    return keras.Model(start, [layers.BatchNormalization()(layers.Dense(4)(layers.Flatten()(start)))])


class OwnForwardPass(keras.Sequential):
    """A model whose graph is not what it computes."""

    def call(self, x, training=None, mask=None):
        return 3 * super().call(x, training=training, mask=mask)


def in_groups():
    """The kernel has one input channel, but the image has three."""
    start = image()
    return ended(start, layers.Conv2D(6, (3, 5), groups=3, padding="same")(start))


def own_forward_pass():
    return OwnForwardPass([image(), layers.Flatten(), layers.Dense(4)])


@pytest.mark.parametrize(
    "build",
    [
        every_order,
        read_twice,
        used_twice,
        one_norm_behind_two_layers,
        of_other_axes,
        of_unknown_layers,
        nested,
        sequential,
        ends_in_a_folded_norm,
        in_groups,
        own_forward_pass,
    ],
)
def test_models_of_the_user(policy, build):
    policy("float64")
    assert_same(with_random_weights(build()), largest_error=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_halves_of_any_batch_are_the_batch(policy, count):
    policy("float64")
    model = with_random_weights(models.build("lenet", (8, 8, 1), 10, width=1))
    x, y = batch(model, count)
    expected = logits_and_gradient(folded(model), x, y)
    halves = tf.function(lambda x: logits_and_gradient(in_halves(folded(model)), x, y))(x)
    for one, other in zip(halves, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-15)
    seen = []
    in_halves(lambda x: (seen.append(x.shape[0]), x)[1])(tf.zeros([count, 1]))
    assert seen == [-(-count // 2)] * 2


def test_multiplications_are_counted_by_hand():
    lenet = models.build("lenet", (28, 28, 1), 10, width=16)
    assert multiplications(lenet) == 784 * 25 * 32 + 196 * 25 * 32 * 64 + 3136 * 1024 + 1024 * 10
    start = image()
    x = layers.DepthwiseConv2D(3, depth_multiplier=2)(start)
    x = layers.Conv2D(12, 3, groups=6, strides=2)(x)
    nested = keras.Sequential([keras.Input((2, 2, 12)), layers.Flatten(), layers.Dense(5)])
    assert multiplications(keras.Model(start, nested(x))) == 36 * 9 * 6 + 4 * 9 * 12 + 48 * 5
    assert multiplications(own_forward_pass()) == 0
    assert not gains_from_halves(lenet)


def test_weights_are_those_of_the_moment_of_folding():
    model = with_random_weights(sequential())
    x, _ = batch(model)
    before = model(x, training=False)
    logits_fn = folded(model)
    model.layers[-1].bias.assign_add(tf.ones([4]))
    np.testing.assert_allclose(logits_fn(x), before, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(folded(model)(x), before + 1, rtol=1e-5, atol=1e-6)


def test_batch_norm_behind_a_kernel_leaves_the_graph(policy):
    model = models.build("resnet18", (32, 32, 3), 10, width=1)
    x, _ = batch(model)

    def kinds(logits_fn):
        graph = tf.function(lambda x: logits_fn()(x), autograph=False).get_concrete_function(x).graph
        return [operation.type for operation in graph.get_operations()]

    view, plain = kinds(lambda: folded(model)), kinds(lambda: lambda x: model(x, training=False))
    assert view.count("Conv2D") == plain.count("Conv2D")
    norms = sum(isinstance(layer, BatchNormalization) for layer in model.layers)
    assert view.count("Rsqrt") == plain.count("Rsqrt") == norms
    assert view.count("Mul") < plain.count("Mul") + norms  # scales of (C,) and kernels, no activations
    assert not any(kind.startswith("FusedBatchNorm") for kind in view)


def test_bfloat16_from_the_first_kernel_to_the_last(policy):
    policy("mixed_bfloat16")
    model = with_random_weights(models.build("preact_resnet18", (32, 32, 3), 10, width=4))
    policy("float64")
    exact = models.build("preact_resnet18", (32, 32, 3), 10, width=4)
    exact.set_weights(model.get_weights())
    x, y = batch(model, 16)
    logits, gradient = logits_and_gradient(folded(model), x, y)
    _, of_keras = logits_and_gradient(lambda x: model(x, training=False), x, y)
    expected, right = logits_and_gradient(folded(exact), tf.cast(x, tf.float64), y)
    assert logits.dtype == gradient.dtype == tf.float32
    logits = tf.cast(logits, tf.float64)
    assert np.abs(logits - expected).max() < 0.03 * np.abs(expected).max()  # measured: 0.01

    def agreement(found):
        return np.mean(np.sign(found) == np.sign(right))

    assert agreement(gradient) > agreement(of_keras) - 0.02
    graph = tf.function(lambda x: folded(model)(x), autograph=False).get_concrete_function(x).graph
    kernels = [o for o in graph.get_operations() if o.type == "Conv2D"]
    assert kernels and all(kernel.get_attr("T") == tf.bfloat16 for kernel in kernels)
