"""Passes through the classifier inside an attack's loop, kept fast."""

from collections.abc import Callable

import tensorflow as tf

from advtf import runtime


def isolated(passes: Callable) -> Callable:
    """Makes a function of its own of the passes that a traced attack repeats in its loop.

    On a CPU TensorFlow replaces kernels by oneDNN's node by node, in an order that the cycle of a loop can
    turn around. The gradient of max pooling then keeps its own kernel, in some traces and not in others: the
    bits are the same, but a LeNet's iteration takes a third longer. In a function there is no cycle.

    Args:
        passes: tensors -> tensors; builds the forward and backward pass.

    Returns:
        A function of the same arguments. It is `passes` itself in eager execution; and while graphs are
        rewritten to bfloat16, which rounds at other places in a function of its own.
    """

    def call(*tensors):
        if tf.executing_eagerly() or runtime.rewrites_to_bfloat16():
            return passes(*tensors)
        return function(*tensors)

    function = tf.function(passes, autograph=False, experimental_attributes={"_noinline": True})
    return call
