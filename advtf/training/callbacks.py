"""The Keras callbacks of a training, one job each.

A callback decides nothing about the numbers: it carries a value that a function computes into a variable, a
log or a file. In the order of this file they drive a schedule (`EpsilonSchedule`, `RateSchedule`,
`StrengthSchedule`), reset the optimizer (`PeriodicReset`), measure (`WeightStatistics`, `GradientDynamics`,
`InputLandscape`) and save (`Snapshots`). `advtf.training.averaging`, `checkpoint`, `checks` and `logs` hold
the others; `advtf.training.run.build_callbacks` lists all of them in the order in which they act.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np

from advtf.attacks.attack import Attack
from advtf.errors import UsageError, one_of, require_whole
from advtf.landscape.input_hessian import require_second_derivatives
from advtf.landscape.inputs import InputMeter
from advtf.landscape.objective import require_pairs
from advtf.settings.threat import require_radius
from advtf.storage.files import write_atomically
from advtf.training.checkpoint import assign, load_state, save_state
from advtf.training.optimizers import batches_seen, require_resettable, reset_slots
from advtf.training.schedules import UNITS
from advtf.training.trainer import full_precision, norm_of

# The columns of the file that `GradientDynamics` writes.
DYNAMICS_FIELDS = ("step", "epsilon", "gradient_norm", "robust_error", "distance")
# The measures of `InputLandscape`, see `advtf.landscape.inputs.InputMeasures`.
LANDSCAPE_MEASURES = ("ig", "hs", "av", "effectiveness", "ga")


class _Scheduled(keras.callbacks.Callback):
    """Assigns ``schedule(position)`` to the variable of `_variable` and logs it under `name`.

    The position is counted in epochs from the start of the training, and may be fractional.
    """

    def __init__(
        self, schedule: Callable[[float], float], unit: str = "epoch", steps_per_epoch: int | None = None
    ):
        super().__init__()
        self.schedule = schedule
        self.unit = one_of("schedule_unit", unit, UNITS)
        self.steps_per_epoch = steps_per_epoch
        if unit == "step" and not steps_per_epoch:
            raise UsageError("steps_per_epoch is required with unit='step'. Received: steps_per_epoch=None.")

    def on_train_begin(self, logs=None):
        if not hasattr(self._variable(), "assign"):
            raise UsageError(
                f"{type(self).__name__} needs a number that it can set. "
                "Received: an optimizer with a schedule of its own. Give the optimizer a plain learning rate."
            )
        if self.unit == "step" and self.model.steps_per_execution != 1:
            raise UsageError(
                "a schedule that moves at every step needs one step per execution. "
                f"Received: steps_per_execution={self.model.steps_per_execution}. Compile with 1."
            )

    def on_epoch_begin(self, epoch, logs=None):
        if self.unit == "epoch":
            self._variable().assign(self._checked(self.schedule(float(epoch))))

    def on_train_batch_begin(self, batch, logs=None):
        if self.unit == "step":
            # Keras counts the batches of a resumed epoch from 0 again, so the optimizer's count is used.
            position = int(batches_seen(self.model.optimizer).numpy()) / self.steps_per_epoch
            self._variable().assign(self._checked(self.schedule(position)))

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs[self.name] = float(self._variable().numpy())

    def _checked(self, value):
        return value


class EpsilonSchedule(_Scheduled):
    """Drives ``trainer.epsilon`` and logs it as "epsilon".

    Args:
        schedule: maps a position in epochs to ε, such as ``epsilon_schedule("cosine", ...)``.
        unit: "epoch" sets ε at the beginning of every epoch, as the paper does; "step" at every step.
        steps_per_epoch: is required with the unit "step".
    """

    name = "epsilon"

    def _variable(self):
        return self.model.epsilon

    def _checked(self, value):
        return require_radius("epsilon", value, norm_of(self.model.attack))


class RateSchedule(_Scheduled):
    """Drives the learning rate, logged as "learning_rate"; its arguments are those of `EpsilonSchedule`."""

    name = "learning_rate"

    def _variable(self):
        return self.model.optimizer.learning_rate


class StrengthSchedule(_Scheduled):
    """Drives ``trainer.strength``, logged as "strength"; its arguments are those of `EpsilonSchedule`."""

    name = "strength"

    def _variable(self):
        return self.model.strength


class PeriodicReset(keras.callbacks.Callback):
    """Zeroes the optimizer's slots (momentum, moments) at the start of each period after the first.

    ε and the learning rate restart by their own schedules. The published code keeps the slots, so this
    callback is optional.

    Args:
        boundaries: epochs (0-based) at which a period starts.
    """

    def __init__(self, boundaries: Sequence[int]):
        super().__init__()
        self.boundaries = frozenset(boundaries)

    def on_train_begin(self, logs=None):
        require_resettable(self.model.optimizer)  # an error now, and not hours later at the first boundary

    def on_epoch_begin(self, epoch, logs=None):
        if epoch in self.boundaries:
            reset_slots(self.model.optimizer)


class WeightStatistics(keras.callbacks.Callback):
    """Logs "gradient_norm", the epoch's mean of ‖∇θ L̂_ε‖₂, and "distance_from_init", ‖θ − θ₀‖₂.

    Args:
        classifier: its weights at construction are θ₀.
    """

    def __init__(self, classifier: keras.Model):
        super().__init__()
        self.classifier = classifier
        self.initial = _copies(classifier.trainable_variables)
        self.total, self.count = 0.0, 0

    def state(self) -> dict:
        """Returns what a checkpoint inside an epoch has to keep."""
        return {"total": self.total, "count": self.count}

    def restore(self, state: dict) -> None:
        """Continues from `state`."""
        self.total, self.count = state["total"], state["count"]

    def on_epoch_begin(self, epoch, logs=None):
        self.total, self.count = 0.0, 0

    def on_train_batch_end(self, batch, logs=None):
        self.total += float(self.model.gradient_norm.numpy())
        self.count += 1

    def on_epoch_end(self, epoch, logs=None):
        if logs is None:
            return
        logs["gradient_norm"] = self.total / max(self.count, 1)
        logs["distance_from_init"] = _distance(self.classifier.trainable_variables, self.initial)


class GradientDynamics(keras.callbacks.Callback):
    """Records the first and the last updates of a training, one row per update, in an NPZ file.

    This is the data of figures 2 and 8 of Liu et al. 2020 (section 4.1). The row of update t, counted from 1,
    holds `gradient_norm`, the ‖∇θ L̂_ε(θ)‖₂ of its mini-batch, and `robust_error`, the percentage of that
    mini-batch that the attack fools, both before the update; `distance`, the ‖θ − θ₀‖₂ after it; and
    `epsilon`, the ε of its attack. The file is written when the first window ends, and then at the end of
    every epoch that recorded something and of the training. Outside the windows an update costs one
    comparison.

    Args:
        classifier: its weights at construction are θ₀.
        path: the NPZ file to write, from which `advtf.figures.dynamics` draws; its folder must exist.
        updates: the number N of updates in each of the two windows.
        total: the number of updates of the whole training; the last window is total − N + 1 … total.
        writes: whether this process writes the file; of several workers one does.

    Raises:
        UsageError: a number that is not a whole number of at least 1; when training begins, a trainer with
            several steps per execution.
    """

    def __init__(
        self, classifier: keras.Model, path: str | Path, *, updates: int, total: int, writes: bool = True
    ):
        super().__init__()
        require_whole("updates", updates)
        require_whole("total", total)
        self.classifier = classifier
        self.path, self.writes = Path(path), writes
        self.updates, self.total = updates, total
        self.initial = _copies(classifier.trainable_variables)
        self.rows: list[tuple[float, ...]] = []
        self._before = None
        self._unwritten = False

    def state(self) -> dict:
        """Returns what a checkpoint has to keep."""
        return {"rows": self.rows}

    def restore(self, state: dict) -> None:
        """Continues from `state`."""
        self.rows = [tuple(row) for row in state["rows"]]
        self._unwritten = bool(self.rows)  # the file on the disk may be newer than the checkpoint

    def on_train_begin(self, logs=None):
        if self.model.steps_per_execution != 1:
            raise UsageError(
                "GradientDynamics needs one update per execution. "
                f"Received: steps_per_execution={self.model.steps_per_execution}. Compile with 1."
            )
        self._step = int(batches_seen(self.model.optimizer).numpy())

    def on_train_batch_begin(self, batch, logs=None):
        # The count at the end of the last step would be wrong where the metrics were reset or restored since.
        self._before = self._robust_count() if self._recorded(self._step + 1) else None

    def on_train_batch_end(self, batch, logs=None):
        self._step += 1
        if self._before is None:
            return
        robust, examples = np.subtract(self._robust_count(), self._before)
        error = 100 * (1 - robust / examples)
        epsilon, norm = _number(self.model.epsilon), _number(self.model.gradient_norm)
        distance = _distance(self.classifier.trainable_variables, self.initial)
        self.rows.append((self._step, epsilon, norm, float(error), distance))
        self._unwritten = True
        if self._step == self.updates:
            self._write()

    def on_epoch_end(self, epoch, logs=None):
        self._write()

    def on_train_end(self, logs=None):
        self._write()

    def _recorded(self, step):
        return step <= self.updates or step > self.total - self.updates

    def _robust_count(self):
        metric = self.model.robust_accuracy
        # Both are whole numbers, so that differences of them are exact.
        return _number(metric.total), _number(metric.count)

    def _write(self):
        if not self._unwritten or not self.writes:
            return
        columns = dict(zip(DYNAMICS_FIELDS, np.array(self.rows, np.float64).T, strict=True))
        columns["step"] = columns["step"].astype(np.int64)
        write_atomically(
            self.path, lambda file: np.savez(file, **columns, updates=self.updates, total=self.total)
        )
        self._unwritten = False


class InputLandscape(keras.callbacks.Callback):
    """Adds the means of the input landscape's measures to the logs of every N-th epoch.

    These are the curves of figures 1 and 3 of Li & Spratling 2023. The means over `x` are called "ig", "hs",
    "av", "effectiveness" and "ga", those over `x_val` the same with the prefix "val_"; see
    `advtf.landscape.inputs.InputMeasures`. They are measured in float32 and inference mode, with the same
    random numbers each time, and the graphs are built once. A mean over no examples is left out, such as "hs"
    of 0 examples, or "effectiveness" where the reference attack raises no loss. In the list of callbacks it
    must stand before those that write logs.

    Args:
        x: some of the training images, float32 (N, H, W, C) in [0, 1].
        y: their classes, integers (N,).
        epsilon: radius ε, in units of the image range.
        attack: the attack whose effectiveness is logged, such as the training's adversary.
        every: N, the number of epochs from one measurement to the next.
        x_val, y_val: validation images and their classes; both or neither.
        classifier: the model that is measured; by default the ``classifier`` of the trained model if it has
            one, else the trained model itself.
        **settings: settings of `advtf.landscape.inputs.InputMeter`: norm, reference, seed, batch_size,
            eigenvalues, hs_examples, tolerance, max_products, jit_compile.

    Raises:
        UsageError: images without labels, validation images of another shape, or a setting out of range;
            when training begins, a classifier whose second derivatives are wrong.
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        epsilon: float,
        attack: Attack,
        *,
        every: int = 1,
        x_val: np.ndarray | None = None,
        y_val: np.ndarray | None = None,
        classifier: keras.Model | None = None,
        **settings: object,
    ):
        super().__init__()
        require_whole("every", every)
        self.every, self.classifier = every, classifier
        self._sets = {"": _images_and_labels(x, y)}
        if x_val is not None or y_val is not None:
            self._sets["val_"] = _images_and_labels(x_val, y_val)
            _require_equal_shapes(*(images.shape[1:] for images, _ in self._sets.values()))
        shape = self._sets[""][0].shape[1:]
        self._needs_curvature = settings.get("hs_examples") != 0
        self._meter = InputMeter(self._logits, shape, epsilon, attack=attack, **settings)

    def on_train_begin(self, logs=None):
        if self._needs_curvature:
            require_second_derivatives(self._measured())

    def on_epoch_end(self, epoch, logs=None):
        if logs is None or (epoch + 1) % self.every:
            return
        for prefix, (x, y) in self._sets.items():
            summary = self._meter(x, y).summary()
            means = {f"{prefix}{name}": summary[name]["mean"] for name in LANDSCAPE_MEASURES}
            logs.update({name: mean for name, mean in means.items() if mean is not None})

    def _measured(self):
        if self.classifier is not None:
            return self.classifier
        return getattr(self.model, "classifier", self.model)

    def _logits(self, x):
        classifier = self._measured()
        with full_precision(classifier):
            return classifier(x, training=False)


class Snapshots(keras.callbacks.Callback):
    """Saves the classifier at the end of each period, at the best validation robustness, and at the end.

    The files are ``period<k>.npz``, ``best.npz`` and ``last.npz``. Each holds its epoch and the logs of it,
    and `load_snapshot` reads it. ``best.npz`` needs "val_robust_accuracy" in the logs.

    Args:
        directory: the folder of the files; it is created if missing.
        period_ends: the epochs (counted from 1) after which a period is complete; the last one ends training.
        prefix: stands before the names of the files, and before "val_robust_accuracy" in the logs.
        writes: whether this process writes the files; of several workers one does.
    """

    def __init__(self, directory: Path, period_ends: Sequence[int], prefix: str = "", *, writes: bool = True):
        super().__init__()
        self.writes = writes
        self.directory = Path(directory)
        self.period_ends = list(period_ends)
        self.prefix, self.monitor = prefix, f"{prefix}val_robust_accuracy"
        self.best = -math.inf

    def state(self) -> dict:
        """Returns what a checkpoint has to keep."""
        return {"best": self.best}

    def restore(self, state: dict) -> None:
        """Continues from `state`."""
        self.best = state["best"]

    def on_epoch_end(self, epoch, logs=None):
        logs, finished = logs or {}, epoch + 1
        if logs.get(self.monitor, -math.inf) > self.best:
            self.best = float(logs[self.monitor])
            self._save("best", finished, logs)
        if len(self.period_ends) > 1 and finished in self.period_ends:
            self._save(f"period{self.period_ends.index(finished) + 1}", finished, logs)
        if finished == self.period_ends[-1]:
            self._save("last", finished, logs)

    def _save(self, name, epoch, logs):
        if not self.writes:
            return
        name = self.prefix + name
        self.directory.mkdir(parents=True, exist_ok=True)
        values = {key: float(value) for key, value in logs.items()}
        variables = {"classifier": self.model.classifier.variables}
        save_state(self.directory / f"{name}.npz", variables, {"name": name, "epoch": epoch, "logs": values})


def load_snapshot(path: Path, classifier: keras.Model) -> dict:
    """Loads the weights of a snapshot into a classifier of the same architecture.

    Args:
        path: a file that `Snapshots` has written.
        classifier: the Keras model whose variables are assigned.

    Returns:
        The snapshot's name, its epoch and the logs of that epoch.

    Raises:
        UsageError: the file is missing, damaged or of another architecture.
    """
    groups, meta = load_state(path)
    assign(classifier.variables, groups.get("classifier", []), f"snapshot {path}")
    return meta


def _copies(variables) -> list[np.ndarray]:
    return [np.array(variable.numpy()) for variable in variables]


def _distance(variables, initial: Sequence[np.ndarray]) -> float:
    """Returns ‖θ − θ₀‖₂ in float64."""
    squares = sum(
        float(np.sum(np.square(variable.numpy().astype(np.float64) - start)))
        for variable, start in zip(variables, initial, strict=True)
    )
    return math.sqrt(squares)


def _number(variable):
    return float(variable.numpy())  # float(variable) would fail for a variable on several devices


def _images_and_labels(x, y):
    if x is None or y is None:
        raise UsageError(
            "x_val and y_val must be given together. Received: one of them. Give both or neither."
        )
    require_pairs(x, y)
    return np.asarray(x, np.float32), np.asarray(y, np.int32)


def _require_equal_shapes(first, second):
    if first != second:
        raise UsageError(f"x and x_val must have images of one shape. Received: {first} and {second}.")
