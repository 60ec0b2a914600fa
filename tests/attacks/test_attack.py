"""Input gradients in closed form; gradient passes in a function of their own: the same values, one trace, the
fast kernels, errors as they are."""

import sys

import numpy as np
import pytest
import tensorflow as tf
from helpers.attack import Linear, digits_network, seed

from advtf.attacks.apgd import apgd
from advtf.attacks.attack import input_gradient, isolated
from advtf.attacks.pgd import pgd
from advtf.errors import UsageError


def test_input_gradient_of_a_linear_model():
    model = Linear()
    x, y = model.batch(5)
    got = input_gradient(model, tf.constant(x), tf.constant(y))
    np.testing.assert_allclose(got, model.gradient(x, y), rtol=1e-4, atol=1e-6)


def test_eagerly_it_is_the_function_itself():
    seen = []

    def gradient_pass(x):
        seen.append(x.numpy())  # has no value in a graph
        return 2.0 * x

    call = isolated(gradient_pass)
    assert [float(call(tf.constant(v))) for v in (1.0, 2.0)] == [2.0, 4.0] and seen == [1.0, 2.0]


def test_in_a_loop_the_pass_is_one_function_traced_once():
    traces = []

    @tf.function(input_signature=[tf.TensorSpec([None]), tf.TensorSpec([None])])
    def run(x, slope):
        def gradient_pass(point):
            traces.append(1)
            return slope * point, point + 1.0  # `slope` belongs to the graph around the loop

        call = isolated(gradient_pass)
        return tf.while_loop(lambda i, _: i < 3, lambda i, p: (i + 1, tf.add_n(call(p))), (0, x))[1]

    x, slope = np.float32([0, 1, -2]), np.float32([1, 0.5, 2])
    expected = x
    for _ in range(3):
        expected = slope * expected + expected + 1
    np.testing.assert_allclose(run(x, slope), expected, rtol=1e-6)
    np.testing.assert_allclose(run(x[:2], slope[:2]), expected[:2], rtol=1e-6)
    assert len(traces) == 1


@pytest.mark.parametrize("attack", [pgd(steps=3), apgd(steps=3)])
def test_a_function_of_its_own_changes_no_bits(attack, monkeypatch):
    model = Linear(classes=4)
    x, y = model.batch(5)

    def traced():
        return tf.function(lambda x: attack(model, x, y, 0.1, seed()))(tf.constant(x))

    isolated_pass = traced()
    for module in (sys.modules["advtf.attacks.pgd"], sys.modules["advtf.attacks.apgd"]):
        monkeypatch.setattr(module, "isolated", lambda gradient_pass: gradient_pass)
    np.testing.assert_array_equal(isolated_pass, traced())


def test_a_usage_error_stays_one():
    def refused(x):
        raise UsageError("x must be something else. Received: x.")

    with pytest.raises(UsageError, match="something else"):
        tf.function(lambda x: isolated(refused)(x), autograph=False)(tf.constant(1.0))


@pytest.mark.slow
def test_every_trace_has_the_kernels_of_the_bare_gradient(tmp_path):
    network, x, y = digits_network()
    x, y = tf.constant(x), tf.constant(y)
    bare = pooling_kernels(tf.function(lambda: input_gradient(network, x, y)), tmp_path / "bare")
    assert len(bare) == 1
    for number in range(8):
        attack = tf.function(lambda: pgd(steps=2)(network, x, y, 0.1, seed()))
        assert pooling_kernels(attack, tmp_path / f"{number}") == bare


def pooling_kernels(run, folder):
    """Names of the kernels that computed gradients of max pooling, as TensorFlow's profiler saw them."""
    xplane = pytest.importorskip("tensorflow.tsl.profiler.protobuf.xplane_pb2")
    run()
    tf.profiler.experimental.start(str(folder))
    run()
    tf.profiler.experimental.stop()
    (file,) = folder.rglob("*.xplane.pb")
    space = xplane.XSpace.FromString(file.read_bytes())
    names = {meta.name for plane in space.planes for meta in plane.event_metadata.values()}
    return {name.split(":")[-1] for name in names if "MaxPoolGrad" in name.split(":")[-1]}
