"""What an attack is, and what every attack does alike: the interface, input gradients, fast gradient passes.

An `Attack` maps (logits_fn, x, y, epsilon, seed) to x_adv:

- `logits_fn`, a `LogitsFn`, maps images (B, H, W, C) in [0, 1] to logits (B, K);
- `x` is float32 (B, H, W, C) in [0, 1] and `y` holds integer labels (B,);
- `epsilon` is the radius of the ball in units of the image range, a scalar;
- `seed` is two integers, or (B, 2), two for each example, whose outcome then does not depend on its batch, or
  the five of `advtf.attacks.random.seed_of_rows` on a device that has a part of the batch;
- `x_adv` has the shape of `x`, lies in the ε-ball and in [0, 1], and carries no gradient.
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from advtf.attacks.losses import cross_entropy
from advtf.settings.threat import NEGLIGIBLE_EPSILON

LogitsFn = Callable[[tf.Tensor], tf.Tensor]
Attack = Callable[[LogitsFn, tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


def as_attack(perturb: Attack) -> Attack:
    """Completes a rule that perturbs images to an attack.

    Args:
        perturb: ``perturb(logits_fn, x, y, epsilon, seed) -> x_adv`` for float32 tensors.

    Returns:
        The same function, which also accepts arrays and Python numbers, returns `x` for ε below 1e-6, and
        lets no gradient through.
    """

    def attack(logits_fn, x, y, epsilon, seed):
        x, epsilon = tf.convert_to_tensor(x, tf.float32), tf.convert_to_tensor(epsilon, tf.float32)
        x_adv = tf.cond(
            epsilon < NEGLIGIBLE_EPSILON, lambda: x, lambda: perturb(logits_fn, x, y, epsilon, seed)
        )
        return tf.stop_gradient(x_adv)

    return attack


@keras.saving.register_keras_serializable("advtf")
def no_attack(logits_fn, x, y, epsilon, seed):
    """Returns `x` itself: the attack of a training without an adversary."""
    return x


def input_gradient(
    logits_fn: LogitsFn, x: tf.Tensor, y: tf.Tensor, loss: Callable = cross_entropy
) -> tf.Tensor:
    """Computes the gradient of each example's loss with respect to that example.

    The sum over the batch is differentiated, so a gradient does not depend on the batch size or on the
    number of replicas; only `x` is watched, so no weight gradients are computed.

    Args:
        logits_fn: (B, H, W, C) -> (B, K).
        x: float32 (B, H, W, C).
        y: int (B,).
        loss: ``loss(y, logits) -> (B,)``.

    Returns:
        float32, the shape of `x`.
    """
    return input_gradient_and_logits(logits_fn, x, y, loss)[0]


def input_gradient_and_logits(
    logits_fn: LogitsFn, x: tf.Tensor, y: tf.Tensor, loss: Callable = cross_entropy
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns what `input_gradient` does, and the logits (B, K) of its forward pass."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        logits = logits_fn(x)
        total = tf.reduce_sum(loss(y, logits))
    return tape.gradient(total, x), logits


def per_image(values: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Returns values (B,) in the shape (B, 1, ..., 1), which broadcasts against images `x`."""
    return tf.reshape(values, [-1] + [1] * (x.shape.rank - 1))


def isolated(gradient_pass: Callable) -> Callable:
    """Makes a TensorFlow function of its own of the gradient pass that a traced attack repeats in its loop.

    On a CPU TensorFlow replaces kernels by oneDNN's node by node, in an order that the cycle of a loop can
    turn around. The gradient of max pooling then keeps its own kernel, in some traces and not in others: the
    bits are the same, but a LeNet's iteration takes a third longer. In a function there is no cycle.

    Args:
        gradient_pass: a function of tensors that builds a forward and a backward pass.

    Returns:
        A function of the same arguments. It is `gradient_pass` itself in eager execution.
    """

    def call(*tensors):
        return gradient_pass(*tensors) if tf.executing_eagerly() else function(*tensors)

    function = tf.function(gradient_pass, autograph=False, experimental_attributes={"_noinline": True})
    return call
