"""Averages of the weights along a training, and the callback that validates and saves them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import keras
import tensorflow as tf

from advtf.classifiers.parameters import unchanged
from advtf.errors import UsageError, one_of, require_real, require_whole
from advtf.landscape.batch_statistics import BatchStatistics
from advtf.training.callbacks import Snapshots
from advtf.training.optimizers import batches_seen
from advtf.training.settings import AVERAGES


class WeightAverage:
    """A running average of a classifier's trainable weights.

    "swa" is stochastic weight averaging (Izmailov et al. 2018), the arithmetic mean w̄ₙ = w̄ₙ₋₁ + (wₙ −
    w̄ₙ₋₁)/n. "ema" is the exponential moving average w̄ₙ = d·w̄ₙ₋₁ + (1 − d)·wₙ, which begins at w̄₁ = w₁.

    Args:
        classifier: the Keras model that is trained.
        kind: "swa" or "ema".
        decay: d of "ema", in [0, 1].

    Attributes:
        count: n, the number of weights in the average.
        variables: w̄ₙ, float32, in the order of ``classifier.trainable_variables``.
    """

    def __init__(self, classifier: keras.Model, kind: str, decay: float = 0.999):
        self.kind = one_of("kind", kind, AVERAGES)
        require_real("decay", decay, 0.0, 1.0)
        self.decay, self.count = decay, 0
        self.classifier = classifier
        self.variables = [
            keras.Variable(weight.numpy(), trainable=False, dtype="float32", name=f"average_{number}")
            for number, weight in enumerate(classifier.trainable_variables)
        ]
        self._move = tf.function(self._moved, autograph=False)

    def update(self) -> None:
        """Adds the classifier's present weights to the average."""
        self.count += 1
        share = 1 / self.count if self.kind == "swa" or self.count == 1 else 1 - self.decay
        self._move(tf.constant(share, tf.float32))

    def _moved(self, share):
        for average, weight in zip(self.variables, self.classifier.trainable_variables, strict=True):
            value = tf.cast(tf.convert_to_tensor(weight.value), tf.float32)
            old = tf.convert_to_tensor(average.value)
            # At a share of 1 the sum would round, but the first average must be the weights, bit for bit.
            average.assign(tf.where(share == 1, value, old + share * (value - old)))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Gives the classifier the average for weights inside the block, and its own bits back at the end."""
        with unchanged(self.classifier):
            for weight, average in zip(self.classifier.trainable_variables, self.variables, strict=True):
                weight.assign(average.numpy())
            yield


class WeightAveraging(keras.callbacks.Callback):
    """Averages the weights of ``trainer.classifier``; validates and saves the average after every epoch.

    It changes no bit of the training itself. The validation of the average is logged as ``<kind>_val_loss``
    and so on, and its snapshots are ``<kind>_best.npz`` and ``<kind>_last.npz``.

    Args:
        average: the average to update.
        start: the step whose weights are the first in the average.
        every: the number of steps from one addition to the next.
        snapshots: saves the average at its best and at the end, under names with the prefix ``<kind>_``.
        images: float32 (N, H, W, C) in [0, 1], on which BatchNorm's statistics of the average are estimated;
            None for a classifier without BatchNorm.
        validate: returns the trainer's validation logs by name, such as ``val_loss``; None for no validation.
        jit_compile: whether the estimation of the statistics is compiled with XLA.
    """

    def __init__(
        self,
        average: WeightAverage,
        *,
        start: int,
        every: int,
        snapshots: Snapshots,
        images=None,
        validate: Callable[[], Mapping[str, float]] | None = None,
        jit_compile: bool = False,
    ):
        super().__init__()
        require_whole("every", every)
        self.average, self.start, self.every = average, start, every
        self.snapshots, self.images, self.validate = snapshots, images, validate
        self.statistics = BatchStatistics(average.classifier, jit_compile=jit_compile)
        if self.statistics.layers and images is None:
            raise UsageError("images are required to estimate BatchNorm's statistics. Received: images=None.")

    def state(self) -> dict:
        """Returns what a checkpoint has to keep besides ``average.variables``."""
        return {"count": self.average.count, "snapshots": self.snapshots.state()}

    def restore(self, state: dict) -> None:
        """Continues from `state`."""
        self.average.count = state["count"]
        self.snapshots.restore(state["snapshots"])

    def set_model(self, model):
        super().set_model(model)
        self.snapshots.set_model(model)

    def on_train_batch_end(self, batch, logs=None):
        steps = int(batches_seen(self.model.optimizer).numpy()) - self.start
        if steps >= 0 and steps % self.every == 0:
            self.average.update()

    def on_epoch_end(self, epoch, logs=None):
        if not self.average.count:
            return
        logs = {} if logs is None else logs
        with self.average.applied():
            self.statistics(self.images)
            for name, value in (self.validate() if self.validate else {}).items():
                logs[f"{self.average.kind}_{name}"] = value
            self.snapshots.on_epoch_end(epoch, logs)
