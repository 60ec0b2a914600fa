"""One step of training a curve: the loss at a point of it, and its gradient at the inner control points."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from advtf.attacks.attack import Attack
from advtf.attacks.losses import cross_entropy, is_correct
from advtf.classifiers.classifier import Classifier
from advtf.landscape.batch_statistics import norm_layers, of_the_batch
from advtf.landscape.curves import Curve


class CurveTrainer:
    """Mini-batch steps on the inner points of a curve, in the network of one classifier.

    A step at t assigns B(t) to the network, makes adversarial examples there in inference mode and takes the
    gradient of their loss in training mode; inner point i receives c_i(t) of it (the chain rule of eq. 30).
    BatchNorm's statistics in the attack are those of the clean batch at B(t): running averages would mix
    the statistics of other points of the curve.

    Args:
        classifier: has a live model, whose weights are moved; wrap the calls in `unchanged`.
        curve: where training begins; it has at least one inner point.
        attack: ``attack(logits_fn, x, y, epsilon, seed) -> x_adv``.
        epsilon: radius ε in units of the image range.
        optimizer: Keras optimizer, not yet built.
        loss: ``loss(y, logits) -> (B,)``.
        jit_compile: compile with XLA.

    Attributes:
        inner: variable (n − 1, P).
    """

    def __init__(
        self,
        classifier: Classifier,
        curve: Curve,
        attack: Attack,
        epsilon: float,
        optimizer: keras.optimizers.Optimizer,
        *,
        loss: Callable = cross_entropy,
        jit_compile: bool = False,
    ):
        self._model, self._parameters = classifier.model, classifier.parameters
        self._norms = norm_layers(classifier.model)
        self._curve, self._attack, self._loss = curve, attack, loss
        self._epsilon = tf.constant(epsilon, tf.float32)
        self._start, self._end = tf.constant(curve.points[0]), tf.constant(curve.points[-1])
        self.inner = keras.Variable(curve.points[1:-1], dtype=curve.points.dtype.name, name="inner_points")
        self.optimizer = optimizer
        optimizer.build([self.inner])
        compiled = tf.function(reduce_retracing=True, jit_compile=jit_compile, autograph=False)
        self._gradient, self._update = compiled(self._path_gradient), compiled(self._path_step)

    def gradient(self, x, y, t: float, seed) -> tuple[float, np.ndarray]:
        """Returns L_ε(B(t)) on one batch and its gradient with respect to the inner points, (n − 1, P)."""
        loss, _, gradient = self._gradient(x, y, self._coefficients(t), tf.constant(seed, tf.int64))
        return float(loss), gradient.numpy()

    def step(self, x, y, t: float, seed) -> tuple[float, float]:
        """Moves the inner points once; returns the loss and the number misclassified before that."""
        loss, wrong = self._update(x, y, self._coefficients(t), tf.constant(seed, tf.int64))
        return float(loss), float(wrong)

    def curve(self) -> Curve:
        """Returns the curve through the inner points as they are."""
        ends = self._curve.points
        return Curve(self._curve.kind, np.concatenate([ends[:1], self.inner.numpy(), ends[-1:]]))

    def _coefficients(self, t):
        return tf.constant(self._curve.coefficients(t), self._parameters.dtype)

    def _path_step(self, x, y, coefficients, seed):
        loss, wrong, gradient = self._path_gradient(x, y, coefficients, seed)
        self.optimizer.apply([gradient], [self.inner])
        return loss, wrong

    def _path_gradient(self, x, y, coefficients, seed):
        self._place(coefficients)
        if self._norms:
            with of_the_batch(self._norms):
                self._model(x, training=True)
        x_adv = self._attack(lambda z: self._model(z, training=False), x, y, self._epsilon, seed)
        with tf.GradientTape() as tape:
            logits = self._model(x_adv, training=True)
            loss = tf.reduce_mean(self._loss(y, logits))
        gradient = self._parameters.flatten(tape.gradient(loss, self._parameters.variables))
        return loss, tf.reduce_sum(1.0 - is_correct(y, logits)), tf.tensordot(coefficients[1:-1], gradient, 0)

    def _place(self, coefficients):
        point = coefficients[0] * self._start + coefficients[-1] * self._end
        point += tf.linalg.matvec(self.inner.value, coefficients[1:-1], transpose_a=True)
        for variable, part in zip(self._parameters.variables, self._parameters.split(point), strict=True):
            variable.assign(part)
