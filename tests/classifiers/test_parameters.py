"""The flat vector of weights: round trips, restored bits, layers' blocks, directions by definition."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from advtf.classifiers.parameters import Parameters, filter_normalised, unit_direction
from advtf.errors import UsageError
from advtf.models import build


def small():
    return Parameters(
        [
            tf.Variable([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], name="dense/kernel"),
            tf.Variable([7.0, 8.0, 9.0], name="dense/bias"),
            tf.Variable(10.0, name="scale"),
        ]
    )


def test_vector_of_all_weights_in_order():
    parameters = small()
    assert (parameters.size, parameters.dtype) == (10, tf.float32)
    assert parameters.names == ("dense/kernel", "dense/bias", "scale")
    np.testing.assert_array_equal(parameters.value(), np.arange(1, 11, dtype=np.float32))
    parameters.assign(np.arange(10))
    np.testing.assert_array_equal(parameters.variables[0], [[0, 1, 2], [3, 4, 5]])
    assert parameters.variables[2].numpy() == 9
    parameters.value()[:] = -1  # a copy
    assert parameters.variables[2].numpy() == 9


def test_keras_model_has_the_names_and_values_of_its_layers():
    model = build("lenet", (8, 8, 1), 3, width=1)
    parameters = Parameters(model.trainable_variables)
    assert parameters.names == tuple(v.path for v in model.trainable_variables)
    assert parameters.size == model.count_params()
    blocks = parameters.blocks()
    assert list(blocks) == ["conv1", "conv2", "dense", "logits"]
    assert blocks["conv1"] == slice(0, 25 * 2 + 2)
    for name, block in blocks.items():
        weights = np.concatenate([w.ravel() for w in model.get_layer(name).get_weights()])
        np.testing.assert_array_equal(parameters.value()[block], weights)


@pytest.mark.parametrize("graph", [False, True])
def test_split_and_flatten_are_inverse(graph):
    parameters = small()
    vector = tf.range(10.0)

    def both(v):
        parts = parameters.split(v)
        return parts, parameters.flatten(parts)

    parts, back = (tf.function(both) if graph else both)(vector)
    assert [tuple(part.shape) for part in parts] == [(2, 3), (3,), ()]
    np.testing.assert_array_equal(parts[1], [6, 7, 8])
    np.testing.assert_array_equal(back, vector)


def test_flatten_takes_gradients_as_a_tape_gives_them():
    parameters = small()
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(tf.gather(parameters.variables[0], [1, 1])) + 3 * parameters.variables[2]
    gradients = tape.gradient(value, parameters.variables)
    assert isinstance(gradients[0], tf.IndexedSlices) and gradients[1] is None
    np.testing.assert_array_equal(parameters.flatten(gradients), [0, 0, 0, 2, 2, 2, 0, 0, 0, 3])


def test_weights_come_back_bit_for_bit_after_an_error():
    parameters = small()
    parameters.variables[1].assign([np.nan, -0.0, 1e-45])
    before = parameters.value().tobytes()
    with pytest.raises(RuntimeError, match="stop"), parameters.at(np.zeros(10)):
        assert not parameters.value().any()
        raise RuntimeError("stop")
    assert parameters.value().tobytes() == before
    with pytest.raises(UsageError, match=r"\(10,\)"), parameters.at(np.zeros(9)):
        pass
    assert parameters.value().tobytes() == before


def test_blocks_without_layer_names_and_with_the_same_name_twice():
    names = ["a/kernel", "a/bias", "Variable", "a/kernel", "Variable", "deep/er/kernel"]
    parameters = Parameters([tf.Variable([0.0, 0.0], name=name) for name in names])
    ends = {"a": (0, 4), "Variable": (4, 6), "a#2": (6, 8), "Variable#2": (8, 10), "deep/er": (10, 12)}
    assert parameters.blocks() == {name: slice(*end) for name, end in ends.items()}


@pytest.mark.parametrize(
    ("variables", "received"),
    [
        ([], "no variable"),
        ([tf.Variable([1])], "int32"),
        ([tf.Variable([1.0]), tf.Variable([1.0], dtype=tf.float64)], "float32, float64"),
    ],
)
def test_one_float_dtype_is_required(variables, received):
    with pytest.raises(UsageError, match=f"one float dtype. Received: {received}"):
        Parameters(variables)


def test_unit_direction_is_uniform_on_the_sphere():
    parameters = Parameters(
        [tf.Variable(tf.zeros((50, 60), tf.float64)), tf.Variable(tf.zeros(7, tf.float64))]
    )
    direction = unit_direction(parameters, 3)
    assert direction.dtype == np.float64 and np.linalg.norm(direction) == pytest.approx(1, abs=1e-14)
    assert np.array_equal(direction, unit_direction(parameters, 3))
    other = unit_direction(parameters, 4)
    assert abs(direction @ other) < 5 / np.sqrt(3007)  # standard deviation 1/√P
    fourth_moment = np.mean((direction * np.sqrt(3007)) ** 4)  # 3 of a Gaussian, error √(96/P)
    assert fourth_moment == pytest.approx(3, abs=5 * np.sqrt(96 / 3007))
    with pytest.raises(UsageError, match="seed"):
        unit_direction(parameters, -1)


def test_filter_normalisation_by_its_definition():
    rng = np.random.default_rng(0)
    convolution, dense, bias = rng.normal(size=(3, 3, 2, 4)), rng.normal(size=(5, 3)), rng.normal(size=3)
    convolution[..., 1] = 0
    variables = [tf.Variable(values) for values in (convolution, dense, bias)]
    parameters = Parameters(variables)
    direction = rng.normal(size=parameters.size)
    direction[72::3] = 0  # the dense layer's first unit: no direction to scale
    parts = [part.numpy() for part in parameters.split(filter_normalised(parameters, direction))]
    original = [part.numpy() for part in parameters.split(direction)]
    for filter_index in range(4):
        kernel = original[0][..., filter_index]
        scale = np.linalg.norm(convolution[..., filter_index]) / np.linalg.norm(kernel)
        np.testing.assert_allclose(parts[0][..., filter_index], scale * kernel, rtol=1e-12)
    for unit in range(1, 3):
        column = original[1][:, unit]
        expected = column / np.linalg.norm(column) * np.linalg.norm(dense[:, unit])
        np.testing.assert_allclose(parts[1][:, unit], expected, rtol=1e-12)
    assert not parts[1][:, 0].any() and not parts[2].any()


def test_float64_variables_of_keras():
    variable = keras.Variable(np.ones(2), dtype="float64", name="w")
    parameters = Parameters([variable])
    parameters.assign([1.0, 1 + 1e-15])
    assert parameters.value()[1] == 1 + 1e-15 and parameters.value().dtype == np.float64
