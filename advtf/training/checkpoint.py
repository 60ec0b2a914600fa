"""Atomic state files (one NPZ with every variable and a JSON record), and the callback that writes them."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np

from advtf.errors import UsageError
from advtf.storage.files import write_atomically

META = "__meta__"
KEPT = 2  # the newest file and the one to fall back to


def save_state(path: Path, variables: Mapping[str, Sequence], meta: Mapping) -> None:
    """Saves groups of Keras variables and a JSON-able record in one NPZ file.

    Args:
        path: ends in ``.npz``.
        variables: group name -> Keras variables, in an order that the reader repeats.
        meta: what else is needed to continue.
    """
    arrays = {
        f"{group}/{index:04d}/{variable.path}": np.asarray(variable.numpy())
        for group, members in variables.items()
        for index, variable in enumerate(members)
    }
    arrays[META] = np.array(json.dumps(meta))
    write_atomically(path, lambda file: np.savez(file, **arrays))


def load_state(path: Path) -> tuple[dict[str, list[np.ndarray]], dict]:
    """Reads a file of `save_state`; returns (group -> arrays in order, meta).

    Raises:
        UsageError: the file is missing, truncated, corrupt or not such a file.
    """
    try:
        with np.load(path) as archive:
            meta = json.loads(str(archive[META]))
            groups: dict[str, list[np.ndarray]] = {}
            for name in sorted(key for key in archive.files if key != META):
                groups.setdefault(name.split("/", 1)[0], []).append(archive[name])
    except Exception as error:  # damage shows as almost any exception of zipfile, zlib and NumPy
        raise UsageError(f"a readable advtf state file is required. Received: {path} ({error}).") from error
    return groups, meta


def assign(variables: Sequence, arrays: Sequence[np.ndarray], what: str) -> None:
    """Assigns `arrays` to Keras `variables` one by one.

    Raises:
        UsageError: numbers or shapes differ; nothing is assigned then.
    """
    shapes = [tuple(variable.shape) for variable in variables]
    received = [array.shape for array in arrays]
    if shapes != received:
        raise UsageError(
            f"{what} does not fit this model: {len(shapes)} variables {shapes[:3]}… are required. "
            f"Received: {len(received)} arrays {received[:3]}…. Use the configuration it was saved with."
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


class CheckpointFolder:
    """The last checkpoints of one run, ``step-<iterations>.npz``, newest last."""

    def __init__(self, directory: Path):
        self.directory = Path(directory)

    def paths(self) -> list[Path]:
        """Returns the checkpoint files, oldest first."""
        return sorted(self.directory.glob("step-*.npz"))

    def save(self, step: int, variables: Mapping[str, Sequence], meta: Mapping) -> Path:
        """Writes the checkpoint of `step` and removes all but the newest `KEPT`."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"step-{step:010d}.npz"
        save_state(path, variables, {**meta, "step": step})
        for old in self.paths()[:-KEPT]:
            old.unlink(missing_ok=True)
        return path

    def load_newest(self, report=print) -> tuple[dict[str, list[np.ndarray]], dict] | None:
        """Reads the newest readable checkpoint; `report` is told of each unreadable one passed over.

        Returns:
            What `load_state` returns, or None when there is no checkpoint yet.

        Raises:
            UsageError: there are checkpoints and none can be read.
        """
        paths = self.paths()
        for path in reversed(paths):
            try:
                return load_state(path)
            except UsageError as error:
                report(f"warning: {error} Falling back to the previous checkpoint.")
        if paths:
            raise UsageError(
                f"one readable checkpoint is required in {self.directory}. Received: {len(paths)} damaged. "
                "Start again with --overwrite."
            )
        return None


class TrainingInterrupted(RuntimeError):
    """Asked to stop, and the state has been saved.

    Attributes:
        signal: number of the signal that asked, if one did.
    """

    signal: int | None = None


@contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """Turns the first SIGINT or SIGTERM into a request to be polled; a second one acts at once.

    Yields:
        A list that holds the number of the signal once one has come.

    Raises:
        TrainingInterrupted: on leaving, with that number, also when nobody polled any more.
    """
    received: list[int] = []

    def handler(number, _):
        received.append(number)
        signal.signal(number, previous[number])
        # Not print: the signal may have come while Keras was inside a write to the same buffer.
        os.write(1, f"\n{signal.Signals(number).name}: saving a checkpoint, then stopping.\n".encode())

    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in previous:
        signal.signal(number, handler)
    try:
        yield received
        if received:
            raise TrainingInterrupted("training is complete")
    except TrainingInterrupted as stopped:
        stopped.signal = next(iter(received), None)
        raise
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


class Checkpoint(keras.callbacks.Callback):
    """Saves everything a run needs to continue with the same bits; must be the last callback.

    Written after every epoch, every `minutes` within one, and when `stop_requested()` turns true, which then
    raises `TrainingInterrupted`. Inside the validation of an epoch a request waits for the epoch's end.

    Args:
        folder: where checkpoints go.
        stateful: callbacks with ``state() -> dict`` and ``restore(dict)``, by name.
        steps_per_epoch: of the uninterrupted run.
        minutes: longest time between two checkpoints; None for epoch ends only.
        stop_requested: polled after every step.
        extra: further variables by group.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        stateful: dict[str, keras.callbacks.Callback],
        steps_per_epoch: int,
        minutes: float | None = 10.0,
        stop_requested: Callable[[], bool] = lambda: False,
        extra: Mapping[str, Sequence] | None = None,
    ):
        super().__init__()
        self.folder = folder
        self.stateful = stateful
        self.steps_per_epoch = steps_per_epoch
        self.minutes = minutes
        self.stop_requested = stop_requested
        self.extra = dict(extra or {})
        self.saved_at = time.monotonic()
        self.resumed = None

    def restore(self, trainer: keras.Model, report=print) -> int:
        """Loads the newest readable checkpoint into `trainer` and the stateful callbacks.

        Returns:
            The number of finished steps; 0 when there is no checkpoint yet.

        Raises:
            UsageError: none of the existing checkpoints can be read, or they belong to another model.
        """
        loaded = self.folder.load_newest(report)
        if loaded is None:
            return 0
        groups, meta = loaded
        assign(trainer.variables, groups.get("model", []), "the checkpoint")
        assign(trainer.optimizer.variables, groups.get("optimizer", []), "the checkpoint's optimizer state")
        for name, variables in self.extra.items():
            assign(variables, groups.get(name, []), f"the checkpoint's {name}")
        self.resumed = (groups["metrics"], meta["callbacks"])
        self._restore_callbacks(meta["callbacks"])
        return meta["step"]

    def on_epoch_begin(self, epoch, logs=None):
        # Keras and the other callbacks have just reset what an epoch accumulates.
        if self.resumed is not None:
            metrics, states = self.resumed
            if int(self.model.optimizer.iterations.numpy()) % self.steps_per_epoch:
                assign(self.model.metrics_variables, metrics, "the checkpoint's metrics")
                self._restore_callbacks(states)
            self.resumed = None

    def on_train_batch_end(self, batch, logs=None):
        stop = self.stop_requested()
        due = self.minutes is not None and time.monotonic() - self.saved_at >= 60 * self.minutes
        # After the last step of an epoch its validation is still to come: the epoch's end saves.
        if (stop or due) and int(self.model.optimizer.iterations.numpy()) % self.steps_per_epoch:
            self._save()
            self._stop_if(stop)

    def on_epoch_end(self, epoch, logs=None):
        self._save()
        self._stop_if(self.stop_requested())

    def _stop_if(self, stop):
        if stop:
            raise TrainingInterrupted(f"saved at step {int(self.model.optimizer.iterations.numpy())}")

    def _save(self):
        variables = {
            "model": self.model.variables,
            "optimizer": self.model.optimizer.variables,
            "metrics": self.model.metrics_variables,
            **self.extra,
        }
        states = {name: callback.state() for name, callback in self.stateful.items()}
        self.folder.save(int(self.model.optimizer.iterations.numpy()), variables, {"callbacks": states})
        self.saved_at = time.monotonic()

    def _restore_callbacks(self, states):
        for name, callback in self.stateful.items():
            if name in states:  # a log asked for only now has nothing to continue
                callback.restore(states[name])
