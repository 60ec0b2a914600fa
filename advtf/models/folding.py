"""The classifier as an attack sees it: constant weights, with BatchNorm folded into the kernels before it.

During an attack the weights and the running statistics of BatchNorm are constants, so that BatchNorm in
inference mode behind a convolution k with bias b is a part of that convolution:

    γ (k ∗ x + b − μ) / √(σ² + ϵ) + β  =  (s k) ∗ x + s (b − μ) + β    with s = γ / √(σ² + ϵ).

The same holds behind a dense layer. `folded` multiplies the kernels once, outside the loop of an attack. It
leaves the rest of the network as it is, in the dtypes that its layers compute in.
"""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops
from keras.src.models.functional import Functional

from advtf.models.layers import BatchNormalization, RepeatedBorder2D

Run = Callable[..., Any]  # an operation of the graph on tensors, in inference mode

CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D)
KERNELS = (*CONVOLUTIONS, layers.Dense)
NORMS = (layers.BatchNormalization, BatchNormalization)
MERGES = (
    layers.Add,
    layers.Average,
    layers.Concatenate,
    layers.Maximum,
    layers.Minimum,
    layers.Multiply,
    layers.Subtract,
)
# These have no weights, and compute in the dtype of what they are given.
WITHOUT_WEIGHTS = (
    layers.Activation,
    layers.Cropping2D,
    layers.ELU,
    layers.Flatten,
    layers.GlobalMaxPooling2D,
    layers.LeakyReLU,
    layers.MaxPooling2D,
    layers.Permute,
    layers.ReLU,
    RepeatedBorder2D,
    layers.Reshape,
    layers.ZeroPadding2D,
)
# A LeNet w = 16 makes 14 million multiplications for an image 28×28, a ResNet18 w = 8 140 for one 32×32.
MANY_MULTIPLICATIONS = 50_000_000
# These do nothing in inference mode.
IDENTITIES = (
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.Dropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.SpatialDropout2D,
)


def folded(model: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a classifier in inference mode as a function of the images, for attacks.

    It equals ``model(x, training=False)`` up to rounding, and so do its gradients with respect to the images.
    No gradient with respect to the weights should be taken, because they are read once, now: call `folded`
    before the loop of an attack, in the graph of every step. Every layer computes in its `compute_dtype`, so
    a model of the policy "mixed_bfloat16" runs in bfloat16 from its first kernel to its last.

    Args:
        model: a functional or sequential model, whose graph is read. Any other one is called as it is.

    Returns:
        ``logits_fn``, images (B, H, W, C) in [0, 1] -> logits (B, K), float32, or float64 where the last
        layer is.
    """
    run = _as_it_is(model) if _graph(model) is None else _through(model)

    def logits_fn(x):
        logits = run(x)
        return tf.cast(logits, _at_least_float32(logits.dtype))

    return logits_fn


def in_halves(logits_fn: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the same function, which a graph computes for both halves of a batch at the same time.

    On a CPU of two cores no core then waits for the other at the end of each layer. That takes a tenth off
    the time of a ResNet18 (w = 8, batches of 128), and adds a tenth to that of a LeNet: `gains_from_halves`.
    Both halves have ⌈B/2⌉ images, so that neither is empty. Where B is odd the image in the middle is in
    both, and its logits are taken from the first.

    Args:
        logits_fn: images (B, H, W, C) -> logits (B, K), for which the rows of a batch are independent.
    """

    def both(x):
        count = tf.shape(x)[0]
        half = (count + 1) // 2
        first, second = logits_fn(x[:half]), logits_fn(x[count - half :])
        logits = tf.concat([first, second[2 * half - count :]], 0)
        return tf.ensure_shape(logits, [x.shape[0], None])

    return both


def gains_from_halves(model: keras.Model) -> bool:
    """Returns whether a training on this machine should attack both halves of a batch at the same time."""
    return not tf.config.list_logical_devices("GPU") and multiplications(model) >= MANY_MULTIPLICATIONS


def multiplications(model: keras.Model) -> int:
    """Returns the multiplications with kernels in a forward pass of one image; 0 where there is no graph."""
    graph = _graph(model)
    total = 0
    for node in _nodes(graph) if graph is not None else ():
        if isinstance(node.operation, keras.Model):
            total += multiplications(node.operation)
        elif _is_plain_kernel(node.operation):
            outputs = node.outputs[0].shape[1:]  # every one of them is reached by its part of the kernel
            total += math.prod(outputs) * math.prod(node.operation.kernel.shape) // outputs[-1]
    return total


def _graph(model):
    """Returns the functional model that holds the graph, from one input to one output; None without one."""
    graph = model
    if isinstance(model, keras.Sequential) and type(model).call is keras.Sequential.call:
        graph = model._functional
    if not isinstance(graph, Functional) or type(graph).call is not Functional.call:
        return None
    return graph if len(graph.inputs) == len(graph.outputs) == 1 else None


def _through(model) -> Run:
    """Returns the model in inference mode, without the checks and conversions of its input."""
    graph = _graph(model)
    nodes = _nodes(graph)
    norms = _norms_behind_kernels(graph, nodes)
    folded_in = {id(norm) for norm in norms.values()}
    run = {}
    for operation in {id(node.operation): node.operation for node in nodes}.values():
        key = id(operation)
        run[key] = _identity if key in folded_in else _runner(operation, norms.get(key))

    def through(x, **_):
        out = graph._run_through_graph(x, operation_fn=lambda operation: run[id(operation)])
        return tf.nest.flatten(out)[0]

    return through


def _nodes(graph):
    return [node for level in graph._nodes_by_depth.values() for node in level if not node.is_input]


def _norms_behind_kernels(graph, nodes):
    """Returns the BatchNorm to be folded by the identity of the layer with a kernel before it.

    Nothing else may use the result of that layer, and both layers must be used once.
    """
    uses = Counter(id(node.operation) for node in nodes)
    readers = Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
    readers.update(id(tensor) for tensor in graph.outputs)
    norms = {}
    for node in nodes:
        norm, tensor = node.operation, node.input_tensors[0]
        layer = tensor._keras_history.operation
        once = uses[id(layer)] == uses[id(norm)] == readers[id(tensor)] == 1
        if once and _has_last_axis(norm) and _takes_scale(layer):
            norms[id(layer)] = norm
    return norms


def _has_last_axis(norm):
    return type(norm) in NORMS and norm.axis in (-1, norm.input_spec.ndim - 1)


def _takes_scale(layer):
    linear = _is_plain_kernel(layer) and layer.activation is keras.activations.linear
    return linear and getattr(layer, "data_format", "channels_last") == "channels_last"


def _is_plain_kernel(layer):
    return type(layer) in KERNELS and getattr(layer, "quantization_mode", None) is None


def _runner(operation, norm) -> Run:
    """Returns what runs an operation of the graph, with its weights of now; `norm` is folded into them."""
    kind = type(operation)
    if _is_plain_kernel(operation):
        return _with_kernel(operation, norm)
    if _has_last_axis(operation):
        return _scaled(operation)
    if isinstance(operation, keras.Model) and _graph(operation) is not None:
        return _through(operation)
    if kind in IDENTITIES:
        return _identity
    # An average over one pixel, with which our networks skip rows and columns, rounds nothing.
    if kind in WITHOUT_WEIGHTS or (kind is layers.AveragePooling2D and set(operation.pool_size) == {1}):
        return lambda x, **_: operation.call(x)
    if kind in MERGES:
        dtype = operation.compute_dtype
        return lambda tensors, **_: operation.call([tf.cast(tensor, dtype) for tensor in tensors])
    if kind in (layers.AveragePooling2D, layers.GlobalAveragePooling2D):
        # A sum of many terms would keep only the eight bits of bfloat16.
        return lambda x, **_: operation.call(tf.cast(x, _at_least_float32(x.dtype)))
    return _as_it_is(operation)


def _identity(x, **_):
    return x


def _at_least_float32(dtype):
    return tf.float64 if dtype == tf.float64 else tf.float32


def _scale_and_shift(norm):
    """Returns s and β − s μ of inference-mode BatchNorm, (C,) each."""
    dtype = _at_least_float32(tf.as_dtype(norm.variable_dtype))
    scale = tf.math.rsqrt(tf.cast(norm.moving_variance, dtype) + norm.epsilon)
    if norm.scale:
        scale *= tf.cast(norm.gamma, dtype)
    shift = -tf.cast(norm.moving_mean, dtype) * scale
    return scale, shift + tf.cast(norm.beta, dtype) if norm.center else shift


def _scaled(norm) -> Run:
    dtype = tf.as_dtype(norm.compute_dtype)
    scale, shift = (tf.cast(part, dtype) for part in _scale_and_shift(norm))
    return lambda x, **_: tf.nn.bias_add(tf.cast(x, dtype) * scale, shift)


def _with_kernel(layer, norm) -> Run:
    """Returns a convolution or a dense layer, with the BatchNorm behind it if there is one."""
    kernel = tf.convert_to_tensor(layer.kernel)
    bias = tf.convert_to_tensor(layer.bias) if layer.use_bias else None
    depthwise = isinstance(layer, layers.DepthwiseConv2D)
    if norm is not None:
        scale, shift = _scale_and_shift(norm)
        kernel = kernel * (tf.reshape(scale, kernel.shape[2:]) if depthwise else scale)
        bias = shift if bias is None else bias * scale + shift
    dtype = tf.as_dtype(layer.compute_dtype)
    kernel, bias = tf.cast(kernel, dtype), None if bias is None else tf.cast(bias, dtype)
    channels_first = getattr(layer, "data_format", None) == "channels_first"
    if _sees_grey_blocks(layer):
        convolve = _convolution_of_grey_images(kernel)
        return lambda x, **_: layer.activation(_plus(convolve(tf.cast(x, dtype)), bias, channels_first))

    def linear(x):
        if isinstance(layer, layers.Dense):
            return tf.matmul(x, kernel) if x.shape.rank == 2 else tf.tensordot(x, kernel, 1)
        convolve = ops.depthwise_conv if depthwise else ops.conv
        return convolve(x, kernel, layer.strides, layer.padding, layer.data_format, layer.dilation_rate)

    return lambda x, **_: layer.activation(_plus(linear(tf.cast(x, dtype)), bias, channels_first))


def _plus(x, bias, channels_first):
    if bias is None:
        return x
    return x + tf.reshape(bias, [1, -1, 1, 1]) if channels_first else tf.nn.bias_add(x, bias)


def _sees_grey_blocks(layer):
    """Returns whether a layer is a convolution of grey images that consist of 4×4 blocks, on a CPU."""
    if type(layer) is not layers.Conv2D or tf.config.list_logical_devices("GPU"):
        return False
    plain = layer.padding == "same" and layer.data_format == "channels_last" and layer.groups == 1
    plain = plain and set(layer.strides) == set(layer.dilation_rate) == {1}
    rows, columns, channels, _ = layer.kernel.shape
    sides = layer.input.shape[1:3] if len(layer._inbound_nodes) == 1 else (None,)
    return plain and channels == 1 and rows % 2 == columns % 2 == 1 and all(s and s % 4 == 0 for s in sides)


def _convolution_of_grey_images(kernel) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the convolution with a kernel (2p+1, 2q+1, 1, O) and zeros around; its gradient is in blocks.

    The gradient with respect to the image is a convolution again, with one output channel, for which
    oneDNN computes 16. Here these are the pixels of a block of 4×4, from one convolution of stride 4:

        dx[4i+a, 4j+b] = Σ_{s,t,o} dy[4i+s−p, 4j+t−q, o] k[a+2p−s, b+2q−t, o],    0 ≤ s < 4+2p, 0 ≤ t < 4+2q.

    An attack on a LeNet w = 16 takes a fifth less time with it.
    """
    turned = tf.transpose(kernel[::-1, ::-1], [0, 1, 3, 2])
    placed = [tf.pad(turned, [[a, 3 - a], [b, 3 - b], [0, 0], [0, 0]]) for a in range(4) for b in range(4)]
    blocks = tf.concat(placed, -1)  # (4+2p, 4+2q, O, 16)

    @tf.custom_gradient
    def convolve(x):
        def gradient(dy):
            return tf.nn.depth_to_space(tf.nn.conv2d(dy, blocks, 4, "SAME"), 4)

        return tf.nn.conv2d(x, kernel, 1, "SAME"), gradient

    return convolve


def _as_it_is(operation) -> Run:
    """Returns an operation that is not known here, in inference mode; layers convert dtypes by themselves."""
    has_mode = isinstance(operation, layers.Layer) and operation._call_has_training_arg
    return lambda *args, **kwargs: operation(*args, **(kwargs | ({"training": False} if has_mode else {})))
