"""The layers of all architectures, with PyTorch's conventions: initialisation, padding, BatchNorm."""

import dataclasses
import math
import zlib

import keras
import tensorflow as tf

from advtf.errors import UsageError

LEAKY_SLOPE = 0.01  # PyTorch's; Keras has 0.2


@keras.saving.register_keras_serializable("advtf")
class FanInUniform(keras.initializers.Initializer):
    """PyTorch's default initialiser of convolution and dense layers: U(-1/√fan_in, 1/√fan_in).

    Kernels and biases share it, so the fan-in is given and not read from the shape.

    Args:
        fan_in: number of inputs of one output unit.
        seed: two integers; the values depend on them and the shape only, not on any global generator.
    """

    def __init__(self, fan_in: int, seed: tuple[int, int]):
        self.fan_in = int(fan_in)
        self.seed = tuple(int(part) for part in seed)

    def __call__(self, shape, dtype=None):
        bound = 1 / math.sqrt(self.fan_in)
        values = tf.random.stateless_uniform(shape, self.seed, -bound, bound, tf.float32, alg="philox")
        return tf.cast(values, dtype or keras.config.floatx())

    def get_config(self):
        return {"fan_in": self.fan_in, "seed": self.seed}


@keras.saving.register_keras_serializable("advtf")
class BatchNormalization(keras.layers.BatchNormalization):
    """BatchNorm over the last axis as in PyTorch, with exact derivatives of every order.

    Training mode normalises with the batch mean and the biased variance Σ(x−μ)²/n, and moves the running
    statistics by 1 − `momentum` towards μ and the unbiased variance Σ(x−μ)²/(n−1). Keras itself keeps the
    biased one, and its variance hides a stop_gradient that makes second derivatives wrong. Inference mode is
    one multiplication and one addition per element. Statistics are computed in float32 at least.

    Training mode on images takes TensorFlow's fused kernel where it can. An update of a ResNet18 takes a
    third less time with it on a CPU than with sums and products of its own, which float64 and moments over
    several replicas need.

    Args:
        momentum: share of the old running statistics kept at each step; PyTorch's 0.1 is 0.9 here.
        epsilon: added to the variance.
        **kwargs: as in `keras.layers.BatchNormalization`; `synchronized=True` takes the moments, and n, over
            all replicas of a tf.distribute strategy.

    Raises:
        UsageError: `axis` other than -1, `renorm`, or `center` or `scale` switched off.
    """

    def __init__(self, momentum: float = 0.9, epsilon: float = 1e-5, **kwargs):
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)
        if self.axis != -1 or self.renorm or not (self.center and self.scale):
            raise UsageError(
                "BatchNormalization needs axis=-1, renorm=False, center=True and scale=True. "
                f"Received: axis={self.axis}, renorm={self.renorm}, center={self.center}, scale={self.scale}."
            )

    def call(self, inputs, training=None):
        x = inputs
        in_training = bool(training and self.trainable)
        if in_training and self._has_kernel(x):
            outputs, mean, variance = self._fused(x)
            self._move_towards(mean, variance)
            return tf.cast(outputs, self.compute_dtype)
        x = tf.cast(x, keras.backend.result_type(x.dtype, "float32"))
        if in_training:
            mean, variance, count = self._batch_moments(x)
            self._move_towards(mean, variance * count / tf.maximum(count - 1, 1))
            outputs = tf.nn.bias_add((x - mean) * self._scale(variance), tf.cast(self.beta, x.dtype))
        else:
            scale = self._scale(tf.cast(self.moving_variance, x.dtype))
            shift = tf.cast(self.beta, x.dtype) - tf.cast(self.moving_mean, x.dtype) * scale
            outputs = tf.nn.bias_add(x * scale, shift)  # up to a tenth faster on the CPU than a broadcast +
        return tf.cast(outputs, self.compute_dtype)

    def _has_kernel(self, x):
        """Returns whether TensorFlow normalises these activations in one kernel, which knows one replica."""
        return x.shape.rank == 4 and x.dtype != tf.float64 and not self._across_replicas()

    def _fused(self, x):
        """Returns the normalised activations, their mean (C,) and their unbiased variance (C,)."""
        # The public function raises ϵ to 1.001e-5, for a cuDNN of long ago.
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=tf.cast(self.gamma, tf.float32),
            offset=tf.cast(self.beta, tf.float32),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        return outputs, mean, variance

    def _across_replicas(self):
        replica = tf.distribute.get_replica_context()
        return self.synchronized and replica is not None and replica.num_replicas_in_sync > 1

    def _scale(self, variance):
        return tf.cast(self.gamma, variance.dtype) * tf.math.rsqrt(variance + self.epsilon)

    def _batch_moments(self, x):
        """Returns mean (C,), biased variance (C,) and count (a scalar), over all replicas if synchronized."""
        axes = list(range(x.shape.rank - 1))
        count = tf.cast(tf.reduce_prod(tf.shape(x)[:-1]), x.dtype)
        total, count = self._over_replicas(tf.reduce_sum(x, axes), count)
        mean = total / count
        # Two passes: Σx²/n − μ², which needs one, loses the variance of a channel far from zero.
        squares, _ = self._over_replicas(tf.reduce_sum(tf.square(x - mean), axes), count)
        return mean, squares / count, count

    def _over_replicas(self, total, count):
        """Returns the sums of both over the replicas, in one all-reduce; unchanged where there is one."""
        if not self._across_replicas():
            return total, count
        replica = tf.distribute.get_replica_context()
        both = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.concat([total, count[None]], 0))
        return both[:-1], both[-1]

    def _move_towards(self, mean, variance):
        for running, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            old = tf.cast(running, new.dtype)
            running.assign(old * self.momentum + new * (1 - self.momentum))


@keras.saving.register_keras_serializable("advtf")
class RepeatedBorder2D(keras.layers.Layer):
    """Repeats the first and last rows and columns: (B, H, W, C) -> (B, H + 2, W + 2, C).

    Maxima over 3×3 pixels are then those of PyTorch, which pads by −∞: every such window that reaches the
    border holds the repeated pixel itself. Zeros would only do behind activations that are never negative.
    """

    def call(self, inputs):
        return tf.pad(inputs, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC")

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return batch, height + 2, width + 2, channels


@dataclasses.dataclass(frozen=True)
class Layers:
    """Adds layers to a functional model; what all layers of one network share is set once.

    The initial weights of a layer depend on `seed` and the layer's name, and on nothing else.

    Attributes:
        activation: the name of the activation function.
        seed: the seed of the initial weights.
        synchronized: whether BatchNorm takes its moments over all replicas.
    """

    activation: str = "relu"
    seed: int = 0
    synchronized: bool = False

    def image(self, shape: tuple[int, int, int]) -> keras.KerasTensor:
        """Starts a network: an input "image" of shape (B,) + `shape`, float32 unless Keras is in float64."""
        return keras.Input(shape, dtype=keras.config.dtype_policy().variable_dtype, name="image")

    def conv(self, x, filters: int, size: int, name: str, *, stride: int = 1, bias: bool = False):
        """Adds a convolution with an odd kernel, padded by (size − 1)/2 zeros on each side."""
        if size == 1 and stride > 1:
            x, stride = self.subsample(x, stride, f"{name}_subsample"), 1
        padding = "same"
        if stride > 1:  # "same" pads an even image on the right and below only
            padding = "valid"
            x = self.pad(x, size // 2, f"{name}_pad")
        fan_in = size * size * x.shape[-1]
        return keras.layers.Conv2D(
            filters,
            size,
            strides=stride,
            padding=padding,
            use_bias=bias,
            kernel_initializer=self._initializer(fan_in, f"{name}/kernel"),
            bias_initializer=self._initializer(fan_in, f"{name}/bias"),
            name=name,
        )(x)

    def pad(self, x, amount: int, name: str):
        """Adds `amount` rows and columns of zeros on every side."""
        return keras.layers.ZeroPadding2D(amount, name=name)(x) if amount else x

    def subsample(self, x, stride: int, name: str):
        """Keeps every `stride`-th row and column: (B, H, W, C) -> (B, ⌈H/stride⌉, ⌈W/stride⌉, C).

        A 1×1 convolution of stride 1 behind it has the numbers of one that strides itself, whose filter
        gradient corrupts memory with fewer than 16 input channels (TensorFlow 2.21 with oneDNN). Averages
        over one pixel are exact, and their gradient takes half the time of that of a slice on a CPU.
        """
        return keras.layers.AveragePooling2D(1, strides=stride, name=name)(x)

    def batch_norm(self, x, name: str):
        """Adds BatchNorm."""
        return BatchNormalization(synchronized=self.synchronized, name=name)(x)

    def activate(self, x, name: str):
        """Adds the network's activation function."""
        if self.activation == "leaky_relu":
            return keras.layers.LeakyReLU(LEAKY_SLOPE, name=name)(x)
        return keras.layers.Activation(self.activation, name=name)(x)

    def norm_activate(self, x, name: str):
        """Adds BatchNorm `<name>_bn` and the activation `<name>_act`."""
        return self.activate(self.batch_norm(x, f"{name}_bn"), f"{name}_act")

    def max_pool(self, x, name: str):
        """Halves height and width by 2×2 maxima; an odd last row or column is dropped."""
        return keras.layers.MaxPooling2D(2, name=name)(x)

    def overlapping_max_pool(self, x, name: str):
        """Takes the maxima of 3×3 pixels around every second pixel: (B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, C)."""
        x = RepeatedBorder2D(name=f"{name}_border")(x)
        return keras.layers.MaxPooling2D(3, strides=2, name=name)(x)

    def global_average(self, x):
        """Averages over height and width: (B, H, W, C) -> (B, C)."""
        return keras.layers.GlobalAveragePooling2D(name="pool")(x)

    def flatten(self, x):
        """Flattens each image: (B, H, W, C) -> (B, H·W·C)."""
        return keras.layers.Flatten(name="flatten")(x)

    def add(self, x, shortcut, name: str):
        """Adds two branches of equal shape."""
        return keras.layers.Add(name=name)([x, shortcut])

    def dense(self, x, units: int, name: str, *, dtype: str | None = None):
        """Adds a fully connected layer with bias."""
        return keras.layers.Dense(
            units,
            kernel_initializer=self._initializer(x.shape[-1], f"{name}/kernel"),
            bias_initializer=self._initializer(x.shape[-1], f"{name}/bias"),
            dtype=dtype,
            name=name,
        )(x)

    def logits(self, x, num_classes: int):
        """Ends a network: a dense layer "logits" that stays in float32 under mixed precision."""
        return self.dense(x, num_classes, "logits", dtype=keras.config.dtype_policy().variable_dtype)

    def _initializer(self, fan_in: int, name: str) -> FanInUniform:
        return FanInUniform(fan_in, (self.seed, zlib.crc32(name.encode())))
