"""Training dynamics: what each update of the beginning and of the end of a training did.

Liu et al. 2020, section 4.1, figures 2 and 8.
"""

from pathlib import Path

import keras
import numpy as np

from advtf.errors import UsageError, require_whole
from advtf.storage.files import write_atomically

FIELDS = ("step", "epsilon", "gradient_norm", "robust_error", "distance")


class GradientDynamics(keras.callbacks.Callback):
    """Records the first and the last updates of a training, one row per update, in an NPZ file.

    Of update t, counted from 1: `gradient_norm` ‖∇θ L̂_ε(θ)‖₂ of its mini-batch and `robust_error`, percent
    of its mini-batch, both before the update; `distance` ‖θ − θ₀‖₂ after it; `epsilon`, the ε of its attack.
    The file is written when the first window ends, and then at the ends of epochs and of the training.
    Outside the windows an update costs one comparison.

    Args:
        classifier: its weights at construction are θ₀.
        path: the NPZ to write, for `advtf.figures.dynamics`; its folder must exist.
        updates: length N of each window.
        total: updates of the whole training; the last window is total − N + 1 … total.

    Raises:
        UsageError: a length that is not a whole number of at least 1; when training begins, a trainer with
            several steps per execution.
    """

    def __init__(self, classifier: keras.Model, path: str | Path, *, updates: int, total: int):
        super().__init__()
        require_whole("updates", updates)
        require_whole("total", total)
        self.classifier = classifier
        self.path = Path(path)
        self.updates, self.total = updates, total
        self.initial = [np.array(variable.numpy()) for variable in classifier.trainable_variables]
        self.rows: list[tuple[float, ...]] = []
        self._before = None
        self._unwritten = False

    def state(self) -> dict:
        """What a checkpoint has to keep."""
        return {"rows": self.rows}

    def restore(self, state: dict) -> None:
        """Continues from `state`."""
        self.rows = [tuple(row) for row in state["rows"]]
        self._unwritten = bool(self.rows)  # the file may be of a later step than the checkpoint

    def on_train_begin(self, logs=None):
        if self.model.steps_per_execution != 1:
            raise UsageError(
                "GradientDynamics needs one update per execution. "
                f"Received: steps_per_execution={self.model.steps_per_execution}. Compile with 1."
            )
        self._step = int(self.model.optimizer.iterations.numpy())

    def on_train_batch_begin(self, batch, logs=None):
        # Not at the end of the step before: the epoch's metrics may have been reset or restored since.
        self._before = self._robust_count() if self._recorded(self._step + 1) else None

    def on_train_batch_end(self, batch, logs=None):
        self._step += 1
        if self._before is None:
            return
        robust, examples = np.subtract(self._robust_count(), self._before)
        error = 100 * (1 - robust / examples)
        epsilon, norm = _number(self.model.epsilon), _number(self.model.gradient_norm)
        self.rows.append((self._step, epsilon, norm, float(error), self._distance()))
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
        return _number(metric.total), _number(metric.count)  # whole numbers: their differences are exact

    def _distance(self):
        squares = sum(
            float(np.sum(np.square(weight.numpy().astype(np.float64) - start)))
            for weight, start in zip(self.classifier.trainable_variables, self.initial, strict=True)
        )
        return float(np.sqrt(squares))

    def _write(self):
        if not self._unwritten:
            return
        columns = dict(zip(FIELDS, np.array(self.rows, np.float64).T, strict=True))
        columns["step"] = columns["step"].astype(np.int64)
        write_atomically(
            self.path, lambda file: np.savez(file, **columns, updates=self.updates, total=self.total)
        )
        self._unwritten = False


def _number(variable):
    return float(variable.numpy())  # float(variable) fails for a variable on several devices
