"""A function taken apart against the function itself: its operations, what is kept, and its variables."""

import numpy as np
import tensorflow as tf

from advtf.landscape.linear_part import LinearPart


def spec(*shape):
    return tf.TensorSpec(shape, tf.float32)


def random(*shape, seed=0):
    return tf.constant(np.random.default_rng(seed).standard_normal(shape), tf.float32)


def test_equals_the_function_in_every_direction_and_at_every_point():
    weight = tf.Variable(random(3, 4))

    def function(x, scale, direction, total):
        h = tf.tanh(x @ weight)
        return [total + scale * (1 - h**2) * (direction @ weight), 0 * h, direction]

    part = LinearPart(function, (spec(None, 3), spec()), (spec(None, 3), spec(None, 4)))
    for point in ((random(5, 3), tf.constant(2.0)), (random(2, 3, seed=1), tf.constant(0.5))):
        kept, size = part.at(*point), len(point[0])
        for seed in (2, 3):
            directions = random(size, 3, seed=seed), random(size, 4, seed=seed)
            expected = function(*point, *directions)
            for found, wanted in zip(part(kept, *directions), expected, strict=True):
                np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
    assert [variable.ref() for variable in part.variables()] == [weight.ref()]


def test_what_does_not_depend_on_the_direction_is_computed_at_the_point_only():
    calls = {"point": 0, "direction": 0}

    def counted(name, value):
        def count(array):
            calls[name] += 1
            return array

        return tf.ensure_shape(tf.numpy_function(count, [value], tf.float32), value.shape)

    part = LinearPart(
        lambda x, v: [counted("direction", v) * counted("point", tf.exp(x))], (spec(4),), (spec(4),)
    )
    x, v = random(4), random(4, seed=1)
    kept = part.at(x)
    assert calls == {"point": 1, "direction": 0} and len(kept) == 1
    for _ in range(3):
        (found,) = part(kept, v)
    np.testing.assert_allclose(found, np.exp(x) * v, rtol=1e-6)
    assert calls == {"point": 1, "direction": 3}


def test_zeros_leave_a_sum_and_nothing_useless_is_kept():
    """Large tensors that only shapes are taken of, or that only a gradient nobody asked for needs."""

    def function(x, v):
        large, useless = tf.exp(tf.tile(x, [100])), tf.sin(x)
        _ = useless * v
        return [tf.add_n([tf.zeros_like(x), v, tf.zeros_like(x)]) * tf.cast(tf.shape(large)[0], tf.float32)]

    part = LinearPart(function, (spec(None),), (spec(None),))
    x, v = random(6), random(6, seed=1)
    kept = part.at(x)
    assert max(tf.size(tensor) for tensor in kept) <= 6
    np.testing.assert_allclose(part(kept, v)[0], 600 * v.numpy(), rtol=1e-6)
    only = LinearPart(
        lambda x, v: [tf.add_n([tf.zeros_like(v), tf.zeros_like(v)])], (spec(None),), (spec(None),)
    )
    assert np.array_equal(only(only.at(x), v)[0], np.zeros(6))


def test_traced_once_and_not_before_it_is_needed():
    traces = []

    def function(x, v):
        traces.append(x)
        return [x * v]

    part = LinearPart(function, (spec(None),), (spec(None),))
    assert not traces
    for size in (2, 3):
        part(part.at(random(size)), random(size))
    assert len(traces) == 1
