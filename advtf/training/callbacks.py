"""Keras callbacks, one job each: they carry values, decided elsewhere, into variables, logs and files."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np

from advtf.errors import UsageError, one_of
from advtf.training.checkpoint import assign, load_state, save_state
from advtf.training.optimizers import require_resettable, reset_slots


class NonFiniteLoss(RuntimeError):
    """Training produced a NaN or infinite loss; the message says where and what to try."""


class _Scheduled(keras.callbacks.Callback):
    """Assigns ``schedule(position)``, position in epochs, to ``_variable()`` and logs it as `name`."""

    def __init__(
        self, schedule: Callable[[float], float], unit: str = "epoch", steps_per_epoch: int | None = None
    ):
        super().__init__()
        self.schedule = schedule
        self.unit = one_of("schedule_unit", unit, ("epoch", "step"))
        self.steps_per_epoch = steps_per_epoch
        if unit == "step" and not steps_per_epoch:
            raise UsageError("steps_per_epoch is required with unit='step'. Received: steps_per_epoch=None.")

    def on_epoch_begin(self, epoch, logs=None):
        if self.unit == "epoch":
            self._variable().assign(self.schedule(float(epoch)))

    def on_train_batch_begin(self, batch, logs=None):
        if self.unit == "step":
            # The optimizer's count, not `batch`: a resumed epoch starts its batches at 0 again.
            self._variable().assign(
                self.schedule(int(self.model.optimizer.iterations.numpy()) / self.steps_per_epoch)
            )

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs[self.name] = float(self._variable().numpy())


class EpsilonSchedule(_Scheduled):
    """Drives ``trainer.epsilon`` and logs it as "epsilon".

    Args:
        schedule: position in epochs -> ε, such as ``epsilon_schedule("cosine", ...)``.
        unit: "epoch" (as in the paper) or "step".
        steps_per_epoch: required with unit "step".
    """

    name = "epsilon"

    def _variable(self):
        return self.model.epsilon


class RateSchedule(_Scheduled):
    """Drives the optimizer's rate and logs it as "learning_rate"; arguments as for `EpsilonSchedule`."""

    name = "learning_rate"

    def _variable(self):
        return self.model.optimizer.learning_rate


class StrengthSchedule(_Scheduled):
    """Drives ``trainer.strength``, logs it as "strength"; arguments as for `EpsilonSchedule`."""

    name = "strength"

    def _variable(self):
        return self.model.strength


class PeriodicReset(keras.callbacks.Callback):
    """Zeroes the optimizer's slots (momentum, moments) at the start of each period after the first.

    ε and the learning rate restart by their schedules. The published code keeps the slots: this is optional.

    Args:
        boundaries: epochs (0-based) at which a period starts.
    """

    def __init__(self, boundaries: Sequence[int]):
        super().__init__()
        self.boundaries = frozenset(boundaries)

    def on_train_begin(self, logs=None):
        require_resettable(self.model.optimizer)  # now, not hours later at the first boundary

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
        self.initial = [np.array(variable.numpy()) for variable in classifier.trainable_variables]
        self.total, self.count = 0.0, 0

    def state(self) -> dict:
        """What a checkpoint inside an epoch has to keep."""
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
        weights = self.classifier.trainable_variables
        squares = sum(
            float(np.sum(np.square(weight.numpy().astype(np.float64) - start)))
            for weight, start in zip(weights, self.initial, strict=True)
        )
        logs["distance_from_init"] = math.sqrt(squares)


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Ends training with `NonFiniteLoss` at the first step whose loss is NaN or infinite."""

    def on_train_batch_end(self, batch, logs=None):
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            optimizer, epsilon = self.model.optimizer, float(self.model.epsilon.numpy())
            step, rate = int(optimizer.iterations.numpy()), float(optimizer.learning_rate.numpy())
            raise NonFiniteLoss(
                f"the loss must stay finite. Received: loss={loss} at step {step} "
                f"(learning_rate={rate:g}, epsilon={epsilon:g}). "
                "Lower --lr, or raise ε gradually with --eps_sched=cosine."
            )


class Snapshots(keras.callbacks.Callback):
    """Saves the classifier at each period end, at the best validation robustness, and at the end.

    Files ``period<k>.npz``, ``best.npz`` and ``last.npz``, each with its epoch and logs, for `load_snapshot`.
    "best" needs "val_robust_accuracy" in the logs.

    Args:
        directory: where the files go; created if missing.
        period_ends: epochs (1-based) after which a period is complete; the last one ends training.
        prefix: of the files' names and of the name in the logs.
    """

    def __init__(self, directory: Path, period_ends: Sequence[int], prefix: str = ""):
        super().__init__()
        self.directory = Path(directory)
        self.period_ends = list(period_ends)
        self.prefix, self.monitor = prefix, f"{prefix}val_robust_accuracy"
        self.best = -math.inf

    def state(self) -> dict:
        """What a checkpoint has to keep."""
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
        name = self.prefix + name
        self.directory.mkdir(parents=True, exist_ok=True)
        values = {key: float(value) for key, value in logs.items()}
        variables = {"classifier": self.model.classifier.variables}
        save_state(self.directory / f"{name}.npz", variables, {"name": name, "epoch": epoch, "logs": values})


def load_snapshot(path: Path, classifier: keras.Model) -> dict:
    """Loads the weights of a snapshot into a classifier of the same architecture.

    Returns:
        Its record: name, epoch and the logs of that epoch.

    Raises:
        UsageError: the file is missing, damaged or of another architecture.
    """
    groups, meta = load_state(path)
    assign(classifier.variables, groups.get("classifier", []), f"snapshot {path}")
    return meta
