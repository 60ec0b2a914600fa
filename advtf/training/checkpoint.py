"""Checkpoints: atomic state files, and the callback that writes them and continues from them.

A state file is one NPZ with every variable and a JSON record. It is written under a temporary name, synced
and renamed, so that a kill leaves the old file or the new one.
"""

import json
import os
import signal
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np

from advtf.errors import UsageError, first_line
from advtf.storage.files import write_atomically
from advtf.training.optimizers import batches_seen

META = "__meta__"
KEPT = 2  # the newest checkpoint, and one to fall back to where it is damaged


def save_state(path: Path, variables: Mapping[str, Sequence], meta: Mapping) -> None:
    """Saves groups of Keras variables and a record of JSON values in one NPZ file.

    Args:
        path: the file, whose name ends in ``.npz``.
        variables: maps the name of each group to its Keras variables, in an order that the reader repeats.
        meta: the record: what else is needed to continue.
    """
    arrays = {
        f"{group}/{index:04d}/{variable.path}": np.asarray(variable.numpy())
        for group, members in variables.items()
        for index, variable in enumerate(members)
    }
    arrays[META] = np.array(json.dumps(meta))
    write_atomically(path, lambda file: np.savez(file, **arrays))


def load_state(path: Path) -> tuple[dict[str, list[np.ndarray]], dict]:
    """Reads a file of `save_state`.

    Returns:
        The arrays of each group in their order, by the group's name, and the record.

    Raises:
        UsageError: the file is missing, truncated, corrupt or no file of `save_state`.
    """
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):  # NumPy would take it for a pickle, and advise to allow that
                raise ValueError("no whole NPZ file")
        with np.load(path) as archive:
            meta = json.loads(str(archive[META]))
            groups: dict[str, list[np.ndarray]] = {}
            for name in sorted(key for key in archive.files if key != META):
                groups.setdefault(name.split("/", 1)[0], []).append(archive[name])
        if not isinstance(meta, dict):
            raise ValueError(f"its record is a JSON {type(meta).__name__}")
    except Exception as error:  # damage shows as almost any exception of zipfile, zlib and NumPy
        raise UsageError(
            f"a readable advtf state file is required. Received: {path} ({first_line(error)}). "
            "Restore it from a copy, or train again with --overwrite."
        ) from error
    return groups, meta


def assign(variables: Sequence, arrays: Sequence[np.ndarray], what: str) -> None:
    """Assigns `arrays` to Keras `variables` one by one.

    Args:
        variables: the Keras variables.
        arrays: their values, in the same order.
        what: what an error calls the arrays, such as "the checkpoint".

    Raises:
        UsageError: their numbers or shapes differ; then nothing is assigned.
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
    """The folder of the last checkpoints of one run, ``step-<iterations>.npz``."""

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
        """Reads the newest readable checkpoint; `report` gets a line of text for each unreadable one.

        Returns:
            What `load_state` returns, or None if there is no checkpoint yet.

        Raises:
            UsageError: there are checkpoints, and none can be read.
        """
        paths = self.paths()
        for path in reversed(paths):
            try:
                return load_state(path)
            except UsageError as error:
                reason = first_line(error.__cause__)
                report(f"warning: {path} is damaged ({reason}). Falling back to the previous checkpoint.")
        if paths:
            raise UsageError(
                f"one readable checkpoint is required in {self.directory}. Received: {len(paths)} damaged. "
                "Start again with --overwrite."
            )
        return None


class TrainingInterrupted(RuntimeError):
    """The training was asked to stop, and its state has been saved.

    Attributes:
        signal: the number of the signal that stopped it; None without a signal.
    """

    signal: int | None = None


@contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """Turns the first SIGINT or SIGTERM into a request, which the training polls; a second one acts at once.

    Yields:
        A list that gets the number of the signal when one comes.

    Raises:
        TrainingInterrupted: at the end of the block, with that number, also if nobody has polled since.
    """
    received: list[int] = []

    def handler(number, _):
        received.append(number)
        signal.signal(number, previous[number])
        # print would fail where the signal comes while Keras is inside a write to the same buffer.
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
    """Saves everything that a run needs to continue with the same bits; it must be the last callback.

    A checkpoint is written after every epoch, every `minutes` within one, and when `stop_requested()` returns
    True, in which case `TrainingInterrupted` follows. During the validation of an epoch a request waits for
    the end of the epoch.

    Args:
        folder: the folder of the checkpoints.
        stateful: the callbacks whose state is saved, by name; they have ``state() -> dict`` and
            ``restore(dict)``.
        steps_per_epoch: the number of steps in an epoch of the uninterrupted run.
        minutes: the longest time between two checkpoints; None for checkpoints at the ends of epochs only.
        stop_requested: is called after every step.
        extra: further variables to save, by the name of their group.
        any_worker: of several processes, says for each wish whether one of them has it, see
            `advtf.training.cluster.any_worker`, so that all save and stop at the same step.
        writes: whether this process writes the files; of several workers one does.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        stateful: dict[str, keras.callbacks.Callback],
        steps_per_epoch: int,
        minutes: float | None = 10.0,
        stop_requested: Callable[[], bool] = lambda: False,
        extra: Mapping[str, Sequence] | None = None,
        any_worker: Callable[..., tuple[bool, ...]] = lambda *wishes: wishes,
        writes: bool = True,
    ):
        super().__init__()
        self.folder = folder
        self.stateful = stateful
        self.steps_per_epoch = steps_per_epoch
        self.minutes = minutes
        self.stop_requested = stop_requested
        self.extra = dict(extra or {})
        self.any_worker, self.writes = any_worker, writes
        self.saved_at = time.monotonic()
        self.resumed = None

    def restore(self, trainer: keras.Model, report=print) -> int:
        """Loads the newest readable checkpoint into `trainer` and the stateful callbacks.

        Returns:
            The number of finished steps; 0 if there is no checkpoint yet.

        Raises:
            UsageError: there are checkpoints, but none can be read, or they belong to another model.
        """
        loaded = self.folder.load_newest(report)
        if loaded is None:
            return 0
        groups, meta = loaded
        assign(trainer.variables, groups.get("model", []), "the checkpoint")
        assign(trainer.optimizer.variables, groups.get("optimizer", []), "the checkpoint's optimizer state")
        for name, variables in self.extra.items():
            assign(variables, groups.get(name, []), f"the checkpoint's {name}")
        try:
            self.resumed = (groups["optimizer"], groups["metrics"], meta["callbacks"])
            self._restore_callbacks(meta["callbacks"])
            return int(meta["step"])
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(
                f"the newest checkpoint in {self.folder.directory} must hold the state of every callback. "
                f"Received: one that does not ({type(error).__name__}: {error}). Remove it, to continue from "
                "the one before it, or start again with --overwrite."
            ) from error

    def on_epoch_begin(self, epoch, logs=None):
        # Keras and the other callbacks have just reset the sums of the epoch, which the checkpoint had saved,
        # and `PeriodicReset` the optimizer, if a period begins with this epoch.
        if self.resumed is not None:
            optimizer, metrics, states = self.resumed
            if int(batches_seen(self.model.optimizer).numpy()) % self.steps_per_epoch:
                assign(self.model.optimizer.variables, optimizer, "the checkpoint's optimizer state")
                assign(self.model.metrics_variables, metrics, "the checkpoint's metrics")
                self._restore_callbacks(states)
            self.resumed = None

    def on_train_batch_end(self, batch, logs=None):
        due = self.minutes is not None and time.monotonic() - self.saved_at >= 60 * self.minutes
        stop, due = self.any_worker(self.stop_requested(), due)
        # After the last step of an epoch its validation is still to come; then the end of the epoch saves.
        if (stop or due) and int(batches_seen(self.model.optimizer).numpy()) % self.steps_per_epoch:
            self._save()
            self._stop_if(stop)

    def on_epoch_end(self, epoch, logs=None):
        self._save()
        self._stop_if(*self.any_worker(self.stop_requested()))

    def _stop_if(self, stop):
        if stop:
            raise TrainingInterrupted(f"saved at step {int(batches_seen(self.model.optimizer).numpy())}")

    def _save(self):
        variables = {
            "model": self.model.variables,
            "optimizer": self.model.optimizer.variables,
            "metrics": self.model.metrics_variables,
            **self.extra,
        }
        states = {name: callback.state() for name, callback in self.stateful.items()}
        step = int(batches_seen(self.model.optimizer).numpy())
        if self.writes:
            self.folder.save(step, variables, {"callbacks": states})
        else:  # reading a metric adds up those of all workers, and waits until all of them read it
            for variable in self.model.metrics_variables:
                variable.numpy()
        self.saved_at = time.monotonic()

    def _restore_callbacks(self, states):
        for name, callback in self.stateful.items():
            if name in states:  # a callback that the interrupted run did not have starts anew
                callback.restore(states[name])
