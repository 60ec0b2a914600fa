"""Mode connectivity: the training of a curve of low adversarial loss between two minima.

`train_curve` trains the inner control points of a curve B(t) between two classifiers, by the mini-batch steps
of `CurveTrainer` (Liu et al. 2020, appendix C.2.5). `advtf.landscape.curves` defines the curves and measures
the loss along one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from advtf.attacks.attack import Attack
from advtf.attacks.losses import cross_entropy, is_correct
from advtf.classifiers.classifier import Classifier
from advtf.classifiers.export import TOLERANCE
from advtf.classifiers.parameters import unchanged
from advtf.data.batches import steps_per_epoch_of, training_batches
from advtf.data.sets import Split
from advtf.errors import UsageError, require_real, require_whole
from advtf.landscape.batch_statistics import norm_layers, of_the_batch
from advtf.landscape.curves import Curve, straight
from advtf.runtime import progress, true_float32
from advtf.storage.cache import ResultCache, fingerprint
from advtf.training.checkpoint import assign
from advtf.training.checks import NonFiniteLoss
from advtf.training.optimizers import build_optimizer
from advtf.training.schedules import cosine_rate

PROBES = 8  # random images on which the networks of the two ends are compared
STATE = "curve"  # the name of the training's state in its folder


@dataclass(frozen=True, kw_only=True)
class CurveSettings:
    """How a curve is trained.

    Attributes:
        kind: "bezier" for a Bézier curve (eq. 30) or "chain" for a polygonal chain.
        order: n, at least 1; the curve has n − 1 trained inner points.
        epochs: the number of passes over the training examples; 0 leaves the straight line.
        learning_rate: the rate of the first step; it falls to 0 along a cosine.
        optimizer: "adam" or "sgd", with PyTorch's semantics and without weight decay.
        momentum: the momentum of "sgd".
        batch_size: the number of examples in a step; each step draws one t.
        seed: determines the order of the examples, t, and the attack's random starts.

    Raises:
        UsageError: a value is out of range.
    """

    kind: str = "bezier"
    order: int = 2
    epochs: int = 20
    learning_rate: float = 1e-3
    optimizer: str = "adam"
    momentum: float = 0.9
    batch_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        straight(self.kind, np.zeros(1), np.zeros(1), self.order)
        require_whole("curve_epochs", self.epochs, least=0)
        require_whole("batch_size", self.batch_size)
        require_whole("seed", self.seed, least=0)
        build_optimizer(self.optimizer, self.learning_rate, momentum=self.momentum)


@dataclass(frozen=True, eq=False)
class TrainedCurve:
    """A trained curve and the course of its training.

    Attributes:
        curve: the curve; its ends are the weights of the two models, bit for bit.
        loss: (epochs,) L_ε at the drawn points of the curve, the mean over the epoch's examples, in nats.
        error: (epochs,) the percentage misclassified under attack there, with BatchNorm in training mode.
    """

    curve: Curve
    loss: np.ndarray
    error: np.ndarray


@true_float32()
def require_connectable(start: Classifier, end: Classifier) -> None:
    """Checks that the weights of `end` can be put into the network of `start`.

    Raises:
        UsageError: one of them has no live Keras model, the architectures differ, or equal weights give
            different logits.
    """
    for classifier in (start, end):
        if classifier.model is None:
            raise UsageError(
                "connectivity needs live Keras models, as the curve is trained. "
                f"Received: {classifier.name}, a SavedModel of unknown architecture. "
                "Use exports of advtf.main, or pass the Keras model to the library call."
            )
    if _shapes(start) != _shapes(end):
        raise UsageError(
            "models must have one architecture to be connected. "
            f"Received: {_describe(start)} and {_describe(end)}. "
            "Train both with the same --model and --width."
        )
    images = np.random.default_rng(0).random((PROBES, *start.input_shape), np.float32)
    wanted = np.asarray(end.logits_fn(images))
    with unchanged(start.model):
        start.parameters.assign(end.parameters.value())
        for own, other in zip(norm_layers(start.model), norm_layers(end.model), strict=True):
            own.moving_mean.assign(other.moving_mean)
            own.moving_variance.assign(other.moving_variance)
        error = np.abs(np.asarray(start.logits_fn(images)) - wanted).max()
    if not error <= TOLERANCE * max(1.0, np.abs(wanted).max()):
        raise UsageError(
            "models must have one architecture to be connected. "
            f"Received: {start.name} and {end.name}, whose weights have equal shapes but whose logits differ "
            f"by {error:.3g} with equal weights. Train both with the same --activation."
        )


def _shapes(classifier):
    parameters = [tuple(variable.shape) for variable in classifier.parameters.variables]
    return classifier.input_shape, len(norm_layers(classifier.model)), parameters


def _describe(classifier):
    return f"{classifier.name} ({classifier.parameters.size:,} parameters, images {classifier.input_shape})"


@true_float32()
def train_curve(
    start: Classifier,
    end: Classifier,
    x: np.ndarray,
    y: np.ndarray,
    attack: Attack,
    epsilon: float,
    settings: CurveSettings,
    *,
    state_dir: str | Path | None = None,
    identity: object = None,
    jit_compile: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> TrainedCurve:
    """Minimises E_{t~U[0,1]} L_ε(B(t)) over the inner points of a curve, its ends fixed (eq. 30).

    Args:
        start, end: two classifiers of one architecture; the call leaves their weights as they were.
        x: images, float32 (N, H, W, C) in [0, 1].
        y: classes, int (N,).
        attack: ``attack(logits_fn, x, y, epsilon, seed) -> x_adv``.
        epsilon: radius ε in units of the image range.
        settings: the kind, the order and the training of the curve.
        state_dir: a folder that gets the state after each epoch. A later call with the same arguments
            continues from there and ends with the same bits.
        identity: JSON values that tell this attack from others; a `state_dir` of another attack is refused.
        jit_compile: whether the steps are compiled with XLA.
        report: is called with one line of text after each epoch.

    Raises:
        UsageError: the models cannot be connected, or `state_dir` holds the state of another curve.
        NonFiniteLoss: the loss became NaN or infinite.
    """
    require_connectable(start, end)
    require_real("epsilon", epsilon, 0)
    split = Split(x, np.asarray(y, np.int32))
    steps_per_epoch_of(split, settings.batch_size)
    line = straight(settings.kind, start.parameters.value(), end.parameters.value(), settings.order)
    if settings.order == 1 or settings.epochs == 0:
        return TrainedCurve(line, np.zeros(0), np.zeros(0))
    state = ResultCache(state_dir, fingerprint(line.points, x, y, float(epsilon), vars(settings), identity))
    optimizer = build_optimizer(settings.optimizer, settings.learning_rate, momentum=settings.momentum)
    with unchanged(start.model):
        trainer = CurveTrainer(start, line, attack, epsilon, optimizer, jit_compile=jit_compile)
        history = _restored(state, trainer, start.model)
        for epoch in range(len(history), settings.epochs):
            history.append(_epoch(trainer, split, settings, epoch))
            _save(state, trainer, start.model, history)
            loss, error = history[-1]
            report(f"curve epoch {epoch + 1}/{settings.epochs}: L_ε {loss:.4f}, robust error {error:.2f} %")
        loss, error = np.array(history).T
        return TrainedCurve(trainer.curve(), loss, error)


def _epoch(trainer, split, settings, epoch):
    """Trains for one pass over the examples; returns their mean loss and their error in percent."""
    steps = steps_per_epoch_of(split, settings.batch_size)
    first, last = epoch * steps, (epoch + 1) * steps
    batches = training_batches(
        split, settings.batch_size, seed=settings.seed, start_step=first, total_steps=last
    )
    total_loss = total_wrong = 0.0
    shown = progress(batches, total=steps, desc=f"curve epoch {epoch + 1}", unit="step")
    for step, (x, y) in enumerate(shown, start=first):
        # The point t and the rate depend on the step alone, so that a resumed training repeats them.
        t = np.random.default_rng([settings.seed, step]).random()
        trainer.optimizer.learning_rate.assign(
            cosine_rate(step / (settings.epochs * steps), settings.learning_rate)
        )
        loss, wrong = trainer.step(x, y, t, (settings.seed, step))
        _require_finite(loss, step, settings)
        total_loss += loss
        total_wrong += wrong
    return total_loss / steps, 100.0 * total_wrong / (steps * settings.batch_size)


def _require_finite(loss, step, settings):
    if not math.isfinite(loss):
        raise NonFiniteLoss(
            f"the loss along the curve must stay finite. Received: loss={loss} at step {step} "
            f"(learning_rate={settings.learning_rate:g}). Lower --curve_lr."
        )


def _save(state, trainer, model, history):
    groups = {"optimizer": trainer.optimizer.variables, "model": model.variables}
    arrays = {f"{name}/{i:04d}": v.numpy() for name, group in groups.items() for i, v in enumerate(group)}
    state.put(STATE, {"inner": trainer.inner.numpy(), "history": np.array(history), **arrays})


def _restored(state, trainer, model):
    """Restores the state after the last finished epoch; returns (loss, error) of each epoch so far."""
    arrays = state.get(STATE)
    if arrays is None:
        return []
    trainer.inner.assign(arrays["inner"])
    for name, variables in (("optimizer", trainer.optimizer.variables), ("model", model.variables)):
        saved = [arrays[key] for key in sorted(arrays) if key.startswith(f"{name}/")]
        assign(variables, saved, "the state of the curve")
    return [tuple(pair) for pair in arrays["history"]]


class CurveTrainer:
    """Mini-batch steps on the inner points of a curve, in the network of one classifier.

    A step at t assigns B(t) = Σ c_i(t) w_i to the network, makes adversarial examples there in inference mode
    and takes the gradient g of their loss in training mode. By the chain rule of eq. 30 the gradient of inner
    point w_i is c_i(t) g. During the attack BatchNorm uses the statistics of the clean batch at B(t), because
    running averages would mix them with those of other points of the curve.

    Args:
        classifier: has a live Keras model, whose weights are moved; `advtf.classifiers.parameters.unchanged`
            gives them back.
        curve: the curve where training begins; it has at least one inner point.
        attack: ``attack(logits_fn, x, y, epsilon, seed) -> x_adv``.
        epsilon: radius ε in units of the image range.
        optimizer: a Keras optimizer that is not built yet.
        loss: ``loss(y, logits) -> (B,)``.
        jit_compile: whether the steps are compiled with XLA.

    Attributes:
        inner: the variable (n − 1, P) of the inner points.
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
        self._gradient, self._update = compiled(self._curve_gradient), compiled(self._curve_step)

    def gradient(self, x, y, t: float, seed) -> tuple[float, np.ndarray]:
        """Returns L_ε(B(t)) on one batch and its gradient with respect to the inner points, (n − 1, P)."""
        loss, _, gradient = self._gradient(x, y, self._coefficients(t), tf.constant(seed, tf.int64))
        return float(loss), gradient.numpy()

    def step(self, x, y, t: float, seed) -> tuple[float, float]:
        """Moves the inner points once; returns the loss and the misclassified examples before it."""
        loss, wrong = self._update(x, y, self._coefficients(t), tf.constant(seed, tf.int64))
        return float(loss), float(wrong)

    def curve(self) -> Curve:
        """Returns the curve through the inner points as they are."""
        ends = self._curve.points
        return Curve(self._curve.kind, np.concatenate([ends[:1], self.inner.numpy(), ends[-1:]]))

    def _coefficients(self, t):
        return tf.constant(self._curve.coefficients(t), self._parameters.dtype)

    def _curve_step(self, x, y, coefficients, seed):
        loss, wrong, gradient = self._curve_gradient(x, y, coefficients, seed)
        self.optimizer.apply([gradient], [self.inner])
        return loss, wrong

    def _curve_gradient(self, x, y, coefficients, seed):
        self._assign_point(coefficients)
        if self._norms:
            with of_the_batch(self._norms):
                self._model(x, training=True)
        x_adv = self._attack(lambda z: self._model(z, training=False), x, y, self._epsilon, seed)
        with tf.GradientTape() as tape:
            logits = self._model(x_adv, training=True)
            loss = tf.reduce_mean(self._loss(y, logits))
        gradient = self._parameters.flatten(tape.gradient(loss, self._parameters.variables))
        return loss, tf.reduce_sum(1.0 - is_correct(y, logits)), tf.tensordot(coefficients[1:-1], gradient, 0)

    def _assign_point(self, coefficients):
        point = coefficients[0] * self._start + coefficients[-1] * self._end
        point += tf.linalg.matvec(self.inner.value, coefficients[1:-1], transpose_a=True)
        for variable, part in zip(self._parameters.variables, self._parameters.split(point), strict=True):
            variable.assign(part)
