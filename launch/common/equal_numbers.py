"""Whether a machine trains with the right numbers in a mode of computing: against float64 on its own CPU.

`Reference` computes a small problem layer by layer in float64, with an attack and an update of its own.
`computed_in` lets the trainer compute the same in a mode, compiled as in a training. `differences` compares
the two, and `BOUNDS` says how far they may be apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import tensorflow as tf

from advtf.attacks.norms import get_norm
from advtf.data.sets import ImageData
from advtf.runtime import Runtime
from advtf.training.run import build_classifier, build_trainer
from advtf.training.settings import TrainConfig
from advtf.training.trainer import TEST_STREAM, TRAIN_STREAM

# How far a mode may be from float64, as shares of the numbers themselves; `differences` says of which.
#
# A tensor that is rounded to p bits of mantissa is off by at most u = 2^-p: 2^-24 for float32, 2^-11 for TF32
# and 2^-8 for bfloat16. Independent roundings add up like the root of their number. A forward pass through
# WRN-34 makes about 70 of them and a backward pass as many again, so the logits are off by about 8u and a
# smooth gradient by 12u: 7e-7, 0.6 % and 5 %. Sums of n = 5760 products in float32 add √n·u, 5e-6, whatever
# the precision of the factors, and fast algorithms of convolution some times that. More is moved where a unit
# of relu or of max pooling is so near its kink that the error switches it. A share s of switched units
# changes a gradient by about √s in every layer. Over 20 layers, inputs that are off by 1e-6 change it by
# 0.3 %, by 0.1 % in TF32 10 %, by 1 % in bfloat16 30 to 50 %. Signs differ where an entry is smaller than its
# error. The bounds are these sizes, or those that LeNet and both ResNets have on a CPU, with room of a factor
# of 1.5 in bfloat16 and more elsewhere; for TF32 and for WRN-34 nothing has been measured. They leave what is
# wrong outside: a gradient with another sign, of another image or of other weights is off by 1.4, half of its
# signs differ, and the attack gains next to nothing.
BOUNDS: dict[str, dict[str, float]] = {
    "float32": {
        "logits": 1e-4,
        "input gradient": 2e-2,
        "signs of the gradient": 5e-3,
        "gain of the attack": 2e-2,
        "loss of the step": 1e-4,
        "updated weights": 2e-2,
        "running statistics": 1e-4,
        "pixels outside the ball": 1e-6,
    },
    "tf32": {
        "logits": 2e-2,
        "input gradient": 0.3,
        "signs of the gradient": 0.1,
        "gain of the attack": 5e-2,
        "loss of the step": 5e-3,
        "updated weights": 0.2,
        "running statistics": 2e-3,
        "pixels outside the ball": 1e-6,
    },
    "bfloat16": {
        "logits": 0.1,
        "input gradient": 0.8,
        "signs of the gradient": 0.25,
        "gain of the attack": 0.1,
        "loss of the step": 2e-2,
        "updated weights": 0.7,
        "running statistics": 2e-2,
        "pixels outside the ball": 1e-6,
    },
}
# What is measured is measured in float32 whatever the precision of the training.
ALWAYS = {"gain of the validation attack": 2e-2}


@dataclass(frozen=True, eq=False)
class Computed:
    """What a mode computes of a `Reference`'s problem.

    Attributes:
        logits: (B, K) of the images, in inference mode.
        gradient: (B, H, W, C), of the sum of the losses by the images.
        x_adv: (B, H, W, C), the adversarial examples of the first training step.
        validation_loss: the mean loss of the validation attack.
        loss: of the first training step.
        weights: the variables of the classifier after that step, in the order of Keras.
    """

    logits: np.ndarray
    gradient: np.ndarray
    x_adv: np.ndarray
    validation_loss: float
    loss: float
    weights: list[np.ndarray]


class Reference:
    """One batch, one classifier and one training step, in float64 on the CPU.

    The moving statistics of BatchNorm are those of the batch, so that activations and gradients are of the
    size that they have in a training. They are float32 numbers, as the weights are: every mode starts from
    the same.

    Args:
        config: a training with PGD from a uniform start, SGD, `objective` "at" and ε scheduled by nothing.
        data: its training images are the batch.
    """

    def __init__(self, config: TrainConfig, data: ImageData):
        self.config, self.data = config, data
        self.x = data.train.images.astype(np.float64)
        self.y = data.train.labels
        with tf.device("CPU:0"):
            self._model = build_classifier(config, data, "float64")
            self._set_statistics()
        self.weights = [np.float32(value) for value in self._model.get_weights()]
        self._model.set_weights(self.weights)

    def _set_statistics(self):
        layers = [layer for layer in self._model.layers if hasattr(layer, "momentum")]
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            layer.momentum = 0.0
        self._model(tf.constant(self.x), training=True)
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum

    @cached_property
    def logits(self) -> np.ndarray:
        """(B, K) of the images."""
        with tf.device("CPU:0"):
            return self._model(tf.constant(self.x), training=False).numpy()

    @cached_property
    def gradient(self) -> np.ndarray:
        """(B, H, W, C) at the images."""
        return self._gradient(self.x)

    def mean_loss(self, x: np.ndarray) -> float:
        """Returns the mean cross-entropy of images in inference mode."""
        with tf.device("CPU:0"):
            return float(tf.reduce_mean(self._losses(tf.constant(np.float64(x)), training=False)))

    @cached_property
    def gains(self) -> tuple[float, float]:
        """By how much the attacks of the first training step and of the validation raise the mean loss."""
        clean = self.mean_loss(self.x)
        return tuple(self.mean_loss(self._attacked(stream)) - clean for stream in (TRAIN_STREAM, TEST_STREAM))

    def step(self, x_adv: np.ndarray) -> tuple[float, list[np.ndarray]]:
        """Returns the loss of a training step on adversarial examples, and all variables after it."""
        weights = self._model.trainable_variables
        with tf.device("CPU:0"):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(self._losses(tf.constant(np.float64(x_adv)), training=True))
            gradients = tape.gradient(loss, [weight.value for weight in weights])
            for weight, gradient in zip(weights, gradients, strict=True):
                decayed = gradient + self.config.weight_decay * weight.value
                weight.assign(weight.value - self.config.lr * decayed)  # the first step has no momentum
        after = self._model.get_weights()
        self._model.set_weights(self.weights)
        return float(loss), after

    @property
    def trainable(self) -> list[bool]:
        """Which of the variables are trained; the others are statistics of BatchNorm."""
        return [variable.trainable for variable in self._model.weights]

    def _losses(self, x, training):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(self.y, self._model(x, training=training))

    def _gradient(self, x):
        with tf.device("CPU:0"), tf.GradientTape(watch_accessed_variables=False) as tape:
            images = tf.constant(x)
            tape.watch(images)
            total = tf.reduce_sum(self._losses(images, training=False))
        with tf.device("CPU:0"):
            return tape.gradient(total, images).numpy()

    def _attacked(self, stream):
        config, x = self.config, self.x
        seed = tf.constant([2 * config.seed + stream, 0], tf.int64)
        noise = get_norm("linf").random_point(tf.shape(x), tf.constant(config.eps, tf.float32), seed)
        x_adv = np.clip(x + noise.numpy(), 0, 1)
        for _ in range(config.attack_steps):
            x_adv = x_adv + config.relative_step * config.eps * np.sign(self._gradient(x_adv))
            x_adv = np.clip(np.clip(x_adv, x - config.eps, x + config.eps), 0, 1)
        return x_adv


def computed_in(runtime: Runtime, reference: Reference) -> Computed:
    """Lets the trainer compute the problem of a reference in the arithmetic of a runtime."""
    config, data = reference.config, reference.data
    trainer = build_trainer(config, data, runtime)
    trainer.classifier.set_weights(reference.weights)
    batches = tf.data.Dataset.from_tensors((data.train.images, data.train.labels))
    x, y = map(tf.constant, (data.train.images, data.train.labels))
    seed = tf.constant([2 * config.seed, 0], tf.int64)  # of the first step
    compiled = partial(tf.function, autograph=False, jit_compile=runtime.jit_compile is True)

    def logits_and_gradient(x, y):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            logits = trainer.classifier(x, training=False)
            total = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        return logits, tape.gradient(total, x)

    validation = trainer.evaluate(batches, verbose=0, return_dict=True)
    with runtime.training():
        logits, gradient = compiled(logits_and_gradient)(x, y)
        x_adv = compiled(lambda x, y: trainer._attack_batch(x, None, y, seed)[0].x_adv)(x, y)
        trainer.reset_metrics()
        trainer.make_train_function()
        logs = trainer.train_function(iter(batches))
    return Computed(
        np.asarray(logits, np.float64),
        np.asarray(gradient, np.float64),
        np.asarray(x_adv, np.float64),
        float(validation["loss"]),
        float(logs["loss"]),
        trainer.classifier.get_weights(),
    )


def differences(reference: Reference, computed: Computed) -> dict[str, float]:
    """Returns how far what was computed is from the reference, by the names of `BOUNDS` and `ALWAYS`.

    Each is a share: of the largest logit, of the norm of the gradient, of the entries of the gradient, of the
    gain of the attack, of the loss, of the norm of the weights' move, of the norm of the statistics. What
    leaves the ball is in units of a pixel's range.
    """
    x, x_adv, epsilon = reference.x, computed.x_adv, reference.config.eps
    clean, (gain, validation_gain) = reference.mean_loss(x), reference.gains
    loss, weights = reference.step(x_adv)
    found = {
        "logits": _largest(computed.logits - reference.logits) / _largest(reference.logits),
        "input gradient": _share(computed.gradient - reference.gradient, reference.gradient),
        "signs of the gradient": np.mean(np.sign(computed.gradient) != np.sign(reference.gradient)),
        "gain of the attack": abs(reference.mean_loss(x_adv) - clean - gain) / gain,
        "gain of the validation attack": abs(computed.validation_loss - clean - validation_gain)
        / validation_gain,
        "pixels outside the ball": max(
            _largest(x_adv - np.clip(x_adv, x - epsilon, x + epsilon)),
            _largest(x_adv - np.clip(x_adv, 0, 1)),
        ),
        "loss of the step": abs(computed.loss - loss) / loss,
    }
    for name, trained in (("updated weights", True), ("running statistics", False)):
        of_kind = [at for at, each in enumerate(reference.trainable) if each is trained]
        if of_kind:
            before, own, right = (
                np.concatenate([np.ravel(each[at]) for at in of_kind]).astype(np.float64)
                for each in (reference.weights, computed.weights, weights)
            )
            found[name] = _share(own - right, right - before if trained else right)
    return {name: float(value) for name, value in found.items()}


def bounds_of(precision: str) -> dict[str, float]:
    """Returns the bounds of everything that `differences` compares."""
    return BOUNDS[precision] | ALWAYS


def exceeded(found: Mapping[str, float], precision: str) -> list[str]:
    """Returns the names of the differences that are out of bounds, or no numbers.

    Args:
        found: what `differences` returned.
        precision: a key of `BOUNDS`.
    """
    bounds = bounds_of(precision)
    return [name for name, value in found.items() if not value <= bounds[name]]


def _share(difference, whole):
    return np.linalg.norm(difference) / np.linalg.norm(whole)


def _largest(values):
    return np.abs(values).max()
