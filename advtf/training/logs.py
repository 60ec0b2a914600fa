"""The record of every epoch, written to `metrics.jsonl` and, in groups, to TensorBoard.

The numbers of training and of validation have one tag in TensorBoard and lie in folders of their own, so that
one chart shows both. `tag` is the one place that knows where a number goes.
"""

import importlib.util
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from advtf.errors import UsageError, room_for
from advtf.figures.style import amplified, displayable
from advtf.storage import jsonl
from advtf.training.optimizers import batches_seen

# The metrics that come first in a record, in this order.
LEADING = (
    "epsilon",
    "learning_rate",
    "loss",
    "clean_accuracy",
    "robust_accuracy",
    "val_loss",
    "val_clean_accuracy",
    "val_robust_accuracy",
)
MAX_IMAGES = 8  # shown in TensorBoard
IMAGE_EPOCHS = 10  # about as many epochs of a `fit` have images; each costs an attack
# The groups of tags in TensorBoard; a number of another name, as of one's own callback, is in "measures".
GROUPS = {
    "robustness": ("clean_accuracy", "robust_accuracy"),
    "schedule": ("epsilon", "learning_rate", "strength"),
    "optimization": ("loss", "gradient_norm", "distance_from_init", "step"),
    "speed": ("seconds", "images_per_second"),
}
VALIDATED = re.compile("(?:(swa|ema)_)?val_(.+)")  # the names that validation gives, of an average or not
EVENT_FILES = "events.out.tfevents.*"


def epoch_record(
    epoch: int, step: int, logs: Mapping[str, Any], *, seconds: float, images_per_second: float | None = None
) -> dict[str, float | int | None]:
    """Returns the record of one epoch, in a fixed order and with values that JSON can hold.

    Args:
        epoch: the number of the finished epoch, from 1.
        step: the number of optimizer updates so far.
        logs: the Keras logs of the epoch, scalars by name.
        seconds: the wall time of training and validation.
        images_per_second: training images per second of training; left out if None.

    Returns:
        epoch, step, the names of `LEADING` that `logs` has, its other names, seconds and images_per_second. A
        value that is not finite is None, because JSON has no NaN.
    """
    names = [name for name in LEADING if name in logs] + [name for name in logs if name not in LEADING]
    record = {"epoch": int(epoch), "step": int(step)} | {name: _finite(logs[name]) for name in names}
    record["seconds"] = round(seconds, 3)
    if images_per_second is not None:
        record["images_per_second"] = round(images_per_second, 1)
    return record


def _finite(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


class EpochLog(keras.callbacks.Callback):
    """Times each epoch of `fit` and passes its record to `write`, which a subclass defines.

    It has no hook for batches, so that Keras fetches metrics only once per epoch. The time of training ends
    where validation begins: Keras has then fetched the training metrics, so the device has finished.

    Args:
        examples_per_step: the batch size over all replicas; None leaves out `images_per_second`.
    """

    def __init__(self, examples_per_step: int | None = None):
        super().__init__()
        self.examples_per_step = examples_per_step

    def on_epoch_begin(self, epoch, logs=None):
        self._first_step = self._step()
        self._trained = self._validated = None
        self._began = perf_counter()

    def on_test_begin(self, logs=None):
        self._trained = perf_counter()

    def on_test_end(self, logs=None):
        self._validated = perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        now, step = perf_counter(), self._step()
        seconds = (self._validated or now) - self._began
        speed = None
        if self.examples_per_step is not None:
            images = (step - self._first_step) * self.examples_per_step
            speed = images / max((self._trained or now) - self._began, 1e-9)
        self.write(epoch_record(epoch + 1, step, logs or {}, seconds=seconds, images_per_second=speed))

    def _step(self) -> int:
        return int(keras.ops.convert_to_numpy(batches_seen(self.model.optimizer)))


class JsonLines(EpochLog):
    """Appends one JSON object per epoch to a file and syncs it; the learning curves are drawn from the file.

    Callbacks that stand before it in the list may add values (epsilon, learning_rate, ...) to the logs.
    To continue a run, call `advtf.storage.jsonl.truncate(path, finished_epochs)` first.

    Args:
        path: the file, whose folder must exist.
        examples_per_step: the batch size over all replicas, for `images_per_second`.
    """

    def __init__(self, path: str | Path, examples_per_step: int | None = None):
        super().__init__(examples_per_step)
        self.path = Path(path)

    def on_train_begin(self, logs=None):
        jsonl.mend(self.path)

    def write(self, record):
        jsonl.append(self.path, record)


def tag(name: str) -> tuple[str, str]:
    """Returns where TensorBoard shows a number of the record.

    Args:
        name: as in `metrics.jsonl`.

    Returns:
        The folder: "train", "validation", or "validation_swa" and "validation_ema" of averaged weights; and
        the tag, ``<group>/<name>`` with the name that training and validation share.

    Examples:
        >>> tag("val_robust_accuracy")
        ('validation', 'robustness/robust_accuracy')
    """
    folder = "train"
    if found := VALIDATED.fullmatch(name):
        average, name = found.groups()
        folder = f"validation_{average}" if average else "validation"
    group = next((group for group, names in GROUPS.items() if name in names), "measures")
    return folder, f"{group}/{name}"


def truncate_events(log_dir: str | Path, epochs: int) -> None:
    """Removes from TensorBoard's files what is later than an epoch, so that a continued run repeats nothing.

    Args:
        log_dir: the folder of the event files; it may be missing.
        epochs: the number of finished epochs that stay. A record that a kill has torn is removed in any case.
    """
    for path in sorted(Path(log_dir).rglob(EVENT_FILES)):
        kept = path.with_name(f".{path.name}.partial")
        try:
            with tf.io.TFRecordWriter(str(kept)) as writer:
                for record in _whole_records(path):
                    if tf.compat.v1.Event.FromString(record).step <= epochs:
                        writer.write(record)
            os.replace(kept, path)
        finally:
            kept.unlink(missing_ok=True)


def _whole_records(path: Path) -> Iterator[bytes]:
    try:
        for record in tf.data.TFRecordDataset(str(path)):
            yield record.numpy()
    except tf.errors.DataLossError:  # the process was killed while it wrote the last one
        return


class TensorBoard(EpochLog):
    """Writes the numbers of `metrics.jsonl` in the groups of `tag`, images and histograms.

    Numbers and histograms are written after every epoch, images after about ten of them: after every n-th
    one with n = ⌈epochs/10⌉, and after the last. The images are `examples/clean`, `examples/adversarial`, and
    `examples/perturbation`, which is 1/2 + k (adversarial - clean). The factor
    k = 1/(2 max|adversarial - clean|) over the shown images of that epoch is logged as
    `examples/perturbation_factor`. Histograms are in `weights`. Further calls of `fit` append; to continue a
    run, call `truncate_events` first.

    Args:
        log_dir: the folder of the folders of event files.
        sample_images: (x, y) with x (N, H, W, C) in [0, 1] and y (N,) integers; the first 8 are shown.
        adversary: maps (x, y) to adversarial images of the shape of x.
        histograms: whether to write a histogram of every trainable weight, too.
        examples_per_step: the batch size over all replicas, for `images_per_second`.

    Raises:
        UsageError: tensorboard is not installed, only one of images and adversary is given, or their shapes
            are wrong.
    """

    def __init__(
        self,
        log_dir: str | Path,
        sample_images: tuple[np.ndarray, np.ndarray] | None = None,
        adversary: Callable[[np.ndarray, np.ndarray], Any] | None = None,
        histograms: bool = False,
        examples_per_step: int | None = None,
    ):
        super().__init__(examples_per_step)
        _require_tensorboard()
        self.log_dir = str(log_dir)
        self.sample = _checked_sample(sample_images, adversary)
        self.adversary = adversary
        self.histograms = histograms
        self._writers = {}

    def write(self, record):
        with room_for(self.log_dir):
            self._write(record)

    def _write(self, record):
        epoch = record["epoch"]
        for name, value in record.items():
            if name != "epoch" and value is not None:
                folder, shown = tag(name)
                with self._writer(folder).as_default(step=epoch):
                    tf.summary.scalar(shown, value)
        with self._writer("train").as_default(step=epoch):
            if self.sample is not None and self._shows_images(epoch):
                self._write_images()
            if self.histograms:
                self._write_histograms()
        for writer in self._writers.values():
            writer.flush()

    def on_train_end(self, logs=None):
        while self._writers:
            self._writers.popitem()[1].close()

    def _writer(self, folder: str) -> tf.summary.SummaryWriter:
        if folder not in self._writers:
            self._writers[folder] = tf.summary.create_file_writer(os.path.join(self.log_dir, folder))
        return self._writers[folder]

    def _shows_images(self, epoch: int) -> bool:
        epochs = self.params["epochs"]
        return epoch == epochs or epoch % -(-epochs // IMAGE_EPOCHS) == 0

    def _write_images(self) -> None:
        clean, labels = self.sample
        adversarial = np.asarray(self.adversary(clean, labels), np.float32)
        perturbation, factor = amplified(adversarial - clean)
        panels = {"clean": clean, "adversarial": adversarial, "perturbation": perturbation}
        for name, images in panels.items():
            about = "1/2 + perturbation_factor * (adversarial - clean)" if name == "perturbation" else None
            shown = f"examples/{name}"
            tf.summary.image(shown, displayable(images), max_outputs=MAX_IMAGES, description=about)
        tf.summary.scalar("examples/perturbation_factor", factor)

    def _write_histograms(self) -> None:
        for weight in self.model.trainable_weights:
            tf.summary.histogram(f"weights/{weight.path}", keras.ops.convert_to_numpy(weight))


def _require_tensorboard() -> None:
    if importlib.util.find_spec("tensorboard") is None:  # TensorFlow no longer brings it
        raise UsageError(
            "TensorBoard logs need the package tensorboard. Received: an environment without it. "
            "Run: pip install tensorboard"
        )


def _checked_sample(sample, adversary) -> tuple[np.ndarray, np.ndarray] | None:
    if (sample is None) != (adversary is None):
        raise UsageError(
            "sample_images and adversary must be given together. Received: "
            f"sample_images={'None' if sample is None else 'given'}, "
            f"adversary={'None' if adversary is None else 'given'}. Give both or neither."
        )
    if sample is None:
        return None
    images, labels = np.asarray(sample[0], np.float32), np.asarray(sample[1])
    if images.ndim != 4 or labels.shape != (len(images),):
        raise UsageError(
            "sample_images must be (x, y) with x of shape (N,H,W,C) and y of shape (N,). "
            f"Received: x.shape={images.shape}, y.shape={labels.shape}."
        )
    return images[:MAX_IMAGES], labels[:MAX_IMAGES]
