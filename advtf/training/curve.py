"""Mode connectivity (Liu et al. 2020, appendix C.2.5): a curve of low adversarial loss between two minima."""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from tqdm import tqdm

from advtf.attacks.attack import Attack
from advtf.classifiers.classifier import Classifier
from advtf.classifiers.export import TOLERANCE
from advtf.data.sets import Split, steps_per_epoch_of, training_batches
from advtf.errors import UsageError, require_real, require_whole
from advtf.landscape.batch_statistics import norm_layers
from advtf.landscape.curves import Curve, straight
from advtf.storage.cache import ResultCache, fingerprint
from advtf.training.callbacks import NonFiniteLoss
from advtf.training.checkpoint import assign
from advtf.training.curve_trainer import CurveTrainer
from advtf.training.optimizers import build_optimizer
from advtf.training.schedules import cosine_rate

PROBES = 8  # images on which the two ends' networks are compared
STATE = "curve"


@dataclass(frozen=True, kw_only=True)
class CurveSettings:
    """How a curve is trained.

    Attributes:
        kind: "bezier" (eq. 30) or "chain".
        order: n, at least 1; the curve has n − 1 trained inner points.
        epochs: passes over the training examples; 0 leaves the straight line.
        learning_rate: of the first step; it falls to 0 as a cosine.
        optimizer: "adam" or "sgd", with PyTorch's semantics and no weight decay.
        momentum: of "sgd".
        batch_size: examples per step; each step draws one t.
        seed: of the order of the examples, of t and of the attack's random starts.

    Raises:
        UsageError: a value out of range.
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
    """A curve and how it came about.

    Attributes:
        curve: its ends are the models' weights, bit for bit.
        loss: (epochs,) L_ε at the points drawn, mean over the epoch's examples, in nats.
        error: (epochs,) percent misclassified under attack there, BatchNorm in training mode.
    """

    curve: Curve
    loss: np.ndarray
    error: np.ndarray


def require_connectable(start: Classifier, end: Classifier) -> None:
    """Checks that the weights of `end` can be put into the network of `start`.

    Raises:
        UsageError: no live model, another architecture, or another function of the same weights.
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


@contextmanager
def unchanged(model: keras.Model) -> Iterator[None]:
    """Gives every variable of `model` its old bits back at the end of the block."""
    before = [variable.numpy() for variable in model.variables]
    try:
        yield
    finally:
        for variable, old in zip(model.variables, before, strict=True):
            variable.assign(old)


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
        start, end: two classifiers of one architecture; their weights are as before afterwards.
        x: float32 (N, H, W, C) in [0, 1].
        y: int (N,).
        attack: ``attack(logits_fn, x, y, epsilon, seed) -> x_adv``.
        epsilon: radius ε in units of the image range.
        settings: kind, order and training of the curve.
        state_dir: folder that gets the state after each epoch; a later call with the same arguments
            continues from there and ends with the same bits.
        identity: JSON values that tell this attack from others, which `state_dir` then refuses.
        jit_compile: compile with XLA.
        report: is told about each epoch.

    Raises:
        UsageError: models that cannot be connected, or a state of another curve.
        NonFiniteLoss: training diverged.
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
    """One pass; returns mean loss and error in percent over its examples."""
    steps = steps_per_epoch_of(split, settings.batch_size)
    first, last = epoch * steps, (epoch + 1) * steps
    batches = training_batches(
        split, settings.batch_size, seed=settings.seed, start_step=first, total_steps=last
    )
    total_loss = total_wrong = 0.0
    shown = tqdm(
        batches, total=steps, desc=f"curve epoch {epoch + 1}", leave=False, disable=not sys.stdout.isatty()
    )
    for step, (x, y) in enumerate(shown, start=first):
        # t and the rate depend on the step alone, so that a resumed training repeats them.
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
    """Puts the state after the last finished epoch back; returns (loss, error) of each epoch so far."""
    arrays = state.get(STATE)
    if arrays is None:
        return []
    trainer.inner.assign(arrays["inner"])
    for name, variables in (("optimizer", trainer.optimizer.variables), ("model", model.variables)):
        saved = [arrays[key] for key in sorted(arrays) if key.startswith(f"{name}/")]
        assign(variables, saved, "the state of the curve")
    return [tuple(pair) for pair in arrays["history"]]
