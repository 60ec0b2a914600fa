"""Dead units against activations counted by hand, and of networks in which they were made."""

import keras
import numpy as np
import pytest

from advtf import models
from advtf.data import sets as data
from advtf.errors import UsageError
from advtf.landscape.units import UnitCounter, dead_units


def digits(count):
    return data.load("digits").train.images[:count]


def lenet():
    return models.build("lenet", (8, 8, 1), 10, width=1)


def by_name(units):
    return {layer.name: layer for layer in units}


def relu_by_hand(x, kernel, bias):
    """Pre-activations of a 5×5 convolution with zero padding, in float64."""
    padded = np.pad(np.float64(x), ((0, 0), (2, 2), (2, 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(1, 2))
    return np.maximum(np.einsum("nhwcij,ijco->nhwo", windows, np.float64(kernel)) + bias, 0)


@pytest.mark.parametrize("batch_size", [3, 7, 100])
def test_counts_positions_and_channels_whatever_the_batch(batch_size):
    model, x = lenet(), digits(7)
    kernel, bias = model.get_layer("conv1").get_weights()
    model.get_layer("conv1").set_weights([kernel, bias - 0.25])  # partly dead
    expected = (relu_by_hand(x, kernel, bias - 0.25) != 0).any(axis=0)
    first = dead_units(model, x, batch_size=batch_size)[0]
    assert (first.name, first.examples, first.alive.shape) == ("conv1_act", 7, (8, 8, 2))
    np.testing.assert_array_equal(first.alive, expected)
    assert first.dead == (~expected).sum() and 0 < first.dead < first.units == 128
    assert first.dead_channels == (~expected.any(axis=(0, 1))).sum()
    assert first.channels == 2


def test_a_dead_channel_and_a_dead_layer():
    model, x = lenet(), digits(20)
    convolution = model.get_layer("conv1")
    convolution.set_weights([convolution.get_weights()[0], np.array([0.5, -100], np.float32)])
    dense = model.get_layer("dense")
    dense.set_weights([dense.get_weights()[0], np.full(64, -100, np.float32)])
    units = dead_units(model, x)
    assert [layer.name for layer in units] == ["conv1_act", "conv2_act", "dense_act"]
    first, _, last = units
    assert (first.dead_channels, first.dead_layer) == (1, False) and first.dead >= 64
    assert (last.dead, last.dead_channels, last.dead_layer) == (64, 64, True)
    logits = model.predict(x, verbose=0)
    np.testing.assert_array_equal(logits, np.broadcast_to(logits[0], logits.shape))  # a constant classifier


def test_sees_the_weights_of_the_moment_and_other_images():
    model, x = lenet(), digits(5)
    counter = UnitCounter(model, batch_size=2)
    assert not by_name(counter(x))["dense_act"].dead_layer
    dense = model.get_layer("dense")
    dense.set_weights([dense.get_weights()[0] * 0, np.full(64, -1, np.float32)])
    assert by_name(counter(x))["dense_act"].dead_layer
    # The bias alone decides for black images: no convolution sees anything.
    bias = model.get_layer("conv1").get_weights()[1]
    black = by_name(counter(np.zeros_like(x)))["conv1_act"]
    np.testing.assert_array_equal(black.alive, np.broadcast_to(bias > 0, (8, 8, 2)))


def test_watches_every_kind_of_activation_and_nothing_linear():
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(2, 3, activation="relu", name="built_in"),
            layers.LeakyReLU(name="leaky"),
            layers.Flatten(),
            layers.Dense(3, name="linear"),
            layers.Activation("linear", name="identity"),
            layers.ReLU(name="relu"),
            layers.Activation("tanh", name="tanh"),
            layers.Dense(10, name="logits"),
        ]
    )
    assert [u.name for u in dead_units(model, digits(2))] == ["built_in", "leaky", "relu", "tanh"]


def test_residual_networks_list_every_activation():
    model = models.build("preact_resnet18", (8, 8, 1), 10, width=1)
    units = dead_units(model, digits(4))
    names = [layer.name for layer in model.layers if layer.name.endswith("_act")]
    assert [layer.name for layer in units] == names and len(names) == 17
    assert all(layer.alive.ndim == 3 for layer in units)


def test_refuses_what_it_cannot_look_into():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(UsageError, match=r"functional or sequential.*Received: own"):
        dead_units(Own(name="own"), digits(1))
    with pytest.raises(UsageError, match="without one"):
        dead_units(models.build("linear", (8, 8, 1), 10), digits(1))
    image, relu = keras.Input((8, 8, 1)), keras.layers.ReLU(name="twice")
    hidden = relu(keras.layers.Flatten()(relu(image)))
    shared = keras.Model(image, keras.layers.Dense(10)(hidden))
    with pytest.raises(UsageError, match=r"used once\. Received: twice, used 2 times"):
        dead_units(shared, digits(1))
    with pytest.raises(UsageError, match=r"at least one image. Received: x of shape \(0, 8, 8, 1\)"):
        dead_units(lenet(), digits(0))
