"""Passes in a function of their own: the same values, one trace, the fast kernels, errors as they are."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.attack import Linear, digits_network, seed

from advtf.attacks.apgd import apgd
from advtf.attacks.passes import isolated
from advtf.attacks.pgd import input_gradient, pgd
from advtf.errors import UsageError
from advtf.runtime import bfloat16_rewrite


def calls_in(traced, *arguments):
    """Types of the nodes that call a function, in a trace and in the bodies of its loops."""
    graph = traced.get_concrete_function(*arguments).graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return [node.op for node in nodes if "PartitionedCall" in node.op]


def test_eagerly_it_is_the_function_itself():
    seen = []

    def passes(x):
        seen.append(x.numpy())  # has no value in a graph
        return 2.0 * x

    call = isolated(passes)
    assert [float(call(tf.constant(v))) for v in (1.0, 2.0)] == [2.0, 4.0] and seen == [1.0, 2.0]


def test_in_a_loop_the_passes_are_one_function_traced_once():
    traces = []

    @tf.function(input_signature=[tf.TensorSpec([None]), tf.TensorSpec([None])])
    def run(x, slope):
        def passes(point):
            traces.append(1)
            return slope * point, point + 1.0  # `slope` belongs to the graph around the loop

        call = isolated(passes)
        return tf.while_loop(lambda i, _: i < 3, lambda i, p: (i + 1, tf.add_n(call(p))), (0, x))[1]

    x, slope = np.float32([0, 1, -2]), np.float32([1, 0.5, 2])
    expected = x
    for _ in range(3):
        expected = slope * expected + expected + 1
    np.testing.assert_allclose(run(x, slope), expected, rtol=1e-6)
    np.testing.assert_allclose(run(x[:2], slope[:2]), expected[:2], rtol=1e-6)
    assert len(traces) == 1


@pytest.mark.parametrize("attack", [pgd(steps=3), apgd(steps=3)])
def test_attacks_call_their_passes_unless_graphs_are_rewritten(attack):
    model = Linear(classes=4)
    x, y = model.batch(5)

    def run(x):
        return attack(model, x, y, 0.1, seed())

    called, inlined = tf.function(run), tf.function(run)
    assert calls_in(called, tf.constant(x))
    with bfloat16_rewrite(True):
        assert not calls_in(inlined, tf.constant(x))
    np.testing.assert_array_equal(called(tf.constant(x)), inlined(tf.constant(x)))


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
