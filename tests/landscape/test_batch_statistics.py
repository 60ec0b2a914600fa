"""Estimated BatchNorm statistics against NumPy over all examples at once, layer by layer."""

import keras
import numpy as np
import pytest

from advtf import models
from advtf.errors import UsageError
from advtf.landscape.batch_statistics import BatchStatistics, norm_layers, of_the_batch
from advtf.models.layers import Layers

SHAPE = (6, 6, 2)


def images(n=30, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).random((n, *shape), np.float32)


def two_norms():
    layers = Layers("relu", seed=3)
    image = keras.Input(SHAPE, name="image")
    hidden = layers.norm_activate(layers.conv(image, 4, 3, "conv1"), "conv1")
    hidden = layers.norm_activate(layers.conv(hidden, 3, 3, "conv2"), "conv2")
    return keras.Model(image, layers.logits(layers.flatten(hidden), 3), name="two_norms")


def normalised(x, layer, mean, variance):
    gamma, beta = layer.gamma.numpy(), layer.beta.numpy()
    return (x - mean) / np.sqrt(variance + layer.epsilon) * gamma + beta


def test_equal_the_statistics_over_all_examples_at_once():
    model, x = two_norms(), images()
    conv1, bn1, conv2, bn2 = (model.get_layer(name) for name in ("conv1", "conv1_bn", "conv2", "conv2_bn"))
    bn1.beta.assign([0.3, -0.2, 0.1, 0.4])
    BatchStatistics(model, batch_size=7)(x)
    first = conv1(x).numpy().astype(np.float64).reshape(-1, 4)
    mean, variance = first.mean(axis=0), first.var(axis=0, ddof=1)
    np.testing.assert_allclose(bn1.moving_mean, mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(bn1.moving_variance, variance, rtol=1e-5)
    hidden = np.maximum(normalised(first, bn1, mean, variance), 0).reshape(-1, 6, 6, 4)
    second = conv2(hidden.astype(np.float32)).numpy().astype(np.float64).reshape(-1, 3)
    np.testing.assert_allclose(bn2.moving_mean, second.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(bn2.moving_variance, second.var(axis=0, ddof=1), rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 8, 30, 100])
def test_do_not_depend_on_the_batch_size_or_the_order(batch_size):
    model, x = two_norms(), images()
    BatchStatistics(model, batch_size=30)(x)
    wanted = [v.numpy() for v in model.non_trainable_variables]
    BatchStatistics(model, batch_size=batch_size)(x[::-1])
    for got, value in zip(model.non_trainable_variables, wanted, strict=True):
        np.testing.assert_allclose(got, value, rtol=2e-5, atol=1e-6)


def test_a_second_estimate_has_the_same_bits():
    model, x = two_norms(), images()
    estimate = BatchStatistics(model, batch_size=7)
    estimate(x)
    before = [v.numpy().tobytes() for v in model.variables]
    for layer in estimate.layers:  # what they were before has no influence
        layer.moving_variance.assign(layer.moving_variance * 9)
    estimate(x)
    assert [v.numpy().tobytes() for v in model.variables] == before


SIZED = {
    "resnet18": (8, 20),
    "resnet50": (32, 53),
    "preact_resnet18": (8, 17),
    "vgg": (32, 13),
}  # image side, BatchNorm layers


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZED)
def test_every_norm_layer_of_an_architecture_sees_standardised_inputs(name):
    """With γ = 1, β = 0, every BatchNorm's output has mean 0 and variance 1 over the data."""
    side, norms = SIZED[name]
    model = models.build(name, (side, side, 1), 3, width=1, seed=1)
    x = images(6, (side, side, 1))
    estimate = BatchStatistics(model, batch_size=4)
    estimate(x)
    assert len(estimate.layers) == norms
    outputs = keras.Model(model.inputs[0], [layer.output for layer in estimate.layers])(x, training=False)
    for layer, output in zip(estimate.layers, outputs, strict=True):
        flat = output.numpy().reshape(-1, output.shape[-1]).astype(np.float64)
        n, variance = len(flat), layer.moving_variance.numpy()
        np.testing.assert_allclose(flat.mean(axis=0), 0, atol=1e-4)
        wanted = variance * (n - 1) / n / (variance + layer.epsilon)
        np.testing.assert_allclose(flat.var(axis=0), wanted, rtol=1e-3, atol=1e-5)


def test_statistics_of_one_batch():
    model, x = two_norms(), images()
    layers = norm_layers(model)
    with of_the_batch(layers):
        model(x, training=True)
    assert [layer.momentum for layer in layers] == [0.9, 0.9]
    first = model.get_layer("conv1")(x).numpy().reshape(-1, 4)
    np.testing.assert_allclose(layers[0].moving_mean, first.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(layers[0].moving_variance, first.var(axis=0, ddof=1), rtol=1e-4)


def test_momentum_is_back_after_an_exception():
    layers = norm_layers(two_norms())
    with pytest.raises(KeyError), of_the_batch(layers):
        raise KeyError
    assert [layer.momentum for layer in layers] == [0.9, 0.9]


def test_a_model_without_norm_layers_is_left_alone():
    model = models.build("linear", SHAPE, 3)
    before = [v.numpy() for v in model.variables]
    BatchStatistics(model)(images())
    for got, wanted in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_a_nested_model_is_refused():
    nested = keras.Sequential([keras.Input(SHAPE), two_norms()], name="nested")
    with pytest.raises(UsageError, match=r"nested \(Sequential\) with 2"):
        BatchStatistics(nested)
