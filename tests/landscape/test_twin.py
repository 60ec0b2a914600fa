"""Softplus twins against models built with softplus and against NumPy."""

import keras
import numpy as np
import pytest

from advtf.classifiers.classifier import as_classifier
from advtf.classifiers.export import export_classifier
from advtf.errors import UsageError
from advtf.landscape.twin import softplus_twin, twin_classifier
from advtf.models import build

SHAPE = (8, 8, 1)


def images(n=4, shape=SHAPE):
    return np.random.default_rng(0).random((n, *shape), np.float32)


def shaken(model):
    """Every variable moved, running statistics too."""
    rng = np.random.default_rng(1)
    for variable in model.weights:
        variable.assign(variable + rng.uniform(-0.5, 0.5, variable.shape))
    return model


@pytest.mark.parametrize(("name", "size"), [("lenet", {}), ("wide_resnet", {"depth": 10}), ("mlp", {})])
def test_models_of_this_package_become_those_built_with_softplus(name, size):
    model = shaken(build(name, SHAPE, 5, width=1, **size))
    before, logits = model.get_weights(), model(images()).numpy()
    twin = softplus_twin(model)
    wanted = build(name, SHAPE, 5, width=1, activation="softplus", seed=3, **size)
    wanted.set_weights(before)
    np.testing.assert_array_equal(twin(images()), wanted(images()))
    assert [weight.path for weight in twin.weights] == [weight.path for weight in model.weights]
    np.testing.assert_array_equal(model(images()), logits)
    assert np.abs(twin(images()) - logits).max() > 0.01
    twin.weights[0].assign(0 * twin.weights[0])
    np.testing.assert_array_equal(model.weights[0], before[0])  # copies


def softplus(x):
    return np.log1p(np.exp(x))


def dense(layer, x):
    kernel, bias = layer.get_weights()
    return x @ kernel + bias


def test_every_way_to_write_a_relu():
    """A layer, activation arguments of two kinds, an operation, and one inside a nested model."""
    nested = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, "relu", name="inner")], name="nested")
    image = keras.Input((2, 2, 1))
    x = keras.layers.Dense(4, keras.activations.relu, name="a")(keras.layers.Flatten()(image))
    x = keras.layers.ReLU()(keras.layers.Dense(4, name="b")(x))
    x = keras.layers.Dense(4, keras.layers.ReLU(), name="c")(nested(x))
    x = keras.ops.relu(keras.layers.Dense(4, name="d")(x))
    model = shaken(keras.Model(image, keras.layers.Dense(3, name="logits")(x)))
    inner = model.get_layer("nested").get_layer("inner")
    layers = [model.get_layer("a"), model.get_layer("b"), inner, *map(model.get_layer, "cd")]
    expected = images(3, (2, 2, 1)).reshape(3, -1)
    for layer in layers:
        expected = softplus(dense(layer, expected))
    expected = dense(model.get_layer("logits"), expected)
    np.testing.assert_allclose(softplus_twin(model)(images(3, (2, 2, 1))), expected, rtol=1e-5, atol=1e-6)


def test_sequential_models_and_what_is_no_plain_relu():
    model = keras.Sequential(
        [
            keras.Input((2, 2, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(4, "relu", name="first"),
            keras.layers.ReLU(max_value=1.0, name="clipped"),
            keras.layers.LeakyReLU(name="leaky"),
            keras.layers.Dense(3, "tanh", name="last"),
        ]
    )
    twin = softplus_twin(model)
    assert isinstance(twin.get_layer("clipped"), keras.layers.ReLU)
    assert isinstance(twin.get_layer("leaky"), keras.layers.LeakyReLU)
    hidden = softplus(dense(model.get_layer("first"), images(3, (2, 2, 1)).reshape(3, -1)))
    expected = np.tanh(dense(model.get_layer("last"), np.minimum(hidden, 1)))
    np.testing.assert_allclose(twin(images(3, (2, 2, 1))), expected, rtol=1e-5, atol=1e-6)


def test_models_without_relus_or_of_unknown_layers_are_refused():
    with pytest.raises(UsageError, match=r"model with ReLUs\. Received: mlp"):
        softplus_twin(build("mlp", SHAPE, 5, activation="softplus"))
    with pytest.raises(UsageError, match=r"model with ReLUs\. Received: linear"):
        softplus_twin(build("linear", SHAPE, 5))

    class Own(keras.Model):
        def call(self, x):
            return keras.ops.relu(x)

    with pytest.raises(UsageError, match="functional or sequential"):
        softplus_twin(Own())


def test_twin_of_a_classifier(tmp_path):
    model = shaken(build("mlp", SHAPE, 5, width=1))
    config = {"model": "mlp", "width": 1, "dataset": "digits"}
    path = export_classifier(model, tmp_path / "m", sample=images(), metadata={"config": config})
    classifier = as_classifier(path, movable=True)
    twin = twin_classifier(classifier)
    assert (twin.name, twin.config) == (f"{classifier.name} (softplus)", classifier.config)
    assert np.array_equal(twin.parameters.value(), classifier.parameters.value())
    np.testing.assert_allclose(twin.logits_fn(images()), softplus_twin(model)(images()), rtol=1e-5, atol=1e-6)
    foreign = as_classifier(export_classifier(model, tmp_path / "f", sample=images()), movable=True)
    with pytest.raises(UsageError, match="layers are known"):
        twin_classifier(foreign)
